"""What became of one delivery, as values. `deliveries.settling` turns them into messages and an acknowledgement."""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenferry.contract.attach import SignedAttach
from tokenferry.contract.names import Lane
from tokenferry.contract.results import AttachResult, OnboardingResult, TokenResult


def own_failure_code(result: TokenResult | AttachResult | OnboardingResult) -> str | None:
    """Return the code of a failure that Tokenferry names. None for a code of Stripe, and without a failure."""
    failure = result.failure
    return failure.code if failure is not None and failure.source == "tokenferry" else None


@dataclass(frozen=True)
class Settled:
    """There is a final outcome. It is published to the route *reply_to*, if there is one."""

    result: TokenResult | AttachResult | OnboardingResult
    reply_to: str | None
    recorded: str | None = None
    """The result as JSON, as the journal has it: it is published as it is. None: *result* is written as JSON."""
    lane: Lane | None = field(default=None, compare=False)
    """Of the request, for metrics and logs. None: not known here."""
    trace: str | None = field(default=None, compare=False)
    """`traceparent` of the request, for logs."""


@dataclass(frozen=True)
class HandedOn:
    """There is a token, and an order to spend it. The attach worker tells the requester the outcome."""

    order: SignedAttach


@dataclass(frozen=True)
class Retokenize:
    """The token got too old before any call. Its sealed request goes back to its queue, to make another token."""

    sealed: str
    platform: str
    lane: Lane
    request_id: str


@dataclass(frozen=True)
class DeadLettered:
    """Given up, and kept: the requester gets the result, and the sealed message waits until somebody redrives it."""

    settled: Settled
    code: str


@dataclass(frozen=True)
class Dropped:
    """Given up, and not kept, because the message carries a card verification code."""

    settled: Settled


@dataclass(frozen=True)
class Quarantined:
    """Not a message of ours, or not readable. It moves to the quarantine as it came, and no result is published."""

    reason: str
    stranger: str | None = None
    """Who is said to have signed it, where no known key has."""


@dataclass(frozen=True)
class Parked:
    """Not begun, because the circuit of *scope* is open. The message waits as it came, in a queue of its own."""

    scope: str
    task: str
    id: str


Outcome = Settled | HandedOn | Retokenize | DeadLettered | Dropped | Quarantined | Parked
