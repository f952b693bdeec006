"""Watches the budgets. Each change is logged once, by one process of the fleet: paused, lowered, and back again."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from tokenferry_worker.limits.pacing import Budget
from tokenferry_worker.on_redis.circuits import RedisCircuits
from tokenferry_worker.on_redis.controls import Controls, State

log = logging.getLogger("tokenferry.worker")

EVERY: Final = 5.0
"""Seconds between two looks."""
DUTY: Final = "budget-changes"


@dataclass
class BudgetWatch:
    """Compares the budgets with what they were at its last look."""

    controls: Controls
    circuits: RedisCircuits
    budgets: Sequence[Budget]
    every: float = EVERY
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    paused: Sequence[str] = ()
    """The budgets that an operator has paused, by the latest look."""
    _known: dict[str, State] = field(default_factory=dict)

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            try:
                await self.look()
            except Exception as error:
                log.warning("the budgets could not be read (%s); trying again", type(error).__name__)
            await asyncio.sleep(self.every)

    async def look(self) -> None:
        """Log what has changed, if this process has the duty. A pause that it finds at first is logged too."""
        states = await self.controls.show(self.budgets)
        self.paused = [state.name for state in states if state.paused]
        if not await self.circuits.try_lead(DUTY, self.name, lease=3 * self.every):
            self._known.clear()
            return
        for state in states:
            for line in changes(self._known.get(state.name), state):
                log.warning("budget %s: %s", state.name, line)
            self._known[state.name] = state


def changes(before: State | None, now: State) -> list[str]:
    """Return what has changed, as sentences."""
    said = []
    if now.paused and (before is None or not before.paused):
        said.append(f"paused {_order(now)}: {now.paused}; its requests wait in their queues")
    if before is None:
        return said
    if before.paused and not now.paused:
        said.append("no longer paused")
    if now.set_to != before.set_to:
        rate = f"set to {now.set_to:g} calls per second {_order(now)}" if now.set_to else "no longer set by an operator"
        said.append(rate)
    if before.factor < 1.0 <= now.factor:
        said.append("back at its full rate after Stripe's 429s")
    return said


def _order(state: State) -> str:
    until = datetime.fromtimestamp(state.until or 0, UTC).isoformat(timespec="seconds")
    return f"by {state.by or 'an operator'} until {until}"
