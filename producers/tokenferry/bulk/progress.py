"""The progress of a run: a live line on a terminal, elsewhere a plain line every few seconds.

It goes to standard error. Standard output carries only the summary.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from tokenferry.shown import LONGEST_LINE, shown, standard_error

PLAIN_EVERY = 5.0
"""Seconds between two plain lines."""


def spelled(seconds: float | None) -> str:
    """Spell out a duration.

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


def counted(count: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "row"), counted(2, "row")
    ('1 row', '2 rows')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class Progress:
    """Shows a line again and again while it is entered. `note` prints other lines between."""

    def __init__(self, line: Callable[[], str], *, quiet: bool = False, console: Console | None = None) -> None:
        self._line = line
        self._quiet = quiet
        self._console = console or Console(file=standard_error(), highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def note(self, text: str) -> None:
        """Print one line, even with *quiet*: it is for somebody who must act."""
        self._console.print(Text(f"tokenferry: {shown(text, LONGEST_LINE)}"))

    def __enter__(self) -> Progress:
        if self._quiet:
            return self
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=lambda: Text(shown(self._line()), overflow="ellipsis", no_wrap=True),
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
            self._console.print(Text(shown(self._line())))

    def _print(self) -> None:
        started = time.monotonic()
        while not self._done.wait(PLAIN_EVERY):
            self._console.print(Text(f"[{spelled(time.monotonic() - started)}] {shown(self._line())}"))
