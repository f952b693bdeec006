"""What every broker promises when it is reached as our own programs reach it: the same sentences for all of them.

What only one of them promises is in `test_redis_transport.py`; what a publisher adds is in `test_publishing.py`.
"""

from __future__ import annotations

import json
import logging
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from broker.hands import Configured, Consume, Hand, consume_into, numbers, publish_into
from broker.places import KINDS, OneRedis
from e2e.brokers import RabbitMQ, SharedRedis
from e2e.house import until

from tokenferry.broker.publishing import Outgoing, Publisher
from tokenferry.broker.redis_transport.poller import RECHECK_SECONDS
from tokenferry.contract.queues import MAX_HELD_BYTES

log = logging.getLogger(__name__)

LEASE = 1.0
BACK = LEASE + 8.0
"""Seconds within which what a dead consumer had must be with another one, on a busy machine too."""


class ValkeyOfOurs(OneRedis):
    """A database of this test process's own Valkey."""

    def cut(self) -> int:
        mine = self.client.client_id()
        others = [int(one["id"]) for one in self.client.client_list() if int(one["id"]) != mine]
        return sum(self.client.client_kill_filter(_id=one) for one in others)

    def close(self) -> None:
        self.client.close()


Private = ValkeyOfOurs | SharedRedis | RabbitMQ


@pytest.fixture(scope="module", params=KINDS)
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Private]:
    """A broker whose connections are ours alone to cut."""
    made: Private
    match request.param:
        case "valkey":
            made = ValkeyOfOurs(request.getfixturevalue("valkey").database(5).redis_url)
        case "redis":
            made = SharedRedis()
        case _:
            made = RabbitMQ(tmp_path_factory.mktemp("rabbitmq"))
    yield made
    made.close()


@dataclass
class Desk:
    """A queue that nobody else uses, and everybody who works at it."""

    broker: Private
    log: Path
    queue: str = field(default_factory=lambda: f"tokenize.bulk.p{secrets.token_hex(6)}")
    consumers: list[Consume] = field(default_factory=list)
    hands: list[Hand] = field(default_factory=list)

    @property
    def amqp(self) -> bool:
        return isinstance(self.broker, RabbitMQ)

    def site(self, lease: float = LEASE) -> Configured:
        return Configured(self.broker.url, lease=lease)

    def publish(self, *bodies: object, queue: str | None = None) -> None:
        with self.site().publisher() as publisher:
            for future in [publisher.submit(Outgoing(queue or self.queue, str(body))) for body in bodies]:
                future.result(30)

    def consume(self, *queues: str, lease: float = LEASE, **options: Any) -> Consume:
        self.consumers.append(Consume(self.site(lease), *(queues or (self.queue,)), **options))
        return self.consumers[-1]

    def hand(self, work: Callable[..., None], *arguments: Any) -> Hand:
        self.hands.append(Hand(work, self.site(), self.log, self.queue, *arguments))
        return self.hands[-1]

    def written(self) -> list[int]:
        return numbers(self.log)

    def waiting(self) -> int:
        """Messages in the queue and in nobody's hand. Asked on a channel: what `rabbitmqctl` counts is seconds old."""
        if isinstance(self.broker, RabbitMQ):
            with self.broker.channel() as channel:
                return int(channel.queue_declare(self.queue, passive=True).message_count)
        return int(self.broker.client.llen(self.queue))

    def all_done(self) -> bool:
        """Whether every acknowledgement has taken effect: a quorum queue takes the last ones in its own time."""
        if isinstance(self.broker, RabbitMQ):
            return not self.broker.queues().get(self.queue)
        return not self.broker.client.llen(self.queue) + self.broker.client.hlen("unacked.tokenize")

    def left(self, *queues: str) -> list[bytes]:
        """What nobody has acknowledged, once every consumer of this process is gone."""
        for consumer in self.consumers:
            consumer.connection.release()
        return [body for queue in queues or (self.queue,) for body in self.broker.take(queue)]

    def close(self) -> None:
        for hand in self.hands:
            hand.kill()
        self.left()


@pytest.fixture
def desk(broker: Private, tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(broker, tmp_path / "log")
    yield desk
    desk.close()


# -- publishing


def test_what_was_confirmed_is_there_after_its_publisher_was_killed(desk: Desk) -> None:
    publisher = desk.hand(publish_into)
    until(lambda: len(desk.written()) >= 50, "50 confirmed messages")
    publisher.kill()
    confirmed = desk.written()
    found = [int(body) for body in desk.broker.take(desk.queue)]
    assert found[: len(confirmed)] == confirmed
    assert len(found) <= len(confirmed) + 1, "and at most the one that was on its way"


def test_a_message_of_64_kilobytes_arrives_as_it_was(desk: Desk) -> None:
    body = secrets.token_hex(32 * 1024)
    desk.publish(f'"{body}"', 1)
    assert desk.consume().drain(2) == [body, 1]


# -- consuming


def test_messages_arrive_in_the_order_in_which_they_were_published(desk: Desk) -> None:
    desk.publish(*range(600))
    assert desk.consume().drain(600) == list(range(600))
    until(desk.all_done, "every acknowledgement")
    assert desk.left() == []


def test_no_more_is_handed_out_than_was_asked_for_and_an_acknowledgement_asks_for_the_next(desk: Desk) -> None:
    desk.publish(*range(5))
    consume = desk.consume(prefetch=2, ack=False)
    consume.drain(2)
    assert consume.stay(0.3) == [0, 1]
    consume.messages[0].ack()
    assert consume.drain(3) == [0, 1, 2]
    consume.messages[1].reject()
    assert consume.drain(4) == [0, 1, 2, 3]


def test_a_queue_whose_consumers_are_all_busy_does_not_block_another_queue(desk: Desk) -> None:
    realtime = desk.queue.replace("bulk", "realtime")
    desk.publish(*range(5))
    consume = desk.consume(desk.queue, realtime, prefetch=3, ack=False)
    assert consume.drain(3) == [0, 1, 2]
    desk.publish(100, queue=realtime)
    assert consume.drain(4)[3:] == [100]
    assert consume.stay(0.3)[4:] == []
    consume.messages[0].ack()
    assert consume.drain(5)[4:] == [3]


def test_forty_queues_are_read_side_by_side(desk: Desk) -> None:
    queues = [f"{desk.queue}-{number}" for number in range(40)]
    consume = desk.consume(*queues, prefetch=2)
    for number, queue in enumerate(queues):
        desk.publish(number, queue=queue)
    assert sorted(consume.drain(40, seconds=20.0)) == list(range(40))
    assert desk.left(*queues) == []


def test_what_is_put_back_is_delivered_again_marked_and_before_what_came_later(desk: Desk) -> None:
    desk.publish(*range(4))
    consume = desk.consume(prefetch=1, ack=False)
    consume.drain(1)
    consume.messages[0].requeue()
    assert consume.drain(2) == [0, 0]
    assert consume.messages[1].delivery_info["redelivered"] is True
    for number in range(1, 5):
        consume.drain(number + 1)[-1]
        consume.messages[number].ack()
    assert consume.bodies == [0, 0, 1, 2, 3]


def test_what_is_rejected_does_not_come_back(desk: Desk) -> None:
    desk.publish(1, 2)
    consume = desk.consume(prefetch=1, ack=False)
    consume.drain(1)
    consume.messages[0].reject()
    assert consume.drain(2) == [1, 2]
    consume.messages[1].ack()
    assert desk.left() == []


def test_a_consumer_that_has_taken_all_there_was_hears_at_once_of_what_comes_next(desk: Desk) -> None:
    consume = desk.consume(ack=False)  # an acknowledgement would ask anew
    for count in range(1, 4):
        desk.publish(count)
        assert consume.drain(count, seconds=RECHECK_SECONDS / 2) == list(range(1, count + 1))


def test_a_consumer_that_stops_gives_everything_back_in_order_and_at_once(desk: Desk) -> None:
    desk.publish(*range(6))
    first = desk.consume(lease=60.0, prefetch=4, ack=False)
    first.drain(4)
    first.messages[1].ack()
    first.connection.release()
    assert desk.consume(ack=False).drain(5) == [0, 2, 3, 4, 5]


def test_waiting_takes_nothing_and_ends_with_a_timeout(desk: Desk) -> None:
    idle = desk.consume(ack=False)
    with pytest.raises(TimeoutError):
        idle.connection.drain_events(timeout=0.3)
    desk.publish(1)
    idle.connection.collect()  # it has never looked again
    assert desk.consume().drain(1, seconds=BACK) == [1]


# -- holding


def test_a_delivery_held_for_five_leases_is_in_one_hand_only(desk: Desk) -> None:
    lease = 2.0  # a machine that stands still for as long has lost it rightly
    desk.publish(1)
    holder = desk.consume(lease=lease, ack=False)
    holder.drain(1)
    other = desk.consume(lease=lease)
    assert other.stay(5 * lease) == []
    holder.messages[0].ack()
    until(desk.all_done, "every acknowledgement")
    assert desk.left() == []


def test_what_a_killed_consumer_had_comes_to_another_one(desk: Desk) -> None:
    desk.publish(*range(10))
    victim = desk.hand(consume_into, 4, 60.0)
    until(lambda: desk.waiting() == 6, "four deliveries in hand")
    victim.kill()
    survivor = desk.consume(ack=False)
    assert sorted(survivor.drain(10, seconds=BACK)) == list(range(10))
    again = [message.payload for message in survivor.messages if message.delivery_info.get("redelivered")]
    assert again == [0, 1, 2, 3]


def test_a_consumer_frozen_while_it_waits_loses_nothing_when_it_is_killed(desk: Desk) -> None:
    for round in range(3):
        victim = desk.hand(consume_into)
        desk.publish(10 * round)
        until(lambda last=10 * round: last in desk.written(), "a consumer that waits")
        victim.freeze()
        desk.publish(*range(10 * round + 1, 10 * round + 10))
        victim.kill()
    desk.hand(consume_into)
    until(lambda: set(desk.written()) == set(range(30)), "all thirty")


def test_a_consumer_frozen_with_deliveries_in_hand_loses_nothing_and_hinders_nobody_when_it_wakes(desk: Desk) -> None:
    desk.publish(*range(10))
    sleeper = desk.hand(consume_into, 4, 0.3)
    until(desk.written, "a consumer at work")
    sleeper.freeze()
    if isinstance(desk.broker, RabbitMQ):
        desk.broker.cut()  # as it would by itself once several heartbeats are missing, half a minute later
    desk.hand(consume_into)
    until(lambda: set(desk.written()) == set(range(10)), "all ten, through the other one")
    sleeper.thaw()
    desk.publish(*range(10, 20))
    until(lambda: set(desk.written()) == set(range(20)), "all twenty")


def test_killing_consumers_at_random_moments_loses_nothing(desk: Desk) -> None:
    published, enough = [], threading.Event()

    def publish(publisher: Publisher) -> None:
        for number in range(100_000):
            if enough.is_set():
                return
            publisher.publish(Outgoing(desk.queue, str(number)))
            published.append(number)

    with desk.site().publisher() as publisher:
        thread = threading.Thread(target=publish, args=(publisher,))
        thread.start()
        try:
            hands = [desk.hand(consume_into, 5, 0.001) for _ in range(2)]
            for _ in range(12):
                before = len(desk.written())
                until(lambda seen=before: len(desk.written()) > seen, "somebody at work")
                time.sleep(random.uniform(0, 0.06))
                hands.pop(0).kill()
                hands.append(desk.hand(consume_into, 5, 0.001))
        finally:
            enough.set()
            thread.join()
    until(lambda: set(desk.written()) == set(published), "every message")
    twice = Counter(desk.written())
    assert sum(twice.values()) - len(twice) <= 12 * 5, "again at most what the dead had in hand"


# -- a connection that is cut


def test_a_consumer_that_comes_back_after_a_cut_goes_on_and_loses_nothing(desk: Desk) -> None:
    desk.publish(*range(60))
    consume = desk.consume(prefetch=10, ack=False)
    seen: set[Any] = set()
    cuts = 2
    while seen != set(range(60)):
        try:
            consume.drain(1, seconds=BACK)
            message = consume.messages.pop(0)
            if len(seen) % 20 == 10 and cuts:
                desk.broker.cut()
                cuts -= 1
            message.ack()
            seen.add(message.payload)
        except consume.lost():
            consume.come_back()
    assert not cuts


def test_credit_comes_back_although_the_acknowledgement_could_not_be_written(desk: Desk) -> None:
    desk.publish(*range(8))
    consume = desk.consume(prefetch=4, ack=False)
    seen = set(consume.drain(4))
    desk.broker.cut()
    consume.ack = True
    for message in consume.messages[:4]:
        message.ack_log_error(log, consume.lost())
    deadline = time.monotonic() + 2 * BACK
    while seen != set(range(8)):
        assert time.monotonic() < deadline, seen
        try:
            consume.stay(0.2)
        except consume.lost():
            consume.come_back()
        seen |= set(consume.bodies)


def test_a_publisher_goes_on_after_a_cut_and_tells_of_nothing_that_is_not_there(desk: Desk) -> None:
    with desk.site().publisher() as publisher:
        for number in range(30):
            publisher.publish(Outgoing(desk.queue, str(number)))
            if number % 10 == 5:
                desk.broker.cut()
    assert [int(body) for body in desk.broker.take(desk.queue)] == list(range(30))


@pytest.mark.parametrize("length", [1_000, 100_000, 380_000])
def test_a_consumer_holds_so_many_bytes_and_gets_more_for_what_it_acknowledges(desk: Desk, length: int) -> None:
    """Whichever is reached first, the count or the bytes; what is beyond stays with the broker."""
    most = min(100, MAX_HELD_BYTES // length + 1)
    texts = [f'"{number:0{length}}"' for number in range(2 * most)]
    desk.publish(*texts)
    consume = desk.consume(prefetch=100, ack=False)
    least = min(100, MAX_HELD_BYTES // (length * 2))  # a Redis list has it in base64
    consume.drain(least)
    consume.stay(0.3)
    assert len(consume.messages) <= most
    assert consume.channel.is_full(desk.queue) or len(consume.messages) == 100
    for number in range(len(texts)):
        consume.drain(number + 1, seconds=30.0)
        consume.messages[number].ack()
    until(lambda: consume.wait(0.05) or desk.all_done(), "the end of the last acknowledgement")
    assert not consume.channel.is_full(desk.queue)
    assert sorted(consume.bodies) == [json.loads(text) for text in texts]


def test_long_messages_of_one_queue_hold_up_no_other(desk: Desk) -> None:
    short = f"{desk.queue}-short"
    desk.publish(*[f'"{number:0380000}"' for number in range(20)])
    consume = desk.consume(desk.queue, short, prefetch=100, ack=False)
    consume.drain(3)
    consume.stay(0.1)
    assert len(consume.messages) < 20
    desk.publish("7", queue=short)
    until(lambda: consume.wait(0.1) or 7 in consume.bodies, "the short one")
    assert len(consume.messages) < 20
    desk.left(desk.queue, short)


def test_a_message_that_is_too_long_costs_no_memory_and_holds_up_nothing(desk: Desk) -> None:
    """On Redis a note in quarantine is all that comes of it. On RabbitMQ its consumer is told what came."""
    desk.publish("1", '"' + "x" * 8_000_000 + '"', "2")
    consume = desk.consume()
    until(lambda: consume.wait(0.1) or len(consume.messages) >= (3 if desk.amqp else 2), "what can be read")
    refused = [message for message in consume.messages if getattr(message, "refused", None)]
    assert [message.payload for message in consume.messages if message not in refused] == [1, 2]
    assert [(message.refused.reason, message.length, message.body) for message in refused] == [
        ("longer than any message of ours", 8_000_002, b"")
    ] * desk.amqp
    until(lambda: consume.wait(0.05) or desk.all_done(), "the end of the last acknowledgement")
