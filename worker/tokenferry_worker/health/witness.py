"""An independent look at the queues: how many messages wait, asked over a connection that consumes nothing."""

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
    """Asks in a thread of its own: a broker that swallows questions holds up nobody else."""

    def __init__(self, configuration: Configuration, queues: Sequence[str]) -> None:
        self._configuration = configuration
        self._queues = queues
        self._connection: Connection | None = None
        self._asking: threading.Thread | None = None
        self.waiting: Mapping[str, int] | None = None
        """Messages in each queue; None before the first answer, while one is awaited, and where none came."""
        self.reached: bool | None = None
        """Whether the latest question that has ended was answered; None before the first."""
        self.empty_at: float | None = None
        """When every queue was last seen empty: monotonic seconds."""

    def ask(self) -> None:
        """Begin to ask, unless an earlier question is still open. Returns at once."""
        if self._asking is None or not self._asking.is_alive():
            self.waiting = None
            self._asking = threading.Thread(target=self._ask, name="tokenferry-witness", daemon=True)
            self._asking.start()

    def _ask(self) -> None:
        known = self._connection is not None
        waiting = self._try()
        if waiting is None and known:
            waiting = self._try()  # the old connection was gone; that says nothing about the broker
        self.waiting, self.reached = waiting, waiting is not None
        if waiting is not None and not any(waiting.values()):
            self.empty_at = time.monotonic()

    def _try(self) -> dict[str, int] | None:
        try:
            return self._count()
        except Exception:
            # Whatever it is, the consumer meets it too and says so; and here it proves nothing.
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
                        raise  # RabbitMQ could not say: that is no empty queue
                    # On Redis an empty list is none; RabbitMQ ends the channel, and the consumer, which declares them
                    # all, has not begun.
                    if amqp:
                        break
        return counts
