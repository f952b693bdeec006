"""Outcomes as the requester reads them: token ids and codes, never what was tokenized."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints, TypeAdapter

from tokenferry.contract.message import Message
from tokenferry.contract.names import EndpointId, Id, Name
from tokenferry.contract.requests import Kind

Word = Annotated[str, StringConstraints(max_length=200)]
Generation = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]

SINCE_2: Final = frozenset({"group", "generation", "batch", "display", "token_created", "endpoint_request_id"})
"""Fields of an attach result that only the answer to a version 2 request has. Where they are None they are left out."""


def _is_absent(value: object) -> bool:
    return value is None


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
    """Stripe's `Request-Id`, by which its dashboard and support find the call."""
    attempts: int = 0
    """Calls made for this request, the failing one included."""
    history: tuple[Attempt, ...] = ()
    """Of a request that was given up on: its attempts, oldest first."""
    spent_by: Word | None = None
    """For `token_spent`: the attach id that spent it. For `token_in_doubt`: the one whose outcome is unknown."""
    spent_on: Word | None = None
    """For `token_spent`: the id of what the token became, where it is known."""


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
    """What both results share. An outcome that is delivered twice has the same `outcome_id`: de-duplicate by it.

    A request that was given up on and then redriven has another outcome, and another id for it (`...:2`).
    """

    outcome_id: Word
    request_id: Id
    kind: Kind
    platform: Name
    connected_account: EndpointId | None = None
    failure: Failure | None = None
    settled_at: int
    """Unix milliseconds by the worker's clock; of a token that a worker made and died with, when it was made."""
    group: Name | None = Field(default=None, exclude_if=_is_absent)
    """Whose id the request id is. None: the answer to a request of version 1, as in the two fields that follow."""
    generation: Generation | None = Field(default=None, exclude_if=_is_absent)
    batch: Name | None = Field(default=None, exclude_if=_is_absent)
    """The import or onboarding run that the request belongs to."""

    @property
    def ok(self) -> bool:
        """True if there is a token (or an attached object) and no failure."""
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
    """Id under which Stripe can be asked for the stored card or bank account. None where the answer names none: the
    id inside a token can be another one.
    """
    display: Display | None = Field(default=None, exclude_if=_is_absent)
    """What may be shown of the card or bank account. Only in the answer to a request of version 2."""
    token_created: int | None = Field(default=None, exclude_if=_is_absent)
    """When the token was made, in Unix seconds. Only in the answer to a request of version 2."""
    endpoint_request_id: Word | None = Field(default=None, exclude_if=_is_absent)
    """Stripe's `Request-Id` of the call that spent the token. None in the answer to a request of version 1, and where
    the outcome was found out without an answer to that call, or is told again. That of a failed call is in `failure`.
    """


class StepResult(Message):
    """What became of one step of an onboarding."""

    step: Word
    """Its name: `account`, `person:jenny`, `external_account:1`, ..."""
    status: Literal["done", "failed", "unknown", "not_begun"]
    """`unknown`: the call may have had its effect; `not_begun`: what it needs has failed, or all was given up."""
    object_id: EndpointId | None = None
    earlier: bool = False
    """True if an earlier message of this onboarding did this step: what the document says of it now was not applied."""
    failure: Failure | None = None


class RequirementError(Message):
    """Why something that was given is asked for again."""

    requirement: Word
    code: Word


class Requirements(Message):
    """What the endpoint still asks for, as it said at the end of the onboarding. Names of fields, no values."""

    currently_due: tuple[Word, ...] = ()
    past_due: tuple[Word, ...] = ()
    eventually_due: tuple[Word, ...] = ()
    pending_verification: tuple[Word, ...] = ()
    errors: tuple[RequirementError, ...] = ()
    disabled_reason: Word | None = None


class OnboardingResult(Message):
    """The one outcome of one onboarding message: what is made, what is not, and what the endpoint still asks for."""

    type: Literal["onboarding"] = "onboarding"
    outcome_id: Word
    request_id: Id
    """Of this message. `onboarding_id` is the same for every message that goes on with it."""
    onboarding_id: Id | None = None
    """None where the document could not be opened."""
    platform: Name
    account: EndpointId | None = None
    persons: dict[str, EndpointId] = Field(default_factory=dict)
    """Ids by the caller's references."""
    external_accounts: dict[str, EndpointId] = Field(default_factory=dict)
    """Ids by reference, or by place in the list."""
    steps: tuple[StepResult, ...] = ()
    complete: bool = False
    """True if every step is done. Stripe may still ask for more: see `requirements`."""
    requirements: Requirements | None = None
    """None where there is no account, or the endpoint did not say."""
    failure: Failure | None = None
    """Of the first step that is not done, or of the whole message."""
    deliveries: int = 0
    """How often this message was handed to a worker."""
    settled_at: int
    """Unix milliseconds by the worker's clock."""
    group: Name | None = Field(default=None, exclude_if=_is_absent)
    """As in `Result`, with the two fields that follow."""
    generation: Generation | None = Field(default=None, exclude_if=_is_absent)
    batch: Name | None = Field(default=None, exclude_if=_is_absent)

    @property
    def ok(self) -> bool:
        """Whether every step is done."""
        return self.complete


class OnboardingProgress(Message):
    """A report on one step of an account that is not finished yet. It may be lost, and may come twice."""

    type: Literal["progress"] = "progress"
    request_id: Id
    onboarding_id: Id
    step: StepResult
    taken: int
    """Steps that have been tried so far, this one included, of `steps`."""
    done: int = 0
    """Those of them that are done."""
    steps: int


AnyResult = Annotated[TokenResult | AttachResult | OnboardingResult, Field(discriminator="type")]

_ANY: TypeAdapter[TokenResult | AttachResult | OnboardingResult] = TypeAdapter(AnyResult)


_MESSAGE: TypeAdapter[TokenResult | AttachResult | OnboardingResult | OnboardingProgress] = TypeAdapter(
    Annotated[AnyResult | OnboardingProgress, Field(discriminator="type")]
)


def parse_message(body: str | bytes) -> TokenResult | AttachResult | OnboardingResult | OnboardingProgress:
    """Read any message of a reply route. Raises as `parse_result`."""
    return _MESSAGE.validate_json(body)


def parse_result(body: str | bytes) -> TokenResult | AttachResult | OnboardingResult:
    """Read one result message.

    Raises pydantic's `ValidationError` (silent about its input) when it is not one.
    """
    return _ANY.validate_json(body)
