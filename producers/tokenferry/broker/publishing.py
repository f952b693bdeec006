"""Handing a message to the broker: confirmed, within a deadline, or a typed error.

One thread owns the connection; callers hand it messages and get futures. So one connection serves a hundred
deliveries, what waits is sent in batches, and a broker that swallows bytes without answering holds up a thread of
ours, never the caller.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import queue
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from amqp.exceptions import MessageNacked
from kombu import Connection, Producer
from kombu.exceptions import OperationalError
from redis.exceptions import OutOfMemoryError

from tokenferry.broker import connecting
from tokenferry.configuration import Configuration

BATCH: Final = 200
"""Messages sent in one round trip at most: large enough to cost little each, small enough to confirm soon."""


class PublishError(Exception):
    """The broker did not confirm a message. `maybe_sent` says whether it may hold it all the same."""

    request_id: str | None = None
    """The request it was about. Sending it again under this id is safe: one id, one token."""

    def __init__(self, text: str, *, maybe_sent: bool) -> None:
        super().__init__(text)
        self.maybe_sent = maybe_sent


class BrokerUnavailable(PublishError):
    """No connection to the broker within the deadline: dead, refusing or cut."""


class BrokerFull(PublishError):
    """The broker refused the message: out of memory, or the queue is at its limit.

    Nothing was queued, unless `maybe_sent`: then an earlier try of the same message had gone unanswered.
    """


class PublishTimeout(PublishError):
    """The broker took the message, or the connection, and did not answer within the deadline."""


@dataclass(frozen=True)
class Outgoing:
    """One message on its way: where to, and the bytes."""

    queue: str
    body: str
    headers: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    keep_seconds: float | None = None
    """RabbitMQ drops the message unread after this many seconds; on Redis the deadline in the header does that."""

    @classmethod
    def task(cls, queue: str, task: str, id_: str, body: str, *, keep_seconds: float | None = None) -> Outgoing:
        """A Celery task message (protocol 2) with one argument, and nothing else that could leak it.

        https://docs.celeryq.dev/en/stable/internals/protocol.html
        """
        headers = {
            "lang": "py",
            "task": task,
            "id": id_,
            "root_id": id_,
            "parent_id": None,
            "group": None,
            "eta": None,
            "expires": None,
            "retries": 0,
            "timelimit": [None, None],
            "argsrepr": "(***)",
            "kwargsrepr": "{}",
            "ignore_result": True,
            "origin": "tokenferry",
        }
        embed = '{"callbacks": null, "errbacks": null, "chain": null, "chord": null}'
        return cls(queue, f"[[{json.dumps(body)}], {{}}, {embed}]", headers, {"correlation_id": id_}, keep_seconds)


class Publishes(Protocol):
    """What a sender needs of a publisher."""

    def submit(self, message: Outgoing, *, timeout: float | None = None) -> Future[None]:
        """Start handing *message* over; the future tells how it went."""
        ...


@dataclass
class _Waiting:
    message: Outgoing
    deadline: float
    future: Future[None]
    refusal: Exception | None = None
    """What the broker answered to this one, where it answered and did not take it."""


class Publisher:
    """Publishes from a thread of its own. Close it, or use it as a context manager."""

    def __init__(self, connection: Connection, *, amqp: bool, timeout: float) -> None:
        """*timeout*: seconds from `submit` to an error, for messages that name no own."""
        self._connection = connection
        self._amqp = amqp
        self._timeout = timeout
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._producer: Producer | None = None
        self._closed = False
        self._closing = threading.Lock()
        """Nothing is submitted behind the mark of the end, where nobody would look at it."""
        self._thread = threading.Thread(target=self._run, name="tokenferry-publisher", daemon=True)
        self._thread.start()

    @classmethod
    def to(cls, configuration: Configuration) -> Publisher:
        """A publisher to the configured broker."""
        connection = connecting.connect(configuration)
        amqp = connecting.is_amqp(connecting.broker_url(configuration))
        return cls(connection, amqp=amqp, timeout=configuration.broker.publish_timeout)

    def submit(self, message: Outgoing, *, timeout: float | None = None) -> Future[None]:
        """Queue *message*; the future ends with None once the broker has confirmed it, or with a `PublishError`.

        *timeout*: seconds. Whoever waits for the future waits a little longer than that, or cancels it.
        """
        waiting = _Waiting(message, time.monotonic() + (timeout or self._timeout), Future())
        with self._closing:
            if self._closed:
                raise RuntimeError("the publisher is closed")
            self._waiting.put(waiting)
        return waiting.future

    def publish(self, message: Outgoing, *, timeout: float | None = None) -> None:
        """Publish and wait for the confirmation.

        Raises `BrokerUnavailable`, `BrokerFull` or `PublishTimeout` within *timeout* seconds.
        """
        wait(self.submit(message, timeout=timeout), timeout or self._timeout)

    def close(self, *, timeout: float = 10.0) -> None:
        """Send what was submitted, then end the thread; give up after *timeout* seconds."""
        with self._closing:
            closed, self._closed = self._closed, True
        if not closed:
            self._waiting.put(None)
            self._thread.join(timeout)

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch = [first]
            last = False
            for _ in range(BATCH - 1):
                try:
                    more = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    last = True
                    break
                batch.append(more)
            self._send(batch)
            if last:
                break
        self._forget_connection()

    def _send(self, batch: Iterable[_Waiting]) -> None:
        """Send the batch, reconnecting and repeating while there is time; settle every future."""
        rest = [waiting for waiting in batch if waiting.future.set_running_or_notify_cancel()]
        error: PublishError = BrokerUnavailable("the broker could not be reached", maybe_sent=False)
        for attempt in itertools.count():
            late = [waiting for waiting in rest if waiting.deadline <= time.monotonic()]
            for waiting in late:
                waiting.future.set_exception(_error_of(waiting.refusal, error))
            rest = [waiting for waiting in rest if not waiting.future.done()]
            if not rest:
                return
            if attempt:
                left = min(waiting.deadline for waiting in rest) - time.monotonic()
                time.sleep(min(0.05 * 2 ** min(attempt, 5), 1.0, max(0.0, left)))
            try:
                self._send_once(rest)
            except Exception as trouble:
                error = self._failed(trouble, maybe_sent=error.maybe_sent or self._producer is not None)
                self._forget_connection()
                rest.append(rest.pop(0))  # the trouble may have been one message's own: let another go first

    def _failed(self, trouble: Exception, *, maybe_sent: bool) -> PublishError:
        name = type(trouble).__name__
        if isinstance(trouble, self._timeouts()):
            return PublishTimeout(f"the broker did not answer in time ({name})", maybe_sent=maybe_sent)
        if isinstance(trouble, self._connection_errors()):
            return BrokerUnavailable(f"the broker could not be reached ({name})", maybe_sent=maybe_sent)
        # Whatever a client library raises beyond that must reach the callers, not end this thread silently.
        return PublishError(f"the broker client failed ({name})", maybe_sent=maybe_sent)

    def _send_once(self, rest: list[_Waiting]) -> None:
        """One pass over *rest*. On Redis one round trip for all; on RabbitMQ each is confirmed on its own."""
        for waiting in rest:
            waiting.refusal = None
        producer = self._connected()
        if producer.supports_batch_publish:
            with producer.batch(max_size=BATCH + 1) as batch:
                for waiting in rest:
                    self._publish(producer, waiting)
                # Not the batch's own flush, which says that one of them was refused, but neither which nor why.
                answers = batch.state.session.pipeline.execute(raise_on_error=False)
            for waiting, answer in zip(rest, answers, strict=True):
                if isinstance(answer, Exception):
                    waiting.refusal = answer
                else:
                    waiting.future.set_result(None)
            return
        for waiting in rest:
            try:
                self._publish(producer, waiting)
            except MessageNacked as nack:
                waiting.refusal = nack
            else:
                waiting.future.set_result(None)

    def _publish(self, producer: Producer, waiting: _Waiting) -> None:
        message = waiting.message
        declared = connecting.queue(message.queue, amqp=self._amqp)
        options: dict[str, Any] = dict(message.properties)
        if self._amqp:
            options["confirm_timeout"] = max(0.1, waiting.deadline - time.monotonic())
            if message.keep_seconds is not None:
                options["expiration"] = max(0.001, message.keep_seconds)
        producer.publish(
            message.body,
            exchange=declared.exchange,
            routing_key=declared.routing_key,
            declare=[declared] if self._amqp else [],
            headers=dict(message.headers),
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=2,
            **options,
        )

    def _connected(self) -> Producer:
        if self._producer is None:
            # Not `connect`: it sleeps two seconds before its second try, which a short deadline does not have.
            self._connection.ensure_connection(max_retries=1, interval_start=0.05, reraise_as_library_errors=False)
            self._producer = self._connection.Producer(auto_declare=False)
        return self._producer

    def _forget_connection(self) -> None:
        """Drop the connection without asking the other side, which may not answer; the next use makes a new one."""
        self._producer = None
        self._connection.collect(socket_timeout=0.1)

    def _connection_errors(self) -> tuple[type[BaseException], ...]:
        return (OperationalError, *self._connection.connection_errors, *self._connection.channel_errors)

    def _timeouts(self) -> tuple[type[BaseException], ...]:
        """A time-out is also one of the connection errors, but says something else: it may have been sent."""
        return (TimeoutError, *(kind for kind in self._connection_errors() if "Timeout" in kind.__name__))


def _error_of(refusal: Exception | None, before: PublishError) -> PublishError:
    """One message's own error: the broker's answer to it, else what was the trouble of all."""
    match refusal:
        case None:
            return type(before)(str(before), maybe_sent=before.maybe_sent)
        case MessageNacked():
            return BrokerFull("the broker refused the message: the queue is full", maybe_sent=before.maybe_sent)
        case OutOfMemoryError():
            return BrokerFull("the broker refused the message: it is out of memory", maybe_sent=before.maybe_sent)
    return PublishError(f"the broker refused the message ({type(refusal).__name__})", maybe_sent=before.maybe_sent)


def wait(future: Future[None], timeout: float) -> None:
    """Wait for a future of `Publisher.submit` for *timeout* seconds and a moment of grace.

    Raises the `PublishError` it ended with, or `PublishTimeout` when it has not ended.
    """
    try:
        future.result(timeout + 0.5)
    except TimeoutError:
        sent = not future.cancel()
        raise PublishTimeout("the broker did not answer in time", maybe_sent=sent) from None


async def wait_async(future: Future[None], timeout: float) -> None:
    """The same for asyncio. A task that is cancelled takes back what was not yet being sent."""
    try:
        await asyncio.wait_for(asyncio.wrap_future(future), timeout + 0.5)
    except TimeoutError:
        raise PublishTimeout("the broker did not answer in time", maybe_sent=not future.cancelled()) from None
