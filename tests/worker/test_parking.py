"""What was parked finds its way back: one message for a probe, all of them once the circuit is closed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from e2e.brokers import RabbitMQ
from redis import Redis

from tokenferry.broker import connecting
from tokenferry.broker.embedded import Embedded
from tokenferry.broker.publishing import Outgoing, Publisher
from tokenferry.configuration import Configuration, load
from tokenferry.contract.attach import AttachRequest, SignedAttach
from tokenferry.contract.envelope2 import Envelope2, Header2
from tokenferry.contract.names import LANES, Lane
from tokenferry.contract.queues import ATTACH_TASK, TOKENIZE_TASK, parked_queue
from tokenferry.contract.targets import CustomerCreate
from tokenferry_worker.circuits.breaker import CircuitBreaker
from tokenferry_worker.circuits.parking import ParkedRequeuer

from .standins import MemoryCircuits

SCOPE = "main/kind/card"
DATABASE = 6


class Lot:
    """One parking lot on a real broker, and the queues its messages came from."""

    def __init__(self, server: Embedded, configuration: Configuration) -> None:
        self.client = Redis.from_url(server.redis_url)
        self.client.flushdb()
        self.publisher = Publisher.to(configuration)
        circuits = MemoryCircuits()
        self.carrier = ParkedRequeuer(configuration, self.publisher, circuits, CircuitBreaker(circuits))

    def park(self, id_: str, *, seconds_left: float = 60.0, task: str = TOKENIZE_TASK, lane: str = "bulk") -> None:
        ends = int((time.time() + seconds_left) * 1000)
        order = {"attach_before": ends, "lane": lane}
        body = {"request": order} if task == ATTACH_TASK else {"header": {"expires_at": ends}}
        self.publisher.publish(Outgoing.task(parked_queue(SCOPE), task, id_, json.dumps(body)))

    def park_text(self, id_: str, text: str, *, task: str = TOKENIZE_TASK) -> None:
        self.publisher.publish(Outgoing.task(parked_queue(SCOPE), task, id_, text))

    def back(self, queue: str) -> list[str]:
        """The ids of what came back to *queue*, oldest first."""
        payloads = [json.loads(payload) for payload in self.client.lrange(queue, 0, -1)]
        return [payload["headers"]["id"] for payload in reversed(payloads)]

    def resting(self) -> int:
        return int(self.client.llen(parked_queue(SCOPE))) + int(self.client.hlen("unacked.parked"))


@pytest.fixture
def lot(valkey: Embedded, tmp_path: Path) -> Iterator[Lot]:
    server = valkey.database(DATABASE)
    (tmp_path / "tokenferry.toml").write_text(
        f'[broker]\nurl = "{server.redis_url}"\n[store]\nurl = "{server.redis_url}"\n'
    )
    lot = Lot(server, load(tmp_path / "tokenferry.toml"))
    yield lot
    lot.publisher.close()
    lot.client.flushdb()
    lot.client.close()


def test_a_probe_brings_one_message_back_and_those_before_it_whose_time_is_up(lot: Lot) -> None:
    for id_, seconds_left in [("late-1", -1.0), ("late-2", -1.0), ("live-1", 60.0), ("live-2", 60.0)]:
        lot.park(id_, seconds_left=seconds_left)
    assert not lot.carrier._move(SCOPE, probing=True)
    assert lot.back("tokenize.bulk.main") == ["late-1", "late-2", "live-1"]
    assert lot.resting() == 1


def test_after_the_cure_everything_goes_back_in_its_order_to_the_queue_it_came_from(lot: Lot) -> None:
    requests, orders = ([f"{what}-{n}" for n in range(250)] for what in ("request", "order"))
    for request, order in zip(requests, orders, strict=True):
        lot.park(request)
        lot.park(order, task=ATTACH_TASK)
    lot.park("urgent", task=ATTACH_TASK, lane="realtime")
    assert lot.carrier._move(SCOPE, probing=False)
    assert lot.back("tokenize.bulk.main") == requests
    assert lot.back("attach.bulk.main") == orders
    assert lot.back("attach.realtime.main") == ["urgent"]
    assert lot.resting() == 0


def in_version_2(id_: str, *, seconds_left: float = 60.0) -> str:
    ends = int((time.time() + seconds_left) * 1000)
    fields: dict[str, Any] = {"suite": "x25519-hkdf-sha256-aes256gcm", "key_id": "k1", "producer_id": "k2"}
    where: dict[str, Any] = {"group": "legacy", "kind": "card", "platform": "main", "lane": "bulk"}
    header = Header2(**fields, **where, request_id=id_, issued_at=0, expires_at=ends)
    return Envelope2.write(header, lambda _: b"sealed", lambda _: bytes(64)).text()


def order_in_version_2(id_: str, lane: Lane) -> str:
    now = int(time.time() * 1000)
    fields: dict[str, Any] = {"token": "tok_1", "kind": "card", "platform": "main", "signer_id": "k2", "lane": lane}
    times = {"token_created_at": now, "attach_before": now + 60_000}
    order = AttachRequest(version=2, attach_id=id_, request_id=id_, target=CustomerCreate(), **fields, **times)
    return SignedAttach.model_construct(request=order, signature=bytes(64)).text()


def test_one_message_of_version_2_is_enough_to_probe(lot: Lot) -> None:
    lot.park_text("late", in_version_2("late", seconds_left=-1.0))
    lot.park_text("live-1", in_version_2("live-1"))
    lot.park_text("live-2", in_version_2("live-2"))
    assert not lot.carrier._move(SCOPE, probing=True)
    assert lot.back("tokenize.bulk.main") == ["late", "live-1"]
    assert lot.resting() == 1


def test_an_order_of_version_2_goes_back_to_the_lane_it_came_from(lot: Lot) -> None:
    for lane in LANES:
        lot.park_text(lane, order_in_version_2(lane, lane), task=ATTACH_TASK)
    assert lot.carrier._move(SCOPE, probing=False)
    assert {lane: lot.back(f"attach.{lane}.main") for lane in LANES} == {lane: [lane] for lane in LANES}


def test_a_message_comes_back_exactly_as_it_was_published_at_first(lot: Lot) -> None:
    lot.park("request-1")
    (parked,) = lot.client.lrange(parked_queue(SCOPE), 0, -1)
    lot.carrier._move(SCOPE, probing=False)
    (back,) = lot.client.lrange("tokenize.bulk.main", 0, -1)
    before, after = json.loads(parked), json.loads(back)
    assert [after[part] for part in ("body", "content-type", "content-encoding")] == [
        before[part] for part in ("body", "content-type", "content-encoding")
    ]
    assert {**after["headers"], "stamped_headers": None} == {**before["headers"], "stamped_headers": None}


# -- RabbitMQ ends the connection of whoever wants a message from a queue that is busy or electing a leader


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    broker = RabbitMQ(tmp_path_factory.mktemp("rabbit") / "data")
    yield broker
    broker.close()


def hiccup(rabbit: RabbitMQ) -> None:
    rabbit.stop_queue(parked_queue(SCOPE))
    threading.Thread(target=rabbit.start_queue, args=(parked_queue(SCOPE),)).start()


@pytest.mark.parametrize("trouble", [hiccup, RabbitMQ.cut])
def test_what_was_under_way_when_the_connection_ended_goes_back_once(
    rabbit: RabbitMQ, tmp_path: Path, trouble: Callable[[RabbitMQ], object]
) -> None:
    (tmp_path / "tokenferry.toml").write_text(f'[broker]\nurl = "{rabbit.url}"\n')
    configuration = load(tmp_path / "tokenferry.toml")
    ids = {f"request-{n}" for n in range(12)}

    class Interrupted(Publisher):
        """In the middle of a batch the broker has a hiccup."""

        submitted = 0

        def submit(self, message: Outgoing, *, timeout: float | None = None) -> Future[None]:
            future = super().submit(message, timeout=timeout)
            self.submitted += 1
            if self.submitted == 5:
                future.result(30)
                trouble(rabbit)
            return future

    with Publisher.to(configuration) as publisher:
        for id_ in sorted(ids):
            body = {"header": {"expires_at": int((time.time() + 60) * 1000)}}
            publisher.publish(Outgoing.task(parked_queue(SCOPE), TOKENIZE_TASK, id_, json.dumps([id_, body])))
    circuits = MemoryCircuits()
    with Interrupted.to(configuration) as publisher:
        carrier = ParkedRequeuer(configuration, publisher, circuits, CircuitBreaker(circuits))
        assert not carrier._move(SCOPE, probing=False), "after a hiccup nobody knows whether that was all"
        assert carrier._move(SCOPE, probing=False)
    with connecting.connect(configuration) as connection:
        queue = connecting.queue("tokenize.bulk.main", amqp=True).bind(connection.default_channel)
        back = [message.headers["id"] for message in iter(queue.get, None)]
    assert sorted(back) == sorted(ids)
    assert rabbit.take(parked_queue(SCOPE)) == []
    rabbit.empty()


@pytest.mark.parametrize(
    "body",
    [
        '"no task"',
        "[" * 5000,
        json.dumps([[json.dumps({"header": {"expires_at": 10**400}})], {}, {}]),
        json.dumps([["[" * 100_000], {}, {}]),
        json.dumps([[json.dumps({"header": {"expires_at": "nan"}})], {}, {}]),
    ],
    ids=range(5),
)
def test_what_is_not_ours_goes_back_too_and_is_set_aside_there(lot: Lot, body: str) -> None:
    lot.client.lpush(parked_queue(SCOPE), b"no message at all")
    lot.publisher.publish(Outgoing(parked_queue(SCOPE), body, {"task": "unknown", "id": "stranger"}))
    lot.park("request-1")
    assert lot.carrier._move(SCOPE, probing=False)
    assert lot.back("tokenize.bulk.main") == ["stranger", "request-1"]
