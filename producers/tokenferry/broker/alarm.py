"""Log lines about work that is tried again and again: few, but never none."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

EVERY: Final = 60.0
"""Seconds between two lines about the same failing work."""


class Alarm:
    """Logs that some work fails: at once, then at most once a minute, and when it works again. For one thread."""

    def __init__(
        self,
        log: logging.Logger,
        subject: str,
        *,
        level: int = logging.WARNING,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*subject*: the work; each line begins with it. *level*: of the lines about failures."""
        self._log = log
        self._subject = subject
        self._level = level
        self._clock = clock
        self._failing_since: float | None = None
        self._logged_at: float | None = None
        self._must_log_the_end = False

    def failed(self, why: str, *, patience: float = 0.0) -> None:
        """Note a failure. *why*: cause and cure. *patience*: seconds of failure without a line."""
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since < patience or (self._logged_at is not None and now - self._logged_at < EVERY):
            return
        self._logged_at, self._must_log_the_end = now, True
        self._log.log(self._level, "%s: %s", self._subject, why)

    def worked(self) -> None:
        """Note a success."""
        since, self._failing_since = self._failing_since, None
        if self._must_log_the_end and since is not None:
            self._must_log_the_end = False
            self._log.warning("%s: works again, after %.0f s", self._subject, self._clock() - since)
