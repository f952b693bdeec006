"""Celery's consumer, made to lose nothing: what it would drop with the body in the log is set aside, silently.

And made to show that it is alive, and whether it is connected.
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

from tokenferry.broker.publishing import Outgoing, PublishError
from tokenferry.contract.queues import QUARANTINE, tokenize_queue
from tokenferry_worker.set_aside.keeping import note

log = logging.getLogger(__name__)


RETRY_EVERY = (1, 1, 5)
"""Seconds between tries to reach the broker: the first pause, how much longer each is than the last, the longest."""
ASIDE_AGAIN = 5.0
"""Seconds until another try to set a message aside: it would come back at once, and hold up what is ours."""


class CarefulConsumer(Consumer):
    """Moves unknown tasks, foreign messages and undecodable bodies to the quarantine queue instead of dropping them."""

    class Blueprint(Consumer.Blueprint):
        """Celery's, less what declares 28 quorum queues for delays on RabbitMQ: no message of ours is ever delayed."""

        default_steps: ClassVar = [step for step in Consumer.Blueprint.default_steps if "DelayedDelivery" not in step]

    def is_reading(self) -> bool:
        """Whether it is connected, and the broker hands out messages as far as it has said."""
        consumer = getattr(self, "task_consumer", None)
        return self.connection is not None and consumer is not None and not getattr(consumer.channel, "troubled", False)

    def loop(self, *arguments: Any) -> None:
        """Celery's, in which a channel that RabbitMQ has closed is a lost connection, and not the end of the worker."""
        try:
            asynloop(*arguments)
        except ChannelError as error:
            raise RecoverableConnectionError(str(error)) from None

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, trying for ever; each try shows the watchdog that we do.

        Also where the broker refuses us, which kombu takes for final: a password may be put right there, too.
        """

        def failed(error: BaseException, pause: float) -> None:
            log.error("the broker at %s cannot be reached (%s); trying again in %g s", _address(conn), error, pause)

        def between() -> None:
            self.pool.turns += 1
            maybe_shutdown()

        first, step, longest = RETRY_EVERY
        pause = first
        while True:
            try:
                conn.ensure_connection(
                    failed, None, interval_start=first, interval_step=step, interval_max=longest, callback=between
                )
            except (AccessRefused, NotAllowed) as error:
                log.error(
                    "the broker at %s refuses us (%s): correct user, password and virtual host in [broker] url, "
                    "or there; trying again in %g s",
                    _address(conn),
                    type(error).__name__,
                    pause,
                )
            else:
                self.first_connection_attempt = False
                return conn
            for _ in range(pause):
                between()
                time.sleep(1.0)
            pause = min(pause + step, longest)

    def on_connection_error_after_connected(self, exc: BaseException) -> None:
        """Let go of a lost connection, and call off what came over it.

        It cannot be acknowledged any more and comes again. Two deliveries of one request would do no harm, but while
        they wait each further loss would add one, and all of them would count towards poison.
        """
        self.pool.turns += 1  # to let go of a silent broker takes as many waits as there are words to say to it
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CPendingDeprecationWarning)  # Celery's advice to do the same
            super().on_connection_error_after_connected(exc)
        self.pool.turns += 1
        self.pool.call_off()

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """A message that is no task."""
        self._set_aside(message, "not a task message")

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """A task that is not ours."""
        self._set_aside(message, "unknown task")

    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """A task message with broken parts."""
        self._set_aside(message, "invalid task message")

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        """A body that its own content type does not fit, or a content type that is not accepted."""
        self._set_aside(message, "undecodable message")

    def _set_aside(self, message: Any, reason: str) -> None:
        queue = str(message.delivery_info.get("routing_key", ""))
        self.pool.taken[queue] += 1
        self.pool.turns += 1  # what follows may take long, once for each of them
        realtime = not queue or queue.startswith(tokenize_queue("realtime", ""))
        kept = note(message.body or "", reason, at=self.app.tokenferry_clock(), realtime=realtime)
        try:
            self.app.tokenferry_publisher().publish(Outgoing(QUARANTINE, kept))
        except PublishError as error:
            said = "a message is not ours or not readable (%s), but was not moved to %s (%s); trying again"
            log.warning(said, reason, QUARANTINE, error)
            again = (log, self.connection_errors, True)
            self.timer.call_after(ASIDE_AGAIN, message.reject_log_error, again)
        else:
            log.warning("a message is not ours or not readable (%s); moved to %s", reason, QUARANTINE)
            message.ack_log_error(log, self.connection_errors)


def _address(conn: Any) -> str:
    """The broker without its password, as people write it: the scheme of our transport is nobody's business."""
    uri = str(conn.as_uri())
    return uri.replace("tokenferry", "redis", 1) if uri.startswith("tokenferry") else uri
