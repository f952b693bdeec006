"""How many calls of a path got no answer lately, and whether that is an outage. Pure: the clock is an argument."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Final

WINDOW: Final = 10.0
"""Seconds: what is older says nothing of an outage now."""
CALLS: Final = 5
REQUESTS: Final = 3
"""So many failed calls, of so many different requests, and no answer between them: that is no bad request any more."""
KEPT: Final = 100
"""Failed calls of one path that are remembered. An outage is known long before."""
MOST_BLAMED: Final = 1000
"""Requests that are remembered because they may be what a path cannot answer; beyond them the oldest are forgotten."""
FORGOTTEN: Final = 300.0
"""Seconds after the last failed call of a path until the next one is the first of a new story."""
NO_ANSWER: Final = 0
"""Stands for the status where there was none: not connected, connection lost, time-out, half an answer."""


@dataclass
class _Path:
    failed: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=KEPT))
    """When, and of which request, since the last answer."""
    statuses: Counter[int] = field(default_factory=Counter)
    since: float = 0.0
    """The first failed call since the last answer."""
    last: float = 0.0
    """The newest."""


class UnansweredCalls:
    """The calls of one platform that got a 5xx or no answer. An answer to one call clears its path.

    One per process and platform. As long as calls are answered it keeps nothing, and costs one look into a dict.
    """

    def __init__(self) -> None:
        self._paths: dict[str, _Path] = {}
        self._blamed: dict[str, None] = {}
        """Requests that are not counted, the oldest first."""

    def answered(self, path: str, request: str) -> None:
        """A call of *path* for *request* has got a real answer: also a refusal counts."""
        self._paths.pop(path, None)
        if self._blamed and request in self._blamed:
            self._blamed.clear()  # it was answered after all, so it was an outage, and no request was to blame

    def failed(self, path: str, request: str, status: int | None, now: float) -> bool:
        """A call of *path* for *request* got a 5xx or no answer (None). Whether that makes an outage of the path.

        *now*: Unix seconds, as everywhere here.
        """
        known = self._paths.get(path)
        if known is None or now - known.last > FORGOTTEN:
            known = self._paths[path] = _Path(since=now)
        known.last = now
        known.statuses[status or NO_ANSWER] += 1
        if request not in self._blamed:
            known.failed.append((now, request))
        return self.is_out(path, now)

    def is_out(self, path: str, now: float) -> bool:
        """Whether nobody's call of *path* was answered in the last seconds, and enough were made."""
        known = self._paths.get(path)
        if known is None:
            return False
        # A wall clock that was put back leaves times in the future: they count for nothing.
        lately = [request for at, request in known.failed if 0.0 <= now - at <= WINDOW]
        return len(lately) >= CALLS and len(set(lately)) >= REQUESTS

    def told(self, path: str) -> tuple[Counter[int], float]:
        """The failed calls of *path* since its last answer: how many by status, and when the first was."""
        known = self._paths.get(path) or _Path()
        return Counter(known.statuses), known.since

    def blame(self, path: str) -> None:
        """The requests counted for *path* are not counted again: they may be what is wrong with it.

        Where they are, the calls of others will be answered; so those same requests must not stop them again.
        """
        known = self._paths.get(path) or _Path()
        self._blamed.update((request, None) for _, request in known.failed)
        while len(self._blamed) > MOST_BLAMED:
            del self._blamed[next(iter(self._blamed))]

    def forget(self) -> None:
        """Count from the beginning, on every path."""
        self._paths.clear()
