"""What is inside an envelope, and its padding: length says nothing about content.

The request is sealed as the form body the endpoint gets, frozen at the producer: the same bytes on every attempt,
by every worker version, which is what the endpoint's idempotency asks for.
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
    """*content* behind its length, filled with zeros up to a power of two of at least 512 bytes.

    >>> len(pad(b"x")), len(pad(b"x" * 508)), len(pad(b"x" * 509))
    (512, 512, 1024)
    """
    size = SMALLEST_BUCKET
    while size < len(content) + 4:
        size *= 2
    return struct.pack(">I", len(content)) + content + bytes(size - len(content) - 4)


def unpad(padded: bytes) -> bytes:
    """The content `pad` was given.

    Raises `ValueError` when it was not padded that way.

    >>> unpad(pad(b"content"))
    b'content'
    """
    if len(padded) < 4:
        raise ValueError("too short to be padded")
    (length,) = struct.unpack_from(">I", padded)
    if length > len(padded) - 4:
        raise ValueError("length beyond the end")
    return padded[4 : 4 + length]
