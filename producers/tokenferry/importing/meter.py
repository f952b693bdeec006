"""The numbers of a running import as one line, with an estimate of the time left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tokenferry.bulk.progress import spelled
from tokenferry.configuration import Configuration
from tokenferry.importing.import_window import ImportWindow


@dataclass(frozen=True)
class RateInForce:
    """Calls per second that the account allows: token calls, and all calls together."""

    tokens: float
    calls: float

    @classmethod
    def of(cls, configuration: Configuration, platform: str | None) -> RateInForce:
        """Of one platform, or of all of them where rows name their own."""
        names = [platform] if platform is not None else list(configuration.platforms)
        platforms = [configuration.platform(name) for name in names]
        return cls(
            sum(each.endpoint_per_second("tokens") for each in platforms),
            sum(each.global_per_second for each in platforms),
        )


def seconds_left(
    *, rows_left: float, tokens_open: float, attaches_open: float, share: float, budget: RateInForce
) -> float:
    """Seconds that the calls still to be made take at the budget: no worker can be faster.

    *rows_left*: rows not yet read; *share*: the part of the rows that ask for an attach.

    >>> seconds_left(rows_left=100, tokens_open=0, attaches_open=0, share=1.0, budget=RateInForce(tokens=25, calls=25))
    8.0
    """
    tokens = rows_left + tokens_open
    attaches = tokens * share + attaches_open
    return max(tokens / budget.tokens, (tokens + attaches) / budget.calls)


class Reads(Protocol):
    """How far into its file an import is."""

    bytes_read: int


class Meter:
    """The numbers of a running import as one line of text."""

    def __init__(self, ledger: ImportWindow, budget: RateInForce, source: Reads, size: int | None) -> None:
        """*size*: bytes of the file, None where nobody knows (a pipe)."""
        self._ledger = ledger
        self._budget = budget
        self._source = source
        self._size = size

    def line(self) -> str:
        """One line for a person."""
        counts = self._ledger.counts
        used = self._ledger.rate() / self._budget.tokens
        parts = [
            f"{counts.rows} rows read{self._of()}",
            f"{counts.sealed} sealed",
            f"{counts.tokenized} tokenized",
            f"{counts.attached} attached",
            f"{counts.failed} failed",
            f"{counts.refused} refused",
            f"{used:.0%} of {self._budget.tokens:g}/s",
            f"ETA {spelled(self._left())}",
        ]
        if self._ledger.waits is not None:
            parts.append(f"waiting: {self._ledger.waits}")
        return " | ".join(parts)

    def _unread(self) -> float | None:
        """An estimate of the rows that remain, from the bytes that remain."""
        rows, done = self._ledger.counts.rows, self._source.bytes_read
        if self._size is None or not done:
            return None
        return rows * max(0.0, self._size - done) / done

    def _of(self) -> str:
        unread = self._unread()
        return f" of about {self._ledger.counts.rows + unread:.0f}" if unread and unread >= 1 else ""

    def _left(self) -> float | None:
        counts = self._ledger.counts
        unread = self._unread()
        if unread is None:
            return None
        return seconds_left(
            rows_left=unread * counts.sealed / max(1, counts.rows),
            tokens_open=self._ledger.tokens_open,
            attaches_open=self._ledger.attaches_open,
            share=counts.to_attach / max(1, counts.sealed),
            budget=self._budget,
        )
