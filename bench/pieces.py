"""The pieces of the bench: each takes some figures of one contender in one round."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.contenders import Contender, Place, Product
from bench.measuring import percentile, tree_cpu, tree_pss
from bench.processes import NotMeasured, Program, answer, end_all, started
from bench.stand import Endpoint, Server, endpoint, private_server

LATENCY: Final = 0.2
"""Seconds the endpoint takes for an answer, with `FEW` calls in flight."""
FEW: Final = 25
MANY: Final = 500
MANY_LATENCY: Final = 0.25
"""Seconds the endpoint takes for an answer, with `MANY` calls in flight."""
PATIENCE: Final = 300.0
"""Seconds for any one step of a run."""
CALLS_PER_ACCOUNT: Final = 14
"""Calls that one account of `firms` takes: counted, see `onboarding`."""


@dataclass(frozen=True)
class Figure:
    """What a row of a table is about."""

    key: str
    title: str
    digits: int = 2


@dataclass(frozen=True)
class Bench:
    """What every piece has at hand."""

    python: Path
    """The Python of the bench: it runs the endpoint."""
    folder: Path
    requests: int


@dataclass(frozen=True)
class Stage:
    """One contender on its own server, with an endpoint."""

    contender: Contender
    server: Server
    endpoint: Endpoint
    place: Place

    def program(self, *arguments: object) -> str:
        """Run the contender's program: the last line it printed. Raises `NotMeasured`."""
        log = self.place.folder / f"{arguments[0]}.log"
        command, env = self.contender.program(*arguments), self.contender.environment(self.place)
        home = self.contender.home if isinstance(self.contender, Product) else self.place.folder
        return answer(command, log, env=env, cwd=home, timeout=PATIENCE)

    @contextmanager
    def worker(self, role: str = "tokenize") -> Iterator[Program]:
        """Its worker, with all its processes."""
        command = self.contender.worker(self.place, role)
        env = self.contender.worker_environment(self.place)
        with started(command, self.place.folder / "worker.log", env=env, speaks=False) as worker:
            yield worker

    def collect(self, count: int) -> None:
        """Wait for the results. Raises `NotMeasured` unless so many name an object each."""
        if (found := int(self.program("collect", count))) != count:
            raise NotMeasured(f"{count} results name {found} different objects")


@contextmanager
def stage(
    bench: Bench,
    contender: Contender,
    *,
    in_flight: int,
    latency: float = LATENCY,
    marks: tuple[int, ...] = (),
    count: str = "/v1/tokens",
) -> Iterator[Stage]:
    """Set one up, and take it down again."""
    folder = bench.folder / f"run-{time.monotonic_ns()}"
    folder.mkdir()
    try:
        with (
            private_server(folder) as server,
            endpoint(bench.python, folder, latency=latency, marks=marks, count=count) as stand_in,
        ):
            place = Place(folder, server.database(0), server.database(1), stand_in.url, in_flight)
            contender.prepare(place)
            yield Stage(contender, server, stand_in, place)
    finally:
        end_all()  # what a worker has left behind when it died must not work beside the next one


@dataclass(frozen=True)
class Used:
    """What was used between two marks."""

    worker: float
    server: float
    seconds: float
    pss: float


def between(on: Stage, worker: Program, begin: int, end: int) -> Used:
    """What worker and server use while the calls from the mark *begin* to the mark *end* are answered.

    At both marks as much is in hand, so what is taken and not yet published weighs nothing.
    """
    pid = worker.process.pid
    on.endpoint.wait_for_mark(begin, worker, PATIENCE)
    began, worker_before, server_before = time.monotonic(), tree_cpu(pid), on.server.cpu()
    on.endpoint.wait_for_mark(end, worker, PATIENCE)
    used, server, took = tree_cpu(pid) - worker_before, on.server.cpu() - server_before, time.monotonic() - began
    return Used(used, server, took, tree_pss(pid))


def _steady(bench: Bench, contender: Contender, requests: int, in_flight: int, latency: float) -> Used:
    """The queue is filled before the worker starts; measured is its middle, when all places are taken."""
    warm = 2 * in_flight + min(requests // 4, 2 * in_flight)
    marks = (warm, warm + requests)
    total = warm + requests + in_flight
    with stage(bench, contender, in_flight=in_flight, latency=latency, marks=marks) as on:
        on.program("feed", total)
        with on.worker() as worker:
            used = between(on, worker, *marks)
            on.collect(total)
        if (posts := on.endpoint.report()["posts"]) != total:
            raise NotMeasured(f"{total} requests came to {posts} calls")
    return used


def pipeline(bench: Bench, contender: Contender, seed: int) -> dict[str, float]:
    """25 in flight at 200 ms: what a token costs."""
    used = _steady(bench, contender, bench.requests, FEW, LATENCY)
    per_thousand = 1000 / bench.requests
    return {
        "cpu_25": used.worker * per_thousand,
        "server_25": used.server * per_thousand,
        "pss_25": used.pss,
    }


def throughput(bench: Bench, contender: Contender, seed: int) -> dict[str, float]:
    """500 in flight at 250 ms in one process: how many tokens it can make, and what they cost then."""
    requests = 4 * bench.requests
    used = _steady(bench, contender, requests, MANY, MANY_LATENCY)
    return {
        "rate_500": requests / used.seconds,
        "cpu_500": used.worker * 1000 / requests,
        "server_500": used.server * 1000 / requests,
    }


def latency(bench: Bench, contender: Contender, seed: int) -> dict[str, float]:
    """Random arrivals at half of what it can do; less what the endpoint itself took each time."""
    with stage(bench, contender, in_flight=FEW) as on, on.worker():
        told = json.loads(on.program("latency", bench.requests, FEW / LATENCY / 2, seed))
        calls = {made: answered - arrived for made, arrived, answered in on.endpoint.report()["calls"]}
    added = [1000 * (seen - sent - calls[token.rpartition("_")[2]]) for token, sent, seen in told["rows"]]
    return {"arrivals": told["rate"], "added_p50": percentile(added, 0.5), "added_p99": percentile(added, 0.99)}


def producer(bench: Bench, contender: Contender, seed: int) -> dict[str, float]:
    """What the publishing process uses."""
    rows = 2 * bench.requests
    with stage(bench, contender, in_flight=FEW) as on:
        return {"producer": float(on.program("producer", rows)) * 1000 / rows}


def reader(bench: Bench, contender: Contender, seed: int) -> dict[str, float]:
    """What the reader uses that verifies results, after all of them were published."""
    with stage(bench, contender, in_flight=FEW, latency=0.0, marks=(bench.requests,)) as on:
        on.program("feed", bench.requests)
        with on.worker() as worker:
            on.endpoint.wait_for_mark(bench.requests, worker, PATIENCE)
            return {"reader": float(on.program("reader", bench.requests)) * 1000 / bench.requests}


def attach(bench: Bench, contender: Contender, seed: int) -> dict[str, float]:
    """Tokens are made, orders to spend each on a customer are published, then an attach worker starts."""
    warm = 4 * FEW
    marks = (warm, warm + bench.requests)
    total = warm + bench.requests + FEW
    with stage(bench, contender, in_flight=FEW, marks=marks, count="/v1/customers") as on:
        on.program("feed", total)
        with on.worker():
            on.program("attach", total)
        with on.worker("attach") as worker:
            used = between(on, worker, *marks)
            on.collect(total)
    return {"attach": used.worker * 1000 / bench.requests}


def onboarding(bench: Bench, contender: Contender, seed: int) -> dict[str, float]:
    """Whole accounts, 25 at a time; counted are all their calls."""
    accounts = max(1, bench.requests // 20)
    marks = (FEW * CALLS_PER_ACCOUNT, (FEW + accounts) * CALLS_PER_ACCOUNT)
    total = FEW + accounts + FEW
    with stage(bench, contender, in_flight=FEW, latency=0.1, marks=marks, count="") as on:
        on.program("onboard", total)
        with on.worker("onboard") as worker:
            used = between(on, worker, *marks)
            on.collect(total)
        posts = on.endpoint.report()["posts"]
    if posts != total * CALLS_PER_ACCOUNT:
        raise NotMeasured(f"an account takes {posts / total:.2f} calls, not {CALLS_PER_ACCOUNT}")
    return {"onboarding": 1000 * used.worker / accounts}


def start(bench: Bench, contender: Contender, seed: int) -> dict[str, float]:
    """The command's help, and a worker until the first request it finds has been answered."""
    figures = {}
    if isinstance(contender, Product):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        answer([str(contender.command), "--help"], bench.folder / "help.log", timeout=PATIENCE)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        figures["help"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    with stage(bench, contender, in_flight=FEW, latency=0.0, marks=(1,)) as on:
        on.program("feed", 1)
        with on.worker() as worker:
            on.endpoint.wait_for_mark(1, worker, PATIENCE)
            figures["ready"] = tree_cpu(worker.process.pid)
    return figures


@dataclass(frozen=True)
class Piece:
    """Figures that are taken together."""

    name: str
    measure: Callable[[Bench, Contender, int], dict[str, float]]
    figures: tuple[Figure, ...]


PIECES: Final = {
    piece.name: piece
    for piece in (
        Piece(
            "pipeline",
            pipeline,
            (
                Figure("cpu_25", "worker CPU, s per 1,000 tokens, 25 in flight"),
                Figure("server_25", "Redis CPU, s per 1,000 tokens, 25 in flight", 3),
                Figure("pss_25", "memory of all worker processes (PSS), MB", 0),
            ),
        ),
        Piece(
            "throughput",
            throughput,
            (
                Figure("rate_500", "tokens per second, 500 in flight", 0),
                Figure("cpu_500", "worker CPU, s per 1,000 tokens, 500 in flight"),
                Figure("server_500", "Redis CPU, s per 1,000 tokens, 500 in flight", 3),
            ),
        ),
        Piece(
            "latency",
            latency,
            (
                Figure("arrivals", "arrivals per second, at most half of what it can do", 1),
                Figure("added_p50", "added latency at that load, median, ms", 1),
                Figure("added_p99", "added latency at that load, 99 %, ms", 1),
            ),
        ),
        Piece("producer", producer, (Figure("producer", "producer CPU, s per 1,000 rows"),)),
        Piece("reader", reader, (Figure("reader", "reader CPU, s per 1,000 results"),)),
        Piece("attach", attach, (Figure("attach", "attach worker CPU, s per 1,000 tokens spent"),)),
        Piece("onboarding", onboarding, (Figure("onboarding", "onboard worker CPU, ms per account", 0),)),
        Piece(
            "start",
            start,
            (
                Figure("help", "`tokenferry --help`, CPU s"),
                Figure("ready", "worker from its start to its first answer, CPU s"),
            ),
        ),
    )
}
