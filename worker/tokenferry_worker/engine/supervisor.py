"""Starts worker processes, replaces those that die or fall silent, and stops them together."""

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
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

from tokenferry_worker.health.judging import Health, ProcessHealth, judge, starting
from tokenferry_worker.health.notifying import notify
from tokenferry_worker.health.vitals import NUMBERS, ProcessReport
from tokenferry_worker.metrics.names import DEATHS, PROCESSES
from tokenferry_worker.metrics.registry import Snapshot, from_line
from tokenferry_worker.metrics.totals import Totals, merged

log = logging.getLogger("tokenferry.worker")

LONGEST_PAUSE: Final = 30.0
"""Seconds at most between two starts of a process that keeps dying."""
TENDED_EVERY: Final = 1.0
"""Seconds between two checks of everything that must keep running."""
HEALTHY_AFTER: Final = 30.0
"""Seconds that a process must have lived for its next death to count as the first one again."""
AFTER_GRACE: Final = 8.0
"""Seconds that a process gets to give back and to close, when its grace time is over."""


@dataclass(frozen=True)
class Deadlines:
    """How long a supervisor waits for its processes, in seconds."""

    to_start: float = 120.0
    """For the first report, and for the supervisor's own first round: on a busy machine, loading alone takes long."""
    after_grace: float = AFTER_GRACE
    at_once: float = 5.0
    """To give back and to close where there is no grace time."""


def _stop_signals() -> list[signal.Signals]:
    """Return the signals that ask to stop. SIGHUP is not one where it is ignored, as under nohup."""
    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT]
    return [number for number in numbers if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Exit with 0 at a signal, while nothing has started that must be stopped. Only in the main thread.

    The first process of a container, which a worker often is, ignores a signal without a handler.
    """
    before = {number: signal.signal(number, lambda *_: os._exit(0)) for number in _stop_signals()}
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
    """One process, and the socket over which it reports. The socket is its standard input: it ends when we end."""

    def __init__(self, number: int, command: list[str], popen: type[subprocess.Popen[Any]] = subprocess.Popen) -> None:
        """Start the process. Raises OSError where the machine has no room for another one."""
        ours, theirs = socket.socketpair()
        try:
            # In its own session, so that Ctrl-C reaches it through the supervisor, once.
            self.process = popen([*command, "--child", str(number)], stdin=theirs.fileno(), start_new_session=True)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        self.socket = ours
        self.number = number
        self.started = self.heard = time.monotonic()
        self.silent_rounds = 0
        self.report: ProcessReport | None = None
        self.numbers: Snapshot | None = None
        """Its latest metrics."""
        self._half = b""

    def fileno(self) -> int:
        """For `select`."""
        return self.socket.fileno()

    def listen(self) -> bool:
        """Read its latest report. Return False when the socket is closed."""
        try:
            received = self.socket.recv(65_536)
        except BlockingIOError:
            return True
        except OSError:
            return False
        *lines, self._half = (self._half + received).split(b"\n")
        for line in lines:
            if line.startswith(NUMBERS):
                self.numbers = from_line(line[len(NUMBERS) :]) or self.numbers
            elif (report := ProcessReport.read(line)) is not None:
                self.report, self.heard, self.silent_rounds = report, time.monotonic(), 0
        return bool(received)

    def hear_out(self) -> None:
        """Read what the ended process has sent, and close the socket."""
        if self.fileno() < 0:
            return
        while select.select([self.socket], [], [], 0)[0] and self.listen():
            pass
        self.socket.close()


class Supervisor:
    """Runs a number of `tokenferry worker --child N` processes."""

    def __init__(
        self,
        arguments: list[str],
        processes: int,
        tend: Callable[[], None] = lambda: None,
        *,
        grace: float = 20.0,
        patience: float = 60.0,
        deadlines: Deadlines = Deadlines(),
        command: list[str] | None = None,
        popen: type[subprocess.Popen[Any]] = subprocess.Popen,
    ) -> None:
        """*arguments*: of each process. Every user of the machine can see them, so they hold no secret.

        *tend* is called every `TENDED_EVERY` seconds, to keep other things running. *grace*: seconds in which a
        process that stops may finish its deliveries. *patience*: seconds after which a silent process is killed; its
        own watchdog acts earlier. *command*: another program to run, for tests. *popen*: how to start a process.
        """
        self._tend = tend
        self._grace = grace
        self._patience = patience
        self._popen = popen
        self._command = command or [sys.executable, "-m", "tokenferry_worker", *arguments]
        self._children: dict[int, Child] = {}
        self._deaths: dict[int, int] = dict.fromkeys(range(processes), 0)
        self._due: dict[int, float] = dict.fromkeys(range(processes), 0.0)
        self._deadlines = deadlines
        self._requested = self._stage = Stage.WORK
        self._until = 0.0
        self._running = False
        self._tended_at = time.monotonic()
        self._status = ""
        self._totals = Totals()
        self._died = 0

    def run(self) -> int:
        """Keep every process running until a signal. Returns 0 when all of them ended well.

        SIGTERM, SIGINT, SIGHUP: finish running deliveries within the grace time. A second one, or SIGQUIT: give them
        back at once. A process that does not end soon after that is killed.
        """
        for number in _stop_signals():
            signal.signal(number, self._request_stop)
        self._running, self._tended_at = True, time.monotonic()
        worst = 0
        try:
            while self._requested is Stage.WORK:
                self._tend_all()
                self._replace_dead()
                self._start_due()
                self._listen()
            while self._children:
                self._stop_children()
                self._tend_all()
                self._listen()
                worst = max([worst, *self._reap()])
        finally:
            for child in self._children.values():
                child.process.kill()
        return 1 if worst else 0

    def health(self) -> Health:
        """Return the state of all processes. May be called from any thread, and before `run`."""
        now = time.monotonic()
        if not self._running and now < self._tended_at + self._deadlines.to_start:
            return starting(os.getpid())
        children = dict(self._children)
        processes = []
        for number in self._deaths:
            child = children.get(number)
            silent = now - child.heard if child is not None else 0.0
            pid, report = (child.process.pid, child.report) if child is not None else (None, None)
            processes.append(ProcessHealth(number=number, pid=pid, silent=round(silent, 1), report=report))
        stopping = self._requested is not Stage.WORK
        ago = now - self._tended_at
        return judge(os.getpid(), processes, stopping=stopping, supervised_ago=ago, patience=self._patience)

    def metrics(self) -> Snapshot:
        """Return the metrics of all processes, dead ones included. May be called from any thread."""
        states = Counter(
            "dead" if child is None else child.report.phase if child.report else "starting"
            for child in (dict(self._children).get(number) for number in self._deaths)
        )
        ours: Snapshot = {
            PROCESSES.name: {(state,): states[state] for state in ("working", "starting", "stopping", "dead")},
            DEATHS.name: {(): self._died},
        }
        return merged([self._totals.now(), ours])

    def _forget(self, child: Child) -> None:
        """Keep what an ended process has counted."""
        child.hear_out()
        if child.numbers is not None:
            self._totals.note(child.process.pid, child.numbers)
        self._totals.retire(child.process.pid)

    def _tend_all(self) -> None:
        if time.monotonic() < self._tended_at + TENDED_EVERY:
            return
        if self._stage is Stage.WORK:
            try:
                self._tend()
            except Exception as error:
                # Whatever it is, it must not end the supervisor, and with it all processes.
                log.error("the embedded server could not be checked (%s)", type(error).__name__)
            for child in self._children.values():
                self._kill_if_silent(child)
        self._tended_at = time.monotonic()
        self._notify_systemd()

    def _kill_if_silent(self, child: Child) -> None:
        # Count rounds, not seconds: after the whole machine was suspended, every process has been silent for long.
        child.silent_rounds += 1
        patience = self._patience if child.report is not None else max(self._patience, self._deadlines.to_start)
        if child.silent_rounds * TENDED_EVERY > patience and child.process.poll() is None:
            pid = child.process.pid
            log.error("process %d (pid %d) has not reported for %.0f s: killed", child.number, pid, patience)
            child.process.kill()

    def _notify_systemd(self) -> None:
        health = self.health()
        lines = ["WATCHDOG=1"] if health.live else []
        status = "; ".join(health.why) or "every process works"
        if health.phase == "stopping":
            status = f"STOPPING=1\nSTATUS={status}"
        elif all(process.report is not None for process in health.processes):
            # Started is not the same as working: we wait for a broker that is away, and no other unit needs to wait.
            status = f"READY=1\nSTATUS={status}"
        else:
            status = f"STATUS={status}"
        if status != self._status:
            self._status = status
            lines.append(status)
        if lines:
            notify(*lines)

    def _listen(self) -> None:
        children = {child.fileno(): child for child in self._children.values() if child.fileno() >= 0}
        ready, _, _ = select.select(list(children), [], [], 0.2)
        for fileno in ready:
            child = children[fileno]
            if not child.listen():
                child.socket.close()
            if child.numbers is not None:
                self._totals.note(child.process.pid, child.numbers)

    def _start_due(self) -> None:
        now = time.monotonic()
        for number, due in list(self._due.items()):
            if due <= now and self._requested is Stage.WORK:
                try:
                    self._children[number] = Child(number, self._command, self._popen)
                except OSError as error:
                    self._due[number] = now + self._pause(number, lived=0.0)
                    log.error("process %d cannot be started (%s); trying again", number, error.strerror)
                else:
                    del self._due[number]

    def _replace_dead(self) -> None:
        for number, child in list(self._children.items()):
            if child.process.poll() is None:
                continue
            del self._children[number]
            self._forget(child)
            self._died += 1
            now = time.monotonic()
            self._due[number] = now + self._pause(number, lived=now - child.started)
            log.error(
                "process %d (pid %d) ended with %s; starting another",
                number,
                child.process.pid,
                child.process.returncode,
            )

    def _pause(self, number: int, *, lived: float) -> float:
        """Count a death, and return the seconds until another try: longer with each early one."""
        self._deaths[number] = 1 if lived > HEALTHY_AFTER else self._deaths[number] + 1
        return min(LONGEST_PAUSE, 0.25 * 2.0 ** min(self._deaths[number] - 1, 16))

    def _reap(self) -> list[int]:
        ended = [number for number, child in self._children.items() if child.process.poll() is not None]
        codes = []
        for number in ended:
            child = self._children.pop(number)
            self._forget(child)
            codes.append(abs(child.process.returncode))
        return codes

    def _request_stop(self, number: int, _frame: FrameType | None) -> None:
        least = Stage.GIVE_BACK if number == signal.SIGQUIT else Stage.FINISH
        self._requested = Stage(min(Stage.KILL, max(least, self._requested + 1)))

    def _stop_children(self) -> None:
        """Pass the request to stop on to the processes, and kill those that do not end in time."""
        stage = Stage.KILL if self._stage is not Stage.WORK and time.monotonic() >= self._until else self._requested
        if stage <= self._stage:
            return
        self._stage = stage
        finish = self._grace + self._deadlines.after_grace
        self._until = time.monotonic() + (finish if stage is Stage.FINISH else self._deadlines.at_once)
        for child in self._children.values():
            if child.process.poll() is None:
                child.process.send_signal(SIGNALS[stage])
        self._notify_systemd()


def end_with_parent() -> None:
    """In a child: stop as if by SIGTERM when the parent is gone, whatever killed it. Returns at once."""

    def watch() -> None:
        with suppress(OSError):  # a killed parent that has not read our last report resets the line
            while os.read(0, 1):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="tokenferry-parent", daemon=True).start()
