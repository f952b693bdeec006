"""Celery's consumer behind our own strict reader: Celery gets only accepted messages, and no header steers it.

Every other message is moved to quarantine. No message ends the process. The consumer also shows the watchdog that it
is alive, and whether it is connected.
"""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any, ClassVar

from amqp.exceptions import AccessRefused, ChannelError, NotAllowed, RecoverableConnectionError
from celery.exceptions import CPendingDeprecationWarning
from celery.worker.consumer import Consumer
from celery.worker.loops import asynloop
from celery.worker.state import maybe_shutdown
from redis.exceptions import ResponseError

from tokenferry.broker.alarm import Alarm
from tokenferry.broker.error_text import BROKER, explain
from tokenferry.broker.publishing import Outgoing, PublishError
from tokenferry.contract.queues import QUARANTINE, tokenize_queue
from tokenferry.contract.work_messages import (
    INVALID,
    NOT_A_TASK,
    UNDECODABLE,
    UNKNOWN_TASK,
    Refused,
    WorkMessage,
    read_work,
)
from tokenferry_worker.dead_letters.retention import retained
from tokenferry_worker.engine.engine import EngineApp

log = logging.getLogger(__name__)


RETRY_EVERY = (1, 1, 5)
"""Seconds between tries to reach the broker: the first pause, what each further one adds, and the longest."""
ASIDE_AGAIN = 5.0
"""Seconds before another try to quarantine a message: given back at once, it would hold up good messages."""


class Checked:
    """A work message in the form that Celery gets: only what our reader accepted, and no header of the publisher."""

    content_type = "application/json"
    content_encoding = "utf-8"

    def __init__(self, work: WorkMessage, message: Any) -> None:
        """*message*: the transport's own. It is needed to acknowledge; its content is not."""
        self.headers = {"task": work.task, "id": work.id, "ignore_result": True}
        self.body = work.argument
        self.payload: tuple[list[str], dict[str, Any], dict[str, Any]] = ([work.argument], {}, {})
        self.properties: dict[str, Any] = {}
        self.delivery_info = {"exchange": "", "routing_key": _queue_of(message)}
        self.ack_log_error = message.ack_log_error
        self.reject_log_error = message.reject_log_error


class CarefulConsumer(Consumer):
    """Hands work messages to Celery, and moves everything else to the quarantine queue."""

    app: EngineApp
    """Celery's base class sets it."""
    _away: Alarm = Alarm(log, "broker", level=logging.ERROR)
    """Of a process, which has one consumer."""

    class Blueprint(Consumer.Blueprint):
        """Celery's, without the step that declares 28 quorum queues for delays on RabbitMQ: we delay no message."""

        default_steps: ClassVar = [step for step in Consumer.Blueprint.default_steps if "DelayedDelivery" not in step]

        def start(self, parent: CarefulConsumer) -> None:
            """Start and consume. A closed channel or a refused command is a lost connection, not our end."""
            try:
                super().start(parent)
            except (AccessRefused, ResponseError) as error:
                failure = explain(error, BROKER).of(BROKER)
                log.error("%s; trying again in %g s", failure, RETRY_EVERY[-1])
                parent._sleep(RETRY_EVERY[-1])  # Celery would try again at once
                raise ConnectionResetError(failure) from None
            except ChannelError as error:
                raise RecoverableConnectionError(str(error)) from None

    def is_reading(self) -> bool:
        """True if it is connected and the broker has reported no trouble with handing out messages."""
        consumer = getattr(self, "task_consumer", None)
        return self.connection is not None and consumer is not None and not getattr(consumer.channel, "troubled", False)

    def is_refused_to_reap(self) -> bool:
        """True if the broker refuses to give back what lost workers had in hand."""
        channel = getattr(getattr(self, "task_consumer", None), "channel", None)
        return bool(getattr(channel, "is_refused_to_reap", False))

    def is_full(self, queue: str) -> bool:
        """True if the messages it holds of *queue* leave no room for more bytes (`held_bytes`)."""
        channel = getattr(getattr(self, "task_consumer", None), "channel", None)
        return channel is not None and bool(channel.is_full(queue))

    def loop(self, *arguments: Any) -> None:
        """Consume. Celery's own choice is the same while there is an event loop, and there always is one."""
        asynloop(*arguments)

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, trying for ever; each try shows the watchdog that we do.

        Also when the broker refuses us, which kombu takes as final: a password may be put right there, too.
        """
        failures = (OSError, AccessRefused, NotAllowed, *conn.connection_errors, *conn.channel_errors)
        first, step, longest = RETRY_EVERY
        pause = first
        while True:
            try:
                # Two tries. A broker that answers nothing takes the whole time of each.
                conn.ensure_connection(
                    max_retries=1, interval_start=0.05, reraise_as_library_errors=False, callback=self._show_life
                )
            except failures as error:
                failure = explain(error, BROKER)
                self._away.failed(f"at {_address(conn)} it {failure.says}: {failure.do}; trying again")
            else:
                self._away.worked()
                self.first_connection_attempt = False
                return conn
            self._sleep(pause)
            pause = min(pause + step, longest)

    def _sleep(self, seconds: int) -> None:
        """Wait, show the watchdog that we live, and end at once if we are asked to."""
        for _ in range(seconds):
            self._show_life()
            time.sleep(1.0)
        self._show_life()

    def _show_life(self) -> None:
        self.pool.turns += 1
        maybe_shutdown()

    def on_connection_error_after_connected(self, exc: BaseException) -> None:
        """Drop a lost connection, and cancel the deliveries that came over it.

        They can no longer be acknowledged, and come again. Two deliveries of one request would do no harm. But while
        they wait, each further loss would add one, and all of them would count towards poison.
        """
        self.pool.turns += 1  # closing the connection to a silent broker waits once for each thing it says
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CPendingDeprecationWarning)  # Celery advises to do the same
            super().on_connection_error_after_connected(exc)
        self.pool.turns += 1
        self.pool.cancel_all()

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Any:
        """Return what is called with each message. It raises only for a lost connection or a dead pool."""
        hand_over = super().create_task_handler(*args, **kwargs)

        def on_message(message: Any) -> None:
            work: WorkMessage | Refused | None = None
            try:
                work = self._read(message)
                if isinstance(work, Refused):
                    self._set_aside(message, work.reason)
                    return
                checked = Checked(work, message)
                message.body, message.headers, message.properties = b"", {}, {}  # keep nothing that is not needed
                hand_over(checked)
            except Exception as error:
                if self._is_lost(error) or not self.pool.is_running:
                    raise
                log.error("a message could not be handed to Celery (%s)", type(error).__name__)
                if isinstance(work, WorkMessage):
                    message.body = work.argument
                self._set_aside(message, INVALID)

        return on_message

    def _is_lost(self, error: Exception) -> bool:
        """True if the connection is lost. On Redis kombu counts every `KeyError` as that, whatever raised it."""
        return isinstance(error, self.connection_errors) and not isinstance(error, KeyError)

    def _read(self, message: Any) -> WorkMessage | Refused:
        refused: Refused | None = getattr(message, "refused", None)
        if refused is not None:
            return refused
        parts = message.headers, message.content_type, message.content_encoding, message.body
        return read_work(*parts, tasks=self.pool.tasks)

    # Celery's own versions of these would log bodies. Our reader leaves them nothing to do.

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """A message that is no task."""
        self._set_aside(message, NOT_A_TASK)

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """A task that this worker does not know."""
        self._set_aside(message, UNKNOWN_TASK)

    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """A task message with broken parts."""
        self._set_aside(message, INVALID)

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        """A message that kombu cannot decode."""
        self._set_aside(message, UNDECODABLE)

    def _set_aside(self, message: Any, reason: str) -> None:
        queue = _queue_of(message)
        self.pool.taken[queue] += 1
        self.pool.turns += 1  # what follows may take long, once for each of them
        try:
            self.app.engine.publisher().publish(Outgoing(QUARANTINE, self._record(message, reason, queue)))
        except PublishError as error:
            log.warning(
                "a message is not ours or not readable (%s), but was not moved to %s (%s); trying again",
                reason,
                QUARANTINE,
                error,
            )
            requeue = True
            self.timer.call_after(ASIDE_AGAIN, message.reject_log_error, (log, self.connection_errors, requeue))
        else:
            self.app.engine.vitals.set_aside[reason] += 1
            log.warning("a message is not ours or not readable (%s); moved to %s", reason, QUARANTINE)
            message.ack_log_error(log, self.connection_errors)

    def _record(self, message: Any, reason: str, queue: str) -> str:
        at = self.app.engine.now()
        if getattr(message, "refused", None) is None:
            realtime = not queue or queue.startswith(tokenize_queue("realtime", ""))
            try:
                return retained(message.body or "", reason, at=at, realtime=realtime)
            except Exception as error:  # whatever it holds, the message must not come back for ever
                log.error("a message cannot be kept (%s); only its length and reason are", type(error).__name__)
        return Refused(reason).note(getattr(message, "length", len(message.body or b"")), at=int(at * 1000))


def _queue_of(message: Any) -> str:
    """Return the queue that a message came from. Both transports write it in place of the routing key."""
    return str(message.delivery_info.get("routing_key", ""))


def _address(conn: Any) -> str:
    """Return the broker's address as people write it: without password, and not with the scheme of our transport."""
    uri = str(conn.as_uri())
    for ours, theirs in (("tokenferry-amqp", "amqp"), ("tokenferry", "redis")):
        if uri.startswith(ours):
            return uri.replace(ours, theirs, 1)
    return uri
