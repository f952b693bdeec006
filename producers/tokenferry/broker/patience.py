"""Asking RabbitMQ again when it cannot answer about a queue for a moment: it is busy, or it elects a leader.

Measured (3.10): while the process of a quorum queue does not run, `basic.get`, `basic.consume` and `queue.purge` end
the whole connection with 541 INTERNAL_ERROR. What was held over that connection goes back to its queue, and its
delivery tags are not valid on the next one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final, TypeVar

from amqp.exceptions import AMQPError, InternalError, NotFound, RecoverableConnectionError
from kombu import Connection
from kombu.exceptions import ChannelError

from tokenferry.broker.error_text import BUSY
from tokenferry.broker.errors import QueueUnanswered
from tokenferry.broker.pending import pause

__all__ = ["Patience", "QueueUnanswered", "ask", "is_missing", "let_go", "passes"]

T = TypeVar("T")

PATIENCE: Final = 10.0
"""Seconds for which one question is repeated. An election takes one to five."""


class Patience:
    """Decides whether and when one question is asked again."""

    def __init__(
        self, queue: str, *, seconds: float | None = None, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        """*queue*: for the error. *seconds*: default `PATIENCE`."""
        self._queue = queue
        self._until = time.monotonic() + (PATIENCE if seconds is None else seconds)
        self._sleep = sleep
        self._tries = 0

    def again(self, error: BaseException) -> None:
        """Return after a pause if another try, over a new connection, may help.

        Raises `QueueUnanswered` when the time is over; *error* if it is of another kind, or if no try would help.
        """
        if not passes(error):
            raise error
        if time.monotonic() >= self._until:
            if isinstance(error, InternalError | NotFound):
                raise QueueUnanswered(
                    f"RabbitMQ could not answer for the queue {self._queue} ({error.reply_code}): {BUSY}"
                ) from None
            raise error
        self._tries += 1
        self._sleep(pause(self._tries))


def ask(connection: Connection, question: Callable[[Connection], T], *, queue: str, seconds: float | None = None) -> T:
    """Return the answer to *question*. It is asked again, over a new connection, while RabbitMQ cannot answer.

    *question* must be safe to repeat: what its first try got has gone back to the queue. *seconds*: when to stop,
    default `PATIENCE`. On other brokers it is asked once.

    Raises `QueueUnanswered` after that time. Raises what the client library raises at once if another try does not
    help, or if the broker cannot be reached at all.
    """
    patience = Patience(queue, seconds=seconds)
    while True:
        # Not in the `try`: a failed connection is another problem, and is reported at once.
        connection.ensure_connection(max_retries=1, interval_start=0.05, reraise_as_library_errors=False)
        try:
            return question(connection)
        except (AMQPError, OSError) as error:
            if passes(error):
                let_go(connection)
            patience.again(error)


def passes(error: BaseException) -> bool:
    """Whether the same question may be answered soon, over a new connection.

    >>> passes(InternalError("timeout")), passes(ConnectionResetError()), passes(ConnectionRefusedError())
    (True, True, False)
    """
    match error:
        case QueueUnanswered() | ConnectionRefusedError():
            return False
        case NotFound():
            return not is_missing(error)  # the rest of this code: a time-out, a node that is down
    return isinstance(error, InternalError | RecoverableConnectionError | OSError)


def is_missing(error: BaseException) -> bool:
    """Whether a broker says that there is no such queue or exchange. RabbitMQ uses the same code for time-outs.

    >>> is_missing(NotFound("NOT_FOUND - no queue 'x' in vhost '/'"))
    True
    >>> is_missing(NotFound("NOT_FOUND - failed to perform operation on queue 'x' in vhost '/' due to timeout"))
    False
    """
    return isinstance(error, ChannelError) and str(error.reply_text).startswith("NOT_FOUND - no ")


def let_go(connection: Connection) -> None:
    """Drop a connection without asking the broker, which may not answer. The next use makes a new one."""
    with contextlib.suppress(Exception):  # a dead connection may fail at its own end
        connection.collect(socket_timeout=0.1)
