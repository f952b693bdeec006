"""A house of its own for a test: keys, configuration, broker, endpoint and workers, all of them real processes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import forking
import httpx
from click.testing import CliRunner
from e2e.brokers import Broker, Embedded, RabbitMQ, SharedRedis
from e2e.own_rabbitmq import OwnRabbitMQ

from tokenferry import AttachResult, Order, Producer, TokenResult
from tokenferry.contract.results import parse_result
from tokenferry_worker.commands.keys import keys
from tokenferry_worker.commands.signers import PolicyFiles, signers

T = TypeVar("T")
BrokerKind = Literal["embedded", "redis", "rabbitmq", "own-rabbitmq"]

ENDPOINT_KEYS = {"TF_SECRET": "sk_test_alpha", "TF_PUB": "pk_test_alpha", "TF_PACED": "sk_test_paced"}
LATENCY_MS = 100
"""Every call takes that long: enough for a kill to meet calls under way."""
PACE = 25
"""Calls per second that platform `paced` may make to one endpoint."""
MARK = "HOUSE_OF_TEST"
"""In the environment of everything a house starts: what carries it afterwards was left behind."""

CONFIGURATION = """\
data = "data"
[broker]
url = "{broker}"
lease_seconds = 2.0
[store]
url = "{store}"
[keys]
{keys}
[worker]
read_timeout = 20.0
attempts = 5
[platforms.main]
base_url = "{endpoint}"
secret_key = {{ env = "TF_SECRET" }}
publishable_key = {{ env = "TF_PUB" }}
[platforms.main.limits]
global_per_second = 400
endpoint_per_second = 100
[platforms.paced]
base_url = "{endpoint}"
secret_key = {{ env = "TF_PACED" }}
[platforms.paced.limits]
global_per_second = 200
endpoint_per_second = {pace}
"""
ATTACH_KEYS = "\n".join(
    f'{name} = "attach-keys/{path}"'
    for name, path in {
        "recipient": "recipient.pem",
        "producer_signing_key": "producer.pem",
        "identities": "identities",
        "worker_signing_key": "worker.pem",
        "signers": "signers",
    }.items()
)


def until(condition: Callable[[], T], what: str, seconds: float = 60.0) -> T:
    """The first true value of *condition*; fails with *what* it waited for."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.05)
    return value


def least(measure: Callable[[], float], good: float) -> float:
    """The least of three measurements of seconds, or the first that is *good*: a machine may stand still in one."""
    seconds = float("inf")
    for _ in range(3):
        seconds = min(seconds, measure())
        if seconds <= good:
            break
    return seconds


class Program:
    """One process with its output in a file, in a session of its own."""

    def __init__(
        self, command: list[str], *, log: Path, folder: Path, environment: dict[str, str], real: bool = False
    ) -> None:
        """*real*: start an interpreter even where a fork would do."""
        self.log = log
        popen = subprocess.Popen if real else forking.start
        with log.open("ab") as output:
            self.process = popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self.process.pid

    def said(self) -> str:
        """Everything it has printed so far."""
        return self.log.read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM, *, seconds: float = 30.0) -> int:
        """End it by a signal; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(seconds)


class Worker(Program):
    """`tokenferry worker`: a supervisor and its processes."""

    def children(self) -> list[int]:
        """The process ids of the worker processes."""
        started: list[str] = []
        with suppress(OSError):
            started = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [*map(int, started), *forking.children_of(self.pid)]

    def is_ready(self, times: int) -> bool:
        """Whether *times* processes have said so, those counted that have died since."""
        return self.said().count(": ready, reading ") >= times

    def kill(self) -> None:
        """SIGKILL to the supervisor and to every process of its, as when a machine dies."""
        everybody = [self.pid, *self.children()]
        for pid in everybody:
            with contextlib.suppress(ProcessLookupError):  # it ends with its supervisor
                os.kill(pid, signal.SIGKILL)
        self.process.wait(30)
        for pid in everybody[1:]:
            until(lambda pid=pid: not is_alive(pid), f"the end of process {pid}")


def is_alive(pid: int) -> bool:
    """Whether the process runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class House:
    """Everything a test needs in one private folder. Close it: nothing of it is left running."""

    def __init__(
        self,
        folder: Path,
        kind: BrokerKind,
        *,
        emulator: Sequence[str] = ("--latency-ms", str(LATENCY_MS)),
        configuration: str = CONFIGURATION,
    ) -> None:
        """*emulator*: options of the endpoint. *configuration*: what `configure` writes, with the same gaps."""
        self.folder = folder
        self.kind = kind
        self._emulator = emulator
        self._configuration = configuration
        self.mark = secrets.token_hex(8)
        self.logs = folder / "logs"
        self.logs.mkdir()
        self._programs: list[Program] = []
        self._numbers = itertools.count()
        self._known: dict[Path, int] = {}
        """Files of earlier tests, and how long they were."""
        CliRunner().invoke(keys, ["generate", "--out", str(folder / "keys")], catch_exceptions=False)
        grant = ["grant", "producer", "--role", "order"]
        policy = PolicyFiles(folder / "keys" / "policy.toml", folder / "keys" / "signers")
        CliRunner().invoke(signers, grant, obj=policy, catch_exceptions=False)
        (folder / "attach-keys").mkdir(mode=0o700)
        (folder / "attach-keys" / "signers").symlink_to(folder / "keys" / "signers")
        self.broker: Broker = self._broker()
        self.endpoint = self._start_endpoint()
        self.http = httpx.Client(base_url=self.endpoint, timeout=10.0)
        self.configure("tokenferry.toml")
        self.configure("attach.toml", keys=ATTACH_KEYS)
        self.producer = Producer(folder / "tokenferry.toml")

    # -- what is in it

    def _broker(self) -> Broker:
        match self.kind:
            case "embedded":
                return Embedded(self.folder / "data")
            case "redis":
                return SharedRedis()
            case "rabbitmq":
                return RabbitMQ(self.folder / "data")
            case "own-rabbitmq":
                return OwnRabbitMQ(self.folder / "data")

    def _start_endpoint(self) -> str:
        command = [sys.executable, "-m", "tokenferry_emulator", "--port", "0", *self._emulator]
        program = self.start(command, "emulator")
        line = until(lambda: "listening on " in program.said() and program.said(), "the emulator")
        return str(line).split()[-1]

    def configure(
        self, name: str, *, broker: str | None = None, store: str | None = None, keys: str = "", endpoint: str = ""
    ) -> Path:
        """Write a configuration of this house, with another broker, store, endpoint or key section where given."""
        path = self.folder / name
        path.write_text(
            self._configuration.format(
                broker=broker or self.broker.url,
                store=store or self.broker.store,
                keys=keys,
                endpoint=endpoint or self.endpoint,
                pace=PACE,
            )
        )
        return path

    @property
    def environment(self) -> dict[str, str]:
        """Of everything that is started here."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TOKENFERRY_")}
        return clean | ENDPOINT_KEYS | {MARK: self.mark, "PYTHONUNBUFFERED": "1"}

    # -- processes

    def start(
        self,
        command: list[str],
        name: str,
        kind: type[Program] = Program,
        environment: Mapping[str, str] = MappingProxyType({}),
        *,
        real: bool = False,
    ) -> Program:
        """Start a program of this house, with more in its *environment* where given. *real*: never a fork."""
        log = self.logs / f"{name}-{next(self._numbers)}.log"
        more = self.environment | dict(environment)
        program = kind(command, log=log, folder=self.folder, environment=more, real=real)
        self._programs.append(program)
        return program

    def worker(
        self,
        *,
        role: str = "all",
        processes: int = 1,
        config: str = "tokenferry.toml",
        ready: bool = True,
        real: bool = False,
    ) -> Worker:
        """Start `tokenferry worker`, and wait until each process reads its queues unless told otherwise.

        *real*: as in production, with interpreters of its own.
        """
        options = ["--role", role, "--processes", str(processes), "--config", str(self.folder / config)]
        worker = self.start([sys.executable, "-m", "tokenferry.cli", "worker", *options], "worker", Worker, real=real)
        assert isinstance(worker, Worker)
        if ready:
            until(lambda: worker.is_ready(processes) or worker.process.poll() is not None, "a ready worker")
            assert worker.process.poll() is None, worker.said()
        return worker

    @contextmanager
    def working(self, **options: Any) -> Iterator[Worker]:
        """A worker for the length of a `with` block, at whose end it must stop well."""
        worker = self.worker(**options)
        yield worker
        assert worker.stop() == 0, worker.said()

    def everything_said(self) -> str:
        """Every line of every process of this house."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.logs.iterdir()))

    # -- messages

    def send(self, orders: Iterable[Order]) -> list[str]:
        """Seal and publish; the request ids, each confirmed by the broker."""
        return list(self.producer.send_many(orders))

    def route(self) -> Route:
        """A result route nobody else reads."""
        return Route(self.broker, f"route-{secrets.token_hex(6)}")

    def until_all_is_done(self, seconds: float = 60.0) -> None:
        """Wait until no work queue holds a message and no worker has one in hand."""
        until(lambda: self.broker.unfinished() == 0, "empty work queues", seconds)

    # -- the endpoint

    def ledger(self) -> dict[str, Any]:
        """What the endpoint has seen since the last reset."""
        book: dict[str, Any] = self.http.get("/_ledger").json()
        return book

    def tokens_of(self, request_id: str, epoch: int = 0) -> list[str]:
        """The tokens made for one generation of a request."""
        made: list[str] = self.http.get(f"/_ledger/keys/tokenferry:{request_id}:{epoch}").json()["tokens"]
        return made

    def make(self, path: str, **form: str) -> str:
        """The id of an object made at the endpoint beforehand."""
        answer = self.http.post(path, data=form, headers={"authorization": f"Bearer {ENDPOINT_KEYS['TF_SECRET']}"})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def look(self, path: str) -> dict[str, Any]:
        """An object of the endpoint."""
        answer = self.http.get(path, headers={"authorization": f"Bearer {ENDPOINT_KEYS['TF_SECRET']}"})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def fresh(self) -> None:
        """An endpoint without memory, faults or limits, and nothing left of an earlier test, however it ended."""
        self.http.post("/_reset")
        self.http.delete("/_faults")
        self.http.post("/_limits", json={"global_rate": None, "endpoint_rate": None, "burst": 5})
        self.broker.empty()
        self._known = {path: path.stat().st_size for path in self._files()}

    def written(self) -> Iterator[bytes]:
        """What logs and data have got since `fresh`: an append-only file holds all that ever was in the store."""
        for path in self._files():
            yield path.read_bytes()[self._known.get(path, 0) :]

    def _files(self) -> list[Path]:
        found = [*self.logs.rglob("*"), *(self.folder / "data").rglob("*")]
        return sorted(path for path in found if path.is_file() and not path.is_symlink())

    # -- the end

    def put_out(self) -> None:
        """End every worker that a failed test left behind."""
        for program in self._programs:
            if isinstance(program, Worker) and program.process.poll() is None:
                program.kill()

    def close(self) -> None:
        """Stop everything, and prove that nothing is left."""
        self.producer.close()
        self.http.close()
        self.put_out()
        for program in self._programs:
            assert program.process.poll() is not None or program.stop() == 0, program.said()
        self.broker.close()
        until(lambda: not list(self.left()), "the end of every process")

    def left(self) -> Iterator[int]:
        """Processes that carry our mark, or work in our folder: a fork has the environment of its server."""
        mark = f"{MARK}={self.mark}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    here = (entry / "cwd").readlink().is_relative_to(self.folder)
                    if here or mark in (entry / "environ").read_bytes().split(b"\0"):
                        yield int(entry.name)


class Route:
    """The raw results of one route. Remembers them, and whether those that came twice said the same."""

    def __init__(self, broker: Broker, name: str) -> None:
        self.name = name
        self._broker = broker
        self.bodies: list[bytes] = []
        self.results: dict[str, TokenResult | AttachResult] = {}

    def look(self) -> int:
        """Read what is there; how many different outcomes there have been so far."""
        for body in self._broker.take(f"results.{self.name}"):
            result = parse_result(body)
            self.bodies.append(body)
            assert self.results.setdefault(result.outcome_id, result) == result, "two outcomes under one outcome id"
        return len(self.results)

    def look_at_all(self) -> list[dict[str, Any]]:
        """Read what is there; every message so far, as it is."""
        self.bodies += self._broker.take(f"results.{self.name}")
        return [json.loads(body) for body in self.bodies]

    def gather(self, count: int, seconds: float = 60.0) -> list[TokenResult | AttachResult]:
        """Wait for *count* different outcomes."""
        deadline = time.monotonic() + seconds
        while self.look() < count:
            assert time.monotonic() < deadline, f"{len(self.results)} of {count} outcomes after {seconds:g} s"
            time.sleep(0.05)
        return list(self.results.values())

    def of(self, request_ids: Iterable[str]) -> dict[str, TokenResult | AttachResult]:
        """The one outcome of each of these requests, and of no other."""
        by_request = {result.request_id: result for result in self.results.values()}
        assert len(by_request) == len(self.results), "a request with two outcomes"
        assert by_request.keys() == set(request_ids), "outcomes and requests do not agree"
        return by_request
