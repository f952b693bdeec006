"""Counts the messages that wait in the queues, over a connection that consumes nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from kombu import Connection
from kombu.exceptions import ChannelError

from tokenferry.broker import connecting
from tokenferry.broker.patience import is_missing
from tokenferry.configuration import Configuration


class QueueWitness:
    """Asks the broker in its own thread, so that a broker that does not answer holds up nothing else."""

    def __init__(self, configuration: Configuration, queues: Sequence[str]) -> None:
        self._configuration = configuration
        self._queues = queues
        self._connection: Connection | None = None
        self._asking: threading.Thread | None = None
        self.waiting: Mapping[str, int] | None = None
        """Messages in each queue. None before the first answer, during a question, and where no answer came."""
        self.reached: bool | None = None
        """True if the broker answered the latest finished question; None before the first."""
        self.empty_at: float | None = None
        """When every queue was last seen empty: monotonic seconds."""

    def ask(self) -> None:
        """Begin a question, unless an earlier one is still open. Returns at once."""
        if self._asking is None or not self._asking.is_alive():
            self.waiting = None
            self._asking = threading.Thread(target=self._ask, name="tokenferry-witness", daemon=True)
            self._asking.start()

    def _ask(self) -> None:
        known = self._connection is not None
        waiting = self._try()
        if waiting is None and known:
            waiting = self._try()  # only the old connection was gone; ask the broker over a new one
        self.waiting, self.reached = waiting, waiting is not None
        if waiting is not None and not any(waiting.values()):
            self.empty_at = time.monotonic()

    def _try(self) -> dict[str, int] | None:
        try:
            return self._count()
        except Exception:
            # Whatever it is, the consumer meets it too and logs it; here it proves nothing.
            connection, self._connection = self._connection, None
            if connection is not None:
                with suppress(Exception):
                    connection.collect(socket_timeout=0.1)
            return None

    def _count(self) -> dict[str, int]:
        if self._connection is None:
            self._connection = connecting.connect(self._configuration)
        amqp = connecting.is_amqp(connecting.broker_url(self._configuration))
        counts = dict.fromkeys(self._queues, 0)
        with self._connection.channel() as channel:
            for name in self._queues:
                try:
                    declared = connecting.queue(name, amqp=amqp).bind(channel).queue_declare(passive=True)
                    counts[name] = int(declared.message_count)
                except ChannelError as error:
                    if not is_missing(error):
                        raise  # RabbitMQ could not answer; the queue may not be empty
                    # On Redis an empty list does not exist. RabbitMQ closes the channel; there the queues are missing
                    # only until the consumer, which declares them all, has started.
                    if amqp:
                        break
        return counts
