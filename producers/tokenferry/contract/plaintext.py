"""What is inside an envelope, and its padding: the length says nothing about the content.

The producer seals the request as the form body that Stripe gets. So every attempt of every worker version sends the
same bytes, as Stripe's idempotency demands.
"""

from __future__ import annotations

import hmac
import secrets
import struct
from typing import Annotated, Final, Literal, Self

from pydantic import StringConstraints, ValidationError, model_validator

from tokenferry.contract import text_form
from tokenferry.contract.message import Sensitive
from tokenferry.contract.onboarding import Onboarding
from tokenferry.contract.requests import TokenRequest
from tokenferry.contract.targets import AttachTarget

FORM: Final = "application/x-www-form-urlencoded"
DOCUMENT: Final = "application/vnd.tokenferry.onboarding+json"

SMALLEST_BUCKET = 512
"""Bytes. Every card, bank, PII and CVC request fits, with most attach plans; larger buckets double."""


class Plaintext(Sensitive):
    """The encoded form of `POST /v1/tokens` and, where the token is to be spent at once, on what."""

    form: str
    attach: AttachTarget | None = None


class Plaintext2(Sensitive):
    """What is inside an envelope of version 2: the body of the call as text, its content type, and the plan."""

    content_type: Literal[
        "application/x-www-form-urlencoded", "application/json", "application/vnd.tokenferry.onboarding+json"
    ]
    body: str
    plan: AttachTarget | None = None
    salt: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None = None
    """The key of the plan's digest. Without it, whoever reads the header could try likely plans."""

    @model_validator(mode="after")
    def _salts_a_plan(self) -> Self:
        if (self.plan is None) != (self.salt is None):
            raise ValueError("a plan and its salt come together")
        return self

    @classmethod
    def of(cls, request: TokenRequest, plan: AttachTarget | None) -> Self:
        """Return the content of a request, with a new salt where there is a *plan*."""
        return cls(content_type=FORM, body=request.form(), plan=plan, salt=secrets.token_hex(16) if plan else None)

    @classmethod
    def of_document(cls, document: Onboarding) -> Self:
        """Return the content of an onboarding."""
        return cls(content_type=DOCUMENT, body=document.model_dump_json(exclude_none=True))

    @classmethod
    def read(cls, content: bytes) -> Self:
        """Read the canonical JSON. Raises `NotCanonical`, which quotes nothing."""
        value = text_form.read_json(content)
        try:
            read = cls.model_validate(value)
        except ValidationError:
            raise text_form.NotCanonical("is no content of version 2") from None
        if read.canonical() != content:
            raise text_form.NotCanonical("the content is not in its one spelling")
        return read

    def canonical(self) -> bytes:
        """Return the one spelling."""
        return text_form.to_json(self.model_dump(mode="json", exclude_none=True))

    def plan_digest(self) -> str | None:
        """Return HMAC-SHA256, in hex, of the plan's canonical JSON under the salt's 16 bytes. None without a plan."""
        if self.plan is None or self.salt is None:
            return None
        spelled = text_form.to_json(self.plan.model_dump(mode="json", exclude_none=True))
        return hmac.digest(bytes.fromhex(self.salt), spelled, "sha256").hex()


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
