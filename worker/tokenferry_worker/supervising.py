"""Worker processes under one parent: started, replaced when they die, stopped together."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

log = logging.getLogger("tokenferry.worker")

LONGEST_PAUSE: Final = 30.0
"""Seconds between two starts of a process that keeps dying at most."""
TENDED_EVERY: Final = 1.0
"""Seconds between two looks at what else must be kept running."""
HEALTHY_AFTER: Final = 30.0
"""Seconds a process must have lived for its next death to count as the first one again."""


class Supervisor:
    """Runs `tokenferry worker --child N` so many times."""

    def __init__(self, arguments: list[str], processes: int, tend: Callable[[], None] = lambda: None) -> None:
        """*arguments*: of each process. They are visible to everybody on the machine, so they hold no secret.

        *tend* is called every `TENDED_EVERY` seconds, for what else must be kept running.
        """
        self._tend = tend
        self._command = [sys.executable, "-m", "tokenferry_worker", *arguments]
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._started: dict[int, float] = {}
        self._deaths: dict[int, int] = dict.fromkeys(range(processes), 0)
        self._due: dict[int, float] = dict.fromkeys(range(processes), 0.0)
        self._stopping = 0
        self._wake = threading.Event()

    def run(self) -> int:
        """Keep every process running until SIGTERM or SIGINT. Returns 0 when all of them ended well."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        worst = 0
        try:
            tend_at = 0.0
            while not self._stopping:
                if time.monotonic() >= tend_at:
                    self._tend()
                    tend_at = time.monotonic() + TENDED_EVERY
                self._bury()
                self._start_due()
                self._wake.wait(0.2)
            while self._children:
                worst = max([worst, *self._reap()])
                time.sleep(0.02)
        finally:
            for child in self._children.values():
                child.kill()
        return 1 if worst else 0

    def _start_due(self) -> None:
        now = time.monotonic()
        for number, due in list(self._due.items()):
            if due <= now and not self._stopping:
                del self._due[number]
                # A session of its own, so that Ctrl-C reaches it through us, once; its standard input is our life line.
                self._children[number] = subprocess.Popen(
                    [*self._command, "--child", str(number)], stdin=subprocess.PIPE, start_new_session=True
                )
                self._started[number] = now

    def _bury(self) -> None:
        for number, child in list(self._children.items()):
            if child.poll() is None:
                continue
            del self._children[number]
            lived = time.monotonic() - self._started[number]
            self._deaths[number] = 1 if lived > HEALTHY_AFTER else self._deaths[number] + 1
            pause = min(LONGEST_PAUSE, 0.25 * 2.0 ** (self._deaths[number] - 1))
            self._due[number] = time.monotonic() + pause
            log.error("process %d (pid %d) ended with %s; starting another", number, child.pid, child.returncode)

    def _reap(self) -> list[int]:
        ended = [number for number, child in self._children.items() if child.poll() is not None]
        return [abs(self._children.pop(number).returncode) for number in ended]

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._stopping += 1
        kind = signal.SIGTERM if self._stopping == 1 else signal.SIGKILL
        for child in self._children.values():
            if child.poll() is None:
                child.send_signal(kind)
        self._wake.set()


def end_with_parent() -> None:
    """In a child: when the parent is gone, whatever killed it, stop as if it had asked. Returns at once."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="tokenferry-parent", daemon=True).start()
