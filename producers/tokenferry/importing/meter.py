"""The progress line of an import: its counts, its rate and an estimate of the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

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


class Reads(Protocol):
    """Something that reads a file, and knows how far it is."""

    @property
    def bytes_read(self) -> int:
        """Bytes of the file read so far."""


SILENT: Final = 10.0
"""Seconds without a result after which the line says why nothing moves, instead of how long it takes."""


class Meter:
    """Writes the progress line of an import. What matters most comes first: a narrow terminal shows only that."""

    def __init__(
        self,
        window: ImportWindow,
        source: Reads,
        size: int | None,
        reasons: Callable[[], Sequence[object]] = lambda: (),
    ) -> None:
        """*size*: bytes of the file. None if they are not known (a pipe). *reasons*: why workers say that it waits."""
        self._window = window
        self._source = source
        self._size = size
        self._reasons = reasons

    def line(self) -> str:
        """The line as it is now."""
        outcomes, unread = self._window.counts.outcomes(), self._unread()
        known = sum(outcomes.values())
        pending = outcomes.pop("pending")
        parts = [f"{(known - pending) / (known + unread):.0%}"] if known and unread is not None else []
        parts += self._pace(unread)
        parts += [f"{count} {outcome}" for outcome, count in outcomes.items() if count]
        parts.append(f"{pending} pending")
        parts.append(f"{known} read" + (f" of about {known + unread:.0f}" if unread and unread >= 1 else ""))
        return " | ".join(parts)

    def rows_expected(self) -> int | None:
        """Estimate the rows of the file. None: not known."""
        unread = self._unread()
        return None if unread is None else round(self._window.counts.rows + unread)

    def seconds_left(self) -> float | None:
        """Estimate the seconds until the end, at the pace of the rows before. None: not known."""
        unread = self._unread()
        return None if unread is None else self._window.seconds_left(unread)

    def _pace(self, unread: float | None) -> list[str]:
        """How fast it is and how long it takes, or why nothing moves."""
        silence, why = self._window.silence(), self._why()
        if silence >= SILENT:
            return [f"no result for {spelled(silence)}" + (f": {why}" if why else "")]
        tokens, attaches = self._window.rates()
        rate = f"{tokens:.1f} tokens/s" + (f", {attaches:.1f} attaches/s" if self._window.counts.to_attach else "")
        left = None if unread is None else self._window.seconds_left(unread)
        shown = [f"{spelled(left)} left" if left is not None else "time left unknown", rate]
        return [*shown, f"slow: {why}"] if why else shown

    def _why(self) -> str | None:
        """What the workers say first, then what this program sees."""
        told = [str(reason) for reason in self._reasons()]
        return told[0] if told else self._window.waits or self._window.guess

    def _unread(self) -> float | None:
        """Estimate the rows that are not read, from the bytes that are not read."""
        rows, done = self._window.counts.rows, self._source.bytes_read
        if self._size is None or not done:
            return None
        return rows * max(0.0, self._size - done) / done


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
