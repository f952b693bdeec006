"""What our Redis transport promises beyond what every broker does (`test_conformance.py`), on Valkey and on Redis."""

import base64
import bz2
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import forking
import pytest
import redis
from broker.celery_app import note
from broker.hands import Consume, numbers
from broker.places import Server
from e2e.brokers import REDIS, needs
from e2e.house import until
from faults.line import Line, Trap
from kombu import Connection, Consumer, Exchange, Message, Producer, Queue

from tokenferry.broker.redis_transport import QUARANTINE, Channel, Transport, kombu_url
from tokenferry.broker.redis_transport.keeper import Keeper
from tokenferry.broker.redis_transport.waiter import Question

LEASE = 1.0


@dataclass
class Broker:
    url: str
    client: "redis.Redis"
    prefix: str = ""
    server: Server | None = None
    name: str = field(default_factory=lambda: "t" + uuid.uuid4().hex[:8])
    opened: list[Connection] = field(default_factory=list)

    @property
    def options(self) -> dict[str, Any]:
        return {"lease_seconds": LEASE, "global_keyprefix": self.prefix, "client_name": self.name}

    def connect(self, **options: Any) -> Connection:
        self.opened.append(Connection(kombu_url(self.url), transport_options=self.options | options))
        return self.opened[-1]

    def queue(self, name: str) -> Queue:
        return Queue(name)

    def connect_stock(self) -> Connection:
        url = self.url.replace("unix://", "redis+socket://").replace("?db=", "?virtual_host=")
        self.opened.append(Connection(url, transport_options={"global_keyprefix": self.prefix}))
        return self.opened[-1]

    def publish(self, bodies: Any, queue: str = "work", connection: Connection | None = None) -> None:
        producer = Producer((connection or self.connect()).channel())
        for body in bodies:
            producer.publish(body, routing_key=queue)

    def length(self, queue: str = "work") -> int:
        return int(self.client.llen(self.prefix + queue))

    def unacked(self) -> int:
        count = int(self.client.hlen(self.prefix + "unacked"))
        return max(count, int(self.client.zcard(self.prefix + "unacked_index")))

    def connections(self) -> list[dict[str, str]]:
        return [client for client in self.client.client_list() if client["name"] == self.name]

    def cut(self) -> int:
        """Cut every connection of the transport under test, and no other."""
        clients = self.connections()
        for client in clients:
            self.client.client_kill_filter(_id=client["id"])
        return len(clients)


def finish(broker: Broker) -> None:
    for connection in broker.opened:
        connection.release()


@pytest.fixture(scope="module")
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that may be stopped and started again."""
    server = Server(tmp_path_factory.mktemp("v"), "requirepass pw")
    yield server
    server.kill()


@pytest.fixture
def valkey(own_valkey: Server) -> Iterator[Broker]:
    url = f"unix://:pw@{own_valkey.socket}?db=0"
    client = redis.Redis.from_url(url)
    client.flushall()
    broker = Broker(url, client, server=own_valkey)
    yield broker
    finish(broker)


@pytest.fixture(params=["valkey", "redis"])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    if request.param == "valkey":
        yield request.getfixturevalue("valkey")
        return
    needs(REDIS, "Redis")
    url = "redis://{}:{}/11".format(*REDIS)
    client = redis.Redis.from_url(url)
    prefix = f"test-{uuid.uuid4().hex}:"
    broker = Broker(url, client, prefix)
    yield broker
    finish(broker)
    for key in client.scan_iter(prefix + "*"):
        client.delete(key)


# -- order, credit, compatibility


def test_without_a_limit_everything_is_handed_out(broker: Broker) -> None:
    broker.publish(range(700))
    assert Consume(broker, "work", prefetch=0, ack=False).drain(700) == list(range(700))
    assert broker.unacked() == 700


def test_a_stock_producer_and_our_consumer_share_a_queue(broker: Broker) -> None:
    broker.publish(range(10), connection=broker.connect_stock())
    assert Consume(broker, "work").drain(10) == list(range(10))


def test_a_stock_message_with_a_priority_is_found_by_our_consumer(broker: Broker) -> None:
    producer = Producer(broker.connect_stock().channel())
    consume = Consume(broker, "work")
    consume.stay(0.1)
    producer.publish("later", routing_key="work", priority=6)
    assert consume.drain(1) == ["later"]


def test_our_producer_and_a_stock_consumer_share_a_queue(broker: Broker) -> None:
    broker.publish(range(10))
    assert Consume(broker, "work", connection=broker.connect_stock()).drain(10) == list(range(10))


def test_a_stock_consumer_can_give_back_what_ours_has_left(broker: Broker) -> None:
    broker.publish(["left"])
    Consume(broker, "work", ack=False).drain(1)
    stock = Consume(broker, "work", connection=broker.connect_stock())
    [tag] = broker.client.hkeys(broker.prefix + "unacked")
    stock.channel.qos.restore_by_tag(tag.decode())
    assert stock.drain(1) == ["left"]
    assert stock.messages[0].delivery_info["redelivered"] is True


def test_a_delivery_held_by_a_stock_consumer_is_left_alone(broker: Broker) -> None:
    broker.publish(["slow"])
    stock = Consume(broker, "work", connection=broker.connect_stock(), ack=False)
    stock.drain(1)
    assert Consume(broker, "work").stay(1.5 * LEASE) == []


def test_two_messages_with_the_same_delivery_tag_are_both_delivered(broker: Broker) -> None:
    broker.publish(["twin"])
    broker.client.lpush(broker.prefix + "work", broker.client.lindex(broker.prefix + "work", 0))
    consume = Consume(broker, "work", ack=False)
    assert consume.drain(2) == ["twin", "twin"]
    assert broker.unacked() == 2
    for message in consume.messages:
        message.ack()
    consume.stay(0.05)
    assert broker.unacked() == 0


UNREADABLE = {
    "no JSON": b"SECRET",
    "a list": b'["SECRET"]',
    "no properties": b'{"body": "SECRET"}',
    "no UTF-8": b"\xff\xfe SECRET",
    "no UTF-8 in it": b'{"properties": {}, "body": "\xff SECRET"}',
    "deeper than any reader": b'{"properties": {}, "body": ' + b"[" * 3000 + b'"SECRET"' + b"]" * 3000 + b"}",
    "deep enough for the server only": b'{"properties": {}, "body": ' + b"[" * 900 + b'"SECRET"' + b"]" * 900 + b"}",
    "a number of 5,000 digits": b'{"properties": {}, "SECRET": ' + b"9" * 5000 + b"}",
    "properties a text": b'{"properties": "SECRET", "body": "W10="}',
    "headers a list": b'{"properties": {}, "headers": ["SECRET"], "body": "W10="}',
    "encoding a list": b'{"properties": {}, "content-encoding": ["SECRET"], "body": "W10="}',
    "body no base64": b'{"properties": {"body_encoding": "base64"}, "body": "SECRET?"}',
    "body a number": b'{"properties": {"body_encoding": "base64"}, "body": 5, "SECRET": 1}',
    "body encoding unknown": b'{"properties": {"body_encoding": "SECRET"}, "body": "W10="}',
    "body encoding a list": b'{"properties": {"body_encoding": ["SECRET"]}, "body": "W10="}',
    "half a megabyte of lists": b'{"properties": {}, "body": "W10=", "SECRET": [' + b"[]," * 170_000 + b"0]}",
    "too long": b'{"properties": {"body_encoding": "base64"}, "body": "' + b"SECRET" * 100_000 + b'"}',
}


@pytest.mark.parametrize("queue", ["work", "tokenize.realtime.main"])
def test_of_what_nobody_can_read_a_note_is_kept_and_no_content_and_the_rest_goes_on(
    broker: Broker, caplog: pytest.LogCaptureFixture, queue: str
) -> None:
    broker.publish([1], queue=queue)
    for payload in UNREADABLE.values():
        broker.client.lpush(broker.prefix + queue, payload)
    broker.publish([2], queue=queue)
    assert Consume(broker, queue).drain(2) == [1, 2]
    until(lambda: broker.unacked() == 0, "every acknowledgement")
    kept = [json.loads(entry) for entry in broker.client.lrange(broker.prefix + QUARANTINE, 0, -1)]
    assert sorted(note["bytes"] for note in kept) == sorted(map(len, UNREADABLE.values()))
    assert {note["reason"] for note in kept} == {"undecodable message", "longer than any message of ours"}
    assert {note["message"] for note in kept} == {""}
    assert all(abs(note["at"] / 1000 - time.time()) < 600 for note in kept if "at" in note)
    assert "not readable" in caplog.text
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize("header", ["bzip2", "zlib", "nothing we know", ["zlib"], 5])
def test_nothing_is_inflated(broker: Broker, header: object) -> None:
    body = bz2.compress(b"0" * 1_000_000)
    message = {
        "body": base64.b64encode(body).decode(),
        "headers": {"compression": header},
        "content-type": "application/octet-stream",
        "content-encoding": "binary",
        "properties": {"body_encoding": "base64", "priority": [], "delivery_info": "nowhere", "reply_to": {}},
    }
    broker.client.lpush(broker.prefix + "work", json.dumps(message))
    consume = Consume(broker, "work", ack=False)
    until(lambda: consume.wait(0.1) or consume.messages, "the message")
    (message,) = consume.messages
    assert message.body == body
    assert message.delivery_info == {"exchange": "", "routing_key": "work"}


def test_a_get_passes_by_what_is_unreadable(broker: Broker) -> None:
    for payload in (b"no message", b'{"properties": 1}', b'{"properties": {}, "body": 5}'):
        broker.client.lpush(broker.prefix + "work", payload)
    broker.publish(["readable"])
    channel = broker.connect().channel()
    assert channel.basic_get("work", no_ack=True).payload == "readable"
    assert channel.basic_get("work") is None


def test_what_cannot_be_given_back_keeps_nothing_else_from_it(broker: Broker) -> None:
    """Whoever may write to the register writes what he likes; his lease is over, too."""
    broker.publish([1])
    lost = Consume(broker, "work", ack=False)
    lost.drain(1)
    register, index = broker.prefix + "unacked", broker.prefix + "unacked_index"
    foreign = [b"[ 5", b'[ {"properties": {}},"",["a list"]]', b"[ " + b"[" * 5000, b'[ {"properties": {}},{},5]']
    for number, value in enumerate([*foreign, b"[ " + b"x" * 2_000_000]):
        broker.client.hset(register, f"foreign-{number}", value)
        broker.client.zadd(index, {f"foreign-{number}": 1.0 + number})
    lost.channel._keeper.stop()
    other = Consume(broker, "work")
    assert other.drain(1, seconds=30) == [1]
    until(lambda: broker.client.hlen(register) == 0, "an empty register")
    kept = [json.loads(entry) for entry in broker.client.lrange(broker.prefix + QUARANTINE, 0, -1)]
    assert [note["message"] for note in kept] == [""] * (len(foreign) + 1)


# -- registers


TOKENIZE = "tokenize.bulk.main"


def registers(broker: Broker) -> dict[str, int]:
    """How much is in each register."""
    keys = [key.decode().removeprefix(broker.prefix) for key in broker.client.scan_iter(broker.prefix + "unacked*")]
    return {key: int(broker.client.hlen(broker.prefix + key)) for key in keys if "index" not in key}


def held_by_nobody(broker: Broker, register: str, queue: str, body: str, *, tag: str, exchange: str = "") -> None:
    """Write what the version before has in its hand when it dies, or what anybody with a right on it may write."""
    broker.publish([body], queue="template")
    payload = broker.client.rpop(broker.prefix + "template").decode()
    value = f"[ {payload},{json.dumps(exchange)},{json.dumps(queue)}]"
    broker.client.hset(broker.prefix + register, tag, value)
    broker.client.zadd(broker.prefix + register.replace("unacked", "unacked_index", 1), {tag: 1.0})


def test_each_role_and_each_route_has_a_register_of_its_own(broker: Broker) -> None:
    queues = [TOKENIZE, "tokenize.realtime.paced", "attach.bulk.main", "results.shop", "results.shop-2", "work"]
    for queue in queues:
        broker.publish([queue], queue=queue)
    consume = Consume(broker, *queues, ack=False)
    consume.drain(6)
    expected = {"tokenize": 2, "attach": 1, "results.shop": 1, "results.shop-2": 1}
    assert registers(broker) == {f"unacked.{name}": count for name, count in expected.items()} | {"unacked": 1}
    for message in consume.messages:
        message.ack()
    until(lambda: registers(broker) == {}, "every acknowledgement")


def test_what_the_version_before_had_in_hand_is_given_back_by_the_workers(broker: Broker) -> None:
    tag = f"{uuid.uuid4().hex}@{LEASE:g}:1700000000123456:2"
    for number, queue in enumerate((TOKENIZE, "results.shop", "attach.bulk.main", "onboard.main")):
        held_by_nobody(broker, "unacked", queue, queue, tag=f"{tag}{number}")
    held_by_nobody(broker, "unacked.parked", "parked.main.bcff8e96", "parked", tag=f"{tag}/parked")
    consume = Consume(broker, TOKENIZE)
    assert consume.drain(1) == [TOKENIZE]
    others = ("results.shop", "attach.bulk.main", "onboard.main", "parked.main.bcff8e96")
    until(lambda: [broker.length(queue) for queue in others] == [1] * 4, "the others in their queues")
    until(lambda: registers(broker) == {}, "empty registers")


def test_a_reader_gives_back_from_the_register_of_its_route_alone(broker: Broker) -> None:
    held_by_nobody(broker, "unacked", "results.shop", "old", tag="a@1:1:1")
    held_by_nobody(broker, "unacked.results.shop-2", "results.shop-2", "foreign", tag="b@1:1:1/results.shop-2")
    held_by_nobody(broker, "unacked.results.shop", "results.shop", "own", tag="c@1:1:1/results.shop")
    reader = Consume(broker, "results.shop")
    assert reader.drain(1) == ["own"]
    assert reader.stay(LEASE) == ["own"]
    assert registers(broker) == {"unacked": 1, "unacked.results.shop-2": 1}


@pytest.mark.parametrize("register", ["unacked", "unacked.tokenize"])
def test_an_entry_with_a_queue_of_another_family_is_set_aside_alone(
    broker: Broker, caplog: pytest.LogCaptureFixture, register: str
) -> None:
    foreign = ["dead-letters", "quarantine", "tokenferry:changes", "tokenize.other.main", "unacked", "parked.main", ""]
    foreign += ["results.shop", "attach.bulk.main", "work"] if register != "unacked" else []
    for number, queue in enumerate(foreign):
        held_by_nobody(broker, register, queue, "SECRET", tag=f"f{number}@1:1:1")
    held_by_nobody(broker, register, TOKENIZE, "ours", tag="g@1:1:1")
    held_by_nobody(broker, register, "tokenize.bulk.of-another-worker", "ours", tag="h@1:1:1")
    assert Consume(broker, TOKENIZE).drain(1) == ["ours"]
    until(lambda: broker.length(QUARANTINE) == len(foreign), "a note of each")
    notes = [json.loads(entry) for entry in broker.client.lrange(broker.prefix + QUARANTINE, 0, -1)]
    assert {(note["reason"], note["message"]) for note in notes} == {
        ("a delivery of a queue that does not belong to its register", "")
    }
    until(lambda: broker.length("tokenize.bulk.of-another-worker") == 1, "that of another worker")
    assert [broker.length(queue) for queue in foreign if queue not in ("quarantine", "unacked", "")] == [0] * (
        len(foreign) - 3
    )
    until(lambda: registers(broker) == {}, "empty registers")
    assert "cannot be given back" in caplog.text
    assert "SECRET" not in caplog.text


def test_what_a_stock_consumer_of_ours_has_left_is_given_back_and_that_of_others_is_left_to_them(
    broker: Broker,
) -> None:
    held_by_nobody(broker, "unacked", "somebody", "theirs", tag="00000", exchange="media")
    held_by_nobody(broker, "unacked", TOKENIZE, "ours", tag="ours")
    theirs, ours = broker.client.hmget(broker.prefix + "unacked", "00000", "ours")
    tags = [f"{number:05}" for number in range(600)]  # more than one look
    stock = dict.fromkeys(tags, b"[" + theirs[2:]) | {"ours": b"[" + ours[2:]}  # as the stock transport writes it
    broker.client.hset(broker.prefix + "unacked", mapping=stock)
    broker.client.zadd(broker.prefix + "unacked_index", dict.fromkeys(tags, 1.0))
    broker.client.zadd(broker.prefix + "unacked_index", {"ours": 0.5})
    assert Consume(broker, TOKENIZE).drain(1) == ["ours"]
    until(lambda: registers(broker) == {"unacked": 600}, "the acknowledgement")
    assert broker.length("somebody") == 0


def test_a_list_that_may_not_be_written_stops_no_other_entry_and_is_an_error_until_it_may(
    valkey: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    rights = ("on", ">pw", "allchannels", "+@all", "~tokenize.bulk.main*", "~unacked*", "~quarantine", "~parked.*")
    valkey.client.execute_command("ACL", "SETUSER", "narrow", *rights)
    valkey.client.lpush("work", "no message")
    for number in range(20):
        queue = "tokenize.bulk.other" if number % 2 else TOKENIZE
        held_by_nobody(valkey, "unacked.tokenize", queue, str(number), tag=f"{number}@1:1:1/tokenize")
    valkey.url = valkey.url.replace("//:pw@", "//narrow:pw@")
    consume = Consume(valkey, TOKENIZE)
    assert sorted(consume.drain(10), key=int) == [str(number) for number in range(0, 20, 2)]
    until(lambda: consume.channel.is_refused_to_reap, "the refusal")

    def said() -> list[str]:
        return [record.levelname for record in caplog.records if record.getMessage().startswith("giving back")]

    consume.stay(2 * LEASE)
    assert said() == ["ERROR"]
    assert valkey.client.hlen("unacked.tokenize") == 10
    valkey.client.execute_command("ACL", "SETUSER", "narrow", "~tokenize.*")
    until(lambda: not consume.channel.is_refused_to_reap, "the end of it")
    until(lambda: valkey.length("tokenize.bulk.other") == 10, "the others")
    assert said() == ["ERROR", "WARNING"]


def test_reading_the_quarantine_itself_passes_by_what_is_unreadable(valkey: Broker) -> None:
    valkey.client.lpush(QUARANTINE, b"SECRET", b"not json either")
    channel = valkey.connect().channel()
    assert channel.basic_get(QUARANTINE) is None
    valkey.publish(["readable"], queue=QUARANTINE)
    assert channel.basic_get(QUARANTINE, no_ack=True).payload == "readable"
    assert sorted(valkey.client.lrange(QUARANTINE, 0, -1)) == [b"SECRET", b"not json either"]


def test_a_get_repeated_because_its_answer_was_lost_loses_nothing(valkey: Broker) -> None:
    assert valkey.server is not None
    line = Line(valkey.server.socket)
    try:
        far = Broker(f"redis://:pw@127.0.0.1:{line.port}/0", valkey.client)
        channel = far.connect().channel()
        valkey.publish([1, 2])
        channel.basic_get("nothing here")  # connected, and the script is known
        lost = line.set_trap(Trap(re.compile(rb"work"), direction="answered"))
        assert channel.basic_get("work").payload == 2
        assert lost.sprung.is_set()
        assert Consume(valkey, "work").drain(1, seconds=LEASE + 4) == [1]
        finish(far)
    finally:
        line.close()


def test_get_fetches_one_message_without_waiting(broker: Broker) -> None:
    channel = broker.connect().channel()
    assert channel.basic_get("work") is None
    broker.publish([1, 2])
    channel.basic_get("work").ack()
    assert channel.basic_get("work", no_ack=True).payload == 2
    until(lambda: broker.unacked() == 0, "every acknowledgement")


def test_a_consumer_without_acknowledgements_leaves_nothing_behind(broker: Broker) -> None:
    broker.publish(range(50))
    consume = Consume(broker, "work", prefetch=5, ack=False)
    consume.consumer.cancel()
    consume.consumer.consume(no_ack=True)
    consume.drain(50)
    until(lambda: broker.unacked() == 0, "every acknowledgement")


def test_a_broadcast_reaches_every_consumer(broker: Broker) -> None:
    everyone = Exchange("everyone", type="fanout")
    got: list[Any] = []
    connections = [broker.connect(), broker.connect()]
    for number, connection in enumerate(connections):
        queue = Queue(f"{broker.name}-{number}", everyone, auto_delete=True)
        Consumer(connection.channel(), [queue], callbacks=[lambda body, message: got.append(body)]).consume()
        with contextlib.suppress(socket.timeout):
            connection.drain_events(timeout=0.05)
    Producer(broker.connect().channel(), everyone).publish("hear", declare=[everyone])
    for connection in connections:
        connection.drain_events(timeout=2)
    assert got == ["hear", "hear"]


# -- waiting


def test_a_waiting_consumer_is_woken_within_20_milliseconds(broker: Broker) -> None:
    consume = Consume(broker, "work")
    producer = Producer(broker.connect().channel())
    sent: list[float] = []

    def send() -> None:
        sent.append(time.monotonic())
        producer.publish("now", routing_key="work")

    delays = []
    for round in range(9):
        consume.stay(0.03)
        timer = threading.Timer(0.03, send)
        timer.start()
        consume.drain(round + 1)
        delays.append(time.monotonic() - sent[-1])
        timer.join()
    assert min(delays) < 0.02, "not by looking every now and then; the others may have waited for the machine"


def test_draining_ends_with_a_timeout_after_the_time_asked_for(broker: Broker) -> None:
    consume = Consume(broker, "work")
    started = time.monotonic()
    with pytest.raises(socket.timeout):
        consume.connection.drain_events(timeout=0.5)
    assert time.monotonic() - started >= 0.5


def test_an_idle_consumer_costs_next_to_nothing(valkey: Broker) -> None:
    others = set(threading.enumerate()) - {threading.current_thread()}
    consume = Consume(valkey, "a", "b", "c", connection=valkey.connect(lease_seconds=8))
    consume.stay(0.2)
    clocks = [time.pthread_getcpuclockid(each.ident) for each in set(threading.enumerate()) - others if each.ident]
    valkey.client.config_resetstat()
    cpu = sum(map(time.clock_gettime, clocks))
    consume.stay(2)
    assert sum(map(time.clock_gettime, clocks)) - cpu < 0.02, "less than 1 % of a core"
    calls = sum(stats["calls"] for stats in valkey.client.info("commandstats").values())
    assert calls < 2 * 20


# -- acknowledgements


def test_a_message_may_be_acknowledged_from_another_thread_and_the_next_one_comes_at_once(broker: Broker) -> None:
    broker.publish(range(20))
    consume = Consume(broker, "work", prefetch=1, ack=False)
    started = time.monotonic()
    for number in range(20):
        consume.drain(number + 1)
        threading.Timer(0.02, consume.messages[number].ack).start()
    assert time.monotonic() - started < 3
    until(lambda: broker.unacked() == 0, "every acknowledgement")


def test_an_acknowledgement_is_written_even_when_nobody_drains(broker: Broker) -> None:
    broker.publish([1])
    consume = Consume(broker, "work", ack=False)
    consume.drain(1)
    consume.messages[0].ack()
    until(lambda: broker.unacked() == 0, "every acknowledgement", seconds=0.5)


def test_rejected_messages_come_back_first_and_marked(broker: Broker) -> None:
    broker.publish(range(4))
    consume = Consume(broker, "work", prefetch=2, ack=False)
    consume.drain(2)
    consume.messages[0].reject()
    consume.messages[1].requeue()
    assert consume.drain(4)[2:] == [1, 2]
    assert consume.messages[2].delivery_info["redelivered"] is True
    assert "redelivered" not in consume.messages[3].delivery_info


def test_a_channel_that_never_consumed_gives_nothing_back_and_closes(broker: Broker) -> None:
    channel = broker.connect().channel()
    channel.basic_qos(0, 5, False)
    channel.close()


def test_recover_gives_everything_back(broker: Broker) -> None:
    broker.publish(range(3))
    consume = Consume(broker, "work", ack=False)
    consume.drain(3)
    consume.channel.basic_recover(requeue=True)
    assert consume.drain(6)[3:] == [0, 1, 2]


def test_a_consumer_that_raises_keeps_the_rest_of_what_was_taken(broker: Broker) -> None:
    broker.publish(range(5))
    consume = Consume(broker, "work")
    take, consume.take = consume.take, None
    failures = [ZeroDivisionError()]

    def fail_once(message: Message) -> None:
        take(message)
        if failures:
            raise failures.pop()

    consume.consumer.on_message = fail_once
    with pytest.raises(ZeroDivisionError):
        consume.drain(5)
    assert consume.drain(5) == list(range(5))


# -- leases


def test_what_a_lost_holder_had_comes_to_another_consumer_first_in_line(broker: Broker) -> None:
    broker.publish(range(10))
    holder = Consume(broker, "work", prefetch=4, ack=False)
    holder.drain(4)
    holder.channel._keeper.stop()  # as when its process dies
    channel = broker.connect().channel()
    channel.basic_get("nothing here")  # a keeper without a consumer, so that the order can be seen
    channel._register.use("work")
    until(lambda: broker.length() == 10, "all ten in the queue")
    assert Consume(broker, "work").drain(10) == list(range(10))


def test_a_delivery_is_left_alone_for_the_lease_of_its_holder_whatever_the_lease_of_who_looks(broker: Broker) -> None:
    broker.publish(["held"])
    patient = Consume(broker, "work", ack=False, connection=broker.connect(lease_seconds=60 * LEASE))
    patient.drain(1)
    assert Consume(broker, "work").stay(4 * LEASE) == []
    assert patient.bodies == ["held"]


def test_a_holder_that_was_frozen_too_long_does_not_take_the_message_from_its_new_owner(broker: Broker) -> None:
    broker.publish(["contested"])
    frozen = Consume(broker, "work", ack=False)
    frozen.drain(1)
    frozen.channel._keeper.stop()
    owner = Consume(broker, "work", ack=False)
    owner.drain(1, seconds=LEASE + 4)
    assert owner.messages[0].delivery_info["redelivered"] is True
    owner.messages[0].requeue()
    frozen.channel.renew()
    frozen.messages[0].ack()
    assert owner.drain(2) == ["contested", "contested"]


def freeze_until_another_has_it(broker: Broker) -> tuple[Consume, Consume]:
    """Who held the one message and slept, and who holds it now."""
    broker.publish(["contested"])
    frozen = Consume(broker, "work", ack=False)
    frozen.drain(1)
    frozen.channel._keeper.stop()
    owner = Consume(broker, "work", ack=False)
    owner.drain(1, seconds=LEASE + 4)
    return frozen, owner


@pytest.mark.parametrize("late", ["acknowledges", "requeues", "renews and acknowledges", "renews and requeues"])
def test_whatever_a_late_holder_does_the_message_stays_with_its_new_owner(broker: Broker, late: str) -> None:
    frozen, owner = freeze_until_another_has_it(broker)
    if "renews" in late:
        frozen.channel.renew()
    if "requeues" in late:
        frozen.messages[0].requeue()
    else:
        frozen.messages[0].ack()
        frozen.channel.write_acks()
    assert (broker.length(), broker.unacked()) == (0, 1)
    assert owner.stay(1.5 * LEASE) == ["contested"]
    assert owner.channel.qos.held() == [owner.messages[0].delivery_tag]


def test_a_late_holder_does_not_keep_alive_what_its_new_owner_has_left(broker: Broker) -> None:
    frozen, owner = freeze_until_another_has_it(broker)
    owner.channel._keeper.stop()
    third = Consume(broker, "work")
    deadline = time.monotonic() + LEASE + 4
    while not third.messages:
        assert time.monotonic() < deadline
        assert list(frozen.channel._register.renew([frozen.messages[0].delivery_tag]))
        third.stay(LEASE / 5)


def test_a_server_without_memory_renews_all_the_same_so_nobody_else_is_given_what_is_in_hand(valkey: Broker) -> None:
    valkey.publish([1])
    holder = Consume(valkey, "work", ack=False)
    holder.drain(1)
    other = Consume(valkey, "work", ack=False)
    valkey.client.config_set("maxmemory", 1)
    try:
        assert other.stay(2.5 * LEASE) == []
    finally:
        valkey.client.config_set("maxmemory", 0)
    assert other.stay(LEASE) == []
    assert holder.channel.qos.held() == [holder.messages[0].delivery_tag]


@contextmanager
def without_a_right(valkey: Broker) -> Iterator[None]:
    valkey.client.execute_command("ACL", "SETUSER", "worker", "-evalsha")
    yield
    valkey.client.execute_command("ACL", "SETUSER", "worker", "+evalsha")


@contextmanager
def a_replica(valkey: Broker) -> Iterator[None]:
    valkey.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    yield
    valkey.client.execute_command("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize(
    ("refusing", "kind", "cure"),
    [
        (without_a_right, "NOPERM", "give the user the rights that docs/brokers.md lists"),
        (a_replica, "READONLY", "name the primary in [broker] url"),
    ],
)
def test_leases_that_the_server_refuses_to_renew_are_told_with_the_cure_and_so_is_the_end(
    valkey: Broker, caplog: pytest.LogCaptureFixture, refusing: Any, kind: str, cure: str
) -> None:
    valkey.client.execute_command("ACL", "SETUSER", "worker", "on", ">pw", "allkeys", "allchannels", "+@all")
    valkey.url = valkey.url.replace("//:pw@", "//worker:pw@")
    valkey.publish([1])
    holder = Consume(valkey, "work", ack=False)
    holder.drain(1)

    def said() -> list[str]:
        return [line for line in caplog.messages if line.startswith("renewing the leases")]

    def refusals() -> int:
        scripts = valkey.client.info("commandstats")["cmdstat_evalsha"]
        return int(scripts["rejected_calls"]) + int(scripts["failed_calls"])

    with refusing(valkey):
        until(said, "a line about the leases")
        many = refusals() + 10
        until(lambda: refusals() > many, "many refusals more")
        (line,) = said()
    assert f"({kind})" in line
    assert cure in line
    assert "other consumers get them too" in line
    until(lambda: len(said()) == 2, "a line about the end")
    assert "works again" in said()[1]
    assert {record.levelname for record in caplog.records if record.getMessage() in said()} == {"WARNING"}


def test_a_server_that_does_not_answer_for_a_lease_is_told_because_deliveries_go_to_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Silent:
        """A channel whose server does not answer."""

        lease_seconds = 0.2
        troubled = False

        def renew(self) -> None:
            raise redis.TimeoutError

        write_acks = reap = renew

    keeper = Keeper(Silent())
    keeper.start()
    until(lambda: "did not answer in time" in caplog.text, "a line about the silence")
    keeper.stop()
    assert len(caplog.messages) == 1, "one cause, one line"


def test_an_acknowledgement_on_a_connection_that_fell_silent_is_written_over_another_one_in_time(
    valkey: Broker,
) -> None:
    assert valkey.server is not None
    line = Line(valkey.server.socket)
    try:
        far = Broker(f"redis://:pw@127.0.0.1:{line.port}/0", valkey.client)
        valkey.publish([1])
        holder = Consume(far, "work", ack=False, prefetch=1)
        holder.drain(1)
        other = Consume(valkey, "work", ack=False)
        message = holder.messages[0]
        silent = line.set_trap(Trap(re.compile(re.escape(message.delivery_tag.encode()))))
        with ThreadPoolExecutor() as pool:
            message.ack()
            waiting = pool.submit(holder.stay, 3 * LEASE)  # the take that carries it goes out from here
            assert silent.sprung.wait(LEASE)
            until(lambda: valkey.unacked() == 0, "the acknowledgement", 2 * LEASE)
            assert other.stay(1.5 * LEASE) == []
            waiting.result()
        finish(far)
    finally:
        line.close()


# -- a broker that goes away


def test_cutting_all_connections_in_the_middle_of_work_loses_and_repeats_nothing(broker: Broker) -> None:
    broker.publish(range(300))
    consume = Consume(broker, "work", prefetch=10, ack=False)
    for done in range(0, 300, 10):
        consume.drain(done + 10)
        if done % 60 == 0:
            assert broker.cut() >= 1
        for message in consume.messages[done : done + 10]:
            message.ack()
    assert consume.stay(0.5) == list(range(300))
    until(lambda: broker.unacked() == 0, "every acknowledgement")


def test_a_flushed_script_cache_is_noticed_and_refilled(valkey: Broker) -> None:
    consume = Consume(valkey, "work")
    valkey.publish([1])
    consume.drain(1)
    valkey.client.script_flush()
    valkey.publish([2])
    assert consume.drain(2) == [1, 2]
    until(lambda: valkey.unacked() == 0, "every acknowledgement")


@pytest.mark.parametrize("away", [0.0, 3 * LEASE], ids=["briefly", "longer-than-the-lease"])
def test_acknowledging_while_the_broker_is_away_returns_the_credit_and_is_written_later(
    valkey: Broker, away: float
) -> None:
    assert valkey.server is not None
    valkey.publish(range(8))
    consume = Consume(valkey, "work", prefetch=4, ack=False)
    consume.drain(4)
    valkey.server.kill()
    for message in consume.messages:
        message.ack()
    assert consume.channel.qos.credit("work").messages == 4
    if away:
        with pytest.raises(consume.connection.connection_errors):
            consume.stay(away)
        consume.connection.collect()
    valkey.server.start()
    if away:
        consume = Consume(valkey, "work", ack=False)
        assert consume.drain(4) == [4, 5, 6, 7]
    else:
        assert consume.drain(8)[4:] == [4, 5, 6, 7]
    until(lambda: valkey.unacked() == 4, "the other acknowledgements")
    assert consume.stay(1.5 * LEASE)[8:] == []


def test_what_is_being_acknowledged_is_not_given_back_as_overdue(broker: Broker) -> None:
    """As after an absence longer than a lease, when the take that carries the acknowledgement is on its way."""
    channel = broker.connect().channel()
    channel.basic_get("nothing here")
    channel._register.use("work")
    channel._keeper.stop()
    channel._keeper.join(30)
    broker.publish([1, 2])
    gone = Consume(broker, "work", ack=False, prefetch=2)
    gone.drain(2)
    gone.channel._keeper.stop()
    first = gone.messages[0].delivery_tag
    index = broker.prefix + "unacked_index"
    until(lambda: broker.client.zcount(index, 0, time.time() - LEASE) == 2, "two that are overdue")
    channel._waiter._asked = Question(time.monotonic(), {}, [first])
    channel.reap()
    channel._waiter._asked = None
    assert broker.length() == 1, "the other one"
    assert [tag.decode() for tag in broker.client.hkeys(broker.prefix + "unacked")] == [first]


def test_nothing_is_given_back_before_what_was_acknowledged_is_written() -> None:
    did: list[str] = []
    reaped = threading.Event()

    class Channel:
        """Its server comes back after the fifth try to write."""

        lease_seconds = 0.2
        troubled = False

        def renew(self) -> None: ...

        def write_acks(self) -> None:
            did.append("written" if len(did) >= 5 else "refused")
            if did[-1] == "refused":
                raise redis.ConnectionError

        def reap(self) -> None:
            did.append("reaped")
            reaped.set()

    keeper = Keeper(Channel())
    keeper.start()
    assert reaped.wait(30)
    keeper.stop()
    assert did.index("written") < did.index("reaped")


def test_a_message_acknowledged_after_its_channel_was_lost_is_not_delivered_again(valkey: Broker) -> None:
    assert valkey.server is not None
    valkey.publish([1])
    consume = Consume(valkey, "work", ack=False)
    consume.drain(1)
    valkey.server.kill()
    consume.connection.collect()
    valkey.server.start()
    consume.messages[0].ack()
    assert Consume(valkey, "work").stay(1.5 * LEASE) == []
    assert valkey.unacked() == 0


def test_a_consumer_survives_a_broker_that_comes_back_empty(valkey: Broker) -> None:
    assert valkey.server is not None
    valkey.publish(range(4))
    consume = Consume(valkey, "work", prefetch=2, ack=False)
    consume.drain(2)
    valkey.server.kill()
    valkey.server.start()
    valkey.client.flushall()
    until(lambda: (credit := consume.channel.qos.credit("work")) and credit.messages == 2, "the credit")
    valkey.publish(["new"])
    assert consume.drain(3)[2:] == ["new"]


def test_a_full_broker_hands_out_again_once_there_is_room(valkey: Broker) -> None:
    valkey.publish([1])
    valkey.client.config_set("maxmemory", 1)
    try:
        consume = Consume(valkey, "work")
        assert consume.stay(0.5) == []
    finally:
        valkey.client.config_set("maxmemory", 0)
    assert consume.drain(1) == [1]


# -- addresses


@pytest.mark.parametrize(
    ("url", "ours"),
    [
        ("redis://:pw@h:6379/3", "tokenferry://:pw@h:6379/3"),
        ("rediss://u:pw@h:6379/3", "tokenferrys://u:pw@h:6379/3"),
        ("unix:///run/s", "tokenferry+socket:///run/s"),
        ("unix://:pw@/run/s?db=3", "tokenferry+socket://:pw@/run/s?virtual_host=3"),
        ("redis+socket://:pw@/run/s?virtual_host=3", "tokenferry+socket://:pw@/run/s?virtual_host=3"),
        ("tokenferry://h", "tokenferry://h"),
    ],
)
def test_a_plain_redis_address_is_turned_into_ours(url: str, ours: str) -> None:
    assert kombu_url(url) == ours


def test_a_socket_address_carries_password_and_database_and_does_not_show_the_password(valkey: Broker) -> None:
    connection = Connection(kombu_url(valkey.url.replace("db=0", "db=5")))
    channel = connection.channel()
    assert isinstance(channel, Channel)
    assert isinstance(connection.transport, Transport)
    Producer(channel).publish("five", routing_key="q")
    assert valkey.client.info("keyspace") == {"db5": pytest.approx(valkey.client.info("keyspace")["db5"])}
    assert "pw" not in connection.as_uri()
    connection.release()


def test_an_unknown_kind_of_address_is_refused() -> None:
    with pytest.raises(ValueError, match="amqp"):
        kombu_url("amqp://guest@h")


def test_the_encrypted_address_uses_tls() -> None:
    connection = Connection(kombu_url("rediss://127.0.0.1:1/0"))
    assert issubclass(connection.transport.Channel.connection_class, redis.SSLConnection)


# -- a real Celery worker


@contextlib.contextmanager
def celery_worker(broker: Broker, log: Path, pool: str = "threads") -> Iterator[subprocess.Popen[bytes]]:
    celery = "from celery.__main__ import main; main()"
    command = [sys.executable, "-c", celery, "-A", "broker.celery_app", "worker", "-P", pool, "-c", "4", "-l", "info"]
    command += ["--without-mingle", "--without-gossip", "--without-heartbeat"]
    environment = {
        "TRANSPORT_TEST_BROKER": kombu_url(broker.url),
        "TRANSPORT_TEST_OPTIONS": json.dumps(broker.options),
        "TRANSPORT_TEST_LOG": str(log),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    with log.with_suffix(".worker").open("ab") as output:
        worker = forking.start(
            command, env=os.environ | environment, stdout=output, stderr=output, cwd=log.parent, start_new_session=True
        )
    try:
        yield worker
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


def send_tasks(broker: Broker, numbers: range, seconds: float = 0.0) -> None:
    with broker.connect() as connection, Producer(connection.channel()) as producer:
        for number in numbers:
            note.apply_async((number, seconds), producer=producer, queue="celery")


def test_a_celery_worker_with_our_address_runs_500_tasks_through_kills_and_a_warm_shutdown(
    valkey: Broker, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    sender = threading.Thread(target=send_tasks, args=(valkey, range(500), 0.005))
    sender.start()
    with celery_worker(valkey, log) as worker:
        until(lambda: len(numbers(log)) >= 50, "fifty finished")
        worker.terminate()
        worker.wait(timeout=60)
    assert valkey.unacked() == 0
    finished = numbers(log)
    for enough in (150, 250):
        with celery_worker(valkey, log):
            until(lambda enough=enough: len(numbers(log)) >= enough, "enough")
    sender.join()
    with celery_worker(valkey, log):
        until(lambda: set(numbers(log)) == set(range(500)), "all 500")
        until(lambda: valkey.unacked() == 0, "every acknowledgement")
    assert not set(finished) & set(numbers(log)[len(finished) :]), "a warm shutdown repeats nothing"


@pytest.mark.parametrize(("pool", "absence"), [("threads", "short"), ("threads", "long"), ("prefork", "short")])
def test_a_celery_worker_whose_slots_are_all_busy_when_the_broker_restarts_goes_on_working(
    valkey: Broker, tmp_path: Path, pool: str, absence: str
) -> None:
    assert valkey.server is not None
    log = tmp_path / "log"
    send_tasks(valkey, range(12), 0.4)
    with celery_worker(valkey, log, pool):
        until(lambda: len(numbers(log.with_suffix(".begun"))) >= 4, "busy slots")
        valkey.server.kill()
        until(lambda: len(numbers(log)) >= 4, "four finished")
        if absence == "long":
            until(lambda: "Cannot connect" in log.with_suffix(".worker").read_text(), "a worker that has noticed")
        valkey.server.start()
        until(lambda: set(numbers(log)) == set(range(12)), "all twelve")
        until(lambda: valkey.unacked() == 0, "every acknowledgement")
    noticed = re.search("Cannot connect|broker lost", log.with_suffix(".worker").read_text())
    assert noticed or len(numbers(log)) == 12, "an absence that nobody noticed repeats nothing"
