"""What an operator can see and say of the budgets while the fleet works."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tokenferry_worker.limits.pacing import Budget
from tokenferry_worker.on_redis.limiter import MICROSECONDS, SHARED, numbers
from tokenferry_worker.on_redis.store import Script, Store

Verb = Literal["set", "pause", "resume", "reset"]


@dataclass(frozen=True)
class State:
    """One budget at this moment."""

    name: str
    configured: float
    """Calls per second in the configuration."""
    now: float
    """Calls per second in force: an operator's word and the endpoint's refusals counted in."""
    factor: float
    """Share of the rate that the endpoint's refusals leave; 1.0: all of it."""
    wait: float
    """Seconds until a call would fit."""
    paused: str | None
    """Why nothing may be called, if an operator said so."""


@dataclass(frozen=True)
class Change:
    """One line of the record."""

    at: float
    """Unix seconds on the store's clock."""
    who: str
    budget: str
    what: str
    why: str


class Controls:
    """Reads and changes budgets. Every change is in force at once, for the whole fleet, and is written down."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._look = Script("look", after=SHARED)
        self._command = Script("command", after=SHARED)
        self._history = Script("history")

    async def show(self, budgets: Iterable[Budget]) -> list[State]:
        """The state of *budgets*."""
        return [await self.look(budget) for budget in budgets]

    async def look(self, budget: Budget) -> State:
        """The state of one budget; takes nothing."""
        answer: Sequence[str] = await self._store.run(
            self._look, [self._store.keys.budget(budget.name)], numbers(budget, "realtime")[:2]
        )
        now, wait, factor, paused = answer
        return State(budget.name, budget.per_second, float(now), float(factor), float(wait), paused or None)

    async def command(
        self, verb: Verb, budget: Budget, *, who: str, why: str, rate: float | None = None, lasts: float = 0.0
    ) -> None:
        """Carry out an operator's word. *rate*: calls per second (`set`). *lasts*: seconds (`set`, `pause`).

        Raises `ValueError` for what is no rate.
        """
        if rate is not None and not 0 < rate < math.inf:
            raise ValueError("a rate is a number above 0")
        words = [verb, "" if rate is None else repr(rate), int(lasts * MICROSECONDS), budget.name, who, why]
        keys = [self._store.keys.budget(budget.name), self._store.keys.changes]
        await self._store.run(self._command, keys, [*words, *numbers(budget, "realtime")[:2]])

    async def history(self, most: int) -> list[Change]:
        """The latest changes, newest first."""
        lines: list[str] = await self._store.run(self._history, [self._store.keys.changes], [most])
        return [_change(json.loads(line)) for line in lines]


def _change(line: dict[str, Any]) -> Change:
    return Change(int(line["at"]) / 1000, line["who"], line["budget"], line["what"], line["why"])
