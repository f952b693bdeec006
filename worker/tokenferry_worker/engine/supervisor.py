"""Worker processes under one parent: started, replaced when they die or fall silent, stopped together."""

from __future__ import annotations

import enum
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

from tokenferry_worker.health.judging import Health, ProcessHealth, judge, starting
from tokenferry_worker.health.notifying import notify
from tokenferry_worker.health.vitals import ProcessReport

log = logging.getLogger("tokenferry.worker")

LONGEST_PAUSE: Final = 30.0
"""Seconds between two starts of a process that keeps dying at most."""
TENDED_EVERY: Final = 1.0
"""Seconds between two looks at what must be kept running."""
HEALTHY_AFTER: Final = 30.0
"""Seconds a process must have lived for its next death to count as the first one again."""
TO_START: Final = 120.0
"""Seconds that a process gets for its first word, and we for ours: on a busy machine, loading alone takes many."""
AFTER_GRACE: Final = 8.0
"""Seconds that a process gets to give back and to close, when its grace time is over."""
AT_ONCE: Final = 5.0
"""Seconds that a process gets for that when there is no grace time."""


def _asked_with() -> list[signal.Signals]:
    """The signals that ask to stop. Not SIGHUP where it is ignored: under nohup."""
    asked = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT]
    return [number for number in asked if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Meet signals while there is nothing yet to stop: end with 0. In the main thread.

    What has no handler is ignored by the first process of a container, which a worker often is.
    """
    before = {number: signal.signal(number, lambda *_: os._exit(0)) for number in _asked_with()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stage(enum.IntEnum):
    """How urgently to stop."""

    WORK = 0
    FINISH = 1
    GIVE_BACK = 2
    KILL = 3


SIGNALS: Final = {
    Stage.FINISH: signal.SIGTERM,
    Stage.GIVE_BACK: signal.SIGQUIT,
    Stage.KILL: signal.SIGKILL,
}


class Child:
    """One process, and the line over which it reports. The line is its standard input: its end means our end."""

    def __init__(self, number: int, command: list[str], popen: type[subprocess.Popen[Any]] = subprocess.Popen) -> None:
        """Start it. Raises OSError where the machine has no room for another process."""
        ours, theirs = socket.socketpair()
        try:
            # A session of its own, so that Ctrl-C reaches it through us, once.
            self.process = popen([*command, "--child", str(number)], stdin=theirs.fileno(), start_new_session=True)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        self.line = ours
        self.number = number
        self.started = self.heard = time.monotonic()
        self.silent_looks = 0
        self.report: ProcessReport | None = None
        self._half = b""

    def fileno(self) -> int:
        """For `select`."""
        return self.line.fileno()

    def listen(self) -> bool:
        """Take in what it has reported. False when the line has ended."""
        try:
            said = self.line.recv(65_536)
        except BlockingIOError:
            return True
        except OSError:
            return False
        *lines, self._half = (self._half + said).split(b"\n")
        if lines and (report := ProcessReport.read(lines[-1])) is not None:
            self.report, self.heard, self.silent_looks = report, time.monotonic(), 0
        return bool(said)


class Supervisor:
    """Runs `tokenferry worker --child N` so many times."""

    def __init__(
        self,
        arguments: list[str],
        processes: int,
        tend: Callable[[], None] = lambda: None,
        *,
        grace: float = 20.0,
        patience: float = 60.0,
        command: list[str] | None = None,
        popen: type[subprocess.Popen[Any]] = subprocess.Popen,
    ) -> None:
        """*arguments*: of each process. They are visible to everybody on the machine, so they hold no secret.

        *tend* is called every `TENDED_EVERY` seconds, for what else must be kept running. *grace*: seconds in which a
        process that stops finishes what it has in hand. *patience*: seconds after which one that says nothing is
        killed; its own watchdog comes first. *command*: what to run instead, for tests. *popen*: what starts a
        process, for programs that start theirs in a way of their own.
        """
        self._tend = tend
        self._grace = grace
        self._patience = patience
        self._popen = popen
        self._command = command or [sys.executable, "-m", "tokenferry_worker", *arguments]
        self._children: dict[int, Child] = {}
        self._deaths: dict[int, int] = dict.fromkeys(range(processes), 0)
        self._due: dict[int, float] = dict.fromkeys(range(processes), 0.0)
        self._asked = self._stage = Stage.WORK
        self._until = 0.0
        self._begun = False
        self._tended_at = time.monotonic()
        self._told = ""

    def run(self) -> int:
        """Keep every process running until a signal. Returns 0 when all of them ended well.

        SIGTERM, SIGINT, SIGHUP: finish what is in hand within the grace time. A second one, SIGQUIT: give it back at
        once. Whoever is not gone soon after is killed.
        """
        for number in _asked_with():
            signal.signal(number, self._ask_to_stop)
        self._begun, self._tended_at = True, time.monotonic()
        worst = 0
        try:
            while self._asked is Stage.WORK:
                self._look_after()
                self._bury()
                self._start_due()
                self._listen()
            while self._children:
                self._stop_children()
                self._look_after()
                self._listen()
                worst = max([worst, *self._reap()])
        finally:
            for child in self._children.values():
                child.process.kill()
        return 1 if worst else 0

    def health(self) -> Health:
        """How things stand. From any thread, and before `run` as well."""
        now = time.monotonic()
        if not self._begun and now < self._tended_at + TO_START:
            return starting(os.getpid())
        children = dict(self._children)
        processes = []
        for number in self._deaths:
            child = children.get(number)
            silent = now - child.heard if child is not None else 0.0
            pid, report = (child.process.pid, child.report) if child is not None else (None, None)
            processes.append(ProcessHealth(number=number, pid=pid, silent=round(silent, 1), report=report))
        stopping = self._asked is not Stage.WORK
        ago = now - self._tended_at
        return judge(os.getpid(), processes, stopping=stopping, supervised_ago=ago, patience=self._patience)

    def _look_after(self) -> None:
        if time.monotonic() < self._tended_at + TENDED_EVERY:
            return
        if self._stage is Stage.WORK:
            try:
                self._tend()
            except Exception as error:
                # Whatever it is: who looks after processes must not end with them all.
                log.error("what else must run could not be looked after (%s)", type(error).__name__)
            for child in self._children.values():
                self._listen_for_life(child)
        self._tended_at = time.monotonic()
        self._tell_systemd()

    def _listen_for_life(self, child: Child) -> None:
        # Looks are counted, not seconds: after a stop of us all, everybody has been silent for long.
        child.silent_looks += 1
        patience = self._patience if child.report is not None else max(self._patience, TO_START)
        if child.silent_looks * TENDED_EVERY > patience and child.process.poll() is None:
            pid = child.process.pid
            log.error("process %d (pid %d) has said nothing for %.0f s: killed", child.number, pid, patience)
            child.process.kill()

    def _tell_systemd(self) -> None:
        health = self.health()
        words = ["WATCHDOG=1"] if health.live else []
        status = "; ".join(health.why) or "every process works"
        if health.phase == "stopping":
            status = f"STOPPING=1\nSTATUS={status}"
        elif all(process.report is not None for process in health.processes):
            # Started is not the same as working: where the broker is away, we wait for it, and nobody else needs to.
            status = f"READY=1\nSTATUS={status}"
        else:
            status = f"STATUS={status}"
        if status != self._told:
            self._told = status
            words.append(status)
        if words:
            notify(*words)

    def _listen(self) -> None:
        children = {child.fileno(): child for child in self._children.values() if child.fileno() >= 0}
        ready, _, _ = select.select(list(children), [], [], 0.2)
        for fileno in ready:
            if not children[fileno].listen():
                children[fileno].line.close()

    def _start_due(self) -> None:
        now = time.monotonic()
        for number, due in list(self._due.items()):
            if due <= now and self._asked is Stage.WORK:
                try:
                    self._children[number] = Child(number, self._command, self._popen)
                except OSError as error:
                    self._due[number] = now + self._pause(number, lived=0.0)
                    log.error("process %d cannot be started (%s); trying again", number, error.strerror)
                else:
                    del self._due[number]

    def _bury(self) -> None:
        for number, child in list(self._children.items()):
            if child.process.poll() is None:
                continue
            del self._children[number]
            child.line.close()
            now = time.monotonic()
            self._due[number] = now + self._pause(number, lived=now - child.started)
            log.error(
                "process %d (pid %d) ended with %s; starting another",
                number,
                child.process.pid,
                child.process.returncode,
            )

    def _pause(self, number: int, *, lived: float) -> float:
        """Seconds until another try, longer with each early death. Counts this one."""
        self._deaths[number] = 1 if lived > HEALTHY_AFTER else self._deaths[number] + 1
        return min(LONGEST_PAUSE, 0.25 * 2.0 ** min(self._deaths[number] - 1, 16))

    def _reap(self) -> list[int]:
        ended = [number for number, child in self._children.items() if child.process.poll() is not None]
        codes = []
        for number in ended:
            child = self._children.pop(number)
            child.line.close()
            codes.append(abs(child.process.returncode))
        return codes

    def _ask_to_stop(self, number: int, _frame: FrameType | None) -> None:
        wanted = Stage.GIVE_BACK if number == signal.SIGQUIT else Stage.FINISH
        self._asked = Stage(min(Stage.KILL, max(wanted, self._asked + 1)))

    def _stop_children(self) -> None:
        """Tell them what is asked of us; kill those who do not follow in time."""
        stage = Stage.KILL if self._stage is not Stage.WORK and time.monotonic() >= self._until else self._asked
        if stage <= self._stage:
            return
        self._stage = stage
        self._until = time.monotonic() + (self._grace + AFTER_GRACE if stage is Stage.FINISH else AT_ONCE)
        for child in self._children.values():
            if child.process.poll() is None:
                child.process.send_signal(SIGNALS[stage])
        self._tell_systemd()


def end_with_parent() -> None:
    """In a child: when the parent is gone, whatever killed it, stop as if it had asked. Returns at once."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="tokenferry-parent", daemon=True).start()
