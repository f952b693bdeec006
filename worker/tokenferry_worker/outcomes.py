"""What became of one delivery, as values. `settling` turns them into messages and an ack."""

from __future__ import annotations

from dataclasses import dataclass

from tokenferry.contract.attach import SignedAttach
from tokenferry.contract.names import Lane
from tokenferry.contract.results import AttachResult, OnboardingResult, TokenResult


def own_failure_code(result: TokenResult | AttachResult | OnboardingResult) -> str | None:
    """The code of a failure that we, and not the endpoint, speak of."""
    why = result.failure
    return why.code if why is not None and why.source == "tokenferry" else None


@dataclass(frozen=True)
class Settled:
    """There is a final outcome, and the requester named by *reply_to* (if any) is to be told."""

    result: TokenResult | AttachResult | OnboardingResult
    reply_to: str | None


@dataclass(frozen=True)
class HandedOn:
    """There is a token, and an order to spend it: the attach worker says the last word to the requester."""

    order: SignedAttach


@dataclass(frozen=True)
class Retokenize:
    """The token got too old before any call: its request, as sealed as it came, goes back and makes another one."""

    sealed: str
    platform: str
    lane: Lane
    request_id: str


@dataclass(frozen=True)
class DeadLettered:
    """Given up on: the requester is told, and the message rests, as sealed as it came, until somebody redrives it."""

    settled: Settled
    code: str


@dataclass(frozen=True)
class Dropped:
    """Given up on, and not kept: it carries a card verification code."""

    settled: Settled


@dataclass(frozen=True)
class Quarantined:
    """Not ours or not readable: nobody can be told, the message is set aside as it came."""

    reason: str


@dataclass(frozen=True)
class Parked:
    """Not begun: the circuit of *scope* is open, so it waits, as it came, where it holds up nobody."""

    scope: str
    task: str
    id: str


Outcome = Settled | HandedOn | Retokenize | DeadLettered | Dropped | Quarantined | Parked
