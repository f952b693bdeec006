"""Requests that arrive at random moments, whatever became of those before them: an open loop."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable

WARM, COLD = 150, 50
"""Requests sent before, all at once: connections stand and code is loaded when the first one counts. What the stack can
do is told by the results after the first `COLD` of them.
"""
PATIENCE = 120.0
"""Seconds until every result must be there."""


class Arrivals:
    """Who was sent when, and whose result was seen when, on the clock that all processes of a machine share."""

    def __init__(self) -> None:
        self.sent: dict[str, float] = {}
        self.seen: dict[str, tuple[str, float]] = {}
        self.rate = 0.0
        """Arrivals per second."""
        self._news = asyncio.Event()

    def see(self, request: str, token: str) -> None:
        """Note that the result of *request* can be read now."""
        self.seen.setdefault(request, (token, time.monotonic()))
        self._news.set()

    async def run(self, send: Callable[[], Awaitable[str]], *, rate: float, count: int, seed: int) -> None:
        """Send *count* requests at random moments (Poisson), and wait for their results.

        *rate*: how many per second; but half of what the stack can do just now, where that is less. *send* returns the
        id of the request. Raises TimeoutError when results stay away.
        """

        async def one() -> None:
            moment = time.monotonic()
            self.sent[await send()] = moment

        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(one() for _ in range(WARM)))
            await self._all_seen(WARM)
        moments = sorted(moment for _, moment in self.seen.values())
        self.rate = min(rate, (WARM - COLD) / (moments[WARM - 1] - moments[COLD - 1]) / 2)
        dice, due, under_way = random.Random(seed), time.monotonic(), []
        for _ in range(count):
            due += dice.expovariate(self.rate)
            await asyncio.sleep(due - time.monotonic())
            under_way.append(asyncio.create_task(one()))
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*under_way)
            await self._all_seen(WARM + count)

    async def _all_seen(self, count: int) -> None:
        while len(self.seen) < count:
            self._news.clear()
            await self._news.wait()

    def report(self) -> str:
        """As JSON: the rate and, for each request after the first `WARM`, its token, when it was sent, when seen."""
        sent = list(self.sent.items())[WARM:]
        rows = [(self.seen[request][0], moment, self.seen[request][1]) for request, moment in sent]
        return json.dumps({"rate": self.rate, "rows": rows})
