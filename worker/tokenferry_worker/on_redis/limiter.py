"""The rate of the fleet: one number per budget, on the server's clock, so two workers never disagree about now."""

from __future__ import annotations

from collections.abc import Sequence

from tokenferry.contract.names import Lane
from tokenferry_worker.on_redis.store import Script, Store
from tokenferry_worker.pacing import Budget, Gate

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
            gate = self._gates[names] = Gate(budgets, self.reserve)
        await gate.permit(lane)

    async def reserve(self, budgets: Sequence[Budget]) -> float:
        """Take one call out of every budget at once: seconds until it may be made."""
        numbers = [f"{x * MICROSECONDS:.0f}" for budget in budgets for x in (budget.interval, budget.tolerance)]
        return (
            int(await self._store.run(self._permit, [self._key(budget) for budget in budgets], numbers)) / MICROSECONDS
        )

    async def push_back(self, budget: Budget, seconds: float) -> None:
        """Nobody draws on *budget* for *seconds*."""
        numbers = [f"{x * MICROSECONDS:.0f}" for x in (seconds, budget.tolerance)]
        await self._store.run(self._push_back, [self._key(budget)], numbers)

    def _key(self, budget: Budget) -> str:
        return self._store.key("budget", budget.name)
