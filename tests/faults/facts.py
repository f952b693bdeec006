"""What the checker is given: what was asked, what was told, and what the endpoint has in its book. Ids only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tokenferry import AttachResult, TokenResult
from tokenferry.contract.targets import CustomerCreate, digest
from tokenferry_emulator.faults import KINDS

Wish = str
"""What a request must end with: `TOKEN`, `OBJECT`, or the code with which the endpoint must refuse it."""
TOKEN: Final = "token"
OBJECT: Final = "object"
"""The token is to be spent, on a customer."""

ATTEMPTS: Final = 5
"""Calls for one request before it is given up on, as configured in `scene.CONFIGURATION`."""
DELIVERIES: Final = 50
"""Hand-overs of one request before it is taken for poison, as configured there."""
ON_THE_WAY: Final = 2
"""Attempts of one delivery that may fail between worker and endpoint: what hurts a line, or freezes a worker, lasts at
most five seconds, and an attempt without an answer four (`read_timeout`)."""


@dataclass(frozen=True)
class Call:
    """One call as the endpoint saw it."""

    at: float
    """Unix seconds of its arrival."""
    status: int
    """HTTP status of the endpoint's own answer, 0 where there was none."""
    fault: str = ""
    """What the endpoint did to it on purpose (`tokenferry_emulator.faults.KINDS`)."""

    @property
    def failed(self) -> bool:
        """Whether it counts as a failed attempt: without an answer that could be used, and not for its rate alone."""
        spoiled = KINDS.get(self.fault) == "after" and self.fault != "slow_drip"  # which takes a second, and arrives
        return spoiled or self.status in (0, 409) or self.status >= 500 or self.fault == "lock_timeout"

    @property
    def refused(self) -> bool:
        """Whether the endpoint has read it and said no."""
        return 400 <= self.status < 500 and self.status not in (409, 429)


@dataclass(frozen=True)
class Facts:
    """Everything the judgement rests on."""

    accepted: Mapping[str, Wish]
    """Requests that broker or outbox confirmed, and what each must end with."""
    told: Sequence[TokenResult | AttachResult]
    """Every result that was delivered, repetitions included."""
    tokens: Mapping[str, Sequence[str]]
    """Tokens the endpoint made, by idempotency key."""
    uses: Mapping[str, Sequence[str]]
    """Objects the endpoint made, by the token spent on them."""
    calls: Mapping[str, Sequence[Call]] = field(default_factory=dict)
    """Calls by idempotency key."""
    uncertain: Mapping[str, Wish] = field(default_factory=dict)
    """Requests whose producer died before it learnt their fate: they may exist or not."""
    dead: Sequence[str] = ()
    """Request ids of the dead letters."""
    left: Mapping[str, int] = field(default_factory=dict)
    """Messages that remain in queues where nothing should."""
    deaths: int = 0
    """Times that workers were killed, frozen or cut off. Each may end a delivery anywhere, so that it comes again."""
    on_the_way: int = 0
    """Attempts of one delivery that may have failed where the endpoint could not see it; see `ON_THE_WAY`."""


def spend_key(token: str) -> str:
    """The idempotency key under which *token* is spent on a customer: derived here a second time, on purpose."""
    both = f"{token}|None|{digest(CustomerCreate())}"
    return f"tokenferry:attach:{hashlib.sha256(both.encode()).hexdigest()[:40]}:spend"
