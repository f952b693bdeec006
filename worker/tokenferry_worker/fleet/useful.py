"""How many processes the waiting work and the rates can keep busy: the number an autoscaler should aim at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

CALLS_PER_PROCESS: Final = 300.0
"""Calls per second that one process makes at the processor's limit, with room to spare (`docs/performance.md`)."""
USUAL_LATENCY: Final = 0.5
"""Seconds of a call, where no process has measured any."""


@dataclass(frozen=True)
class Work:
    """The work of one platform."""

    waiting: int
    """Messages in its queues and in hand."""
    per_second: float
    """Calls that its budgets allow now: 0 while it is paused, or while Stripe answers nobody."""


def useful_processes(work: list[Work], *, latency: float | None, concurrency: int) -> int:
    """Return how many processes can be kept busy. *latency*: mean seconds of a call. *concurrency*: of one process.

    By Little's law, a rate of calls with a latency keeps rate times latency calls in flight. More processes than these
    calls need would only wait for permits. 0: nothing waits. 1: something waits, and nothing may be called.

    >>> useful_processes([Work(waiting=10_000, per_second=100)], latency=0.5, concurrency=100)
    1
    >>> useful_processes([Work(waiting=10_000, per_second=1000)], latency=0.5, concurrency=100)
    5
    >>> useful_processes([Work(waiting=0, per_second=1000)], latency=None, concurrency=100)
    0
    """
    busy = [each for each in work if each.waiting]
    if not busy:
        return 0
    rate = sum(each.per_second for each in busy)
    by_rate = max(rate * (latency or USUAL_LATENCY) / concurrency, rate / CALLS_PER_PROCESS)
    by_messages = sum(each.waiting for each in busy) / concurrency
    return max(1, math.ceil(min(by_rate, by_messages)))
