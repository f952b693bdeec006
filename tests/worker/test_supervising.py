"""The supervisor of real processes: replaces, listens, stops in order, kills at last, and tells systemd."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import forking
import pytest

from tokenferry_worker.engine.supervisor import Deadlines, Supervisor
from tokenferry_worker.health import probes
from tokenferry_worker.health.vitals import ProcessReport

SUPERVISOR = """
import forking, signal, subprocess, sys
from tokenferry_worker.engine import supervisor as supervising
from tokenferry_worker.health import probes
signal.signal(signal.SIGHUP, signal.Handlers({hangup}))
supervisor = supervising.Supervisor(
    [],
    int(sys.argv[2]),
    grace=float(sys.argv[3]),
    patience=float(sys.argv[4]),
    command=[sys.executable, "-c", sys.argv[5]],
    popen={popen},
    deadlines=supervising.Deadlines(at_once=90.0, after_grace=0.5),
)
with probes.on_socket(__import__("pathlib").Path(sys.argv[1]), supervisor.health):
    sys.exit(supervisor.run())
"""
"""A supervisor of stand-ins: folder, processes, grace, patience, what each process does.

What SIGHUP means where it begins is said, as the tests themselves may run under nohup.
"""

CHILD = """
import os, signal, socket, sys, time
folder = {folder!r}
def note(word):
    with open(os.path.join(folder, "notes"), "a") as notes:
        notes.write(f"{{word}} {{os.getpid()}}\\n")
line = socket.socket(fileno=os.dup(0))
def tell(phase="working"):
    line.send(('{{"pid": %d, "role": "all", "since": 1, "phase": "%s", "in_hand": 0, "taken": 0, "last_taken": null,'
               '"last_empty": null, "broker": true, "store": true}}\\n' % (os.getpid(), phase)).encode())
def end(number, frame):
    note(signal.Signals(number).name)
    if number in {obeys!r}:
        os._exit(0)
for number in (signal.SIGTERM, signal.SIGQUIT):
    signal.signal(number, end)
note("begun")
{act}
while True:
    tell()
    time.sleep(0.1)
"""
BOTH = (signal.SIGTERM, signal.SIGQUIT)


class Stage:
    """One supervisor with stand-ins for worker processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        *,
        count: int = 1,
        grace: float = 30.0,
        patience: float = 60.0,
        obeys: tuple[int, ...] = BOTH,
        act: str = "pass",
        environment: dict[str, str] | None = None,
        hangup: signal.Handlers = signal.SIG_DFL,
        real: bool = False,
    ) -> subprocess.Popen[bytes]:
        """*hangup*: what SIGHUP means where it begins. *real*: interpreters of their own, where a fork would do."""
        child = CHILD.format(folder=str(self.folder), obeys=tuple(map(int, obeys)), act=act)
        popen = "subprocess.Popen" if real else "forking.Forked"
        program = SUPERVISOR.format(hangup=int(hangup), popen=popen)
        return self.run(program, count, grace, patience, child, environment=environment, real=real)

    def run(
        self, program: str, *arguments: object, environment: dict[str, str] | None = None, real: bool = False
    ) -> subprocess.Popen[bytes]:
        """Start *program* for this folder."""
        command = [sys.executable, "-c", program, str(self.folder), *map(str, arguments)]
        paths = {"PYTHONPATH": forking.TESTS} if real else {}
        with (self.folder / "log").open("ab") as log:
            start = subprocess.Popen if real else forking.start
            process = start(command, env={**os.environ, **paths, **(environment or {})}, stderr=log)
        self.processes.append(process)
        return process

    def notes(self, word: str) -> list[int]:
        """The processes that noted *word*."""
        try:
            lines = (self.folder / "notes").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [int(line.split()[1]) for line in lines if line.split()[0] == word]

    def until(self, holds: Callable[[], object], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.02)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    for process in stage.processes:
        if process.poll() is None:
            process.kill()
            process.wait()
    stage.until(lambda: not any(map(is_alive, stage.notes("begun"))))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


LIFE_LINE = """
import threading
def watch():
    while os.read(0, 1):
        pass
    os._exit(0)
threading.Thread(target=watch, daemon=True).start()
"""
"""What `end_with_parent` does: a stand-in must not outlive a supervisor that a failed test kills."""


def test_a_process_that_dies_is_replaced_and_the_others_are_left_alone(stage: Stage) -> None:
    supervisor = stage.start(count=2, act=LIFE_LINE, real=True)
    stage.until(lambda: len(stage.notes("begun")) == 2)
    victim, other = stage.notes("begun")
    os.kill(victim, signal.SIGKILL)
    stage.until(lambda: len(stage.notes("begun")) == 3)
    assert is_alive(other)
    supervisor.terminate()
    assert supervisor.wait(60) == 0
    assert sorted(stage.notes("SIGTERM")) == sorted([other, stage.notes("begun")[2]])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_one_signal_asks_the_processes_to_finish(stage: Stage, number: signal.Signals) -> None:
    supervisor = stage.start(act=LIFE_LINE)
    stage.until(lambda: stage.notes("begun"))
    supervisor.send_signal(number)
    assert supervisor.wait(60) == 0
    assert (len(stage.notes("SIGTERM")), len(stage.notes("SIGQUIT"))) == (1, 0)


def test_a_second_one_or_sigquit_asks_them_to_give_back_at_once(stage: Stage) -> None:
    supervisor = stage.start(obeys=(signal.SIGQUIT,), act=LIFE_LINE)
    stage.until(lambda: stage.notes("begun"))
    supervisor.terminate()
    stage.until(lambda: stage.notes("SIGTERM"))
    supervisor.terminate()
    assert supervisor.wait(60) == 0
    assert len(stage.notes("SIGQUIT")) == 1
    cold = stage.start(act=LIFE_LINE)
    stage.until(lambda: len(stage.notes("begun")) == 2)
    cold.send_signal(signal.SIGQUIT)
    assert cold.wait(60) == 0
    assert len(stage.notes("SIGTERM")) == 1  # the earlier one's


def test_whoever_hears_nothing_is_killed_after_its_grace_time(stage: Stage) -> None:
    supervisor = stage.start(grace=0.5, obeys=(), act=LIFE_LINE)
    stage.until(lambda: stage.notes("begun"))
    supervisor.terminate()
    assert supervisor.wait(60) == 1
    assert not is_alive(stage.notes("begun")[0])


def test_a_third_signal_kills_at_once(stage: Stage) -> None:
    supervisor = stage.start(grace=600.0, obeys=(), act=LIFE_LINE)
    stage.until(lambda: stage.notes("begun"))
    for seen in ("SIGTERM", "SIGQUIT", ""):
        supervisor.terminate()
        stage.until(lambda seen=seen: not seen or stage.notes(seen))
    assert supervisor.wait(60) == 1


def test_after_nohup_a_closing_terminal_ends_nothing(stage: Stage) -> None:
    supervisor = stage.start(act=LIFE_LINE, hangup=signal.SIG_IGN)
    stage.until(lambda: stage.notes("begun"))
    supervisor.send_signal(signal.SIGHUP)
    supervisor.terminate()
    assert supervisor.wait(60) == 0


def test_a_process_that_says_nothing_any_more_is_killed_and_replaced(stage: Stage) -> None:
    supervisor = stage.start(patience=2.0, act=LIFE_LINE)
    stage.until(lambda: any(one.ready for one in probes.ask(stage.folder)))
    (frozen,) = stage.notes("begun")
    os.kill(frozen, signal.SIGSTOP)
    stage.until(lambda: len(stage.notes("begun")) == 2)
    assert not is_alive(frozen)
    assert f"process 0 (pid {frozen}) has not reported for 2 s: killed" in (stage.folder / "log").read_text()
    supervisor.terminate()
    assert supervisor.wait(60) == 0


def test_after_a_stop_of_everything_nobody_is_killed_for_having_been_silent(stage: Stage) -> None:
    supervisor = stage.start(patience=2.0, act=LIFE_LINE)
    stage.until(lambda: stage.notes("begun"))
    (child,) = stage.notes("begun")
    for pid, number in ((supervisor.pid, signal.SIGSTOP), (child, signal.SIGSTOP)):
        os.kill(pid, number)
    time.sleep(4.0)  # twice the patience
    os.kill(supervisor.pid, signal.SIGCONT)
    time.sleep(0.5)
    os.kill(child, signal.SIGCONT)
    time.sleep(1.5)
    assert stage.notes("begun") == [child]
    supervisor.terminate()
    assert supervisor.wait(60) == 0


def test_where_no_process_can_be_started_it_tries_again_and_can_be_stopped(stage: Stage) -> None:
    program = SUPERVISOR.format(hangup=int(signal.SIG_DFL), popen="subprocess.Popen")
    supervisor = stage.run(program.replace("[sys.executable, ", "['/no/such/program', "), 2, 1, 60, "")
    said = (stage.folder / "log").read_text
    stage.until(lambda: said().count("process 1 cannot be started (No such file or directory); trying again") >= 2)
    (health,) = probes.ask(stage.folder)
    assert (health.live, health.ready) == (True, False)
    supervisor.terminate()
    assert supervisor.wait(60) == 0


def test_half_a_report_and_nonsense_on_the_line_harm_nobody(stage: Stage) -> None:
    noise = "line.send(b'\\xff' * 70000 + b'\\n{}\\n[1]\\n' + b'{\"pid\": 1, ')"
    supervisor = stage.start(act=LIFE_LINE + noise)
    stage.until(lambda: stage.notes("begun"))
    time.sleep(0.5)
    supervisor.terminate()
    assert supervisor.wait(60) == 0
    assert "Traceback" not in (stage.folder / "log").read_text()


def test_systemd_hears_that_it_is_ready_alive_and_stopping(stage: Stage) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.settimeout(30)
        systemd.bind(str(stage.folder / "notify"))
        supervisor = stage.start(count=2, act=LIFE_LINE, environment={"NOTIFY_SOCKET": str(stage.folder / "notify")})
        heard: list[str] = []

        def hears(word: str) -> None:
            while word not in (said := systemd.recv(4096).decode()):
                heard.append(said)
            heard.append(said)

        hears("READY=1")
        assert heard[-1].endswith("STATUS=every process works")
        hears("WATCHDOG=1")
        supervisor.terminate()
        hears("STOPPING=1")
        assert supervisor.wait(60) == 0
        assert sum("READY=1" in said for said in heard) == 1


def test_it_stops_telling_systemd_that_it_lives_once_it_hangs_itself() -> None:
    watched = Supervisor([], 1, patience=0.1, deadlines=Deadlines(to_start=0.1))
    assert watched.health().live
    time.sleep(0.2)
    assert not watched.health().live
    assert "the supervisor hangs" in watched.health().why[0]


def test_the_report_of_a_stand_in_is_a_report() -> None:
    line = (
        b'{"pid": 1, "role": "all", "since": 1, "phase": "working", "in_hand": 0, "taken": 0, "last_taken": null,'
        b'"last_empty": null, "broker": true, "store": true}'
    )
    assert ProcessReport.read(line) is not None


def test_a_process_stops_with_a_parent_that_was_killed_before_it_read_everything() -> None:
    ours, theirs = socket.socketpair()
    program = """
import os, signal, sys, time
from tokenferry_worker.engine.supervisor import end_with_parent
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
os.write(0, b"a report that nobody reads")
end_with_parent()
print("watching", flush=True)
time.sleep(60)
"""
    with forking.start([sys.executable, "-c", program], stdin=theirs, stdout=subprocess.PIPE, text=True) as process:
        theirs.close()
        assert process.stdout is not None
        assert process.stdout.readline() == "watching\n"
        ours.close()  # with unread data: the kernel resets the line
        try:
            assert process.wait(20) == 7
        finally:
            process.kill()
