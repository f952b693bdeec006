"""Workers are restarted one after another under load, as a deployment does it: nobody notices."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from e2e import cargo
from e2e.house import House, Route, Worker, until

from tokenferry import Order
from tokenferry.contract.targets import CustomerCreate

WORKERS = 4
BATCH = 40


@contextmanager
def a_steady_load(house: House, route: Route) -> Iterator[list[str]]:
    """Somebody who sends, batch after batch, until the block ends; every fourth token is to be spent."""
    sent: list[str] = []
    enough = threading.Event()

    def send() -> None:
        while True:
            orders = [
                Order(cargo.card(at), platform="main", reply_to=route.name, attach=None if at % 4 else CustomerCreate())
                for at in range(BATCH)
            ]
            sent.extend(house.send(orders))
            if enough.wait(1.0):
                return

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield sent
    finally:
        enough.set()
        sender.join(60)


def until_ready(worker: Worker) -> None:
    until(lambda: worker.is_ready(1), "a ready worker", 90.0)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("house", ["embedded", "rabbitmq"], indirect=True)
def test_four_workers_are_restarted_one_after_another_and_no_request_is_lost_or_called_for_twice(house: House) -> None:
    route = house.route()
    # With a lease this long, a machine that stands still for a while is no reason to deliver anything again.
    config = house.configure("rolling.toml")
    config.write_text(config.read_text().replace("lease_seconds = 2.0", "lease_seconds = 60.0"))
    workers = [house.worker(config=config.name, ready=False) for _ in range(WORKERS)]
    for worker in workers:
        until_ready(worker)
    with a_steady_load(house, route) as sent:
        for at, worker in enumerate(workers):
            made = house.ledger()["tokens_created"]
            until(lambda made=made: house.ledger()["tokens_created"] >= made + BATCH, "work under way")
            assert worker.stop() == 0, worker.said()
            workers[at] = house.worker(config=config.name, ready=False)
            until_ready(workers[at])
    route.gather(len(sent), seconds=60.0)
    house.until_all_is_done()
    for worker in workers:
        assert worker.stop() == 0, worker.said()
    route.look()
    outcomes = route.of(sent)
    assert all(result.ok for result in outcomes.values())
    book = house.ledger()
    assert book["tokens_created"] == len(sent) >= WORKERS * BATCH
    assert book["tokens_by_idempotency_key"]["max"] == 1
    assert book["uses"]["tokens_used_more_than_once"] == []
    assert book["uses"]["total"] == book["objects"]["customer"] == len(sent) // 4
    # No call was made twice, not even to hear the same answer again.
    assert book["calls"]["replayed"] == 0
    assert book["calls"]["by_endpoint"]["POST /v1/tokens"] == len(sent)
    assert book["calls"]["by_endpoint"]["POST /v1/customers"] == len(sent) // 4
    assert house.broker.take("dead-letters") == []
