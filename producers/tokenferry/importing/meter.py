"""The progress line of an import: its counts, its rate and an estimate of the time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tokenferry.bulk.progress import spelled
from tokenferry.configuration import Configuration
from tokenferry.importing.import_window import ImportCounts, ImportWindow


@dataclass(frozen=True)
class RateInForce:
    """Calls per second that the configuration allows: token calls, and all calls together."""

    tokens: float
    calls: float

    @classmethod
    def of(cls, configuration: Configuration, platform: str | None) -> RateInForce:
        """The rates of *platform*. Without one the sum of all platforms, because rows may name their own."""
        names = [platform] if platform is not None else list(configuration.platforms)
        platforms = [configuration.platform(name) for name in names]
        return cls(
            sum(each.endpoint_per_second("tokens") for each in platforms),
            sum(each.global_per_second for each in platforms),
        )


def seconds_left(
    *, rows_left: float, tokens_open: float, attaches_open: float, share: float, budget: RateInForce
) -> float:
    """Estimate the seconds that the remaining calls take at the full rate.

    *rows_left*: rows not read yet. *share*: the part of the rows that have an attach target.

    >>> seconds_left(rows_left=100, tokens_open=0, attaches_open=0, share=1.0, budget=RateInForce(tokens=25, calls=25))
    8.0
    """
    tokens = rows_left + tokens_open
    attaches = tokens * share + attaches_open
    return max(tokens / budget.tokens, (tokens + attaches) / budget.calls)


class Reads(Protocol):
    """Something that reads a file, and knows how far it is."""

    @property
    def bytes_read(self) -> int:
        """Bytes of the file read so far."""


class Meter:
    """Writes the progress line of an import."""

    def __init__(self, window: ImportWindow, budget: RateInForce, source: Reads, size: int | None) -> None:
        """*size*: bytes of the file. None if they are not known (a pipe)."""
        self._window = window
        self._budget = budget
        self._source = source
        self._size = size

    def line(self) -> str:
        """The line as it is now."""
        counts = self._window.counts
        used = self._window.rate() / self._budget.tokens
        parts = [
            f"{counts.rows} rows read{self._of_about()}",
            f"{counts.sealed} sealed",
            f"{counts.tokenized} tokenized",
            f"{counts.attached} attached",
            f"{counts.failed} failed",
            f"{counts.rejected} rejected",
            f"{used:.0%} of {self._budget.tokens:g}/s",
            f"ETA {spelled(self._left())}",
        ]
        if self._window.waits is not None:
            parts.append(f"waiting: {self._window.waits}")
        return " | ".join(parts)

    def rows_expected(self) -> int | None:
        """Estimate the rows of the file. None: not known."""
        unread = self._unread()
        return None if unread is None else round(self._window.counts.rows + unread)

    def seconds_left(self) -> float | None:
        """Estimate the seconds until the end, at the full rate. None: not known."""
        return self._left()

    def _unread(self) -> float | None:
        """Estimate the rows that are not read, from the bytes that are not read."""
        rows, done = self._window.counts.rows, self._source.bytes_read
        if self._size is None or not done:
            return None
        return rows * max(0.0, self._size - done) / done

    def _of_about(self) -> str:
        unread = self._unread()
        return f" of about {self._window.counts.rows + unread:.0f}" if unread and unread >= 1 else ""

    def _left(self) -> float | None:
        counts = self._window.counts
        unread = self._unread()
        if unread is None:
            return None
        return seconds_left(
            rows_left=unread * counts.sealed / max(1, counts.rows),
            tokens_open=self._window.tokens_open,
            attaches_open=self._window.attaches_open,
            share=counts.to_attach / max(1, counts.sealed),
            budget=self._budget,
        )


class CheckMeter:
    """Writes the progress line of a dry run."""

    def __init__(
        self, counts: ImportCounts, source: Reads, size: int | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """*size*: bytes of the file. None if they are not known (a pipe)."""
        self._counts, self._source, self._size = counts, source, size
        self._clock = clock
        self._started = clock()

    def line(self) -> str:
        """The line as it is now."""
        counts, read = self._counts, self._source.bytes_read
        parts = [f"{counts.rows} rows checked", f"{counts.rejected} rejected"]
        if self._size and read:
            left = (self._clock() - self._started) * max(0, self._size - read) / read
            parts[:0] = [f"{min(1.0, read / self._size):.0%}", f"{spelled(left)} left"]
        return " | ".join(parts)
