"""The channel on which a broker confirms what it is given. For one thread."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

from amqp.exceptions import AccessRefused, ChannelError, MessageNacked, PreconditionFailed
from kombu import Connection, Producer

from tokenferry.broker import connecting, depth
from tokenferry.broker.depth import Depths
from tokenferry.broker.errors import BrokerBlocked, BrokerFull, PublishError, Unroutable
from tokenferry.broker.pending import MOST_PAUSE, PendingPublish
from tokenferry.contract.queues import full_name, life_of, results_queue

RESULTS: Final = results_queue("")
LATE: Final = 60.0
"""Seconds for which RabbitMQ keeps a message with a deadline after this deadline."""
BATCH: Final = 200
"""Messages sent in one round trip at most: large enough to cost little each, small enough to confirm soon."""

NO_ROUTE: Final = 312
"""The reply code of RabbitMQ for a message that no queue takes. Without `mandatory` it would confirm and drop it."""


class ConfirmingChannel:
    """Opens its channel when it is needed, and again after `forget`."""

    def __init__(self, connection: Connection, *, amqp: bool) -> None:
        self._connection = connection
        self._amqp = amqp
        self._prefix: str | None = connection.transport_options.get("name_prefix")
        """RabbitMQ only: what the names of queues begin with there, for words about them."""
        self._producer: Producer | None = None
        self._blocked = False
        """RabbitMQ only: whether an alarm is on, and it reads nothing."""
        self._theirs: set[str] = set()
        """RabbitMQ only: result queues that their reader declared first, with other settings: used as they are."""
        self._undeclared: set[str] = set()
        """RabbitMQ only: queues that this user may not declare, only write to. Whoever reads them declares them."""
        self._depths = Depths(self._waiting_in)

    def open(self) -> None:
        """Connect, unless that is done. Raises what the client library raises: then `forget` it."""
        self._connected()

    def send(self, due: Sequence[PendingPublish]) -> None:
        """Try each of *due* once: on Redis in one round trip for all, on RabbitMQ each confirmed alone.

        Raises what the client library raises when the channel is of no more use: then `forget` it.
        """
        producer = self._connected()
        if producer.supports_batch_publish:
            self._send_together(producer, [waiting for waiting in due if self._has_room(waiting)])
        else:
            for waiting in due:
                self._send_one(waiting)

    def forget(self) -> None:
        """Drop the connection without asking the broker, which may not answer. The next use makes a new one."""
        self._producer = None
        with contextlib.suppress(Exception):  # closing a dead connection may fail; this thread goes on
            self._connection.collect(socket_timeout=0.1)

    def _send_together(self, producer: Producer, fitting: list[PendingPublish]) -> None:
        if not fitting:
            return
        with producer.batch(max_size=BATCH + 1) as batch:
            for waiting in fitting:
                self._publish(producer, waiting)
            for waiting in fitting:
                waiting.begin_try()
            pipeline = batch.state.session.pipeline
            for queue, life in _mortal(fitting):
                pipeline.pexpire(producer.channel.global_keyprefix + queue, int(life * 1000))
            # Not the batch's own flush: it says that one was refused, but neither which nor why.
            answers = pipeline.execute(raise_on_error=False)
        for waiting, answer in zip(fitting, answers[: len(fitting)], strict=True):
            if isinstance(answer, Exception):
                waiting.refused(answer)
            else:
                waiting.future.set_result(None)

    def _send_one(self, waiting: PendingPublish) -> None:
        try:
            self._heed_alarm()
            if self._has_room(waiting):
                waiting.begin_try()
                self._publish_routed(self._connected(), waiting)
                waiting.future.set_result(None)
        except BrokerBlocked as alarm:
            waiting.put_off(alarm, MOST_PAUSE)
        except MessageNacked as nack:
            waiting.refused(nack)
        except Unroutable as returned:
            waiting.refused(returned)
            self._theirs.discard(waiting.message.queue)
            self.forget()  # and with it the declarations, and the confirmation that follows a returned message
        except AccessRefused:
            self._undeclared.add(waiting.message.queue)
            raise
        except PreconditionFailed as error:
            if waiting.message.queue.startswith(RESULTS) and waiting.message.queue not in self._theirs:
                self._theirs.add(waiting.message.queue)
                raise
            mismatch = connecting.mismatch(full_name(self._prefix, waiting.message.queue), error)
            waiting.future.set_exception(PublishError(mismatch, maybe_sent=waiting.maybe_sent))
            raise  # the broker has closed the channel: the others need another

    def _waiting_in(self, queue: str) -> int:
        declare = queue not in self._undeclared
        return depth.waiting_in(self._connected().channel, queue, amqp=self._amqp, declare=declare)

    def _heed_alarm(self) -> None:
        """Raise `BrokerBlocked` until RabbitMQ says that its alarm is over.

        What is sent on a blocked connection is read in the end, repetitions included.
        """
        if not self._blocked:
            return
        with contextlib.suppress(TimeoutError):
            self._connection.drain_events(timeout=0)
        if self._blocked:
            raise BrokerBlocked
        self.forget()  # a late confirmation on it would be taken for that of another message

    def _on_blocked(self, _: str) -> None:
        """End the wait for a confirmation: heartbeats would prolong it beyond every time-out."""
        self._blocked = True
        raise BrokerBlocked

    def _on_unblocked(self) -> None:
        self._blocked = False

    def _has_room(self, waiting: PendingPublish) -> bool:
        """Whether its queue may hold one more. If not, it fails at once."""
        message = waiting.message
        if message.bound is None or (full := self._depths.refusal(message.queue, message.bound)) is None:
            return True
        waiting.future.set_exception(BrokerFull(full, maybe_sent=waiting.maybe_sent))
        return False

    def _publish_routed(self, producer: Producer, waiting: PendingPublish) -> None:
        """Publish and wait for the confirmation. Raises `Unroutable` if the broker returns the message."""
        try:
            self._publish(producer, waiting)
        except ChannelError as error:
            if error.reply_code == NO_ROUTE:
                raise Unroutable from None
            raise

    def _publish(self, producer: Producer, waiting: PendingPublish) -> None:
        message = waiting.message
        declared = connecting.queue(message.queue, amqp=self._amqp)
        theirs = message.queue in self._theirs
        declares = self._amqp and not theirs and message.queue not in self._undeclared
        options: dict[str, Any] = dict(message.properties)
        if self._amqp:
            options["confirm_timeout"] = max(0.1, waiting.deadline - time.monotonic())
            if message.keep_seconds is not None:
                # After its deadline a worker still finds it and reports it. Only without a worker the broker drops it.
                options["expiration"] = max(0.0, message.keep_seconds) + LATE
            options["mandatory"] = True
        producer.publish(
            message.body,
            exchange="" if theirs else declared.exchange,
            routing_key=declared.routing_key,
            declare=[declared] if declares else [],
            headers=dict(message.headers),
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=2,
            **options,
        )

    def _connected(self) -> Producer:
        if self._producer is None:
            # Not `connect`: it sleeps two seconds before its second try, too long for a short deadline.
            self._connection.ensure_connection(max_retries=1, interval_start=0.05, reraise_as_library_errors=False)
            self._blocked = False
            if self._amqp:
                wire = self._connection.connection
                wire.on_blocked, wire.on_unblocked = self._on_blocked, self._on_unblocked
            self._producer = self._connection.Producer(auto_declare=False)
        return self._producer


def _mortal(fitting: Iterable[PendingPublish]) -> list[tuple[str, float]]:
    """The queues of these messages that the broker drops some time after their last use, with the seconds."""
    queues = sorted({waiting.message.queue for waiting in fitting})
    return [(queue, life) for queue in queues if (life := life_of(queue)) is not None]
