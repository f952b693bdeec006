"""Even pacing: GCRA as arithmetic, and the queue of one process in front of it. Callers pass the time.

The generic cell rate algorithm (ITU-T I.371) keeps one number per budget, the theoretical arrival time of the next
call. Window counters release a second's worth at once, which a token bucket at Stripe refuses. GCRA spaces calls
evenly and loses nothing.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from tokenferry.contract.names import LANES, Lane
from tokenferry_worker.cancelling import cancel_and_wait

BudgetScope = Literal["platform", "endpoint", "account_creation", "connected_account"]
"""Which calls a budget counts: all of a platform, those of one path, those that make accounts, or those for one
connected account."""


@dataclass(frozen=True, order=True)
class Budget:
    """Calls of one sort that the account allows.

    *per_second* is the rate, *burst* how many calls may follow each other at once after a pause. One of them is kept
    for realtime: bulk has a burst smaller by one, so a realtime request can be served at any moment.
    """

    name: str
    per_second: float
    burst: int = 1
    in_flight: int = 0
    """Calls that may be in flight at the same time. 0: any number."""
    scope: BudgetScope = "endpoint"
    """Which calls it counts. A refusal that names a limit slows the budget of that scope."""

    @property
    def interval(self) -> float:
        """Seconds between two calls at the full rate."""
        return 1.0 / self.per_second

    def ahead(self, lane: Lane) -> int:
        """Intervals that a call may come earlier than evenly spaced."""
        return max(0, self.burst - 1 if lane == "realtime" else self.burst - 2)


def take(arrivals: Sequence[float], budgets: Sequence[Budget], lane: Lane, *, now: float) -> tuple[list[float], float]:
    """Take one call out of every budget, or none. Returns the new arrival times, and the seconds until the call fits.

    0.0 means that it was taken. Nothing is booked ahead: a call that waits for one budget would take a turn of another
    budget that some other call could use now. *arrivals* and *now* are seconds on one clock. `permit.lua` does the
    same on the server's clock.

    >>> take([0.0], [Budget("a", per_second=10)], "bulk", now=5.0)
    ([5.1], 0.0)
    >>> take([5.5], [Budget("a", per_second=10)], "bulk", now=5.0)
    ([5.5], 0.5)
    >>> take([5.1], [Budget("a", per_second=10, burst=2)], "realtime", now=5.0)
    ([5.199999999999999], 0.0)
    """
    pairs = list(zip(arrivals, budgets, strict=True))
    earliest = max(arrival - budget.ahead(lane) * budget.interval for arrival, budget in pairs)
    if earliest > now:
        return list(arrivals), earliest - now
    return [max(arrival, now) + budget.interval for arrival, budget in pairs], 0.0


HOLD, SLOW, PROBING = 8.0, 0.01, 6.0
"""A slowed budget keeps its rate for HOLD seconds. Then it rises by SLOW of its full rate per second, for PROBING
seconds, and then twice as fast."""
AGAIN, STEPS, LEAST = 10.0, (0.93, 0.85, 0.7), 0.02
"""A first refusal leaves STEPS[0] of the rate. Each further one within AGAIN seconds multiplies by the next step. The
share never falls below LEAST. One stray refusal costs little, a limit that has really fallen is found within seconds.
"""


def recovered(factor: float, seconds: float) -> float:
    """Return the share of the rate to use, *seconds* after a refusal made it *factor*. `budget.lua` does the same.

    The rise is additive. It is slow near the last refusal, so that a lower limit that lasts costs less than one call
    in a hundred. Beyond, it is quicker, so that a limit that is back is used again within a minute.

    >>> [round(recovered(0.5, seconds), 2) for seconds in (0, 8, 14, 34)]
    [0.5, 0.5, 0.56, 0.96]
    """
    risen = max(0.0, seconds - HOLD)
    return min(1.0, factor + SLOW * min(risen, PROBING) + 2 * SLOW * max(0.0, risen - PROBING))


def cut(factor: float, seconds: float, cuts: int) -> tuple[float, int]:
    """Return the share of the rate after a refusal, and the number of cuts in a row. `push_back.lua` does the same.

    *seconds* have passed since the last cut, which was number *cuts* in a row. There is at most one cut a second.

    >>> cut(1.0, 3600.0, 3)
    (0.93, 1)
    >>> cut(0.93, 2.0, 1)
    (0.7905, 2)
    >>> cut(0.93, 0.5, 1)
    (0.93, 1)
    """
    if seconds < 1.0:
        return factor, cuts
    row = cuts + 1 if seconds < AGAIN else 1
    return max(LEAST, factor * STEPS[min(row, len(STEPS)) - 1]), row


@dataclass(frozen=True)
class PermitReply:
    """The limiter's answer: whether one call may be made now, and the seconds until it is worth asking again."""

    granted: bool
    ask_again: float
    permit_id: str = ""
    """Needed to give the permit back. Empty where no budget limits the calls in flight."""


RequestPermit = Callable[[Sequence[Budget], Lane, bool], Awaitable[PermitReply]]
"""Asks for one call out of every budget, for a lane. The flag says that another request waits behind it."""

GiveBack = Callable[[Sequence[Budget], str], None]
"""Gives back a permit that nobody uses, so that its call does not count as in flight. Returns at once."""


def _nothing_to_give_back(_budgets: Sequence[Budget], _permit_id: str) -> None:
    """For a limiter that does not count calls in flight."""


class Gate:
    """The queue of one process for one set of budgets: realtime before bulk, then first come, first served.

    The process asks for one permit at a time. Which request gets it is decided when it is granted, so a realtime
    request that arrives meanwhile goes first. A permit for a cancelled request goes to the next one that waits, and is
    given back where none does.
    """

    def __init__(
        self, budgets: Sequence[Budget], ask: RequestPermit, give_back: GiveBack = _nothing_to_give_back
    ) -> None:
        self._budgets = budgets
        self._ask = ask
        self._give_back = give_back
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, asyncio.Future[str]]] = []
        self._serving: asyncio.Task[None] | None = None
        self._resting_for_bulk: asyncio.Event | None = None

    @property
    def idle(self) -> bool:
        """True if no request waits here and no pause has to be kept: a new gate would behave the same."""
        return self._next_lane() is None and (self._serving is None or self._serving.done())

    async def permit(self, lane: Lane) -> str:
        """Return the permit id when one call may be made now. The caller gives it back."""
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (LANES.index(lane), next(self._order), future))
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve(), name="tokenferry-gate")
        elif lane == "realtime" and self._resting_for_bulk is not None:
            self._resting_for_bulk.set()
        try:
            return await future
        except asyncio.CancelledError:
            # It may have been granted in the same turn of the loop. Then only this request knows of the permit.
            if future.done() and not future.cancelled() and future.exception() is None:
                self._hand_over(future.result())
            raise

    async def aclose(self) -> None:
        """Ask for no more permits. Every request that waits must have been cancelled before."""
        if self._serving is not None:
            await cancel_and_wait(self._serving)

    async def _serve(self) -> None:
        try:
            while lane := self._next_lane():
                reply = await self._ask(self._budgets, lane, len(self._waiting) > 1)
                if reply.granted:
                    self._hand_over(reply.permit_id)
                if reply.ask_again > 0:
                    await self._rest(reply.ask_again)
        except Exception as error:
            # Every request that waits must learn that nobody serves any more.
            while self._next_lane():
                heapq.heappop(self._waiting)[2].set_exception(error)

    def _hand_over(self, permit_id: str) -> None:
        """Give a permit to the first request that waits, or back to the limiter where none does."""
        if self._next_lane():
            heapq.heappop(self._waiting)[2].set_result(permit_id)
        else:
            self._give_back(self._budgets, permit_id)

    async def _rest(self, seconds: float) -> None:
        """Wait for the next turn. A realtime request ends bulk's wait, because it may be served earlier."""
        if self._next_lane() == "realtime":
            await asyncio.sleep(seconds)
            return
        self._resting_for_bulk = asyncio.Event()
        timer = asyncio.get_running_loop().call_later(seconds, self._resting_for_bulk.set)
        try:
            await self._resting_for_bulk.wait()
        finally:
            timer.cancel()
            self._resting_for_bulk = None

    def _next_lane(self) -> Lane | None:
        while self._waiting and self._waiting[0][2].done():
            heapq.heappop(self._waiting)
        return LANES[self._waiting[0][0]] if self._waiting else None


class Limiter(Protocol):
    """Permits to call, for the whole fleet."""

    def permit(self, budgets: Sequence[Budget], lane: Lane) -> AbstractAsyncContextManager[None]:
        """Wait until one call may be made by every budget. While the block runs, the call counts as in flight."""
        ...

    async def back_off(self, budget: Budget, seconds: float) -> None:
        """No call in the fleet draws on *budget* for *seconds*: Stripe said it is exhausted."""
        ...
