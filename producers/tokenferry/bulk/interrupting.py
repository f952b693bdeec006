"""Ctrl-C and SIGTERM as a flag, so that a run can stop at a safe moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any


class Interrupted(BaseException):
    """Raised out of a blocking read only. Not an `Exception`, so that nobody on the way handles it as an error."""


class Interruption:
    """Counts SIGINT and SIGTERM while it is entered. One means stop cleanly, two mean stop at once."""

    def __init__(self) -> None:
        self.times = 0
        self._reading = False
        self._before: dict[signal.Signals, Any] = {}

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Inside, a signal raises `Interrupted`. A read from a pipe would otherwise wait for the next line."""
        self._reading = True
        try:
            if self.times:
                raise Interrupted
            yield
        finally:
            self._reading = False

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # only there can handlers be set
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.times += 1
        if self._reading:
            self._reading = False
            raise Interrupted
