"""Starting programs, reading their answers within a deadline, and ending all that was started.

Linux only: it relies on `prctl`, on /proc and on the CPU clocks of other processes.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
"""Options of prctl(2)."""

ROOT = Path(__file__).parent.parent


class NotMeasured(Exception):
    """A figure could not be taken. The text says why, for the table."""


def environment(**more: str) -> dict[str, str]:
    """The environment of everything the bench starts.

    Settings, proxies and Python options of the person who runs the bench must not change what is measured.
    """
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "PATH", "TMPDIR", "USER") if name in os.environ}
    return {**kept, "BENCH_KEY": "sk_test_bench", **more}


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent has died, so that none of them is lost."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def tree(root: int) -> list[int]:
    """Process ids of *root* and all its living descendants, parents first."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError):
                children.setdefault(_parent(int(entry.name)), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def _parent(pid: int) -> int:
    return int(fields_of_stat(pid)[1])


def fields_of_stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the program's name: state, parent, ... Raises OSError."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill *process* and all its descendants. Nothing of a bench is worth an orderly end."""
    others = tree(process.pid)[1:]
    process.kill()
    process.wait()
    _kill(others)


def end_all() -> None:
    """Kill whatever this process has started and not ended, and all descendants of that."""
    while others := tree(os.getpid())[1:]:
        _kill(others)


def _kill(pids: Sequence[int]) -> None:
    """Kill them all, and wait until they are gone."""
    dying = {}
    for pid in pids:
        with suppress(ProcessLookupError):
            dying[pid] = os.pidfd_open(pid)
            signal.pidfd_send_signal(dying[pid], signal.SIGKILL)
    for pid, handle in dying.items():
        select.select([handle], [], [])
        os.close(handle)
        # Ours by `adopt_orphans`, if its parent is gone.
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


@dataclass
class Program:
    """A running program of the bench: what it prints, line by line, and where it logs."""

    process: subprocess.Popen[bytes]
    log: Path
    _rest: bytes = b""

    def line(self, deadline: float) -> str:
        """The next line of its standard output.

        Raises `NotMeasured` when it ends without one, or when *deadline* (of `time.monotonic`) passes.
        """
        assert self.process.stdout is not None
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise NotMeasured("it took too long")
            if not (read := os.read(self.process.stdout.fileno(), 1 << 20)):
                raise NotMeasured(self._last_words())
            self._rest += read
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def check(self) -> None:
        """Raise `NotMeasured` when it has ended."""
        if self.process.poll() is not None:
            raise NotMeasured(self._last_words())

    def _last_words(self) -> str:
        try:
            status = str(self.process.wait(timeout=10.0))
        except subprocess.TimeoutExpired:
            status = "no more output"
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return f"{self.log.stem} ended with {status}: {lines[-1][:200] if lines else 'it said nothing'}"


@contextmanager
def started(
    command: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    given: str | None = None,
    speaks: bool = True,
) -> Iterator[Program]:
    """Run *command* until the end of the block, then kill it and its descendants.

    *cwd*: its folder, by default that of its *log*. *given*: what it reads from its standard input; by default that
    stays open and empty. *speaks*: whether its standard output is read; else it goes into the log.
    """
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=cwd or log.parent,
            env=env or environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if speaks else out,
            stderr=out,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
    with process:
        try:
            if given is not None:
                assert process.stdin is not None
                process.stdin.write(given.encode())
                process.stdin.close()
            yield Program(process, log)
        finally:
            end(process)


def answer(
    command: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float
) -> str:
    """Run *command* to its end: the last line it printed.

    Raises `NotMeasured` when it fails or takes longer than *timeout* seconds.
    """
    deadline, last = time.monotonic() + timeout, ""
    with started(command, log, env=env, cwd=cwd) as program:
        while True:
            try:
                last = program.line(deadline)
            except NotMeasured:
                if program.process.poll() != 0:
                    raise
                return last
