"""The stage of a campaign: a house with a fast endpoint, workers to be hurt, and lines to hurt them on."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

import redis
from e2e.brokers import OnRedis, RabbitMQ, SharedRedis, is_work
from e2e.house import BrokerKind, House, Worker, until
from faults.facts import Call, Facts, Wish
from faults.line import Line

from tokenferry import AttachResult, TokenResult
from tokenferry.broker import embedded
from tokenferry.contract.queues import DEAD_LETTERS, QUARANTINE, results_queue
from tokenferry.contract.results import parse_result

TESTS: Final = Path(__file__).parents[1]
CONFIGURATION: Final = """\
data = "data"
[broker]
url = "{broker}"
lease_seconds = 2.0
[store]
url = "{store}"
[keys]
{keys}
[worker]
read_timeout = 4.0
attempts = 5
deliveries = 50
[platforms.main]
base_url = "{endpoint}"
secret_key = {{ env = "TF_SECRET" }}
publishable_key = {{ env = "TF_PUB" }}
[platforms.main.limits]
global_per_second = 10000
endpoint_per_second = 5000
burst = 50
"""
"""Leases of two seconds, so that a death is noticed soon; limits that are never the bottleneck. More deliveries than
usual, because here every request may meet many deaths, and that is no sign of poison."""
LATENCY_MS: Final = 5
MUTATED: Final = """\
import sys
from faults.mutations import apply
apply(sys.argv.pop(1))
from tokenferry.cli import main
main(prog_name="tokenferry")
"""
"""The command line of a worker in which something is wrong: the first argument says what."""


class Lines:
    """What stands between one worker and the world: a line to the broker, to the store and to the endpoint."""

    def __init__(self, scene: Scene) -> None:
        house, broker = scene.house, scene.house.broker
        self.endpoint = Line(_address(house.endpoint))
        if isinstance(broker, RabbitMQ):
            assert broker.address is not None
            self.broker = Line(broker.address)
            self.store = Line(scene.server.socket)
            url = broker.url.replace(f":{broker.address[1]}/", f":{self.broker.port}/")
            store = f"redis://:{scene.server.password}@127.0.0.1:{self.store.port}/0"
        elif isinstance(broker, SharedRedis):
            self.broker = self.store = Line(broker.address)
            url = store = f"redis://127.0.0.1:{self.broker.port}/{broker.number}"
        else:
            self.broker = self.store = Line(scene.server.socket)
            url = store = f"redis://:{scene.server.password}@127.0.0.1:{self.broker.port}/0"
        self.config = f"lines-{self.endpoint.port}.toml"
        house.configure(self.config, broker=url, store=store, endpoint=f"http://127.0.0.1:{self.endpoint.port}")
        (house.folder / self.config).chmod(0o600)

    def each(self) -> Iterator[Line]:
        """Every line once."""
        yield from {id(line): line for line in (self.broker, self.store, self.endpoint)}.values()

    def close(self) -> None:
        """Cut and remove all of them."""
        for line in self.each():
            line.close()


class Scene:
    """One house, its workers and a diary. *mutation*: what is wrong with every worker that is hired here."""

    def __init__(
        self,
        folder: Path,
        kind: BrokerKind,
        *,
        seed: int,
        mutation: str | None = None,
        latency_ms: int = LATENCY_MS,
        configuration: str = CONFIGURATION,
    ) -> None:
        options = ("--latency-ms", str(latency_ms), "--seed", str(seed))
        self.house = House(folder, kind, emulator=options, configuration=configuration)
        self.kind = kind
        self.dice = random.Random(seed)
        self.mutation = mutation
        self.crew: list[Worker] = []
        self.diary: list[str] = []
        self.began = time.monotonic()
        self.told: list[TokenResult | AttachResult] = []

    @property
    def server(self) -> embedded.Embedded:
        """The private Valkey: broker and store, or the store alone beside RabbitMQ."""
        return embedded.ensure(self.house.folder / "data")

    @property
    def valkey(self) -> redis.Redis:
        """A client of it."""
        broker = self.house.broker
        return cast(redis.Redis, broker._store.client if isinstance(broker, RabbitMQ) else cast(OnRedis, broker).client)

    def note(self, what: str) -> None:
        """Write down what was done, and when."""
        self.diary.append(f"{time.monotonic() - self.began:.2f} s: {what}")

    # -- workers

    def hire(
        self, *, lines: Lines | None = None, supervised: bool = False, name: str = "worker", config: str = ""
    ) -> Worker:
        """Start one worker process, behind *lines* where given, or with another *config*; it is not waited for."""
        config = config or (lines.config if lines else "tokenferry.toml")
        program = ["-m", "tokenferry.cli"] if self.mutation is None else ["-c", MUTATED, self.mutation]
        command = [sys.executable, *program, "worker", "--role", "all", "--config", config]
        command += ["--processes", "1"] if supervised else ["--child", "0"]
        environment = {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
        return cast(Worker, self.house.start(command, name, Worker, environment))

    def until_ready(self, *workers: Worker, seconds: float = 60.0) -> None:
        """Wait until each reads its queues, as changed as it is meant to be."""
        for worker in workers:
            until(lambda worker=worker: worker.is_ready(1) or worker.process.poll() is not None, "a worker", seconds)
            assert worker.process.poll() is None, worker.said()
            assert self.mutation is None or f"mutation {self.mutation} in force" in worker.said(), worker.said()

    def staff(self, count: int) -> None:
        """Have so many workers in the crew, each with a supervisor; those that died are replaced."""
        self.crew = [worker for worker in self.crew if worker.process.poll() is None]
        while len(self.crew) < count:
            self.crew.append(self.hire(supervised=self.mutation is None))

    def dismiss(self) -> None:
        """End everybody in good order."""
        for worker in self.crew:
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGTERM)
        for worker in self.crew:
            with suppress(Exception):
                worker.process.wait(40)
        self.house.put_out()
        self.crew = []

    # -- what was seen

    def listen(self, route: str) -> int:
        """Take the results that are there, with every repetition; how many different requests were told so far."""
        self.told += map(parse_result, self.house.broker.take(results_queue(route)))
        return len({result.request_id for result in self.told})

    def facts(self, accepted: Mapping[str, Wish], uncertain: Mapping[str, Wish], **hurt: int) -> Facts:
        """Everything the checker wants, once all is calm. *hurt*: `deaths` and `on_the_way` of the facts."""
        pages = self.house.http.get("/_ledger/pages", timeout=120.0).json()
        broker = self.house.broker
        dead = [_request_of(body) for body in broker.take(DEAD_LETTERS)]
        left = {QUARANTINE: len(broker.take(QUARANTINE))}
        if isinstance(broker, RabbitMQ):
            left |= {queue: count for queue, count in broker.queues().items() if is_work(queue)}
            left |= {queue: count for queue, count in broker.queues().items() if queue.startswith("parked.")}
        else:
            left["work queues and hands"] = broker.unfinished()
        return Facts(
            accepted=dict(accepted),
            uncertain={id_: wish for id_, wish in uncertain.items() if id_ not in accepted},
            told=list(self.told),
            tokens=pages["tokens"],
            uses=pages["uses"],
            calls={key: [Call(*call) for call in calls] for key, calls in pages["calls"].items()},
            dead=dead,
            left=left,
            **hurt,
        )

    def fresh(self) -> None:
        """Nothing left over from an earlier round."""
        self.house.fresh()
        self.told = []
        self.diary = []
        self.began = time.monotonic()

    def close(self) -> None:
        """Stop everything."""
        self.house.put_out()
        self.house.close()


@contextmanager
def scene(folder: Path, kind: BrokerKind, **options: Any) -> Iterator[Scene]:
    """A scene for the length of a `with` block."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    opened = Scene(folder, kind, **options)
    try:
        yield opened
    finally:
        opened.close()


def _request_of(body: bytes) -> str:
    """The request id of a dead letter."""
    message = json.loads(json.loads(body)["message"])
    return str((message.get("header") or message["request"])["request_id"])


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port
