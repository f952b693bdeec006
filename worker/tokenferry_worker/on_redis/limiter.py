"""The rate of the fleet: one number per budget, on the server's clock, so two workers never disagree about now."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from tokenferry.contract.names import Lane
from tokenferry_worker.on_redis.store import Script, Store
from tokenferry_worker.pacing import Budget, Gate, Word

MICROSECONDS = 1_000_000


class RedisLimiter:
    """Implements `ports.Limiter`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._permit = Script("permit")
        self._push_back = Script("push_back")
        self._gates: dict[tuple[str, ...], Gate] = {}

    async def permit(self, budgets: Sequence[Budget], lane: Lane) -> None:
        """Return when one call may be made now, by every budget."""
        names = tuple(budget.name for budget in budgets)
        gate = self._gates.get(names)
        if gate is None:
            gate = self._gates[names] = Gate(budgets, self.ask)
        await gate.permit(lane)

    async def ask(self, budgets: Sequence[Budget], lane: Lane, more: bool) -> Word:
        """Take one call out of every budget at once, or learn when to ask again."""
        names = "|".join(budget.name for budget in budgets)
        line = self._store.key("line", hashlib.sha256(names.encode()).hexdigest()[:16])
        granted, ask_again = await self._store.run(
            self._permit,
            [line, *(self._key(budget) for budget in budgets)],
            [int(more), lane, *(x for budget in budgets for x in numbers(budget, lane))],
        )
        return Word(bool(granted), int(ask_again) / MICROSECONDS)

    async def push_back(self, budget: Budget, seconds: float) -> None:
        """Nobody draws on *budget* for *seconds*."""
        pushed = [math.ceil(seconds * MICROSECONDS), numbers(budget, "realtime")[1]]
        await self._store.run(self._push_back, [self._key(budget)], pushed)

    def _key(self, budget: Budget) -> str:
        return self._store.key("budget", budget.name)


def numbers(budget: Budget, lane: Lane) -> tuple[int, int]:
    """Interval and tolerance in microseconds. The interval is rounded up: never a call more, not in a year."""
    return math.ceil(budget.interval * MICROSECONDS), math.floor(budget.tolerance(lane) * MICROSECONDS)
