"""Consumers and publishers of the tests: in this process, and in processes that can be frozen and killed."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Protocol

from kombu import Connection, Consumer, Message, Queue

from tokenferry.broker import connecting
from tokenferry.broker.publishing import Outgoing, Publisher
from tokenferry.configuration import Broker, Configuration

_processes = multiprocessing.get_context("forkserver")  # forked from a process that has no threads
_processes.set_forkserver_preload(["pytest", "tokenferry", "kombu.transport.pyamqp", "kombu.pools"])


class Site(Protocol):
    """A broker as a consumer needs it."""

    def connect(self) -> Connection: ...

    def queue(self, name: str) -> Queue: ...


class Configured:
    """A broker reached as our own programs reach it."""

    def __init__(self, url: str, *, lease: float, publish_timeout: float = 10.0, ca_file: Path | None = None) -> None:
        self.configuration = Configuration(
            broker=Broker(url=url, lease_seconds=lease, publish_timeout=publish_timeout, ca_file=ca_file)
        )
        self.amqp = connecting.is_amqp(url)

    def connect(self) -> Connection:
        return connecting.connect(self.configuration)

    def queue(self, name: str) -> Queue:
        return connecting.queue(name, amqp=self.amqp)

    def publisher(self) -> Publisher:
        return Publisher.to(self.configuration)


class Consume:
    """A consumer; keeps the messages it got."""

    def __init__(
        self, site: Site, *queues: str, prefetch: int = 100, ack: bool = True, connection: Connection | None = None
    ) -> None:
        self.messages: list[Message] = []
        self.ack = ack
        self.connection = connection or site.connect()
        self.queues = [site.queue(name) for name in queues]
        self.prefetch = prefetch
        self.begin()

    def begin(self) -> None:
        """Consume, on a new channel. Called again after the connection was lost."""
        self.channel = self.connection.channel()
        self.channel.basic_qos(0, self.prefetch, False)
        self.consumer = Consumer(self.channel, self.queues, on_message=self.take)
        self.consumer.consume()

    def take(self, message: Message) -> None:
        self.messages.append(message)
        if self.ack:
            message.ack()

    def drain(self, count: int, seconds: float = 10.0) -> list[Any]:
        """Wait until *count* messages have come in all."""
        deadline = time.monotonic() + seconds
        while len(self.messages) < count:
            assert time.monotonic() < deadline, f"{len(self.messages)} of {count} messages"
            self.wait(0.2)
        return self.bodies

    def stay(self, seconds: float) -> list[Any]:
        """Wait for that long, whatever comes."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.wait(left)
        return self.bodies

    def come_back(self) -> None:
        """What an application does about a lost connection."""
        self.connection.collect()
        self.messages = [message for message in self.messages if message.acknowledged]  # the rest is the broker's again
        self.begin()

    def lost(self) -> tuple[type[BaseException], ...]:
        return (*self.connection.connection_errors, *self.connection.channel_errors)

    def wait(self, seconds: float) -> None:
        """Let one event come, or the time pass."""
        if self.connection.heartbeat:
            self.connection.heartbeat_check()
        with contextlib.suppress(TimeoutError):
            self.connection.drain_events(timeout=min(seconds, 1.0))  # RabbitMQ's heartbeats prolong it for ever

    @property
    def bodies(self) -> list[Any]:
        return [message.payload for message in self.messages]


class Hand:
    """A process at a broker that notes numbers in a file."""

    def __init__(self, work: Callable[..., None], site: Any, log: Path, *arguments: Any) -> None:
        self.process: ForkServerProcess = _processes.Process(target=work, args=(site, log, *arguments), daemon=True)
        self.process.start()

    def freeze(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def write(log: Path, number: object) -> None:
    with log.open("ab", buffering=0) as file:
        file.write(b"%d\n" % number)


def numbers(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def consume_into(site: Site, log: Path, queue: str, prefetch: int = 5, seconds: float = 0.0) -> None:
    """Write each number to *log*, then acknowledge it; *seconds*: how long each one takes."""
    consume = Consume(site, queue, prefetch=prefetch, ack=False)
    while True:
        consume.drain(1, seconds=600)
        message = consume.messages.pop(0)
        time.sleep(seconds)
        write(log, message.payload)
        message.ack()


def publish_into(site: Configured, log: Path, queue: str) -> None:
    """Publish numbers one by one, and write each to *log* once the broker has confirmed it."""
    with site.publisher() as publisher:
        for number in itertools.count():
            publisher.publish(Outgoing(queue, str(number)))
            write(log, number)
