"""An order to spend one token, signed by its sender: a producer, or the worker that made the token."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    Base64UrlBytes,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from tokenferry.contract import text_form
from tokenferry.contract.envelope import LEGACY, MAX_ENVELOPE_BYTES, Milliseconds
from tokenferry.contract.envelope2 import Generation, TraceParent, read_request
from tokenferry.contract.message import Message
from tokenferry.contract.names import EndpointId, Id, Lane, Name, TokenId
from tokenferry.contract.requests import Kind
from tokenferry.contract.results import Display
from tokenferry.contract.targets import AttachTarget
from tokenferry.contract.text_form import NotCanonical

PREFIX: Final = "tf2o"
SINCE_2: Final = frozenset({"group", "generation", "batch", "traceparent", "answer_in"})
"""Fields that version 1 does not have."""


class AttachRequest(Message):
    """Spend `token` on `target`, once.

    Nothing in it is a secret: a token id is worthless without the account's key, and what it was made of is sealed.
    """

    version: Literal[1, 2] = 1
    """Of the form in which it travels. The meaning is the same."""
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
    group: Name = LEGACY
    generation: Generation = 1
    batch: Name | None = None
    traceparent: TraceParent | None = None
    answer_in: Literal[1] | None = None
    """1: the request is of version 1, and so is its answer. None: the answer is of the version of this order."""

    @property
    def answer_version(self) -> Literal[1, 2]:
        """The version of the answer that the requester reads."""
        return self.answer_in or self.version

    @field_validator("sealed")
    @classmethod
    def _carries_no_cvc(cls, sealed: str | None) -> str | None:
        try:
            envelope = read_request(sealed or "")
        except NotCanonical:
            return sealed  # nothing, or nothing that another token could be made of
        if envelope.header.may_carry_cvc:
            raise ValueError("may carry a card verification code")
        return sealed

    @model_validator(mode="after")
    def _is_of_its_version(self) -> Self:
        later = (self.group, self.generation, self.batch, self.traceparent, self.answer_in)
        if self.version == 1 and later != (LEGACY, 1, None, None, None):
            raise ValueError("version 1 has no such field")
        return self

    @model_serializer(mode="wrap")
    def _without_later_fields(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        return {name: value for name, value in written.items() if self.version == 2 or name not in SINCE_2}

    def canonical(self) -> bytes:
        """Return the one spelling. Version 1 leaves `sealed` and `lane` out where they are as in older versions."""
        if self.version == 2:
            silent = {"version"} | ({"generation"} if self.generation == 1 else set())
            return text_form.to_json(self.model_dump(mode="json", exclude_none=True, exclude=silent))
        silent = {name for name, usual in (("sealed", None), ("lane", "bulk")) if getattr(self, name) == usual}
        spelled = self.model_dump(exclude=silent)
        return json.dumps(spelled, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


class SignedAttach(Message):
    """An attach request and its signature, as they travel."""

    request: AttachRequest
    signature: Base64UrlBytes

    def text(self) -> str:
        """Return the order as it travels."""
        if self.request.version == 2:
            return text_form.signed_text(signed_bytes(self.request), self.signature)
        return self.model_dump_json()


def read_order(text: str) -> SignedAttach:
    """Read an order of either version. Its signature is not verified here.

    Raises `NotCanonical`, which quotes nothing.
    """
    if len(text) > MAX_ENVELOPE_BYTES:
        raise NotCanonical("longer than any order")
    try:
        if not text.startswith(f"{PREFIX}."):
            signed = SignedAttach.model_validate_json(text)
            if signed.request.version != 1 or SINCE_2 & signed.request.model_fields_set:
                raise NotCanonical("is not an order of version 1")
            return signed
        (spelled,), _, signature = text_form.read(PREFIX, text, parts=1)
        request = AttachRequest.model_validate({**text_form.read_json(spelled), "version": 2})
    except ValidationError:
        raise NotCanonical("is not an order") from None
    if request.canonical() != spelled:
        raise NotCanonical("the order is not in its one spelling")
    return SignedAttach.model_construct(request=request, signature=signature)


def signed_bytes(request: AttachRequest) -> bytes:
    """What the signer signs. Each version has a name of its own before it, so that no envelope's signature fits."""
    if request.version == 2:
        return text_form.unsigned(PREFIX, request.canonical()).encode()
    return b"tokenferry/v1/attach\0" + request.canonical()
