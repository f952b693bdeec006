"""Why a run waits, as the workers say it in notices."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tokenferry.contract.notices import Notice, NoticeReason

STALE: Final = 150.0
"""Seconds after which a reason no longer counts if no worker repeats it: more than twice the longest interval."""

_WORDS: Final[dict[NoticeReason, str]] = {
    "circuit_open": "the workers make no call of {scope} ({code})",
    "paused": "an operator has paused {scope}",
    "slowed": "{scope} is slowed down ({code})",
    "store_away": "the workers do not reach their store",
}


@dataclass(frozen=True)
class Waiting:
    """One reason why requests wait. Times are Unix milliseconds."""

    reason: NoticeReason
    scope: str
    since: int
    until: int | None
    code: str

    @classmethod
    def of(cls, notice: Notice) -> Waiting:
        """Return the reason that *notice* gives."""
        return cls(notice.reason, notice.scope, notice.since, notice.until, notice.code)

    def __str__(self) -> str:
        """Return one line for a person, with local times."""
        until = f", until {_clock(self.until)}" if self.until is not None else ""
        return f"{_WORDS[self.reason].format(scope=self.scope, code=self.code)}, since {_clock(self.since)}{until}"


class WaitingReasons:
    """The reasons that are in force. *note* gets a line when one begins, and when it is over."""

    def __init__(self, note: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._note = note
        self._clock = clock
        self._told: dict[tuple[str, str], tuple[Waiting, float]] = {}
        self._lock = threading.Lock()

    def take(self, notice: Notice) -> None:
        """Learn from a notice. Give this to `Results` as `on_notice`."""
        waiting, key = Waiting.of(notice), (notice.reason, notice.scope)
        with self._lock:
            self._forget()
            known = self._told.pop(key, None)
            if not notice.over:
                self._told[key] = waiting, self._clock()
        if notice.over and known is not None:
            self._note(f"over: {known[0]}")
        elif not notice.over and known is None:
            self._note(f"waiting: {waiting}")

    @property
    def current(self) -> tuple[Waiting, ...]:
        """Return the reasons in force, the oldest first. Safe to read from any thread."""
        with self._lock:
            self._forget()
            return tuple(sorted((waiting for waiting, _ in self._told.values()), key=lambda each: each.since))

    def _forget(self) -> None:
        late = self._clock() - STALE
        self._told = {key: told for key, told in self._told.items() if told[1] > late}


def _clock(milliseconds: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(milliseconds / 1000))
