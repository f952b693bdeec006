"""How far tokenizing may run ahead of spending: no further than the tokens can be spent while they are fresh."""

from __future__ import annotations

from typing import Final

from tokenferry.contract.names import Lane
from tokenferry.contract.targets import Target
from tokenferry_worker.budgets import Budgets
from tokenferry_worker.ports import Place

SHARE: Final[dict[Lane, float]] = {"bulk": 0.5, "realtime": 0.75}
"""Of what the attach stage can spend within a token's lifetime. A request that somebody waits for finds room where bulk
has to wait; the rest is for pauses, refusals and other traffic."""


def places(budgets: Budgets, target: Target, lane: Lane, *, lifetime: float) -> tuple[Place, ...]:
    """Where a request counts whose token is to be spent on *target*. *lifetime* of a token in seconds."""
    drawn = [budgets.whole, budgets.endpoint(target.endpoint())]
    if target.creates_account:
        drawn.append(budgets.account_creation)
    return tuple(
        Place(each.name, max(1, int(SHARE[lane] * each.per_second * lifetime)), each.interval) for each in drawn
    )


def everywhere(budgets: Budgets) -> tuple[Place, ...]:
    """Every place where a request may count whose plan cannot be read: to be given up, not to be taken."""
    return tuple(Place(each.name, 0) for each in budgets.all())
