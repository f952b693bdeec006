"""What a publisher promises: the broker has it, or an error in time that says whether it may have it all the same."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import amqp
import faults.line
import pytest
import redis
from broker.places import ABOVE, OneRedis, Place, place
from e2e.brokers import RABBITMQ, REDIS, RabbitMQ
from e2e.house import until
from faults.line import Trap
from kombu import Connection, Producer

from tokenferry.broker import depth, embedded
from tokenferry.broker.connecting import EXCHANGE
from tokenferry.broker.depth import Bound
from tokenferry.broker.embedded import Embedded
from tokenferry.broker.pending import PendingPublish
from tokenferry.broker.publishing import (
    BrokerFull,
    BrokerUnavailable,
    Outgoing,
    Publisher,
    PublishError,
    PublishTimeout,
)
from tokenferry.configuration import Broker, Configuration

DEADLINE = 2.0
"""Seconds for what should fail: long enough for a busy broker to answer with its refusal."""
GRACE = 10.0
"""Seconds after its deadline within which an error must be there, on a machine that stands still now and then too."""
PATIENT = 60.0
"""Seconds for what should succeed: more than any machine needs, and less than for ever."""


@pytest.fixture(scope="module", params=ABOVE)
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(request, tmp_path_factory, database=8) as broker:
        yield broker


@pytest.fixture
def queue(broker: Place) -> Iterator[str]:
    """The name of a queue that nobody else uses."""
    name = f"tokenize.bulk.p{secrets.token_hex(6)}"
    yield name
    broker.take(name)


def publisher(url: str, *, timeout: float = DEADLINE) -> Publisher:
    return Publisher.to(Configuration(broker=Broker(url=url, publish_timeout=timeout)))


class Line:
    """A port in front of a broker: it can pass everything on, swallow everything, or cut what is connected."""

    def __init__(self, to: tuple[str, int], *, swallows: bool = False) -> None:
        self._to = to
        self._swallows = swallows
        self._open: list[socket.socket] = []
        self.swallowed = threading.Event()
        """Set once a byte has been swallowed."""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def swallow(self) -> None:
        """From now on nothing arrives, and nobody is told."""
        self.swallowed.clear()
        self._swallows = True

    def relent(self) -> None:
        """Pass on again; what was swallowed is gone."""
        self._swallows = False

    def say(self, data: bytes) -> None:
        """Send to the near end what the broker never said."""
        self._open[-2].sendall(data)

    def cut(self) -> None:
        """Pass on again, for new connections; the old ones end here."""
        self.relent()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.cut()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._socket.accept()
                far = socket.create_connection(self._to)
                self._open += (near, far)
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError), one, other:
            while data := one.recv(65_536):
                if self._swallows:
                    self.swallowed.set()
                else:
                    other.sendall(data)


@pytest.fixture
def line(broker: Place) -> Iterator[tuple[Line, str]]:
    """A line to a broker `on_a_port`, and the URL at its near end."""
    address = RABBITMQ if isinstance(broker, RabbitMQ) else REDIS
    made = Line(address)
    yield made, broker.url.replace(f"{address[0]}:{address[1]}", f"127.0.0.1:{made.port}")
    made.close()


on_a_port = pytest.mark.parametrize("broker", ["redis", "rabbitmq"], indirect=True)
both_clients = pytest.mark.parametrize("scheme", ["redis", "amqp"])


@contextlib.contextmanager
def failing_in_time(kind: type[PublishError] | tuple[type[PublishError], ...], deadline: float = DEADLINE) -> Any:
    """The block must raise *kind* not much later than its deadline."""
    began = time.monotonic()
    with pytest.raises(kind) as caught:
        yield caught
    assert time.monotonic() - began < deadline + GRACE


# -- when all is well


def test_what_was_published_is_in_the_queue_when_publish_returns(broker: Place, queue: str) -> None:
    with publisher(broker.url, timeout=PATIENT) as sender:
        sender.publish(Outgoing(queue, "one"))
        assert broker.take(queue) == [b"one"]


def test_two_thousand_messages_from_eight_threads_arrive_once_each(broker: Place, queue: str) -> None:
    def send(number: int) -> None:
        futures = [sender.submit(Outgoing(queue, f"{number}-{at}")) for at in range(250)]
        for future in futures:
            future.result(30)

    with publisher(broker.url, timeout=30.0) as sender, ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(8)))
    assert Counter(broker.take(queue)) == Counter(f"{n}-{at}".encode() for n in range(8) for at in range(250))


def test_messages_of_one_thread_keep_their_order(broker: Place, queue: str) -> None:
    with publisher(broker.url, timeout=PATIENT) as sender:
        for at in range(300):
            sender.submit(Outgoing(queue, str(at)))
    assert broker.take(queue) == [str(at).encode() for at in range(300)]


def test_closing_sends_what_was_submitted_and_takes_nothing_more(broker: Place, queue: str) -> None:
    sender = publisher(broker.url, timeout=PATIENT)
    futures = [sender.submit(Outgoing(queue, str(at))) for at in range(500)]
    sender.close(timeout=PATIENT)
    assert all(future.done() and future.exception() is None for future in futures)
    assert len(broker.take(queue)) == 500
    with pytest.raises(RuntimeError, match="closed"):
        sender.submit(Outgoing(queue, "late"))
    sender.close()  # a second time does nothing


def test_whatever_was_accepted_while_closing_is_settled(broker: Place, queue: str) -> None:
    sender = publisher(broker.url, timeout=PATIENT)
    accepted = []
    begun = threading.Event()

    def submit() -> None:
        with contextlib.suppress(RuntimeError):
            while True:
                accepted.append(sender.submit(Outgoing(queue, "x")))
                begun.set()
                time.sleep(0)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(submit)
        begun.wait(30)
        sender.close(timeout=PATIENT)
    assert all(future.done() for future in accepted)
    assert len(broker.take(queue)) == len(accepted)


@on_a_port
def test_a_message_taken_back_in_time_is_not_sent(broker: Place, queue: str, line: tuple[Line, str]) -> None:
    silence, url = line
    with publisher(url, timeout=PATIENT) as sender:
        sender.publish(Outgoing(queue, "before"))
        silence.swallow()
        first = sender.submit(Outgoing(queue, "first"))
        assert silence.swallowed.wait(30)
        second, third = (sender.submit(Outgoing(queue, body)) for body in ("second", "third"))
        assert second.cancel()
        silence.cut()
        first.result(30)
        third.result(30)
    assert broker.take(queue) == [b"before", b"first", b"third"]


# -- when the broker is away


@both_clients
def test_a_closed_port_is_a_broker_that_is_unavailable_and_nothing_was_sent(scheme: str) -> None:
    with socket.socket() as bound:  # bound and not listening: nobody else can open it meanwhile
        bound.bind(("127.0.0.1", 0))
        with publisher(f"{scheme}://127.0.0.1:{bound.getsockname()[1]}") as sender:
            with failing_in_time(BrokerUnavailable) as caught:
                sender.publish(Outgoing("q", "x"))
            assert caught.value.maybe_sent is False


@both_clients
def test_a_black_hole_costs_the_deadline_and_no_more(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hole:
        sender = publisher(f"{scheme}://127.0.0.1:{hole.getsockname()[1]}")
        for _ in range(2):  # the second waits no longer for the first's sake
            with failing_in_time((PublishTimeout, BrokerUnavailable)):
                sender.publish(Outgoing("q", "x"))
        sender.close(timeout=0.0)


@both_clients
def test_a_deadline_shorter_than_the_configured_one_is_kept_as_well(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hole:
        sender = publisher(f"{scheme}://127.0.0.1:{hole.getsockname()[1]}", timeout=PATIENT)
        with failing_in_time((PublishTimeout, BrokerUnavailable), deadline=0.2):
            sender.publish(Outgoing("q", "x"), timeout=0.2)
        sender.close(timeout=0.0)


@both_clients
def test_no_time_at_all_is_not_the_configured_time(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hole:
        sender = publisher(f"{scheme}://127.0.0.1:{hole.getsockname()[1]}", timeout=60.0)
        with failing_in_time(PublishTimeout, deadline=0.0):
            sender.publish(Outgoing("q", "x"), timeout=0.0)
        sender.close(timeout=0.0)


def test_refused_credentials_are_a_broker_that_is_unavailable(broker: Place, valkey: Embedded) -> None:
    url = {
        True: broker.url.replace("guest:guest", "guest:wrong"),
        False: valkey.redis_url.replace(valkey.password, "wrong"),
    }[isinstance(broker, RabbitMQ)]
    with publisher(url) as sender:
        with failing_in_time(BrokerUnavailable) as caught:
            sender.publish(Outgoing("q", "x"))
        assert caught.value.maybe_sent is False
        assert "wrong" not in str(caught.value)


def test_every_waiting_message_gets_an_error_of_its_own() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with publisher(f"redis://127.0.0.1:{bound.getsockname()[1]}", timeout=0.3) as sender:
            futures = [sender.submit(Outgoing("q", "x")) for _ in range(5)]
            errors = {id(future.exception(10)) for future in futures}
    assert len(errors) == 5


@on_a_port
def test_a_broker_that_falls_silent_may_hold_the_message_and_the_publisher_recovers(
    broker: Place, queue: str, line: tuple[Line, str]
) -> None:
    silence, url = line
    with publisher(url) as sender:
        sender.publish(Outgoing(queue, "before"), timeout=PATIENT)
        silence.swallow()
        with failing_in_time(PublishTimeout) as caught:
            sender.publish(Outgoing(queue, "lost"))
        assert caught.value.maybe_sent is True
        silence.cut()
        sender.publish(Outgoing(queue, "after"), timeout=PATIENT)
    bodies = broker.take(queue)
    assert (bodies[0], bodies[-1]) == (b"before", b"after")


@on_a_port
def test_a_line_cut_after_the_bytes_had_left_may_have_delivered_them(
    broker: Place, queue: str, line: tuple[Line, str]
) -> None:
    silence, url = line
    with publisher(url) as sender:
        sender.publish(Outgoing(queue, "before"), timeout=PATIENT)
        silence.swallow()
        future = sender.submit(Outgoing(queue, "lost"))
        assert silence.swallowed.wait(30)
        silence.close()
        error = future.exception(DEADLINE + GRACE)
    assert isinstance(error, BrokerUnavailable)
    assert error.maybe_sent is True


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_an_idle_publisher_shows_that_it_lives_and_notices_the_end_of_its_connection(
    broker: RabbitMQ, queue: str
) -> None:
    with contextlib.closing(faults.line.Line(RABBITMQ)) as line:
        url = broker.url.replace("{}:{}".format(*RABBITMQ), f"127.0.0.1:{line.port}")
        connection = Connection(url, heartbeat=1, transport_options={"confirm_publish": True})
        heartbeat = line.set_trap(Trap(re.compile(rb"\x08\0\0\0\0\0\0\xce"), after=True))
        with Publisher(connection, amqp=True, timeout=PATIENT, sign_of_life=0.1) as idle:
            idle.publish(Outgoing(queue, "1"))
            assert heartbeat.sprung.wait(30)
            line.cut()
            until(lambda: not connection.connected, "a connection that is given up")
            idle.publish(Outgoing(queue, "2"))
    assert broker.take(queue) == [b"1", b"2"]


@on_a_port
def test_a_cut_connection_is_made_anew_and_the_caller_notices_nothing(
    broker: Place, queue: str, line: tuple[Line, str]
) -> None:
    wire, url = line
    with publisher(url, timeout=PATIENT) as sender:
        for body in ("one", "two", "three"):
            sender.publish(Outgoing(queue, body))
            wire.cut()
    assert broker.take(queue) == [b"one", b"two", b"three"]


def test_a_server_killed_and_started_again_is_found_by_the_same_publisher(tmp_path: Path) -> None:
    try:
        server = embedded.ensure(tmp_path / "data", owner=True)
        with publisher(server.redis_url) as sender:
            sender.publish(Outgoing("q", "one"), timeout=PATIENT)
            os.kill(server.pid, signal.SIGKILL)
            with failing_in_time(BrokerUnavailable):
                while True:  # until its end has been noticed
                    sender.publish(Outgoing("q", "lost"))
            embedded.ensure(tmp_path / "data")
            sender.publish(Outgoing("q", "two"), timeout=PATIENT)
        with redis.Redis.from_url(server.redis_url) as client:
            assert int(client.llen("q")) >= 1
    finally:
        embedded.stop(tmp_path / "data")


# -- when the broker does not want it


@pytest.fixture
def small_valkey(tmp_path: Path) -> Iterator[OneRedis]:
    """A server whose memory is ours to limit."""
    with embedded.running(tmp_path / "data") as server:
        yield OneRedis(server.redis_url)


def test_a_server_out_of_memory_is_full_and_has_queued_nothing(small_valkey: OneRedis) -> None:
    with publisher(small_valkey.url) as sender:
        sender.publish(Outgoing("q", "before"), timeout=PATIENT)
        small_valkey.client.config_set("maxmemory", 1)
        with failing_in_time(BrokerFull) as caught:
            sender.publish(Outgoing("q", "too much"))
        assert caught.value.maybe_sent is False
        small_valkey.client.config_set("maxmemory", 0)
        sender.publish(Outgoing("q", "after"), timeout=PATIENT)
    assert small_valkey.take("q") == [b"before", b"after"]


def test_a_server_that_finds_memory_before_the_deadline_gets_the_message_once(small_valkey: OneRedis) -> None:
    with publisher(small_valkey.url, timeout=PATIENT) as sender:
        sender.publish(Outgoing("q", "before"))
        small_valkey.client.config_set("maxmemory", 1)
        future = sender.submit(Outgoing("q", "waits"))
        until(lambda: _refusals(small_valkey) >= 2, "a second try")
        small_valkey.client.config_set("maxmemory", 0)
        future.result(30)
    assert small_valkey.take("q") == [b"before", b"waits"]


@pytest.fixture
def unwritable_disk(small_valkey: OneRedis, tmp_path: Path) -> Callable[[], None]:
    """Makes the server's snapshots fail, so that it refuses whatever writes; called again, it mends them."""
    snapshot = tmp_path / "data" / "dump.rdb"

    def saved() -> bool:
        known = small_valkey.client.info("persistence")
        return known["rdb_bgsave_in_progress"] == 0 and known["rdb_last_bgsave_status"] == ("err", "ok")[mended]

    def turn() -> None:
        nonlocal mended
        mended = not mended
        snapshot.rmdir() if mended else snapshot.mkdir()  # nothing can be renamed to a folder's name
        small_valkey.client.bgsave()
        until(saved, "the end of a snapshot")

    mended = True
    small_valkey.client.config_set("save", "3600 1000000")  # without snapshots of its own it would not mind
    return turn


def test_a_server_that_cannot_write_to_its_disk_is_full_and_says_why_on_old_connections_and_on_new_ones(
    small_valkey: OneRedis, unwritable_disk: Callable[[], None]
) -> None:
    with publisher(small_valkey.url) as sender, publisher(small_valkey.url) as newcomer:
        sender.publish(Outgoing("q", "before"), timeout=PATIENT)
        unwritable_disk()
        for each in (sender, newcomer):
            with failing_in_time(BrokerFull) as caught:
                each.publish(Outgoing("q", "too much"))
            assert caught.value.maybe_sent is False
            assert "cannot write to its disk (MISCONF)" in str(caught.value)
            assert "make room there" in str(caught.value)
        future = sender.submit(Outgoing("q", "waits"), timeout=PATIENT)
        unwritable_disk()
        future.result(30)
        newcomer.publish(Outgoing("q", "after"), timeout=PATIENT)
    assert small_valkey.take("q") == [b"before", b"waits", b"after"]


def test_a_server_with_too_few_replicas_takes_nothing_and_says_why(small_valkey: OneRedis) -> None:
    with publisher(small_valkey.url) as sender:
        small_valkey.client.config_set("min-replicas-to-write", 1)
        with failing_in_time(BrokerFull) as caught:
            sender.publish(Outgoing("q", "too much"))
        assert "min-replicas-to-write" in str(caught.value)
        future = sender.submit(Outgoing("q", "waits"), timeout=PATIENT)
        small_valkey.client.config_set("min-replicas-to-write", 0)
        future.result(30)
    assert small_valkey.take("q") == [b"waits"]


def _refusals(place: OneRedis) -> int:
    errors: dict[str, Any] = place.client.info("errorstats").get("errorstat_OOM", {"count": 0})
    return int(errors["count"])


def in_one_batch(broker: Place, sender: Publisher, line: Line, messages: list[Outgoing]) -> list[Any]:
    """Submit *messages* while the publisher is held up, so that it sends them together."""
    line.swallow()
    aside = f"tokenize.bulk.p{secrets.token_hex(6)}"
    held = sender.submit(Outgoing(aside, "held"))
    assert line.swallowed.wait(30)
    futures = [sender.submit(message) for message in messages]
    line.cut()
    held.result(30)
    broker.take(aside)
    return futures


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_one_queue_that_refuses_fails_its_own_message_and_no_other(
    broker: OneRedis, queue: str, line: tuple[Line, str]
) -> None:
    wire, url = line
    taken = f"{queue}-taken"
    broker.client.set(taken, "not a list", ex=60)
    with publisher(url, timeout=PATIENT) as sender:
        sender.publish(Outgoing(queue, "before"))
        messages = [Outgoing(queue, "a"), Outgoing(taken, "refused"), Outgoing(queue, "b")]
        first, refused, last = in_one_batch(broker, sender, wire, messages)
        first.result(30)
        last.result(30)
        assert not refused.done()
        broker.client.delete(taken)
        refused.result(30)
    assert broker.take(queue) == [b"before", b"a", b"b"]
    assert broker.take(taken) == [b"refused"]


@pytest.mark.parametrize("broker", ["valkey"], indirect=True)
def test_a_message_that_is_refused_again_and_again_holds_up_none_that_comes_later(broker: OneRedis, queue: str) -> None:
    taken = f"{queue}-taken"
    broker.client.set(taken, "not a list", ex=60)
    with publisher(broker.url, timeout=60.0) as sender:
        refused = sender.submit(Outgoing(taken, "refused"))
        for body in ("a", "b", "c"):
            sender.publish(Outgoing(queue, body), timeout=30.0)
        assert not refused.done()
        broker.client.delete(taken)
        refused.result(30)
    assert broker.take(queue) == [b"a", b"b", b"c"]
    assert broker.take(taken) == [b"refused"]


@pytest.mark.parametrize("broker", ["valkey"], indirect=True)
def test_a_message_that_was_refused_each_time_was_not_sent(broker: OneRedis, queue: str) -> None:
    broker.client.set(queue, "not a list", ex=60)
    with publisher(broker.url) as sender:
        with failing_in_time(PublishError) as caught:
            sender.publish(Outgoing(queue, "refused"))
        assert caught.value.maybe_sent is False
    broker.client.delete(queue)


def test_a_message_that_was_given_up_is_not_tried_again() -> None:
    tried: list[str] = []

    class Slow:
        """A channel whose broker refuses everything, and takes longer to say so than any message may wait."""

        def open(self) -> None: ...

        def send(self, due: Sequence[PendingPublish]) -> None:
            for waiting in due:
                tried.append(waiting.message.body)
                waiting.begin_try()
                waiting.refused(redis.OutOfMemoryError())
            time.sleep(0.5)

        def forget(self) -> None: ...

    with publisher("redis://127.0.0.1:1") as sender:
        sender._channel = Slow()  # type: ignore[assignment]
        with failing_in_time(BrokerFull) as caught:
            sender.submit(Outgoing("q", "late"), timeout=0.2).result(30)
    assert caught.value.maybe_sent is False
    assert tried == ["late"]


@pytest.fixture
def full_queue(broker: RabbitMQ, queue: str) -> Callable[[Publisher], None]:
    """Fills *queue*, which refuses what is too much."""
    limit = '{"max-length": 2, "overflow": "reject-publish"}'
    broker.control("set_policy", "-p", broker.vhost, f"small-{queue}", f"^{queue}$", limit, "--apply-to", "queues")

    def fill(sender: Publisher) -> None:
        for _ in range(10):  # a quorum queue counts a little late
            try:
                sender.publish(Outgoing(queue, "x"), timeout=DEADLINE)
            except BrokerFull:
                return
            except PublishTimeout:
                pass  # a busy broker has not said anything yet
        pytest.fail("the queue is never full")

    return fill


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_a_queue_at_its_limit_is_full_until_somebody_reads(
    broker: RabbitMQ, queue: str, full_queue: Callable[[Publisher], None]
) -> None:
    with publisher(broker.url) as sender:
        full_queue(sender)
        with failing_in_time(BrokerFull) as caught:
            sender.publish(Outgoing(queue, "too much"))
        assert caught.value.maybe_sent is False
        broker.take(queue)
        sender.publish(Outgoing(queue, "after"), timeout=PATIENT)
    assert broker.take(queue) == [b"after"]


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_a_full_queue_holds_up_no_message_that_was_sent_with_it(
    broker: RabbitMQ, queue: str, full_queue: Callable[[Publisher], None], line: tuple[Line, str]
) -> None:
    wire, url = line
    with publisher(url, timeout=PATIENT) as sender:
        full_queue(sender)
        refused, taken = in_one_batch(
            broker, sender, wire, [Outgoing(queue, "refused"), Outgoing(f"{queue}-other", "taken")]
        )
        taken.result(30)
        assert not refused.done()
        broker.take(queue)
        refused.result(30)
    assert broker.take(f"{queue}-other") == [b"taken"]


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_a_queue_that_exists_in_another_form_fails_its_own_message_and_no_other(
    broker: RabbitMQ, queue: str, line: tuple[Line, str]
) -> None:
    wire, url = line
    with broker.channel() as channel:
        channel.queue_declare(f"{queue}-classic", durable=True, auto_delete=False)
    with publisher(url, timeout=PATIENT) as sender:
        sender.publish(Outgoing(queue, "before"))
        messages = [Outgoing(f"{queue}-classic", "refused"), Outgoing(queue, "taken")]
        refused, taken = in_one_batch(broker, sender, wire, messages)
        taken.result(30)
        trouble = refused.exception(30)  # at once: it would be refused for as long as the queue is there
        assert isinstance(trouble, PublishError)
        assert f"'{queue}-classic' exists with other settings" in str(trouble)
    assert broker.take(queue) == [b"before", b"taken"]


@pytest.mark.parametrize("bound", [None, Bound(1000, 25.0)], ids=["unbounded", "bounded"])
@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_what_is_published_after_its_queue_was_deleted_is_in_the_queue_all_the_same_and_so_are_the_others(
    broker: RabbitMQ, queue: str, bound: Bound | None
) -> None:
    other = f"{queue}-other"
    with publisher(broker.url, timeout=PATIENT) as sender:
        for name in (queue, other):
            sender.publish(Outgoing(name, "before", bound=bound))
        with broker.channel() as channel:
            channel.queue_delete(queue)
        mixed = [Outgoing((other, queue)[at % 2], str(at), bound=bound) for at in range(6)]
        for future in [sender.submit(message) for message in mixed]:
            future.result(30)
    assert sorted(broker.take(queue)) == [b"1", b"3", b"5"]
    assert broker.take(other) == [b"before", b"0", b"2", b"4"]


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_a_message_that_no_queue_takes_was_not_sent(broker: RabbitMQ, queue: str) -> None:
    """As for a publisher whose user may not declare the queue again."""

    class DeclaresOnce(Producer):  # type: ignore[misc]
        declared = False

        def maybe_declare(self, *entity: Any, **options: Any) -> Any:
            if not DeclaresOnce.declared:
                DeclaresOnce.declared = True
                return super().maybe_declare(*entity, **options)

    class Limited(Connection):  # type: ignore[misc]
        def Producer(self, channel: Any = None, **options: Any) -> Producer:
            return DeclaresOnce(channel or self, **options)

    connection = Limited(broker.url, transport_options={"confirm_publish": True})
    with Publisher(connection, amqp=True, timeout=DEADLINE) as sender:
        sender.publish(Outgoing(queue, "before"), timeout=PATIENT)
        with broker.channel() as channel:
            channel.queue_delete(queue)
        with failing_in_time(PublishError) as caught:
            sender.publish(Outgoing(queue, "returned"))
        assert "no queue took it, because its queue was deleted" in str(caught.value)
        assert caught.value.maybe_sent is False


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_a_result_queue_that_its_reader_has_declared_in_another_way_is_used_as_it_is(
    broker: RabbitMQ, queue: str
) -> None:
    results = f"results.{queue}"
    with broker.channel() as channel:
        channel.queue_declare(results, durable=True, auto_delete=False)
    with publisher(broker.url, timeout=PATIENT) as sender:
        for at in range(3):
            mixed = [sender.submit(Outgoing(name, str(at))) for name in (results, queue)]
            for future in mixed:
                future.result(30)
        with broker.channel() as channel:
            channel.queue_delete(results)
        sender.publish(Outgoing(results, "once it is gone, in ours"))
    assert broker.take(queue) == [b"0", b"1", b"2"]
    assert broker.take(results) == [b"once it is gone, in ours"]


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_to_ask_how_many_wait_makes_a_queue_that_takes_messages(broker: RabbitMQ, queue: str) -> None:
    assert depth.ask(Configuration(broker=Broker(url=broker.url)), [queue]) == {queue: 0}
    with broker.channel() as channel:
        channel.basic_publish(amqp.Message("one"), EXCHANGE, queue)
    assert broker.take(queue) == [b"one"]


def connection_method(number: int, arguments: bytes = b"") -> bytes:
    """A frame of AMQP 0-9-1 with a method of the class `connection`, for channel 0."""
    payload = struct.pack(">HH", 10, number) + arguments
    return struct.pack(">BHI", 1, 0, len(payload)) + payload + b"\xce"


BLOCKED = connection_method(60, b"\x0dlow on memory")
UNBLOCKED = connection_method(61)
"""As RabbitMQ says them: https://www.rabbitmq.com/docs/connection-blocked. A real alarm would stop every other test."""


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_a_broker_whose_alarm_stops_who_publishes_is_full_and_gets_nothing_more_until_it_is_over(
    broker: RabbitMQ, queue: str, line: tuple[Line, str]
) -> None:
    wire, url = line
    with publisher(url) as sender:
        sender.publish(Outgoing(queue, "before"), timeout=PATIENT)
        wire.swallow()
        future = sender.submit(Outgoing(queue, "asked"))
        assert wire.swallowed.wait(30)
        wire.say(BLOCKED)
        with failing_in_time(BrokerFull) as caught:
            future.result(30)
        assert caught.value.maybe_sent is True  # a real one reads it when the alarm is over
        assert "short of memory or disk" in str(caught.value)
        wire.relent()
        with failing_in_time(BrokerFull) as caught:
            sender.publish(Outgoing(queue, "later"))
        assert caught.value.maybe_sent is False
        future = sender.submit(Outgoing(queue, "waits"), timeout=PATIENT)
        wire.say(UNBLOCKED)
        future.result(30)
    assert broker.take(queue) == [b"before", b"waits"]


# -- what travels


def test_a_task_says_nothing_of_its_argument_but_the_argument() -> None:
    message = Outgoing.task("q", "tokenferry.tokenize.v1", "req-1", "sealed")
    assert message.headers["argsrepr"] == "(***)"
    assert message.headers["kwargsrepr"] == "{}"
    assert message.headers["id"] == message.headers["root_id"] == message.properties["correlation_id"] == "req-1"
    assert message.headers["ignore_result"] is True
    assert "sealed" not in str(message.headers)
    assert message.body.startswith('[["sealed"], {}, ')
