"""One sealed request as it travels. Safe to log, store and redeliver.

The header is in clear and bound twice: its canonical bytes are the HPKE `info` (RFC 9180, section 5.1), so a
ciphertext moved under another header does not open, and producer signatures cover header and ciphertext, so a
broker cannot make a request that no producer sent.
"""

from __future__ import annotations

import json
import struct
from typing import Annotated, Final, Literal

from pydantic import Base64UrlBytes, Field, StringConstraints

from tokenferry.contract.message import Message
from tokenferry.contract.names import EndpointId, Id, Lane, Name
from tokenferry.contract.requests import Kind

Suite = Literal["x25519-hkdf-sha256-aes256gcm", "mlkem768x25519-hkdf-sha256-aes256gcm"]
"""Key encapsulation, key derivation and cipher, all named: nothing is negotiated."""

DEFAULT_SUITE: Final[Suite] = "x25519-hkdf-sha256-aes256gcm"

MAX_ENVELOPE_BYTES: Final = 262_144
"""A longer body is not read at all: the largest request (an account with every field full) is far below this."""

LEGACY: Final = "legacy"
"""The group of everything of version 1. Its ids keep their first derivation."""

Milliseconds = Annotated[int, Field(ge=0, le=4_102_444_800_000)]
"""Unix time in milliseconds, up to the year 2100."""


class CommonHeader(Message):
    """The clear part of every envelope. An envelope with one changed byte in it cannot be opened."""

    version: Literal[1] = 1
    suite: Suite = DEFAULT_SUITE
    key_id: Name
    request_id: Id
    platform: Name
    connected_account: EndpointId | None = None
    lane: Lane
    reply_to: Name | None = None
    attach_digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    issued_at: Milliseconds
    expires_at: Milliseconds
    producer_id: Name

    def canonical(self) -> bytes:
        """Return this header as JSON with sorted keys, no spaces, ASCII, and every field."""
        return json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()

    @property
    def may_carry_cvc(self) -> bool:
        """True if a verification code may be inside: in the realtime lane. The seal hides whether one is."""
        return self.lane == "realtime"

    @property
    def has_plan(self) -> bool:
        """Whether the token is to be spent at once."""
        return self.attach_digest is not None

    # What only version 2 writes, so that readers ask both versions alike.

    @property
    def answer_version(self) -> Literal[1, 2]:
        """The version of the answer that the requester reads."""
        return 1

    @property
    def group(self) -> str:
        return LEGACY

    @property
    def generation(self) -> int:
        return 1

    @property
    def operations(self) -> tuple[str, ...] | None:
        """None: this version does not say what the plan calls."""
        return None

    @property
    def batch(self) -> str | None:
        return None

    @property
    def traceparent(self) -> str | None:
        return None


class Header(CommonHeader):
    """The header of a tokenization request."""

    kind: Kind

    @property
    def may_carry_cvc(self) -> bool:
        return super().may_carry_cvc or self.kind == "cvc_update"


class Envelope(Message):
    """Header, ciphertext (HPKE encapsulated key first) and the producer's Ed25519 signature over both."""

    header: Header
    ciphertext: Base64UrlBytes
    signature: Base64UrlBytes

    def text(self) -> str:
        """Return the envelope as it travels."""
        return self.model_dump_json()


def signed_bytes(header: bytes, ciphertext: bytes) -> bytes:
    """What the producer signs: a domain name, then both parts with their lengths, so no byte can change sides."""
    return b"tokenferry/v1/envelope\0" + struct.pack(">QQ", len(header), len(ciphertext)) + header + ciphertext
