"""Every way to stop a worker, as docs/operations.md defines it, on a worker of real processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from broker.places import Server
from click.testing import CliRunner
from e2e import cargo
from e2e.house import House, Worker, is_alive, until
from faults.line import Line
from redis import Redis

from tokenferry import Order, Producer
from tokenferry.cli import main
from tokenferry.configuration import load
from tokenferry.contract.targets import CustomerCreate
from tokenferry_worker.engine.supervisor import AFTER_GRACE
from tokenferry_worker.health import probes
from tokenferry_worker.health.judging import Health
from tokenferry_worker.health.witness import QueueWitness

COUNT = 6
QUEUE = "tokenize.bulk.paced"


def configured(house: House, *, grace: float, lease: float, name: str = "stopping.toml") -> str:
    """A configuration in which only *grace* and *lease* differ."""
    path = house.configure(name)
    text = path.read_text().replace("lease_seconds = 2.0", f"lease_seconds = {lease}")
    path.write_text(text.replace("[worker]\n", f"[worker]\ngrace_seconds = {grace}\n"))
    return name


def limits(house: House, *words: str) -> None:
    done = CliRunner().invoke(main, ["limits", *words, "--config", str(house.folder / "tokenferry.toml")])
    assert done.exit_code == 0, done.output


def told(house: House, worker: Worker) -> Health | None:
    """What the worker says of itself; None: nothing."""
    return next((one for one in probes.ask(house.folder / "data") if one.pid == worker.pid), None)


def in_hand(house: House, worker: Worker) -> int:
    health = told(house, worker)
    assert health is not None
    return sum(process.report.in_hand for process in health.processes if process.report)


def until_stopping(house: House, worker: Worker) -> None:
    def stopping() -> bool:
        health = told(house, worker)
        return health is not None and [p.report.phase for p in health.processes if p.report] == ["stopping"]

    until(stopping, "a process that stops")


def waiting(house: House) -> int:
    """Messages that any worker could take now."""
    witness = QueueWitness(load(house.folder / "tokenferry.toml"), [QUEUE])
    witness.ask()
    until(lambda: witness.reached is not None, "an answer of the broker")
    assert witness.waiting is not None
    return witness.waiting[QUEUE]


@pytest.fixture
def paused(house: House) -> Iterator[House]:
    """A house in which nobody gets leave to call for platform `paced`: what is taken stays in hand."""
    limits(house, "pause", "paced:endpoint:tokens", "--why", "a test")
    yield house
    go_on(house)


def go_on(house: House) -> None:
    limits(house, "resume", "paced:endpoint:tokens", "--why", "the test is over")


def holding(house: House, config: str, *, real: bool = False) -> tuple[Worker, list[str], Any]:
    """A worker of one process that has all the requests there are in hand. *real*: no fork."""
    route = house.route()
    worker = house.worker(config=config, real=real)
    request_ids = house.send(cargo.cards(COUNT, route.name, platform="paced"))
    until(lambda: in_hand(house, worker) == COUNT, "every request in hand")
    return worker, request_ids, route


def another_one_finishes(house: House, request_ids: list[str], route: Any) -> None:
    go_on(house)
    with house.working():
        route.gather(COUNT)
        house.until_all_is_done()
    assert all(result.ok for result in route.of(request_ids).values())


@pytest.mark.parametrize(
    ("signals", "grace"),
    [
        ((signal.SIGTERM,), 1.0),
        ((signal.SIGINT, signal.SIGINT), 600.0),
        ((signal.SIGQUIT,), 600.0),
    ],
    ids=lambda value: "+".join(one.name for one in value) if isinstance(value, tuple) else "",
)
def test_what_is_not_finished_when_a_worker_stops_is_there_for_another_one_at_once(
    paused: House, signals: tuple[signal.Signals, ...], grace: float
) -> None:
    # With a lease this long, nothing comes back in time by itself.
    real = paused.kind == "embedded" and signals == (signal.SIGTERM,)
    worker, request_ids, _ = holding(paused, configured(paused, grace=grace, lease=600.0), real=real)
    (child,) = worker.children()
    assert waiting(paused) == 0
    for number in signals[:-1]:
        worker.process.send_signal(number)
        until_stopping(paused, worker)
    assert worker.stop(signals[-1], seconds=20.0) == 0, worker.said()
    assert waiting(paused) == COUNT
    assert not is_alive(child)
    assert "Traceback" not in worker.said()
    assert len(paused.broker.take(QUEUE)) == len(request_ids) == COUNT
    assert paused.ledger()["tokens_created"] == 0


def test_what_finishes_in_the_grace_time_is_finished_and_not_given_back(paused: House) -> None:
    worker, request_ids, route = holding(paused, configured(paused, grace=60.0, lease=600.0))
    worker.process.send_signal(signal.SIGTERM)
    until_stopping(paused, worker)
    late = paused.send(cargo.cards(2, route.name, platform="paced"))
    go_on(paused)
    assert worker.process.wait(30.0) == 0, worker.said()
    route.gather(COUNT)
    assert route.of(request_ids)
    assert waiting(paused) == len(late)  # it took no more
    with paused.working():
        route.gather(COUNT + len(late))
        paused.until_all_is_done()
    assert paused.ledger()["tokens_created"] == COUNT + len(late)
    assert paused.ledger()["tokens_by_idempotency_key"]["max"] == 1


def test_a_frozen_worker_whose_work_went_to_another_one_does_nothing_twice_when_it_thaws(paused: House) -> None:
    config = configured(paused, grace=10.0, lease=1.0)
    route = paused.route()
    frozen = paused.worker(config=config)
    request_ids = paused.send(
        Order(cargo.card(at), platform="paced", reply_to=route.name, attach=CustomerCreate()) for at in range(COUNT)
    )
    until(lambda: in_hand(paused, frozen) == COUNT, "every request in hand")
    (child,) = frozen.children()
    os.kill(child, signal.SIGSTOP)
    other = paused.worker(config=config)
    if paused.kind == "rabbitmq":  # it takes a missed heartbeat for the end too, but only after twenty seconds
        paused.broker.cut()
    until(lambda: in_hand(paused, other) == COUNT, "the work in other hands")
    go_on(paused)
    route.gather(COUNT)
    os.kill(child, signal.SIGCONT)
    before = in_hand(paused, frozen)
    until(lambda: in_hand(paused, frozen) == 0, f"the end of what the frozen one held ({before})")
    last = paused.send(cargo.cards(1, route.name, platform="paced"))
    route.gather(COUNT + 1)
    paused.until_all_is_done()
    assert frozen.children() == [child], frozen.said()  # its watchdog counts looks, not hours
    for worker in (frozen, other):
        assert worker.stop() == 0, worker.said()
    route.look()
    assert all(result.ok for result in route.of(request_ids + last).values())
    book = paused.ledger()
    assert book["tokens_created"] == COUNT + 1
    assert book["uses"]["tokens_used_more_than_once"] == []
    assert book["uses"]["total"] == book["objects"]["customer"] == COUNT


@pytest.mark.parametrize("house", ["embedded"], indirect=True)
def test_a_process_that_does_not_stop_is_killed_soon_after_its_grace_time(paused: House) -> None:
    worker, request_ids, route = holding(paused, configured(paused, grace=600.0, lease=1.0))
    (child,) = worker.children()
    os.kill(child, signal.SIGSTOP)  # it will not hear anything
    began = time.monotonic()
    worker.process.send_signal(signal.SIGTERM)
    until(lambda: (health := told(paused, worker)) and health.phase == "stopping", "a stopping supervisor")
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(60) == 1
    assert time.monotonic() - began > 4.0
    until(lambda: not is_alive(child), "the end of the process")
    another_one_finishes(paused, request_ids, route)


def test_the_processes_of_a_supervisor_that_is_killed_stop_as_if_it_had_asked(paused: House) -> None:
    worker, request_ids, route = holding(paused, configured(paused, grace=1.0, lease=600.0))
    (child,) = worker.children()
    worker.process.kill()
    worker.process.wait(30)
    until(lambda: not is_alive(child), "the end of its process", 60.0)
    until(lambda: waiting(paused) == COUNT, "what it had in hand, for another one")
    another_one_finishes(paused, request_ids, route)


@pytest.mark.parametrize("house", ["rabbitmq"], indirect=True)
def test_a_broker_that_falls_silent_holds_up_a_stop_for_so_long_and_no_longer(paused: House) -> None:
    address = paused.broker.address
    assert address is not None
    line = Line(address)
    url = paused.broker.url.replace(f"{address[0]}:{address[1]}", f"127.0.0.1:{line.port}")
    path = paused.configure("silent.toml", broker=url)
    path.write_text(path.read_text().replace("[worker]\n", "[worker]\ngrace_seconds = 1.0\n"))
    worker, request_ids, route = holding(paused, path.name)
    line.swallow()
    began = time.monotonic()
    assert worker.stop(seconds=20.0) == 1
    assert time.monotonic() - began < 1.0 + AFTER_GRACE + 3.0
    line.close()
    until(lambda: waiting(paused) == COUNT, "what it had in hand, for another one")
    another_one_finishes(paused, request_ids, route)


@pytest.mark.parametrize("house", ["embedded"], indirect=True)
def test_where_its_redis_was_stopped_first_it_ends_in_good_order_all_the_same(house: House, tmp_path: Path) -> None:
    """As at the reboot of a machine that has both. What it had to tell was given back with its messages."""
    server = Server(tmp_path / "s")
    try:
        path = house.configure("stopped-first.toml", broker=f"unix://{server.socket}?db=0")
        path.write_text(path.read_text().replace("[worker]\n", "[worker]\ngrace_seconds = 2.0\n"))
        worker = house.worker(config=path.name)
        with Producer(path) as producer:
            list(producer.send_many(cargo.cards(200, "stopped-first", platform="paced")))
        with Redis(unix_socket_path=str(server.socket)) as client:
            until(lambda: client.llen("results.stopped-first"), "the first outcome")
        server.process.terminate()
        server.process.wait()
        assert worker.stop(seconds=60.0) == 0, worker.said()
    finally:
        server.kill()


@pytest.mark.parametrize("house", ["embedded"], indirect=True)
def test_after_a_kill_of_the_whole_worker_its_health_is_not_answered_by_what_it_left(house: House) -> None:
    worker = house.worker()
    assert told(house, worker) is not None
    worker.kill()
    assert probes.ask(house.folder / "data") == []
    with house.working() as another:
        assert told(house, another) is not None
        assert len(list(Path(house.folder, "data", "workers").iterdir())) == 1


FAILS_TO_CLOSE = """
from contextlib import asynccontextmanager

from tokenferry_worker import wiring
from tokenferry_worker.commands.worker import worker

opened = wiring.handlers


@asynccontextmanager
async def handlers(*asked):
    async with opened(*asked) as by_task:
        yield by_task
    raise RuntimeError("closing the store has failed")


wiring.handlers = handlers
worker()
"""


@pytest.mark.parametrize("house", ["embedded"], indirect=True)
def test_a_process_that_fails_to_close_what_it_used_says_so_and_ends_with_an_error(house: House) -> None:
    command = [sys.executable, "-c", FAILS_TO_CLOSE, "--child", "0", "--config", str(house.folder / "tokenferry.toml")]
    program = house.start(command, "worker", Worker)
    assert isinstance(program, Worker)
    until(lambda: program.is_ready(1), "a ready worker")
    assert program.stop() == 1
    assert "closing the connections failed (RuntimeError at <string>:" in program.said()
