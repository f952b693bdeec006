"""The rate of the fleet: one number per budget, on the server's clock, so two workers never disagree about now."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import secrets
import socket
import time
from collections.abc import Sequence
from typing import Final

from tokenferry.contract.names import Lane
from tokenferry_worker.cancelling import cancel_and_wait
from tokenferry_worker.limits.pacing import Budget, Gate, PermitReply, take
from tokenferry_worker.on_redis.store import Script, Store

log = logging.getLogger(__name__)

MICROSECONDS: Final = 1_000_000
SHARED: Final = ("budget",)
"""What every script on budgets stands behind."""
NEW_GATES: Final = 1000
"""So many new gates are made before the idle ones are looked for, so that each costs little to find."""
CLOSING: Final = 1.0
"""Seconds for which a process that ends waits for the store, to give back calls that nobody made."""


class RedisLimiter:
    """Implements `limits.pacing.Limiter`.

    While the store is away, each process goes on by itself with a small share of every budget: never without a limit,
    and without a deadlock. What it then calls is not counted anywhere else, so the share is chosen for the whole fleet.
    A pause that it has been told of holds until it ends by itself.
    """

    def __init__(self, store: Store, *, alone: float = 0.05, longest_call: float = 120.0) -> None:
        """*alone*: share of each budget that one process uses while the store is away.

        *longest_call*: seconds after which a call that nobody ended counts as over: its worker is dead.
        """
        self._longest_call = math.ceil(longest_call * MICROSECONDS)
        self._done = Script("done")
        self._store = store
        self._alone = alone
        self._arrivals: dict[str, float] = {}
        self._paused: dict[str, float] = {}
        """Budgets that an operator has stopped, until when on our monotonic clock."""
        self._permit = Script("permit", after=SHARED)
        self._push_back = Script("push_back", after=SHARED)
        self._gates: dict[tuple[str, ...], Gate] = {}
        self._forget_at = NEW_GATES
        self._giving_back: set[asyncio.Task[None]] = set()
        """Kept here, because the loop itself keeps no task alive."""
        self._who = f"worker {socket.gethostname()}:{os.getpid()}"

    async def permit(self, budgets: Sequence[Budget], lane: Lane) -> str:
        """Return when one call may be made now, by every budget; what to tell `done` afterwards.

        Cancelled, it leaves no call counted as under way.
        """
        names = tuple(budget.name for budget in budgets)
        gate = self._gates.get(names)
        if gate is None:
            self._forget()
            gate = self._gates[names] = Gate(budgets, self.ask, self._give_back)
        return await gate.permit(lane)

    async def done(self, budgets: Sequence[Budget], call: str) -> None:
        """The call is over, however it ended. The store is told so even where the caller is cancelled meanwhile."""
        if call:
            await asyncio.shield(self._tell_done(budgets, call))

    def _give_back(self, budgets: Sequence[Budget], call: str) -> None:
        """Take back a granted call that nobody makes."""
        if call:
            self._tell_done(budgets, call)

    def _tell_done(self, budgets: Sequence[Budget], call: str) -> asyncio.Task[None]:
        """Tell the store in a task of its own, which no cancelled delivery takes along."""
        counted = [self._store.keys.budget(budget.name) for budget in budgets if budget.in_flight]

        async def tell() -> None:
            await self._store.run(self._done, counted, [call])

        task = asyncio.create_task(tell(), name="tokenferry-call-done")
        self._giving_back.add(task)
        task.add_done_callback(self._giving_back.discard)
        return task

    async def aclose(self) -> None:
        """Ask for no more calls, and give back those that nobody makes any more, for `CLOSING` seconds at most.

        What is not given back by then, the store forgets after the longest call.
        """
        for gate in list(self._gates.values()):
            await gate.aclose()
        if self._giving_back:
            await asyncio.wait(self._giving_back, timeout=CLOSING)
        for task in list(self._giving_back):
            await cancel_and_wait(task)

    def _forget(self) -> None:
        """Drop what says nothing any more: idle gates, arrivals in the past, pauses that are over.

        There is a gate for every connected account that calls, so without this a process would grow for ever.
        """
        if len(self._gates) < self._forget_at:
            return
        now = time.monotonic()
        self._gates = {names: gate for names, gate in self._gates.items() if not gate.idle}
        self._arrivals = {name: at for name, at in self._arrivals.items() if at > now}
        self._paused = {name: until for name, until in self._paused.items() if until > now}
        self._forget_at = len(self._gates) + NEW_GATES

    async def ask(self, budgets: Sequence[Budget], lane: Lane, more: bool) -> PermitReply:
        """Take one call out of every budget at once, or learn when to ask again.

        Cancelled, it leaves no call counted as under way.
        """
        call = secrets.token_hex(8) if any(budget.in_flight for budget in budgets) else ""
        sent = not self._store.silent if call else False
        answer = None
        try:
            answer = await self._store.run_unless_away(
                self._permit,
                [self._store.keys.line(budgets), *(self._store.keys.budget(budget.name) for budget in budgets)],
                [int(more), lane, call, self._longest_call, *(x for budget in budgets for x in numbers(budget, lane))],
            )
        finally:
            if answer is None and sent:
                # Perhaps only the answer is lost. Then the store counts a call that nobody makes.
                self._give_back(budgets, call)
        if answer is None:
            return self._ask_alone(budgets, lane)
        granted, ask_again, *paused = answer
        for budget in budgets:
            self._paused.pop(budget.name, None)
        if paused:
            place, lasts = paused
            self._paused[budgets[int(place) - 2].name] = time.monotonic() + int(lasts) / MICROSECONDS
        return PermitReply(bool(granted), int(ask_again) / MICROSECONDS, call)

    async def back_off(self, budget: Budget, seconds: float) -> None:
        """The endpoint has refused a call: nobody draws on *budget* for *seconds*, and then all draw more slowly."""
        factor, cut = await self._store.run(
            self._push_back,
            [self._store.keys.budget(budget.name), self._store.keys.changes],
            [math.ceil(seconds * MICROSECONDS), *numbers(budget, "realtime")[:2], budget.name, self._who],
        )
        if cut:
            log.warning("budget %s: the endpoint answers 429; slowed to %.0f %%", budget.name, 100 * float(factor))

    def _ask_alone(self, budgets: Sequence[Budget], lane: Lane) -> PermitReply:
        if any(self._paused.get(budget.name, 0.0) > time.monotonic() for budget in budgets):
            return PermitReply(False, 1.0)
        slower = [Budget(budget.name, budget.per_second * self._alone) for budget in budgets]
        arrivals = [self._arrivals.get(budget.name, 0.0) for budget in slower]
        arrivals, wait = take(arrivals, slower, lane, now=time.monotonic())
        self._arrivals.update(zip((budget.name for budget in slower), arrivals, strict=True))
        # Never longer than a second, to notice when the store is back.
        return PermitReply(wait == 0.0, min(wait, 1.0))


def numbers(budget: Budget, lane: Lane) -> tuple[int, int, int]:
    """Interval in microseconds (rounded up: never a call more, not in a year), intervals ahead, calls in flight."""
    return math.ceil(budget.interval * MICROSECONDS), budget.ahead(lane), budget.in_flight
