"""How fast outcomes come, measured; and how long the rest takes at that pace. Pure: the time comes as an argument."""

from __future__ import annotations

from collections import deque
from typing import Final

RECENT: Final = 10.0
"""Seconds over which a rate is measured. A change of rate is known after that long."""
LEAST: Final = 12
"""Outcomes that an estimate needs. If fewer came in `RECENT` seconds, earlier ones count too."""
LONGEST: Final = 60.0
"""Seconds after which an outcome no longer counts at all."""
_BUCKET: Final = 0.25


class Pace:
    """Counts outcomes. All times are seconds of one clock."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._buckets: deque[tuple[float, int]] = deque()
        """The time of the first outcome of each quarter of a second, and how many came in it."""

    def note(self, now: float, count: int = 1) -> None:
        """Count *count* outcomes that came *now*."""
        if self._buckets and now - self._buckets[-1][0] < _BUCKET:
            at, known = self._buckets[-1]
            self._buckets[-1] = at, known + count
        else:
            self._buckets.append((now, count))
        self._forget(now)

    def recent(self, now: float) -> float:
        """Outcomes per second in the last seconds."""
        seconds = min(RECENT, max(1.0, now - self._started))
        return sum(count for at, count in self._buckets if at > now - RECENT) / seconds

    def seconds_left(self, now: float, outcomes: float) -> float | None:
        """Estimate how long *outcomes* more will take. None if that is not known: nothing came for a while."""
        if outcomes <= 0:
            return 0.0
        self._forget(now)
        counted, since = 0, now
        for at, count in reversed(self._buckets):
            if at <= now - RECENT and counted >= LEAST:
                break
            counted, since = counted + count, at
        if not counted:
            return None
        # Without a bucket from before the measured time, that time begins with the run.
        seconds = max(now - since, min(RECENT, now - self._started), _BUCKET)
        return outcomes * seconds / counted

    def _forget(self, now: float) -> None:
        while self._buckets and self._buckets[0][0] <= now - LONGEST:
            self._buckets.popleft()
