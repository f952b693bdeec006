"""No content of a message stops a worker, fills its memory, keeps it from a good request, or leads to a call."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import amqp
import pytest
from e2e import cargo, hostile
from e2e.brokers import OnRedis, RabbitMQ
from e2e.hostile import QUEUES, SHAPES, STEERING, Hostile
from e2e.house import BrokerKind, House, Route, Worker, until

from tokenferry import Order
from tokenferry.contract.queues import DEAD_LETTERS, QUARANTINE, tokenize_queue
from tokenferry_worker.health import probes

SEED = 20261201
COUNT = 2_000
"""Hostile messages per kind of broker, beside those that have a name."""
GROWTH = 20 * 1024
"""Kilobytes by which a worker may grow."""
REALTIME = 12.0
"""Seconds for one request behind `COUNT` pieces of garbage, on a busy machine. With a round trip for each it was 19."""
EVERY = 100
"""One good request among so many hostile messages."""


class Post:
    """Publishes what no client library of ours would."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.sent = 0

    def put(self, shapes: Iterable[Hostile], queue: str) -> None:
        """Those of these that can be written at all."""
        if isinstance(self.house.broker, OnRedis):
            self._push((shape.item(queue) for shape in shapes), queue)
        else:
            self._publish((shape.message() for shape in shapes if shape.suits_amqp), queue)

    def fuzz(self, seed: int, count: int, queue: str) -> None:
        """So many of the generator."""
        if isinstance(self.house.broker, OnRedis):
            self._push(hostile.items(seed, count, queue), queue)
        else:
            self._publish(hostile.messages(seed, count), queue)

    def _push(self, items: Iterable[bytes], queue: str) -> None:
        assert isinstance(self.house.broker, OnRedis)
        with self.house.broker.client.pipeline(transaction=False) as pipe:
            for item in items:
                pipe.lpush(queue, item)
            self.sent += len(pipe.execute())

    def _publish(self, messages: Iterable[amqp.Message], queue: str) -> None:
        assert isinstance(self.house.broker, RabbitMQ)
        with self.house.broker.channel() as channel:
            for message in messages:
                channel.basic_publish(message, exchange="", routing_key=queue)
                self.sent += 1
            channel.queue_declare(queue, passive=True)  # answered behind everything that was published


def resident(pid: int, name: str = "VmHWM") -> int:
    """Kilobytes of memory that the process has; by default the most since `forget_peak`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise LookupError(name)


def forget_peak(pid: int) -> None:
    """From now on the kernel measures the peak anew (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@dataclass
class Place:
    """A worker of one process that everybody may write to: the same until the end, and hardly larger."""

    house: House
    worker: Worker
    pid: int = 0
    before: int = 0
    """Kilobytes of memory before the first hostile message."""
    called: int = 0
    """Calls that the endpoint has seen before this test."""
    noted: int = 0
    """What has been in quarantine so far."""

    @property
    def amqp(self) -> bool:
        return isinstance(self.house.broker, RabbitMQ)

    def warm(self) -> None:
        """Let it load now what is loaded at the first use."""
        route = self.house.route()
        self.house.send(cargo.cards(20, route.name))
        route.gather(20)
        self.house.until_all_is_done()
        (self.pid,) = self.worker.children()
        self.before = resident(self.pid, "VmRSS")

    def begin(self) -> None:
        """A test begins: its queues are empty."""
        assert self.house.broker.unfinished() == 0
        self.notes()
        self.called = self.house.ledger()["tokens_created"]
        forget_peak(self.pid)

    def check(self, route: Route, request_ids: list[str]) -> None:
        """Every good request has its token, nothing is left, and no call was made but theirs."""
        route.gather(len(request_ids))
        self.house.until_all_is_done()
        assert all(result.ok for result in route.of(request_ids).values())
        assert self.house.ledger()["tokens_created"] == self.called + len(request_ids)
        assert self.house.broker.take(DEAD_LETTERS) == []
        said = self.worker.said()
        assert self.worker.children() == [self.pid], "no process died"
        assert " ended with " not in said
        assert "Traceback" not in said
        assert "\nCRITICAL" not in said, "no line of the log that somebody else has written"
        grown = resident(self.pid) - self.before
        assert grown <= GROWTH, f"{grown} KB more than before"

    def set_aside(self) -> int:
        """How many messages the worker says it has moved to the quarantine."""
        return sum(
            process.report.set_aside
            for worker in probes.ask(self.house.folder / "data")
            for process in worker.processes
            if process.report is not None
        )

    def notes(self, count: int = 0) -> list[dict[str, Any]]:
        """What is in quarantine, once there are *count*. A worker does not wait for its notes."""
        found: list[bytes] = []
        until(lambda: found.extend(self.house.broker.take(QUARANTINE)) or len(found) >= count, "every note")
        self.noted += len(found)
        return [json.loads(body) for body in found]


KINDS = ("embedded", "rabbitmq", pytest.param("redis", marks=pytest.mark.again))


@pytest.fixture(scope="module", params=KINDS)
def one_place(request: pytest.FixtureRequest, house_on: Callable[[BrokerKind], House]) -> Iterator[Place]:
    house = house_on(request.param)
    house.fresh()
    with house.working() as worker:
        place = Place(house, worker)
        place.warm()
        yield place


@pytest.fixture
def place(one_place: Place) -> Place:
    one_place.begin()
    return one_place


def test_two_thousand_hostile_messages_and_the_good_requests_between_them(place: Place) -> None:
    route, post, wanted = place.house.route(), Post(place.house), []
    for number in range(COUNT // EVERY):
        post.fuzz(SEED + number, EVERY, QUEUES[number % len(QUEUES)])
        wanted += place.house.send(cargo.cards(1, route.name))
    place.check(route, wanted)
    assert len(place.notes(post.sent)) == post.sent == COUNT


@pytest.mark.campaign
@pytest.mark.any_broker
def test_ten_thousand_hostile_messages_leave_the_worker_as_it_was(place: Place) -> None:
    route, post, wanted = place.house.route(), Post(place.house), []
    counted = place.noted
    for number in range(5 * COUNT // EVERY):
        post.fuzz(2 * SEED + number, EVERY, QUEUES[number % len(QUEUES)])
        if number % 5 == 0:
            wanted += place.house.send(cargo.cards(1, route.name))
    place.check(route, wanted)
    assert 0 < len(place.notes(1)) <= post.sent == 5 * COUNT, "a note may be left out, a count is not"
    place.noted = counted + post.sent
    until(lambda: place.set_aside() == place.noted, "a report that counts them")


def test_every_known_shape_ends_in_quarantine_with_its_reason(place: Place) -> None:
    route, post = place.house.route(), Post(place.house)
    for _ in range(3):
        post.put(SHAPES.values(), QUEUES[0])
    place.check(route, place.house.send(cargo.cards(3, route.name)))
    expected = Counter(shape.reason for shape in SHAPES.values() if shape.suits_amqp or not place.amqp)
    found = place.notes(post.sent)
    assert Counter(note["reason"] for note in found) == {reason: 3 * count for reason, count in expected.items()}
    assert sum(len(json.dumps(note)) for note in found) < 3 * 800_000
    until(lambda: place.set_aside() == place.noted, "a report that counts them")


def test_a_realtime_request_does_not_wait_behind_garbage(place: Place) -> None:
    """2,000 pieces are before it in its own queue. Each takes its turn, and none a round trip."""
    route, post = place.house.route(), Post(place.house)
    post.put([SHAPES["task of somebody else"]] * COUNT, tokenize_queue("realtime", "main"))
    began = time.monotonic()
    order = Order(cargo.card(), platform="main", reply_to=route.name, lane="realtime")
    place.check(route, place.house.send([order]))
    assert time.monotonic() - began < REALTIME
    assert len(place.notes(post.sent)) == post.sent


def test_no_header_steers_a_signed_request(place: Place) -> None:
    route, wanted = place.house.route(), []
    for changed in STEERING.values():
        order = Order(cargo.card(), platform="main", reply_to=route.name)
        request_id, message = place.house.producer.sealer.message(order)
        shape = Hostile("", headers=hostile.headers(id=request_id, **changed), body=message.body.encode())
        Post(place.house).put([shape], message.queue)
        wanted.append(request_id)
    place.check(route, wanted)
    assert place.notes() == []


def test_more_long_messages_than_may_be_held_at_once_do_not_fill_the_memory(place: Place) -> None:
    """In the right form, but no envelopes; and each asks to be kept for 70 years."""
    route, post = place.house.route(), Post(place.house)
    eternal = hostile.headers(eta="2098-01-01T00:00:00+00:00")
    for queue in QUEUES[:2]:
        post.put([Hostile(hostile.READ, body=hostile.body("x" * 200_000), headers=eternal)] * 100, queue)
    place.check(route, place.house.send(cargo.cards(3, route.name)))
    assert len(place.notes(post.sent)) == post.sent


def test_a_message_whose_routing_key_is_no_text_is_noted_under_the_queue_it_came_from(place: Place) -> None:
    if not place.amqp:
        pytest.skip("only RabbitMQ has routing keys: CC brings a message to queues that its key does not name")
    route = place.house.route()
    assert isinstance(place.house.broker, RabbitMQ)
    with place.house.broker.channel() as channel:
        message = amqp.Message(hostile.body(), application_headers=hostile.headers(CC=[QUEUES[0]], task="other"))
        channel.basic_publish(message, exchange="", routing_key=b"\xff\xfe")
        channel.queue_declare(QUEUES[0], passive=True)
    place.check(route, place.house.send(cargo.cards(1, route.name)))
    assert [note["reason"] for note in place.notes(1)] == ["unknown task"]
