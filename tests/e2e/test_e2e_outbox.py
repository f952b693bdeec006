"""Accepted requests, a producer that is killed, a broker that forgets: one outcome and one token each all the same."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from e2e import cargo
from e2e.brokers import Broker, OnRedis, RabbitMQ
from e2e.house import House, Program, until

from tokenferry import AttachResult, Order, Outbox, Producer, Results, TokenResult
from tokenferry.contract.targets import CustomerCreate
from tokenferry.outbox import SenderLock
from tokenferry.outbox.outbox import now_ms
from tokenferry.outbox.store import OutboxStore

REQUESTS = 60


def outbox_of(house: House, name: str) -> Path:
    """The configuration of this house with an outbox of its own."""
    path = house.configure(name)
    path.write_text(path.read_text() + f'[outbox]\npath = "{name}.db"\nresend_after = 1.0\n')
    return path


def held(path: Path) -> dict[str, int]:
    book = OutboxStore(path, durable=False)
    try:
        return book.status(now=now_ms())
    finally:
        book.close()


def forget(broker: Broker) -> None:
    """What a broker without a disk does with its messages when it is started again."""
    if isinstance(broker, RabbitMQ):
        for queue in broker.queues():
            if queue.startswith("tokenize."):
                broker.control("purge_queue", "-p", broker.vhost, queue)
    else:
        assert isinstance(broker, OnRedis)
        broker.client.delete(*broker.client.scan_iter("tokenize.*"))


def read(results: Results, count: int) -> list[TokenResult | AttachResult]:
    """Results until there are *count* different ones, each acknowledged, and none that says something else."""
    found: dict[str, TokenResult | AttachResult] = {}

    def enough() -> bool:
        result = results.take(0.2)
        if result is not None:
            assert isinstance(result, TokenResult | AttachResult)
            assert found.setdefault(result.request_id, result) == result, "two outcomes of one request"
        return len(found) == count

    until(enough, f"{count} outcomes", seconds=60.0)
    results.take(0.0)  # acknowledges the last one
    return list(found.values())


def test_messages_that_the_broker_lost_are_found_again_and_end_as_if_nothing_had_happened(house: House) -> None:
    config = outbox_of(house, "forgetful.toml")
    path = house.folder / "forgetful.toml.db"
    route = house.route().name
    orders = (
        Order(cargo.card(at), platform="main", reply_to=route, attach=None if at % 4 else CustomerCreate())
        for at in range(REQUESTS)
    )
    with Outbox(path) as outbox, Results(route, config, outbox=outbox) as results:
        with Producer(config, outbox=outbox) as producer:
            request_ids = list(producer.send_many(orders))
            until(lambda: held(path)["waiting"] == 0, "the delivery")
            until(lambda: house.broker.unfinished() >= REQUESTS, "messages to lose")
            forget(house.broker)
            with house.working():
                outcomes = read(results, REQUESTS)
                house.until_all_is_done()
        assert held(path)["confirmed"] == 0
    assert {result.request_id for result in outcomes} == set(request_ids)
    assert all(result.ok for result in outcomes)
    assert_one_token_each(house, request_ids)
    assert house.ledger()["uses"]["total"] == REQUESTS // 4


def test_sending_everything_again_in_the_middle_of_the_work_changes_nothing(house: House) -> None:
    config = outbox_of(house, "anxious.toml")
    path = house.folder / "anxious.toml.db"
    route = house.route()
    with Producer(config) as producer:
        request_ids = list(producer.send_many(cargo.cards(REQUESTS, route.name)))
        until(lambda: held(path)["waiting"] == 0, "the delivery")
    command = [sys.executable, "-m", "tokenferry.cli", "outbox", "reconcile", "--older-than", "0s", "--json"]
    with house.working():
        until(lambda: house.ledger()["tokens_created"] >= 5, "the first tokens")
        program = house.start([*command, "--config", str(config)], "reconcile")
        assert program.process.wait(30) == 0, program.said()
        assert json.loads(program.said())["found"] == REQUESTS
        route.gather(REQUESTS, seconds=60.0)
        house.until_all_is_done()
        route.look()  # whose every repetition says the same
    assert all(result.ok for result in route.of(request_ids).values())
    assert_one_token_each(house, request_ids)


PRODUCER = """
import sys
from pathlib import Path
from e2e import cargo
from tokenferry import Order, Producer
producer = Producer(Path(sys.argv[1]))
for request_id in producer.send_many(cargo.cards(1000, sys.argv[2])):
    print(request_id, flush=True)
"""


def test_a_producer_killed_in_the_middle_of_a_thousand_sends_leaves_every_id_it_returned(house: House) -> None:
    config = outbox_of(house, "killed.toml")
    path = house.folder / "killed.toml.db"
    route = house.route()
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n{PRODUCER}"]
    program: Program = house.start([*command, str(config), route.name], "producer")
    until(lambda: program.said().count("req-") >= 150, "a part of the sends")
    program.process.kill()
    program.process.wait(30)
    returned = [line for line in program.said().splitlines() if line.startswith("req-")]
    accepted = len(returned)
    assert accepted < 1000

    daemon = house.start([sys.executable, "-m", "tokenferry.cli", "outbox", "send", "--config", str(config)], "outbox")
    with house.working():
        until(lambda: held(path)["waiting"] == 0, "the delivery", seconds=60.0)
        assert SenderLock(path).holder() == daemon.pid
        everybody = held(path)["confirmed"]
        route.gather(everybody, seconds=60.0)
        house.until_all_is_done()
        route.look()
    assert daemon.stop() == 0
    assert set(returned) <= {result.request_id for result in route.results.values()}
    assert all(result.ok for result in route.results.values())
    assert_one_token_each(house, [result.request_id for result in route.results.values()])
    os.unlink(path)


def assert_one_token_each(house: House, request_ids: list[str]) -> None:
    book = house.ledger()
    assert book["tokens_created"] == len(request_ids)
    assert book["tokens_by_idempotency_key"]["max"] == 1
    assert book["uses"]["tokens_used_more_than_once"] == []
    assert house.broker.take("dead-letters") == []
