"""Even pacing: GCRA as arithmetic, and the queue in front of it. The clock is outside.

The generic cell rate algorithm (ITU-T I.371) keeps one number per budget, the theoretical arrival time of the next
call. Window counters release a second's worth at once, which a token bucket at the endpoint refuses; GCRA spaces
calls evenly and loses nothing.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from tokenferry.contract.names import LANES, Lane
from tokenferry_worker.cancelling import cancel_and_wait

BudgetScope = Literal["platform", "endpoint", "account_creation", "connected_account"]
"""Which calls a budget counts: all of a platform, those of one endpoint, those that make accounts, or those for one
connected account."""


@dataclass(frozen=True, order=True)
class Budget:
    """Calls of one sort that the account allows.

    *per_second* is the rate, *burst* how many calls may follow each other at once after a pause. One of them is kept
    for realtime: bulk sees a burst smaller by one, so a realtime request finds a place at any moment.
    """

    name: str
    per_second: float
    burst: int = 1
    in_flight: int = 0
    """Calls that may be under way at the same time; 0: any number."""
    scope: BudgetScope = "endpoint"
    """Which calls it counts. A refusal that names a limit slows the budget of that scope."""

    @property
    def interval(self) -> float:
        """Seconds between two calls at the full rate."""
        return 1.0 / self.per_second

    def ahead(self, lane: Lane) -> int:
        """Intervals a call may come earlier than evenly spaced."""
        return max(0, self.burst - 1 if lane == "realtime" else self.burst - 2)


def take(arrivals: Sequence[float], budgets: Sequence[Budget], lane: Lane, *, now: float) -> tuple[list[float], float]:
    """Take one call out of every budget, or none: the new theoretical arrival times, and the seconds until it fits.

    0.0 means that it is taken. Nothing is ever booked ahead: a call that waits for one budget would hold a place in
    another one that somebody else could use now. *arrivals* and *now* are seconds on one clock. What `permit.lua` does
    on the server's.

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
"""Seconds a slowed budget stays as it is; then its rise per second, as a share of the rate, for so many seconds; then
twice that."""
AGAIN, STEPS, LEAST = 10.0, (0.93, 0.85, 0.7), 0.02
"""What a refusal leaves of the share, and what each further one within so many seconds leaves of that; never below the
least share. One stray refusal costs little, a limit that has really fallen is found within seconds."""


def recovered(factor: float, seconds: float) -> float:
    """The share of the rate to use, *seconds* after a refusal made it *factor*. `budget.lua` does the same.

    It probes its way back: additive increase, slow where the last refusal was, so that a lower limit that lasts costs
    less than one call in a hundred, and quicker beyond, so that a limit that is back is used again within a minute.

    >>> [round(recovered(0.5, seconds), 2) for seconds in (0, 8, 14, 34)]
    [0.5, 0.5, 0.56, 0.96]
    """
    risen = max(0.0, seconds - HOLD)
    return min(1.0, factor + SLOW * min(risen, PROBING) + 2 * SLOW * max(0.0, risen - PROBING))


def cut(factor: float, seconds: float, cuts: int) -> tuple[float, int]:
    """The share of the rate after a refusal, *seconds* after the last cut of *cuts* in a row; at most one a second.

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
    """What the granted call is known by until it is done; empty where nobody counts calls under way."""


RequestPermit = Callable[[Sequence[Budget], Lane, bool], Awaitable[PermitReply]]
"""Asks for one call out of every budget, for a lane; the flag says that another request waits behind it."""

GiveBack = Callable[[Sequence[Budget], str], None]
"""Gives back a granted call that nobody makes, so that it does not count as under way. Returns at once."""


def _nothing_to_give_back(_budgets: Sequence[Budget], _call: str) -> None:
    """For a limiter that does not count calls under way."""


class Gate:
    """The waiting room of one process for one set of budgets: realtime before bulk, then first come first served.

    Whoever comes, one question of this process is open at any moment, and who gets a granted call is decided when it
    is granted: a realtime request that arrives meanwhile goes first. A call that was granted to a cancelled request
    goes to the next one that waits, and is given back where none does.
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
        """True if no request waits here and no rest has to be kept: a new gate would behave the same."""
        return self._next_lane() is None and (self._serving is None or self._serving.done())

    async def permit(self, lane: Lane) -> str:
        """Return when one call may be made now; what it is known by until it is done."""
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (LANES.index(lane), next(self._order), future))
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve(), name="tokenferry-gate")
        elif lane == "realtime" and self._resting_for_bulk is not None:
            self._resting_for_bulk.set()
        try:
            return await future
        except asyncio.CancelledError:
            # It may have been granted in the same turn of the loop; then nobody else knows of the call.
            if future.done() and not future.cancelled() and future.exception() is None:
                self._hand_over(future.result())
            raise

    async def aclose(self) -> None:
        """Ask for no more calls. Whoever waits must have been cancelled before."""
        if self._serving is not None:
            await cancel_and_wait(self._serving)

    async def _serve(self) -> None:
        try:
            while lane := self._next_lane():
                word = await self._ask(self._budgets, lane, len(self._waiting) > 1)
                if word.granted:
                    self._hand_over(word.permit_id)
                if word.ask_again > 0:
                    await self._rest(word.ask_again)
        except Exception as error:
            # Whoever waits must learn that nobody serves any more.
            while self._next_lane():
                heapq.heappop(self._waiting)[2].set_exception(error)

    def _hand_over(self, call: str) -> None:
        """Give a granted call to the first request that waits, or back to the limiter where none does any more."""
        if self._next_lane():
            heapq.heappop(self._waiting)[2].set_result(call)
        else:
            self._give_back(self._budgets, call)

    async def _rest(self, seconds: float) -> None:
        """Wait for the next turn; a realtime request cuts bulk's wait short, because it may be let in before."""
        if self._next_lane() == "realtime":
            await asyncio.sleep(seconds)
            return
        self._resting_for_bulk = asyncio.Event()
        bell = asyncio.get_running_loop().call_later(seconds, self._resting_for_bulk.set)
        try:
            await self._resting_for_bulk.wait()
        finally:
            bell.cancel()
            self._resting_for_bulk = None

    def _next_lane(self) -> Lane | None:
        while self._waiting and self._waiting[0][2].done():
            heapq.heappop(self._waiting)
        return LANES[self._waiting[0][0]] if self._waiting else None


class Limiter(Protocol):
    """Leave to call, for the whole fleet."""

    async def permit(self, budgets: Sequence[Budget], lane: Lane) -> str:
        """Return when one call may be made now; what to tell `done` once it is over."""
        ...

    async def done(self, budgets: Sequence[Budget], call: str) -> None:
        """The call is over, however it ended."""
        ...

    async def back_off(self, budget: Budget, seconds: float) -> None:
        """Nobody in the fleet draws on *budget* for *seconds*: the endpoint said it is exhausted."""
        ...
