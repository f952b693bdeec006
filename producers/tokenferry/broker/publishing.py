"""Handing a message to the broker: confirmed, within a deadline, or a typed error.

One thread owns the connection; callers give it messages and get futures. So one connection serves a hundred
deliveries, waiting messages are sent in batches, and a broker that does not answer blocks this thread, never the
caller. A message that the broker refuses is tried again beside the others, not before them.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from concurrent.futures import Future
from typing import Final

from kombu import Connection

from tokenferry.broker import connecting, fork_guard
from tokenferry.broker.confirming import BATCH, ConfirmingChannel
from tokenferry.broker.error_text import connection_failure
from tokenferry.broker.errors import BrokerBlocked, BrokerFull, BrokerUnavailable, PublishError, PublishTimeout
from tokenferry.broker.outgoing import CanPublish, Outgoing
from tokenferry.broker.pending import GRACE, PendingPublish, pause, wait, wait_async
from tokenferry.configuration import Configuration

__all__ = [
    "GRACE",
    "BrokerFull",
    "BrokerUnavailable",
    "CanPublish",
    "Outgoing",
    "PublishError",
    "PublishTimeout",
    "Publisher",
    "wait",
    "wait_async",
]

SIGN_OF_LIFE: Final = 4.0
"""Seconds without a message after which RabbitMQ is told that we are there: after twenty it drops the connection."""


class Publisher:
    """Publishes from a thread of its own. Close it, or use it as a context manager."""

    def __init__(
        self, connection: Connection, *, amqp: bool, timeout: float, sign_of_life: float = SIGN_OF_LIFE
    ) -> None:
        """*timeout*: seconds from `submit` to an error, for messages without one of their own.

        *sign_of_life*: seconds without a message after which RabbitMQ is told that we are there.
        """
        self._connection = connection
        self._channel = ConfirmingChannel(connection, amqp=amqp)
        self._idle = sign_of_life if amqp else None
        self._timeout = timeout
        self._process = fork_guard.ForkGuard("a publisher")
        self._incoming: queue.SimpleQueue[PendingPublish | None] = queue.SimpleQueue()
        self._trouble: PublishError | None = None
        """Why there is no connection; None while there is one."""
        self._failures = 0
        """Connections in a row that were lost or refused."""
        self._retry_at = 0.0
        self._closed = False
        self._closing = threading.Lock()
        """Nothing may be submitted behind the end mark: it would never be sent."""
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

        *timeout*: seconds. A caller waits a little longer than that for the future, or cancels it.

        Raises `RuntimeError` when the publisher is closed, or was made before this process was forked.
        """
        self._process.check()
        waiting = PendingPublish(message, time.monotonic() + self._seconds(timeout), Future())
        with self._closing:
            if self._closed:
                raise RuntimeError("the publisher is closed")
            self._incoming.put(waiting)
        return waiting.future

    def publish(self, message: Outgoing, *, timeout: float | None = None) -> None:
        """Publish and wait for the confirmation.

        Raises `BrokerUnavailable`, `BrokerFull` or `PublishTimeout` within *timeout* seconds.
        """
        wait(self.submit(message, timeout=timeout), self._seconds(timeout))

    def close(self, *, timeout: float = 10.0) -> None:
        """Send what was submitted, then end the thread; give up after *timeout* seconds.

        In a forked process it does nothing: the parent closes it.
        """
        if not self._process.is_this:
            return
        with self._closing:
            closed, self._closed = self._closed, True
        if not closed:
            self._incoming.put(None)
            self._thread.join(timeout)

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else timeout

    def _run(self) -> None:
        rest: list[PendingPublish] = []
        more = True
        while more or rest:
            more = self._take_in(rest) and more
            if not rest:
                self._show_life()
            self._settle_late(rest)
            now = time.monotonic()
            if now >= self._retry_at:
                due = [waiting for waiting in rest if waiting.not_before <= now][:BATCH]
                if due:
                    self._send(due, rest)
            rest = [waiting for waiting in rest if not waiting.future.done()]
        self._channel.forget()

    def _take_in(self, rest: list[PendingPublish]) -> bool:
        """Add what was submitted to *rest*; wait for it until something of *rest* is due. False at the end mark."""
        seconds = self._idle
        if rest:
            due = max(self._retry_at, min(waiting.not_before for waiting in rest))
            seconds = max(0.0, min(due, min(waiting.deadline for waiting in rest)) - time.monotonic())
        try:
            first = self._incoming.get(timeout=seconds) if seconds != 0.0 else self._incoming.get_nowait()
            while first is not None:
                rest.append(first)
                if len(rest) >= BATCH and time.monotonic() >= self._retry_at:
                    return True
                first = self._incoming.get_nowait()
        except queue.Empty:
            return True
        return False

    def _show_life(self) -> None:
        """Read what an idle RabbitMQ has sent, and send a heartbeat, so that the next message finds a connection."""
        if self._idle is None or not self._connection.connected:
            return
        try:
            with contextlib.suppress(TimeoutError, BrokerBlocked):
                self._connection.drain_events(timeout=0)
            self._connection.heartbeat_check()
        except Exception:  # whatever it is, the next message would meet it
            self._channel.forget()

    def _settle_late(self, rest: list[PendingPublish]) -> None:
        now = time.monotonic()
        for waiting in rest:
            if waiting.deadline <= now and waiting.begin():
                waiting.give_up(self._trouble)

    def _send(self, due: list[PendingPublish], rest: list[PendingPublish]) -> None:
        """Try the *due* ones once; after trouble with the connection, put off everything."""
        try:
            self._channel.open()
            # Only now: until the connection stands, a caller may cancel a message, and knows that it was not sent.
            due = [waiting for waiting in due if waiting.begin()]
            self._channel.send(due)
        except Exception as trouble:
            self._trouble = connection_failure(trouble)
            self._failures += 1
            self._retry_at = time.monotonic() + pause(self._failures)
            self._channel.forget()
            if unsent := [waiting for waiting in due if not waiting.future.done()]:
                rest.remove(unsent[0])  # one message may have caused it: let another go first
                rest.append(unsent[0])
        else:
            self._trouble = None
            self._failures = 0
