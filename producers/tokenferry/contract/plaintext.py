"""What is inside an envelope, and its padding: the length says nothing about the content.

The producer seals the request as the form body that Stripe gets. So every attempt of every worker version sends the
same bytes, as Stripe's idempotency demands.
"""

from __future__ import annotations

import struct

from tokenferry.contract.message import Sensitive
from tokenferry.contract.targets import AttachTarget

SMALLEST_BUCKET = 512
"""Bytes. Every card, bank, PII and CVC request fits, with most attach plans; larger buckets double."""


class Plaintext(Sensitive):
    """The encoded form of `POST /v1/tokens` and, where the token is to be spent at once, on what."""

    form: str
    attach: AttachTarget | None = None


def pad(content: bytes) -> bytes:
    """Return the length and *content*, filled with zeros up to a power of two of at least 512 bytes.

    >>> len(pad(b"x")), len(pad(b"x" * 508)), len(pad(b"x" * 509))
    (512, 512, 1024)
    """
    size = SMALLEST_BUCKET
    while size < len(content) + 4:
        size *= 2
    return struct.pack(">I", len(content)) + content + bytes(size - len(content) - 4)


def unpad(padded: bytes) -> bytes:
    """Return the content that `pad` was given.

    Raises `ValueError` if it was not padded like this.

    >>> unpad(pad(b"content"))
    b'content'
    """
    if len(padded) < 4:
        raise ValueError("too short to be padded")
    (length,) = struct.unpack_from(">I", padded)
    if length > len(padded) - 4:
        raise ValueError("length beyond the end")
    return padded[4 : 4 + length]
