"""The brokers of the tests, seen from outside: what rests in a queue, what rests anywhere, and how to cut a line."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import secrets
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import amqp
import pytest
import redis
from e2e.erlang import Node, control

from tokenferry.broker import embedded

T = TypeVar("T")


def named(variable: str) -> tuple[str, int]:
    """Host and port of the server whose URL stands in the environment; no host where none is named."""
    parts = urlsplit(os.environ.get(variable, ""))
    return parts.hostname or "", parts.port or 0


REDIS_URL, AMQP_URL = "TOKENFERRY_TEST_REDIS_URL", "TOKENFERRY_TEST_AMQP_URL"
"""What names the servers that others use as well: without, nothing of them is touched."""
REDIS, RABBITMQ = named(REDIS_URL), named(AMQP_URL)
DATABASES = range(1, 16)
"""Databases of the shared Redis that these tests may use where they are empty or left by them: one a run at a time."""


OURS = "tokenferry-tests"
"""The key that marks a database as these tests' own."""


class Broker(Protocol):
    """One broker of one house, empty at first."""

    url: str
    store: str
    address: tuple[str, int] | None

    def take(self, queue: str) -> list[bytes]:
        """Remove and return every body in *queue*, oldest first."""
        ...

    def unfinished(self) -> int:
        """Messages in work queues, those in somebody's hand included."""
        ...

    def contents(self) -> Iterator[bytes]:
        """Everything it holds now, piece by piece."""
        ...

    def cut(self) -> int:
        """Cut every connection of this house, of nobody else; how many there were."""
        ...

    def empty(self) -> None:
        """Drop every message, and what the store remembers."""
        ...

    def close(self) -> None:
        """Leave nothing behind."""
        ...


def needs(address: tuple[str, int], what: str) -> None:
    """Skip at home where a service is not named or missing; in CI that is a failure."""
    gone = f"no {what}: name one in {REDIS_URL} or {AMQP_URL}"
    if address[0]:
        with contextlib.suppress(OSError), socket.create_connection(address, timeout=2.0):
            return
        gone = f"no {what} on {address[0]}:{address[1]}"
    if os.environ.get("CI") == "true":
        pytest.fail(gone)
    pytest.skip(gone)


def is_work(queue: str) -> bool:
    return queue.startswith(("tokenize.", "attach.", "onboard."))


class OnRedis:
    """What an embedded server and a shared Redis have in common."""

    client: redis.Redis[bytes]

    def take(self, queue: str) -> list[bytes]:
        found = []
        while (payload := self.client.rpop(queue)) is not None:
            found.append(_body(payload))
        return found

    def unfinished(self) -> int:
        waiting = sum(int(self.client.llen(key)) for key in self.client.scan_iter("*") if is_work(key.decode()))
        return waiting + sum(
            int(self.client.hlen(f"unacked{role}")) for role in ("", ".tokenize", ".attach", ".onboard")
        )

    def empty(self) -> None:
        self.client.flushdb()
        self.note_birth()

    def note_birth(self) -> None:
        """The store begins before the first message, as an embedded server does at its first start."""
        self.client.set("tokenferry:born", int(time.time() * 1000))

    def contents(self) -> Iterator[bytes]:
        for key in self.client.scan_iter("*", count=1000):
            yield key
            match self.client.type(key):
                case b"string":
                    yield self.client.get(key) or b""
                case b"list":
                    yield from self.client.lrange(key, 0, -1)
                case b"hash":
                    for pair in self.client.hgetall(key).items():
                        yield from pair
                case b"zset":
                    yield from self.client.zrange(key, 0, -1)
                case b"set":
                    yield from self.client.smembers(key)
                case other:
                    assert other == b"none", f"a kind of key nobody expected: {other!r}"


def _body(payload: bytes) -> bytes:
    """The body of a message as kombu writes it to a list; the payload itself where it is none."""
    try:
        message = json.loads(payload)
        body = message["body"]
        encoded = message["properties"]["body_encoding"] == "base64"
        return base64.b64decode(body) if encoded else str(body).encode()
    except (ValueError, TypeError, KeyError):
        return payload


class Embedded(OnRedis):
    """The house's own Valkey."""

    address = None
    url = store = "embedded"

    def __init__(self, data: Path) -> None:
        self.data = data
        self.client = redis.Redis.from_url(embedded.ensure(data, born_key="tokenferry:born").redis_url)

    def cut(self) -> int:
        """Kill the server itself: it is the house's own, and the worker starts it again on what it had written."""
        kill_synced(int((self.data / "valkey.pid").read_text()), embedded.ensure(self.data).redis_url)
        deadline = time.monotonic() + 15.0
        while not self._answers():
            assert time.monotonic() < deadline, "no worker started the embedded server again"
            time.sleep(0.02)
        return 1

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except (redis.ConnectionError, redis.BusyLoadingError):
            return False

    def close(self) -> None:
        self.client.close()
        assert embedded.stop(self.data), "the embedded server was gone before its time"


class SharedRedis(OnRedis):
    """One database of the Redis of this machine: an empty one, or one that a run of these tests has left behind."""

    address = REDIS

    def __init__(self) -> None:
        needs(REDIS, "Redis")
        self.number, self._lock = _free_database()
        self.url = self.store = f"redis://{REDIS[0]}:{REDIS[1]}/{self.number}"
        self.client = redis.Redis(*REDIS, db=self.number)
        self.empty()

    def empty(self) -> None:
        """As everybody does; the mark stays, so that a later run may clear up what a killed one has left."""
        with self.client.pipeline(transaction=True) as pipeline:
            pipeline.flushdb()
            pipeline.set(OURS, "a run of Tokenferry's tests; may be emptied")
            pipeline.execute()
        self.note_birth()

    def cut(self) -> int:
        mine = self.client.client_id()
        ours = [one["id"] for one in self.client.client_list() if one["db"] == str(self.number)]
        return sum(self.client.client_kill_filter(_id=one) for one in ours if int(one) != mine)

    def close(self) -> None:
        self.client.flushdb()
        self.client.close()
        os.close(self._lock)


def _free_database() -> tuple[int, int]:
    """A database nobody else uses, and the lock that says so."""
    deadline = time.monotonic() + 100.0
    while time.monotonic() < deadline:
        strangers = 0
        for number in DATABASES:
            lock = os.open(Path(tempfile.gettempdir(), f"tokenferry-e2e-{number}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
            with contextlib.suppress(BlockingIOError), redis.Redis(*REDIS, db=number) as client:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if may_be_emptied(client):
                    return number, lock
                strangers += 1
            os.close(lock)
        if strangers == len(DATABASES):
            pytest.fail(f"databases {DATABASES.start} to {DATABASES.stop - 1} of the Redis here hold somebody's data")
        time.sleep(0.2)
    raise TimeoutError("every test database is in use")


def may_be_emptied(client: redis.Redis[bytes]) -> bool:
    """Whether nothing is in a database, or a run of these tests has marked it. Else it is somebody's, and stays."""
    return bool(client.exists(OURS)) or client.dbsize() == 0


def kill_synced(pid: int, url: str) -> None:
    """SIGKILL to a Valkey that has written everything it has confirmed.

    With `appendfsync everysec` it writes nothing while a sync is under way, and a kill loses what it has confirmed
    meanwhile. Without, it writes before it answers; started again, it follows its file of settings again.
    """
    with redis.Redis.from_url(url) as client:
        client.config_set("appendfsync", "no")
    os.kill(pid, signal.SIGKILL)


class RabbitMQ:
    """A private virtual host; the store is an embedded Valkey."""

    address = RABBITMQ
    store = "embedded"
    node = Node()

    def __init__(self, data: Path) -> None:
        needs(RABBITMQ, "RabbitMQ")
        self.vhost = f"tokenferry-e2e-{secrets.token_hex(4)}"
        self.node.add_vhost(self.vhost)
        self.url = f"amqp://guest:guest@{RABBITMQ[0]}:{RABBITMQ[1]}/{self.vhost}"
        self._store = Embedded(data)

    @contextlib.contextmanager
    def channel(self) -> Iterator[Any]:
        """A connection of our own for one look."""
        with amqp.Connection(f"{self.address[0]}:{self.address[1]}", virtual_host=self.vhost) as connection:
            yield connection.channel()

    def take(self, queue: str) -> list[bytes]:
        found: list[bytes] = []

        def fetch(channel: Any) -> None:
            with contextlib.suppress(amqp.NotFound):
                while (message := channel.basic_get(queue, no_ack=True)) is not None:
                    found.append(_bytes(message.body))

        self._ask(fetch)
        return found

    def _ask(self, question: Callable[[Any], T]) -> T:
        """Put *question* over a channel of its own: again where a queue was declared a moment ago, or is busy (541)."""
        deadline = time.monotonic() + 30.0
        while True:
            try:
                with self.channel() as channel:
                    return question(channel)
            except amqp.InternalError:
                assert time.monotonic() < deadline, "a queue of RabbitMQ has not answered for 30 s"
                time.sleep(0.05)

    def queues(self) -> dict[str, int]:
        """Every queue and its messages, those in somebody's hand included."""
        return self.node.messages(self.vhost)

    def unfinished(self) -> int:
        return sum(abs(count) for queue, count in self.queues().items() if is_work(queue))

    def contents(self) -> Iterator[bytes]:
        def look(channel: Any) -> list[bytes]:  # what is not acknowledged goes back when the channel ends
            found = []
            for queue in self.queues():
                found.append(queue.encode())
                while (message := channel.basic_get(queue)) is not None:
                    found.append(_bytes(message.body))
                    found.append(json.dumps([message.properties, message.delivery_info], default=str).encode())
            return found

        yield from self._ask(look)
        yield from self._store.contents()

    def empty(self) -> None:
        for queue in self.queues():
            self._ask(lambda channel, queue=queue: channel.queue_purge(queue))
        self._store.empty()

    def control(self, *arguments: str) -> str:
        """`rabbitmqctl` on the node it lives on."""
        return control(self.node, *arguments)

    def stop_queue(self, queue: str) -> None:
        """End the process of a quorum queue, as an election or a busy node seems to: 541 to whoever wants a message."""
        self.node.quorum_queue("stop_server", self.vhost, queue)

    def start_queue(self, queue: str) -> None:
        """Let it go on, with everything it holds."""
        self.node.quorum_queue("restart_server", self.vhost, queue)

    def cut(self) -> int:
        said = self.control("close_all_connections", "--vhost", self.vhost, "a test")
        return said.count("Closing") or 1

    def close(self) -> None:
        self.node.delete_vhost(self.vhost)
        self._store.close()


def _bytes(body: Any) -> bytes:
    return body if isinstance(body, bytes) else str(body).encode()
