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

from tokenferry.contract.names import LANES, Lane


@dataclass(frozen=True, order=True)
class Budget:
    """Calls of one sort that the account allows.

    *per_second* is the rate, *burst* how many calls may follow each other at once after a pause.
    """

    name: str
    per_second: float
    burst: int = 1

    @property
    def interval(self) -> float:
        """Seconds between two calls at the full rate."""
        return 1.0 / self.per_second

    @property
    def tolerance(self) -> float:
        """Seconds a call may come earlier than evenly spaced."""
        return (self.burst - 1) * self.interval


def reserve(arrivals: Sequence[float], budgets: Sequence[Budget], *, now: float) -> tuple[list[float], float]:
    """Take one call out of every budget: the new theoretical arrival times, and the seconds to wait.

    *arrivals* and *now* are seconds on one clock. What `limiter.lua` does on the server's.

    >>> reserve([0.0], [Budget("a", per_second=10, burst=1)], now=5.0)
    ([5.1], 0.0)
    >>> reserve([5.1], [Budget("a", per_second=10, burst=1)], now=5.0)[1]
    0.09999999999999964
    >>> reserve([5.1], [Budget("a", per_second=10, burst=2)], now=5.0)[1]
    0.0
    """
    pairs = list(zip(arrivals, budgets, strict=True))
    start = max([now, *(arrival - budget.tolerance for arrival, budget in pairs)])
    return [max(arrival, start) + budget.interval for arrival, budget in pairs], start - now


Reserve = Callable[[Sequence[Budget]], Awaitable[float]]
"""Takes one call out of every budget and returns the seconds until it may be made."""


class Gate:
    """The waiting room of one process for one set of budgets: realtime before bulk, then first come first served.

    At most one reservation of this process is open at any moment, and who gets it is decided when it falls due:
    a realtime request that arrives meanwhile goes first, and a cancelled one costs no call.
    """

    def __init__(self, budgets: Sequence[Budget], reserve: Reserve) -> None:
        self._budgets = budgets
        self._reserve = reserve
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._serving: asyncio.Task[None] | None = None

    async def permit(self, lane: Lane) -> None:
        """Return when one call may be made now."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (LANES.index(lane), next(self._order), future))
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve(), name="tokenferry-gate")
        await future

    async def _serve(self) -> None:
        try:
            while self._forget_cancelled():
                await asyncio.sleep(await self._reserve(self._budgets))
                if self._forget_cancelled():
                    heapq.heappop(self._waiting)[2].set_result(None)
        except Exception as error:
            # Whoever waits must learn that nobody serves any more.
            while self._forget_cancelled():
                heapq.heappop(self._waiting)[2].set_exception(error)

    def _forget_cancelled(self) -> bool:
        while self._waiting and self._waiting[0][2].done():
            heapq.heappop(self._waiting)
        return bool(self._waiting)
