"""Outcomes as the requester reads them: token ids and codes, never what was tokenized."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, TypeAdapter

from tokenferry.contract.message import Message
from tokenferry.contract.names import EndpointId, Id, Name
from tokenferry.contract.requests import Kind

Word = Annotated[str, StringConstraints(max_length=200)]


class Attempt(Message):
    """One call that got no usable answer."""

    at: int
    """Unix milliseconds by the worker's clock."""
    status: int | None = None
    """HTTP status of the answer, if there was one."""
    code: Word


class Failure(Message):
    """Why there is no token or no object. Codes and parameter names only: the endpoint's free text stays outside."""

    code: Word
    source: Literal["endpoint", "tokenferry"]
    param: Word | None = None
    decline_code: Word | None = None
    status: int | None = None
    """HTTP status of the answer, if there was one."""
    endpoint_request_id: Word | None = None
    """The endpoint's `Request-Id`: what its support and dashboard find the call by."""
    attempts: int = 0
    """Calls made for this request, the failing one included."""
    history: tuple[Attempt, ...] = ()
    """Of a request that was given up on: its attempts, oldest first."""
    spent_by: Word | None = None
    """For `token_spent`: the attach id that won."""


class Display(Message):
    """What may be shown of a card or bank account (PCI DSS 3.4.1): never more than the last four digits."""

    object_id: Word | None = None
    brand: Word | None = None
    bank_name: Word | None = None
    last4: Annotated[str, StringConstraints(max_length=4)] | None = None
    country: Word | None = None
    currency: Word | None = None
    funding: Word | None = None
    fingerprint: Word | None = None
    exp_month: int | None = None
    exp_year: int | None = None


class Result(Message):
    """What both results share. `outcome_id` is the same however often one outcome is delivered: de-duplicate by it."""

    outcome_id: Word
    request_id: Id
    kind: Kind
    platform: Name
    connected_account: EndpointId | None = None
    failure: Failure | None = None
    settled_at: int
    """Unix milliseconds by the worker's clock."""

    @property
    def ok(self) -> bool:
        """Whether there is a token (or an attached object) and no failure."""
        return self.failure is None


class TokenResult(Result):
    """The outcome of one tokenization request: a token, or the reason why there is none."""

    type: Literal["token"] = "token"
    token: EndpointId | None = None
    created: int | None = None
    """Unix seconds by the endpoint's clock."""
    livemode: bool | None = None
    client_ip: Word | None = None
    display: Display | None = None


class AttachResult(Result):
    """The outcome of spending one token: the object it became, or the reason why it did not."""

    type: Literal["attach"] = "attach"
    attach_id: Id
    to: Word
    token: EndpointId | None = None
    object_id: EndpointId | None = None
    """Id of the object the call answered with: customer, payment method, account, person, ..."""
    object_type: Word | None = None
    stored_id: EndpointId | None = None
    """Id of the stored card or bank account where the answer names one."""


AnyResult = Annotated[TokenResult | AttachResult, Field(discriminator="type")]

_ANY: TypeAdapter[TokenResult | AttachResult] = TypeAdapter(AnyResult)


def parse_result(body: str | bytes) -> TokenResult | AttachResult:
    """Read one result message.

    Raises pydantic's `ValidationError` (silent about its input) when it is not one.
    """
    return _ANY.validate_json(body)
