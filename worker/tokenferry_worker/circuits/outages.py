"""How many calls of a path got no answer lately, and whether that is an outage. Pure: callers pass the time."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Final

WINDOW: Final = 10.0
"""Seconds. An older failure proves nothing about an outage now."""
CALLS: Final = 5
REQUESTS: Final = 3
"""So many failed calls, of so many different requests, with no answer between them, are an outage. Fewer may be the
fault of single requests."""
KEPT: Final = 100
"""Failed calls of one path that are remembered. An outage is noticed long before."""
MOST_BLAMED: Final = 1000
"""Requests that are remembered because Stripe may be unable to answer them. Beyond, the oldest are forgotten."""
FORGOTTEN: Final = 300.0
"""Seconds after the last failed call of a path. A later failure counts as the first of a new outage."""
NO_ANSWER: Final = 0
"""The status where there was none: not connected, connection lost, time-out, half an answer."""


@dataclass
class _Path:
    failed: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=KEPT))
    """Time and request id of each, since the last answer."""
    statuses: Counter[int] = field(default_factory=Counter)
    since: float = 0.0
    """When the first call failed since the last answer."""
    last: float = 0.0
    """When the newest failed."""


class UnansweredCalls:
    """The calls of one platform that got a 5xx or no answer. An answer to one call clears its path.

    One per process and platform. As long as calls are answered it keeps nothing, and costs one look-up in a dict.
    """

    def __init__(self) -> None:
        self._paths: dict[str, _Path] = {}
        self._blamed: dict[str, None] = {}
        """Requests whose failures do not count, the oldest first."""

    def answered(self, path: str, request: str) -> None:
        """A call of *path* for *request* was answered. A refusal is an answer too."""
        self._paths.pop(path, None)
        if self._blamed and request in self._blamed:
            self._blamed.clear()  # it was answered after all: there was an outage, and no request was to blame

    def failed(self, path: str, request: str, status: int | None, now: float) -> bool:
        """A call of *path* for *request* got a 5xx or no answer (None). Returns True if that makes an outage.

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
        """True if no call of *path* was answered within `WINDOW`, and enough were made."""
        known = self._paths.get(path)
        if known is None:
            return False
        # A wall clock that was set back leaves times in the future: they do not count.
        lately = [request for at, request in known.failed if 0.0 <= now - at <= WINDOW]
        return len(lately) >= CALLS and len(set(lately)) >= REQUESTS

    def told(self, path: str) -> tuple[Counter[int], float]:
        """Return the failed calls of *path* since its last answer: how many by status, and when the first was."""
        known = self._paths.get(path) or _Path()
        return Counter(known.statuses), known.since

    def blame(self, path: str) -> None:
        """Do not count the requests that failed on *path* again: they may be the reason.

        If they are, the calls of other requests will be answered, and these must not stop them a second time.
        """
        known = self._paths.get(path) or _Path()
        self._blamed.update((request, None) for _, request in known.failed)
        while len(self._blamed) > MOST_BLAMED:
            del self._blamed[next(iter(self._blamed))]

    def forget(self) -> None:
        """Count from the beginning, on every path."""
        self._paths.clear()
