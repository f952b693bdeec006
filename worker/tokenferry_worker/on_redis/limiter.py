"""The rate of the fleet: one number per budget. All workers use the server's clock, so they agree on the time."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from tokenferry.contract.names import Lane
from tokenferry_worker.cancelling import cancel_and_wait
from tokenferry_worker.limits.pacing import Budget, Gate, PermitReply, take
from tokenferry_worker.metrics.names import BUDGET_CALLS, PERMIT_WAIT, WAITING
from tokenferry_worker.metrics.registry import Meters, NoMeters
from tokenferry_worker.on_redis.store import Script, Store

log = logging.getLogger(__name__)

MICROSECONDS: Final = 1_000_000
SHARED: Final = ("foreign", "budget")
"""The scripts that come before every script on budgets."""
NEW_GATES: Final = 1000
"""New gates between two searches for idle ones. So many, that the search costs each new gate little."""
CLOSING: Final = 1.0
"""Seconds for which a process that ends waits for the store, to give back its permits."""


class RedisLimiter:
    """Implements `limits.pacing.Limiter`.

    While the store is away, each process goes on by itself with a small share of every budget: never without a limit,
    and without a deadlock. No other process counts these calls, so the share must be small enough for the whole fleet.
    A pause by an operator that the process knows of holds until its end.
    """

    def __init__(
        self, store: Store, *, alone: float = 0.05, longest_call: float = 120.0, meters: Meters | None = None
    ) -> None:
        """*alone*: share of each budget that one process uses while the store is away.

        *longest_call*: seconds after which a permit that was not given back expires: its worker is dead.
        """
        self._longest_call = math.ceil(longest_call * MICROSECONDS)
        self._meters = meters or NoMeters()
        self._done = Script("done")
        self._store = store
        self._alone = alone
        self._arrivals: dict[str, float] = {}
        self._paused: dict[str, float] = {}
        """Budgets that an operator has paused, and until when on the monotonic clock of this process."""
        self._permit = Script("permit", after=SHARED)
        self._push_back = Script("push_back", after=SHARED)
        self._gates: dict[tuple[str, ...], Gate] = {}
        self._forget_at = NEW_GATES
        self._giving_back: set[asyncio.Task[None]] = set()
        """Held here, because the loop itself keeps no task alive."""
        self._who = f"worker {socket.gethostname()}:{os.getpid()}"

    @asynccontextmanager
    async def permit(self, budgets: Sequence[Budget], lane: Lane) -> AsyncIterator[None]:
        """Wait until one call may be made by every budget. While the block runs, the call counts as in flight.

        The permit is given back even where the caller is cancelled at any moment.
        """
        names = tuple(budget.name for budget in budgets)
        gate = self._gates.get(names)
        if gate is None:
            self._forget()
            gate = self._gates[names] = Gate(budgets, self.ask, self._give_back)
        began = time.monotonic()
        self._meters.count(WAITING, "permit")
        try:
            permit_id = await gate.permit(lane)
        finally:
            self._meters.count(WAITING, "permit", by=-1)
        self._meters.observe(PERMIT_WAIT, time.monotonic() - began, _platform(budgets), lane)
        for budget in budgets:
            self._meters.count(BUDGET_CALLS, label(budget))
        try:
            yield
        finally:
            if permit_id:
                await asyncio.shield(self._release(budgets, permit_id))

    @property
    def paused(self) -> Sequence[str]:
        """Budgets that an operator has paused, as far as this process knows."""
        now = time.monotonic()
        return sorted(name for name, until in list(self._paused.items()) if until > now)

    def _give_back(self, budgets: Sequence[Budget], permit_id: str) -> None:
        """Give back a permit that nobody uses."""
        if permit_id:
            self._release(budgets, permit_id)

    def _release(self, budgets: Sequence[Budget], permit_id: str) -> asyncio.Task[None]:
        """Give a permit back in a task of its own, which does not end with a cancelled delivery."""
        counted = [self._store.keys.budget(budget.name) for budget in budgets if budget.in_flight]
        giving_back = self._store.run(self._done, counted, [permit_id])
        task = asyncio.create_task(giving_back, name="tokenferry-call-done")
        self._giving_back.add(task)
        task.add_done_callback(self._giving_back.discard)
        return task

    async def aclose(self) -> None:
        """Ask for no more permits, and give back those in hand, within `CLOSING` seconds.

        A permit that is not given back by then expires in the store after the longest call.
        """
        for gate in list(self._gates.values()):
            await gate.aclose()
        if self._giving_back:
            await asyncio.wait(self._giving_back, timeout=CLOSING)
        for task in list(self._giving_back):
            await cancel_and_wait(task)

    def _forget(self) -> None:
        """Drop idle gates, arrival times in the past and pauses that are over.

        Every connected account that calls has a gate, so without this a process would grow for ever.
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

        Where it is cancelled, no call counts as in flight.
        """
        permit_id = secrets.token_hex(8) if any(budget.in_flight for budget in budgets) else ""
        sent = bool(permit_id) and not self._store.silent
        reply = None
        try:
            reply = await self._store.run_unless_away(
                self._permit,
                [self._store.keys.line(budgets), *(self._store.keys.budget(budget.name) for budget in budgets)],
                [int(more), lane, permit_id, self._longest_call, *(n for each in budgets for n in numbers(each, lane))],
            )
        finally:
            if reply is None and sent:
                # Perhaps only the reply is lost. Then the store counts a call that nobody makes.
                self._give_back(budgets, permit_id)
        if reply is None:
            return self._ask_alone(budgets, lane)
        granted, ask_again, *paused = reply
        for budget in budgets:
            self._paused.pop(budget.name, None)
        if paused:
            key_number, lasts = paused
            self._paused[budgets[int(key_number) - 2].name] = time.monotonic() + int(lasts) / MICROSECONDS
        return PermitReply(bool(granted), int(ask_again) / MICROSECONDS, permit_id)

    async def back_off(self, budget: Budget, seconds: float) -> None:
        """Stripe has refused a call: nobody draws on *budget* for *seconds*, and then all draw more slowly."""
        factor, cut = await self._store.run(
            self._push_back,
            [self._store.keys.budget(budget.name), self._store.keys.changes],
            [math.ceil(seconds * MICROSECONDS), *numbers(budget, "realtime")[:2], budget.name, self._who],
        )
        if cut:
            log.warning("budget %s: Stripe answers 429; slowed to %.0f %%", budget.name, 100 * float(factor))

    def _ask_alone(self, budgets: Sequence[Budget], lane: Lane) -> PermitReply:
        """Answer without the store, out of this process's share of the budgets."""
        if any(self._paused.get(budget.name, 0.0) > time.monotonic() for budget in budgets):
            return PermitReply(False, 1.0)
        slower = [Budget(budget.name, budget.per_second * self._alone) for budget in budgets]
        arrivals = [self._arrivals.get(budget.name, 0.0) for budget in slower]
        arrivals, wait = take(arrivals, slower, lane, now=time.monotonic())
        self._arrivals.update(zip((budget.name for budget in slower), arrivals, strict=True))
        # At most a second, to notice when the store is back.
        return PermitReply(wait == 0.0, min(wait, 1.0))


def label(budget: Budget) -> str:
    """Return the budget's name for metrics and reports. Those of connected accounts have one together.

    >>> label(Budget("main:account:acct_1", 5, scope="connected_account")), label(Budget("main:global", 5))
    ('main:account', 'main:global')
    """
    return f"{_platform([budget])}:account" if budget.scope == "connected_account" else budget.name


def _platform(budgets: Sequence[Budget]) -> str:
    return budgets[0].name.partition(":")[0]


def numbers(budget: Budget, lane: Lane) -> tuple[int, int, int]:
    """Return the interval in microseconds, the intervals a call may come early, and the calls in flight.

    The interval is rounded up: never a call too many, not in a year.
    """
    return math.ceil(budget.interval * MICROSECONDS), budget.ahead(lane), budget.in_flight
