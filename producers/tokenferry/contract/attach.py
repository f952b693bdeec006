"""An order to spend one token, signed by whoever gives it: a producer, or the worker that made the token."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import Base64UrlBytes

from tokenferry.contract.envelope import Milliseconds
from tokenferry.contract.message import Message
from tokenferry.contract.names import EndpointId, Id, Name
from tokenferry.contract.requests import Kind
from tokenferry.contract.results import Display
from tokenferry.contract.targets import AttachTarget


class AttachRequest(Message):
    """Spend `token` on `target`, once. Nothing in it is a secret: a token id is worthless without the account's key."""

    version: Literal[1] = 1
    attach_id: Id
    request_id: Id
    """The tokenization request the token came from; the attach id itself where that is unknown."""
    token: EndpointId
    kind: Kind
    platform: Name
    connected_account: EndpointId | None = None
    target: AttachTarget
    reply_to: Name | None = None
    token_created_at: Milliseconds
    attach_before: Milliseconds
    """After this moment the token counts as too old to spend."""
    signer_id: Name
    display: Display | None = None

    def canonical(self) -> bytes:
        """The one spelling of this order: what is signed."""
        return json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


class SignedAttach(Message):
    """An attach request and its signature, as they travel."""

    request: AttachRequest
    signature: Base64UrlBytes


def signed_bytes(request: AttachRequest) -> bytes:
    """What the signer signs: a domain name of its own, so that no envelope's signature fits."""
    return b"tokenferry/v1/attach\0" + request.canonical()
