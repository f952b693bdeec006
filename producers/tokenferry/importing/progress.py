"""What is shown while an import runs: a live line on a terminal, a plain one every few seconds elsewhere.

It goes to standard error, so that the summary on standard output stays alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from tokenferry.configuration import Configuration
from tokenferry.importing.ledger import Ledger

PLAIN_EVERY = 5.0
"""Seconds between two plain lines."""


@dataclass(frozen=True)
class Budget:
    """Calls per second that the account allows: token calls, and all calls together."""

    tokens: float
    calls: float

    @classmethod
    def of(cls, configuration: Configuration, platform: str | None) -> Budget:
        """Of one platform, or of all of them where rows name their own."""
        names = [platform] if platform is not None else list(configuration.platforms)
        platforms = [configuration.platform(name) for name in names]
        return cls(
            sum(each.endpoint_per_second("tokens") for each in platforms),
            sum(each.global_per_second for each in platforms),
        )


def seconds_left(*, rows_left: float, tokens_open: float, attaches_open: float, share: float, budget: Budget) -> float:
    """Seconds that the calls still to be made take at the budget: no worker can be faster.

    *rows_left*: rows not yet read; *share*: the part of the rows that ask for an attach.

    >>> seconds_left(rows_left=100, tokens_open=0, attaches_open=0, share=1.0, budget=Budget(tokens=25, calls=25))
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

    def __init__(self, ledger: Ledger, budget: Budget, source: Reads, size: int | None) -> None:
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


def spelled(seconds: float | None) -> str:
    """Seconds for a person.

    >>> spelled(None), spelled(7), spelled(95), spelled(7260)
    ('unknown', '7 s', '1 min 35 s', '2 h 1 min')
    """
    if seconds is None:
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Progress:
    """Shows a line again and again until it is left. `note` says something besides."""

    def __init__(self, line: Callable[[], str], *, quiet: bool = False, console: Console | None = None) -> None:
        self._line = line
        self._quiet = quiet
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def note(self, text: str) -> None:
        """One line of its own, shown even when quiet: something needs a person."""
        self._console.print(Text(f"tokenferry: {text}"))

    def __enter__(self) -> Progress:
        if self._quiet:
            return self
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=lambda: Text(self._line(), overflow="ellipsis", no_wrap=True),
                console=self._console,
                refresh_per_second=4,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        else:
            self._thread = threading.Thread(target=self._print, name="tokenferry-progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        self._done.set()
        if self._thread is not None:
            self._thread.join(1.0)
            self._console.print(Text(self._line()))

    def _print(self) -> None:
        started = time.monotonic()
        while not self._done.wait(PLAIN_EVERY):
            self._console.print(Text(f"[{spelled(time.monotonic() - started)}] {self._line()}"))
