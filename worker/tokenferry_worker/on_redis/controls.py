"""Shows budgets to an operator, and changes them, while the fleet works."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tokenferry_worker.limits.pacing import Budget
from tokenferry_worker.on_redis.limiter import MICROSECONDS, SHARED, numbers
from tokenferry_worker.on_redis.store import Script, Store

Verb = Literal["set", "pause", "resume", "reset"]


@dataclass(frozen=True)
class State:
    """The state of one budget at this moment."""

    name: str
    configured: float
    """Calls per second in the configuration."""
    now: float
    """Calls per second in force, after an operator's change and Stripe's 429s."""
    factor: float
    """Share of the rate that Stripe's 429s leave. 1.0: all of it."""
    wait: float
    """Seconds until a call would be allowed."""
    paused: str | None
    """The reason, where an operator has paused the budget."""
    set_to: float | None = None
    """Calls per second that an operator has set. More than *configured* counts as *configured*."""
    until: float | None = None
    """Unix seconds when the operator's rate and pause end."""
    by: str | None = None
    """Who has set them. None also where the version before did."""


@dataclass(frozen=True)
class Change:
    """One recorded change of a budget."""

    at: float
    """Unix seconds on the store's clock."""
    who: str
    budget: str
    what: str
    why: str
    lasts: float | None = None
    """Seconds for which it holds. None: for ever, or not recorded."""


class Controls:
    """Reads and changes budgets. Every change is in force at once, for the whole fleet, and is recorded."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._look = Script("look", after=SHARED)
        self._command = Script("command", after=SHARED)
        self._history = Script("history")

    async def show(self, budgets: Iterable[Budget]) -> list[State]:
        """Return the state of every one of *budgets*."""
        return list(await asyncio.gather(*map(self.look, budgets)))

    async def look(self, budget: Budget) -> State:
        """Return the state of one budget, without taking a call from it."""
        answer: Sequence[str] = await self._store.run(
            self._look, [self._store.keys.budget(budget.name)], numbers(budget, "realtime")[:2]
        )
        now, wait, factor, paused, rate, until, by = answer
        return State(
            budget.name,
            budget.per_second,
            float(now),
            float(factor),
            float(wait),
            paused or None,
            float(rate) if rate else None,
            int(until) / 1000 if until else None,
            by or None,
        )

    async def command(
        self, verb: Verb, budget: Budget, *, who: str, why: str, rate: float | None = None, lasts: float = 0.0
    ) -> None:
        """Change a budget for an operator. *rate*: calls per second (`set`). *lasts*: seconds (`set`, `pause`).

        Raises `ValueError` where *rate* is not a positive number, or more than the configured rate.
        """
        if rate is not None and not 0 < rate < math.inf:
            raise ValueError("a rate is a number above 0")
        if rate is not None and rate > budget.per_second:
            raise ValueError("a rate is at most the configured one")
        arguments = [verb, "" if rate is None else repr(rate), int(lasts * MICROSECONDS), budget.name, who, why]
        keys = [self._store.keys.budget(budget.name), self._store.keys.changes]
        await self._store.run(self._command, keys, [*arguments, *numbers(budget, "realtime")[:2]])

    async def history(self, most: int) -> list[Change]:
        """Return the latest changes, newest first."""
        lines: list[str] = await self._store.run(self._history, [self._store.keys.changes], [most])
        return [change for line in lines if (change := _change(line)) is not None]


def _change(text: str) -> Change | None:
    """Read one line. None if it is not what this version writes: it is left out."""
    try:
        line = json.loads(text)
        at, said = int(line["at"]) / 1000, [line[name] for name in ("who", "budget", "what", "why")]
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    if not 0 <= at < 4_102_444_800 or not all(isinstance(word, str) for word in said):
        return None
    who, budget, what, why = said
    lasts = line.get("lasts")
    is_time = isinstance(lasts, int | float) and 0 < lasts < 4_102_444_800
    return Change(at, who, budget, what, why, lasts if is_time else None)
