"""What contenders meet: a private server of their own, and the endpoint with its marks."""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measuring import process_cpu
from bench.processes import ROOT, NotMeasured, Program, environment, started
from tokenferry.broker.embedded import server_program

TO_START = 60.0
"""Seconds in which whatever is started must answer."""
TRIES = 5
"""Ports tried: one that was free a moment ago may be taken."""


@dataclass(frozen=True)
class Server:
    """A Redis or Valkey that only one contender uses."""

    program: Program
    address: str
    """Its URL without a database number."""

    def database(self, number: int) -> str:
        """The URL of one of its databases."""
        return f"{self.address}/{number}"

    def cpu(self) -> float:
        """CPU seconds it has used."""
        return process_cpu(self.program.process.pid)


@contextmanager
def private_server(folder: Path) -> Iterator[Server]:
    """Start a server on a port of the loopback interface; it keeps nothing on disk."""
    password = secrets.token_hex(16)
    for _ in range(TRIES):
        port = _free_port()
        # From standard input, so that the password is in no process table and in no file.
        settings = f'bind 127.0.0.1\nport {port}\nrequirepass {password}\nsave ""\nappendonly no\ndir {folder}\n'
        with started([str(server_program()), "-"], folder / "server.log", given=settings) as program:
            if _answers(program, port, password):
                yield Server(program, f"redis://:{password}@127.0.0.1:{port}")
                return
    raise NotMeasured("its private server does not start")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _answers(program: Program, port: int, password: str) -> bool:
    deadline = time.monotonic() + TO_START
    while program.process.poll() is None and time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5.0) as connection:
                connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
                # Anything else is said by somebody else's server.
                return connection.makefile("rb").readline() == b"+OK\r\n"
        except OSError:
            time.sleep(0.02)
    return False


@dataclass(frozen=True)
class Endpoint:
    """The endpoint of the bench, and what it tells."""

    program: Program
    url: str

    def wait_for_mark(self, count: int, worker: Program, seconds: float) -> None:
        """Return at the moment it has answered *count* counted calls.

        Raises `NotMeasured` when *worker* ends, or after *seconds*.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self.program.line(min(deadline, time.monotonic() + 1.0))
            except NotMeasured:
                worker.check()
                self.program.check()
                if time.monotonic() >= deadline:
                    raise NotMeasured(f"{count} calls were not made within {seconds:.0f} s") from None
                continue
            if line == f"mark {count}":
                return

    def report(self) -> dict[str, Any]:
        """End it: `posts`, `cpu`, and `calls` (id, arrived, answered) in the order they were answered."""
        assert self.program.process.stdin is not None
        self.program.process.stdin.close()
        while (line := self.program.line(time.monotonic() + TO_START)).startswith("mark "):
            pass
        return dict(json.loads(line))


@contextmanager
def endpoint(
    python: Path, folder: Path, *, latency: float, marks: tuple[int, ...] = (), count: str = "/v1/tokens"
) -> Iterator[Endpoint]:
    """Start the endpoint with the *python* of the bench. *latency*: seconds. *count*: path whose POSTs are counted."""
    command = [str(python), "-m", "bench.endpoint", "--latency-ms", str(latency * 1000), "--count", count]
    command += ["--marks", ",".join(map(str, marks))]
    with started(command, folder / "endpoint.log", env=environment(PYTHONPATH=str(ROOT))) as program:
        port = program.line(time.monotonic() + TO_START).removeprefix("listening ")
        yield Endpoint(program, f"http://127.0.0.1:{port}")
