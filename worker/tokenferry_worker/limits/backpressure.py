"""How far tokenizing may be ahead of spending: no further than the tokens can be spent while they are fresh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from tokenferry.contract.names import Lane
from tokenferry.contract.targets import Target
from tokenferry_worker.limits.budgets import Budgets

SHARE: Final[dict[Lane, float]] = {"bulk": 0.5, "realtime": 0.75}
"""Share of the tokens that can be spent within a token's lifetime. Realtime finds room where bulk has to wait. The rest
is for pauses, refusals and other traffic."""


def slots_of(budgets: Budgets, target: Target, lane: Lane, *, lifetime: float) -> tuple[Slot, ...]:
    """Return the slots of a request whose token is to be spent on *target*. *lifetime* of a token in seconds."""
    return tuple(
        Slot(each.name, max(1, int(SHARE[lane] * each.per_second * lifetime)), each.interval)
        for each in budgets.spending(target)
    )


def all_slots(budgets: Budgets, target: Target | None = None) -> tuple[Slot, ...]:
    """Return every slot that a request may be in: to be released, not acquired.

    *target*: what its token is to be spent on; None: that is not known. While a fleet is rolled from one setting `by`
    to another, another worker may have taken a slot that this one would not.
    """
    both = Budgets(budgets.name, budgets.platform.counted_by("both"))
    return tuple(Slot(each.name, 0) for each in (both.all() if target is None else both.spending(target)))


@dataclass(frozen=True)
class Slot:
    """A budget that tokens wait for, and how many of them may wait."""

    name: str
    limit: int
    interval: float = 1.0
    """Seconds between two calls at the configured rate, for which *limit* was computed."""


class Backpressure(Protocol):
    """The requests whose token is not spent yet, for the whole fleet."""

    async def acquire(self, id_: str, places: Sequence[Slot], *, lasts: float) -> bool:
        """Count request *id_* in every one of *places*, for *lasts* seconds at most. False: one is full."""
        ...

    async def release(self, id_: str, places: Sequence[Slot]) -> None:
        """Count it no more: there will be no token."""
        ...
