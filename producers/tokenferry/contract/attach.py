"""An order to spend one token, signed by its sender: a producer, or the worker that made the token."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import Base64UrlBytes, StringConstraints, ValidationError, field_validator

from tokenferry.contract.envelope import MAX_ENVELOPE_BYTES, Envelope, Milliseconds
from tokenferry.contract.message import Message
from tokenferry.contract.names import EndpointId, Id, Lane, Name, TokenId
from tokenferry.contract.requests import Kind
from tokenferry.contract.results import Display
from tokenferry.contract.targets import AttachTarget


class AttachRequest(Message):
    """Spend `token` on `target`, once.

    Nothing in it is a secret: a token id is worthless without the account's key, and what it was made of is sealed.
    """

    version: Literal[1] = 1
    attach_id: Id
    request_id: Id
    """The tokenization request the token came from; the attach id itself where that is unknown."""
    token: TokenId
    kind: Kind
    platform: Name
    lane: Lane = "bulk"
    connected_account: EndpointId | None = None
    target: AttachTarget
    reply_to: Name | None = None
    token_created_at: Milliseconds
    attach_before: Milliseconds
    """After this moment the token is too old to spend, or its request has passed its own deadline."""
    signer_id: Name
    display: Display | None = None
    sealed: Annotated[str, StringConstraints(max_length=MAX_ENVELOPE_BYTES)] | None = None
    """The unchanged message of the request that made the token. A worker makes another token from it when this one is
    too old. None for a request that may carry a card verification code.
    """

    @field_validator("sealed")
    @classmethod
    def _carries_no_cvc(cls, sealed: str | None) -> str | None:
        try:
            envelope = Envelope.model_validate_json(sealed or "")
        except ValidationError:
            return sealed  # nothing, or nothing that another token could be made of
        if envelope.header.may_carry_cvc:
            raise ValueError("may carry a card verification code")
        return sealed

    def canonical(self) -> bytes:
        """Return the bytes that are signed. `sealed` and `lane` are left out where they are as in older versions."""
        silent = {name for name, usual in (("sealed", None), ("lane", "bulk")) if getattr(self, name) == usual}
        spelled = self.model_dump(exclude=silent)
        return json.dumps(spelled, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


class SignedAttach(Message):
    """An attach request and its signature, as they travel."""

    request: AttachRequest
    signature: Base64UrlBytes


def signed_bytes(request: AttachRequest) -> bytes:
    """What the signer signs: a domain name of its own, so that no envelope's signature fits."""
    return b"tokenferry/v1/attach\0" + request.canonical()
