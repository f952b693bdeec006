"""A worker process that hangs, or hears nothing, gives itself up; one that only waits does not."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from e2e import cargo, saboteur
from e2e.house import House, Worker, until
from e2e.test_e2e_shutdown import go_on, in_hand, limits

from tokenferry_worker.health import probes

pytestmark = pytest.mark.timeout(280)

SECONDS = 8.0
"""Until the watchdog bites."""


@pytest.fixture
def order(tmp_path: Path, environment: dict[str, str]) -> Path:
    """Where to write what is to be harmed."""
    environment["SABOTAGE"] = str(tmp_path / "order")
    return tmp_path / "order"


def watched(house: House, *, broker: str | None = None, more: str = "") -> str:
    """A configuration with an impatient watchdog."""
    path = house.configure("watched.toml", broker=broker)
    text = path.read_text().replace("[worker]\n", f"[worker]\nwatchdog_seconds = {SECONDS}\n{more}")
    path.write_text(text.replace("lease_seconds = 2.0", "lease_seconds = 2.0\npublish_timeout = 4.0"))
    return "watched.toml"


def harmed(house: House, order: Path, kind: str, sign: str, *, seconds: float) -> Worker:
    """A worker one of whose processes was harmed, replaced, and whose requests are all done."""
    route = house.route()
    worker = house.start([*saboteur.PROGRAM, "worker", "--config", watched(house)], "worker", Worker)
    assert isinstance(worker, Worker)
    until(lambda: worker.is_ready(1), "a ready worker", 90.0)
    first = house.send(cargo.cards(5, route.name))
    route.gather(5)
    order.write_text(kind)
    until(lambda: not order.exists(), "the harm")
    rest = house.send(cargo.cards(5, route.name))
    until(lambda: sign in worker.said(), f"'{sign}'", seconds)
    route.gather(10)
    house.until_all_is_done()
    assert all(result.ok for result in route.of(first + rest).values())
    assert house.ledger()["tokens_by_idempotency_key"]["max"] == 1
    return worker


@pytest.mark.parametrize(
    ("house", "kind", "why"),
    [
        ("rabbitmq", "consumer", "the thread that reads the broker hangs"),
        ("embedded", "loop", "the thread that carries deliveries hangs"),
        ("embedded", "deaf", "messages wait in tokenize.bulk.main, and none is taken"),
        ("rabbitmq", "deaf", "messages wait in tokenize.bulk.main, and none is taken"),
    ],
    indirect=["house"],
)
def test_a_process_that_lives_and_does_nothing_says_why_and_is_replaced(
    house: House, order: Path, kind: str, why: str
) -> None:
    worker = harmed(house, order, kind, "ended with 70; starting another", seconds=12 * SECONDS)
    assert f"watchdog: {why}; this process ends" in worker.said()
    assert worker.stop() == 0


@pytest.mark.parametrize("house", ["embedded"], indirect=True)
def test_a_process_that_cannot_even_watch_itself_is_killed_by_its_supervisor(house: House, order: Path) -> None:
    worker = harmed(house, order, "everything", "ended with -9; starting another", seconds=12 * SECONDS)
    assert "has not reported for 16 s: killed" in worker.said()
    assert worker.stop() == 0


def test_full_hands_that_wait_for_leave_to_call_are_no_reason(house: House) -> None:
    limits(house, "pause", "paced:endpoint:tokens", "--why", "a test")
    try:
        route = house.route()
        worker = house.worker(config=watched(house, more="concurrency = 3\n"))
        children = worker.children()
        request_ids = house.send(cargo.cards(9, route.name, platform="paced"))
        until(lambda: in_hand(house, worker) == 3, "full hands")
        time.sleep(1.3 * SECONDS)
        assert worker.children() == children
        assert "watchdog" not in worker.said()
    finally:
        go_on(house)
    route.gather(9)
    house.until_all_is_done()
    assert worker.stop() == 0
    assert route.of(request_ids)


@pytest.mark.parametrize("house", ["redis", "rabbitmq"], indirect=True)
def test_a_broker_that_swallows_every_word_is_no_reason_either_and_the_worker_says_that_it_is_not_ready(
    house: House,
) -> None:
    address = house.broker.address
    assert address is not None
    with socket.create_server(("127.0.0.1", 0), backlog=200) as hole:  # connects, and never answers
        there, here = f"{address[0]}:{address[1]}", f"127.0.0.1:{hole.getsockname()[1]}"
        config = watched(house, broker=house.broker.url.replace(there, here))
        worker = house.worker(config=config, ready=False)
        until(lambda: "trying again" in worker.said(), "a word about the broker", 90.0)
        children = worker.children()
        time.sleep(1.3 * SECONDS)
        (health,) = probes.ask(house.folder / "data")
        assert (health.live, health.ready) == (True, False)
        assert worker.children() == children
        assert "watchdog" not in worker.said()
        assert worker.stop() == 0
