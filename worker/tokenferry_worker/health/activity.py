"""What a worker process did lately: for its log line of a minute, and for its report to the store."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tokenferry_worker.metrics.names import (
    ATTEMPTS,
    BUDGET_CALLS,
    CALLS,
    IN_HAND,
    NO_FAILURE,
    OUTCOMES,
    PARKED_TOTAL,
    PERMIT_WAIT,
    RATE_LIMITED,
    REFUSALS,
    TOKENS,
    WAITING,
    Metric,
)
from tokenferry_worker.metrics.registry import Meters, Snapshot
from tokenferry_worker.metrics.totals import since

REMEMBERED: Final = 320.0
"""Seconds for which earlier numbers are kept."""


@dataclass(frozen=True)
class Period:
    """What was counted in some seconds, and the gauges at their end."""

    seconds: float
    grown: Snapshot
    gauges: Snapshot

    def total(self, metric: Metric, **labels: str) -> int:
        """Return the sum of a counter over all series with these label values."""
        return int(sum(self.by(metric, metric.labels[0] if metric.labels else "", **labels).values()))

    def by(self, metric: Metric, label: str, **labels: str) -> Counter[str]:
        """Return a counter by the values of one label. Of a histogram: the number of values."""
        found: Counter[str] = Counter()
        for values, value in self.grown.get(metric.name, {}).items():
            named = dict(zip(metric.labels, values, strict=True))
            if labels.items() <= named.items():
                found[named.get(label, "")] += sum(value[:-1]) if metric.buckets else value
        return found

    def mean(self, metric: Metric) -> float | None:
        """Return the mean of a histogram, in seconds. None: it has no value."""
        series = self.grown.get(metric.name, {}).values()
        count = sum(sum(value[:-1]) for value in series)
        return sum(value[-1] for value in series) / count if count else None

    def gauge(self, metric: Metric) -> dict[str, int]:
        """Return a gauge of one label, without zeros."""
        return {labels[0]: int(value) for labels, value in self.gauges.get(metric.name, {}).items() if value}

    @property
    def failures(self) -> Counter[str]:
        """Failed outcomes by code."""
        codes = self.by(OUTCOMES, "code")
        del codes[NO_FAILURE]
        return codes


class Activity:
    """Remembers the numbers of one process for some minutes."""

    def __init__(self, meters: Meters, clock: Callable[[], float] = time.monotonic) -> None:
        self._meters = meters
        self._clock = clock
        self._taken: deque[tuple[float, Snapshot]] = deque([(clock(), meters.snapshot())])

    def look(self) -> None:
        """Take the numbers of now."""
        now = self._clock()
        self._taken.append((now, self._meters.snapshot()))
        while len(self._taken) > 2 and self._taken[1][0] < now - REMEMBERED:
            self._taken.popleft()

    def last(self, seconds: float) -> Period:
        """Return what was counted in the last *seconds*, or since the start."""
        now, numbers = self._taken[-1]
        # A little less: two looks are seldom exactly that far apart.
        earlier = [each for each in self._taken if each[0] <= now - 0.98 * seconds]
        began, before = earlier[-1] if earlier else self._taken[0]
        return Period(now - began, since(numbers, before), numbers)


def in_words(period: Period) -> str | None:
    """Return what a process did, as one line. None: nothing, and it has nothing in hand."""
    calls, in_hand = period.total(CALLS), sum(period.gauge(IN_HAND).values())
    outcomes = period.total(OUTCOMES)
    if not (calls or in_hand or outcomes or period.total(PARKED_TOTAL)):
        return None
    failed = period.failures
    parts = [
        f"{period.total(TOKENS, state='available')} tokens",
        f"{period.total(TOKENS, state='spent')} used",
        f"{failed.total()} failed{_counted(failed)}",
        f"{period.total(REFUSALS)} refused",
        f"{period.total(PARKED_TOTAL)} parked",
        f"{calls} calls{_each(period.mean(CALLS))}",
        f"{period.total(RATE_LIMITED)} answers of 429",
        f"{period.total(ATTEMPTS)} failed attempts",
        f"waited for permits{_each(period.mean(PERMIT_WAIT)) or ' 0 s'}",
        f"{in_hand} in hand{_counted(Counter(period.gauge(WAITING)), 'waiting: ')}",
    ]
    return f"in {period.seconds:.0f} s: {', '.join(parts)}"


def _counted(counts: Counter[str], before: str = "") -> str:
    listed = ", ".join(f"{name} {count}" for name, count in counts.most_common(5) if count)
    return f" ({before}{listed})" if listed else ""


def _each(seconds: float | None) -> str:
    return f" of {seconds:.2f} s" if seconds is not None else ""


def rates(period: Period) -> dict[str, float]:
    """Return the calls per second by budget."""
    return {name: round(count / period.seconds, 2) for name, count in period.by(BUDGET_CALLS, "budget").items()}
