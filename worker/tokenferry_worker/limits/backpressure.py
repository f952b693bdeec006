"""How far tokenizing may run ahead of spending: no further than the tokens can be spent while they are fresh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from tokenferry.contract.names import Lane
from tokenferry.contract.targets import Target
from tokenferry_worker.limits.budgets import Budgets

SHARE: Final[dict[Lane, float]] = {"bulk": 0.5, "realtime": 0.75}
"""Of what the attach stage can spend within a token's lifetime. A request that somebody waits for finds room where bulk
has to wait; the rest is for pauses, refusals and other traffic."""


def slots_of(budgets: Budgets, target: Target, lane: Lane, *, lifetime: float) -> tuple[Slot, ...]:
    """Where a request counts whose token is to be spent on *target*. *lifetime* of a token in seconds."""
    drawn = [budgets.whole, budgets.endpoint(target.endpoint())]
    if target.creates_account:
        drawn.append(budgets.account_creation)
    return tuple(
        Slot(each.name, max(1, int(SHARE[lane] * each.per_second * lifetime)), each.interval) for each in drawn
    )


def all_slots(budgets: Budgets) -> tuple[Slot, ...]:
    """Every place where a request may count whose plan cannot be read: to be given up, not to be taken."""
    return tuple(Slot(each.name, 0) for each in budgets.all())


@dataclass(frozen=True)
class Slot:
    """What tokens wait for together, and how many of them may wait."""

    name: str
    limit: int
    interval: float = 1.0
    """Seconds between two calls at the configured rate, which *limit* is right for."""


class Backpressure(Protocol):
    """How far tokenizing is ahead of spending, for the whole fleet."""

    async def acquire(self, id_: str, places: Sequence[Slot], *, lasts: float) -> bool:
        """Count request *id_* as ahead at every one of *places*, for *lasts* seconds at most. False: one is full."""
        ...

    async def release(self, id_: str, places: Sequence[Slot]) -> None:
        """It is ahead no more: there will be no token."""
        ...
