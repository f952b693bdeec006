"""The connection over which a channel takes messages and waits for more. Waiting takes nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from queue import Empty
from time import monotonic
from typing import Any

import redis
from kombu.log import get_logger
from kombu.transport import redis as stock
from redis.exceptions import NoScriptError, ResponseError

from tokenferry.broker.alarm import Alarm
from tokenferry.broker.redis_transport.keeper import RETRY_SECONDS, refusal
from tokenferry.broker.redis_transport.poller import RECHECK_SECONDS
from tokenferry.broker.redis_transport.register import Credit, Register, Taken, answer

logger = get_logger(__name__)

TRACK = ("CLIENT", "TRACKING", "ON", "NOLOOP")


@dataclass(frozen=True, slots=True)
class Question:
    """A take under way: when it was sent (monotonic seconds), its credit, and what it acknowledges."""

    at: float
    credit: dict[str, Credit]
    acks: list[str]


class Waiter:
    """Takes what the channel has credit for, and learns when a queue that was read to its end has changed."""

    def __init__(self, channel: Any, client: Any, register: Register) -> None:
        """*client*: used here only, with connections made by `track_changes`."""
        self.client = client
        self.troubled = False
        """Whether the server did not answer the last time."""
        self._channel = channel
        self._register = register
        self._asked: Question | None = None
        self._armed: frozenset[str] = frozenset()
        self._answered_at = self._pause_until = 0.0
        self._lost_since: float | None = None
        self._alarm = Alarm(logger, "taking messages from the queues")

    @property
    def is_overdue(self) -> bool:
        """Whether a take has had no answer for too long. Its acknowledgements must be written another way."""
        patience = min(self._channel.socket_timeout, self._channel.lease_seconds / 2)
        asked = self._asked
        return asked is not None and monotonic() - asked.at > patience

    @property
    def acks_under_way(self) -> list[str]:
        """The tags that a take without an answer acknowledges."""
        asked = self._asked
        return asked.acks if asked is not None else []

    def ask(self) -> None:
        """Send a take if there is credit for a queue that is not known to be read to its end."""
        now, channel = monotonic(), self._channel
        if self._asked is not None:
            sock = self.client.connection._sock
            if self.is_overdue and not (sock and stock._socket_readable(sock)):
                self._lost(redis.TimeoutError("no reply to a take"))
            return
        credit = {queue: n for queue in channel.active_queues if (n := channel.qos.credit(queue))}
        heard = now - self._answered_at < RECHECK_SECONDS
        settled = heard and credit.keys() <= self._armed and not self._register.has_acks
        if not credit or settled or now < self._pause_until:
            return
        self._asked = Question(now, credit, self._register.some_acks())
        poller = channel.connection.cycle
        try:
            if not poller._client_registered(channel, self.client, "BRPOP"):
                poller._register(channel, self.client, "BRPOP")
            self.client.connection.send_command(*self._register.take_command(credit, self._asked.acks))
        except channel.connection_errors as error:
            self._lost(error)

    def read(self) -> list[Taken]:
        """Read what the server sent: the answer to a take, or a notice that a queue has changed.

        Raises `queue.Empty` if there is no answer yet, and the client's error if the server was away for too long.
        """
        connection, asked = self.client.connection, self._asked
        try:
            reply = connection.read_response(disable_decoding=True, push_request=asked is None)
        except NoScriptError:
            self.forget_question()
            self._load_take(connection)
            raise Empty() from None
        except ResponseError as error:
            # A full or read-only server may serve us again, and our end would not help.
            self.forget_question()
            self._try_again(10 * RETRY_SECONDS)
            self._alarm.failed(refusal(error))
            raise Empty() from None
        except self._channel.connection_errors as error:
            self._lost(error)
            raise Empty() from None
        if asked is None:
            self._armed = frozenset()
            raise Empty()
        self._alarm.worked()
        self._asked, self._lost_since, self.troubled, self._answered_at = None, None, False, monotonic()
        if self._answered_at - asked.at > self._channel.lease_seconds:
            # We slept and did not renew these: another consumer gets them.
            self._armed = frozenset()
            raise Empty()
        taken, cut_short = answer(reply)
        counts, lengths = Counter(queue for queue, _, _ in taken), Counter[str]()
        for queue, _, payload in taken:
            lengths[queue] += len(payload)
        self._armed = frozenset(
            queue
            for queue, credit in asked.credit.items()
            if counts[queue] < credit.messages and lengths[queue] < credit.room
        )
        if cut_short or connection.can_read(timeout=0):
            self._armed = frozenset()  # a change arrived behind the answer, where no poller sees it
        return taken

    def _load_take(self, connection: Any) -> None:
        """Load the script again after the server has forgotten it, or where another server took its place.

        Over this connection: another one may lead to another node of a cluster.
        """
        try:
            connection.send_command("SCRIPT", "LOAD", self._register.take_source)
            connection.read_response(disable_decoding=True)
        except self._channel.connection_errors as error:
            self._lost(error)
        except ResponseError as error:
            self._try_again(10 * RETRY_SECONDS)
            self._alarm.failed(refusal(error))

    def last_answer(self) -> list[Taken]:
        """Wait for the answer to a take under way, at the end of the channel."""
        if self._asked is None or self.client.connection is None:
            return []
        brought = answer(self.client.connection.read_response(disable_decoding=True))
        self._asked = None
        return brought.taken

    def forget_question(self) -> None:
        asked, self._asked, self._armed = self._asked, None, frozenset()
        if asked is not None:
            self._register.note_acks_again(asked.acks)

    def _lost(self, error: Exception) -> None:
        """Try again in a moment. After half a lease without an answer, raise *error*: the application reconnects.

        A short absence needs no reconnect: deliveries in flight stay ours, and are not delivered twice.
        """
        now = monotonic()
        if self.client.connection is not None:
            self.client.connection.disconnect()
        self.forget_question()
        if self._lost_since is None:
            self._lost_since = now
            self._try_again(0.0)
        elif now - self._lost_since <= self._channel.lease_seconds / 2:
            self._try_again(RETRY_SECONDS)
        else:
            self._lost_since = None
            raise error

    def _try_again(self, seconds: float) -> None:
        """Send nothing for *seconds*. Until the server answers, the keeper wakes the waiting thread."""
        self._pause_until, self.troubled = monotonic() + seconds, True
        self._channel.nudge_keeper()


def track_changes(connection: Any) -> None:
    """Connect so that the server tells us of changes to lists we have read to their end, but not of our own changes."""
    connection.on_connect()
    connection.send_command(*TRACK)
    connection.read_response()


def ask_to_track(channel: Any) -> bool:
    """Return if the server of *channel* would tell a reader of changed queues. True: it is a node of a cluster.

    Raises `ResponseError`: the user lacks the right, or a proxy lacks the command.
    """
    connection = channel.pool.connection_class(**channel.pool.connection_kwargs | {"protocol": 3})
    try:
        connection.connect()
        connection.send_command(*TRACK)
        connection.read_response()
        told = connection.handshake_metadata or {}
        return b"cluster" in (told.get(b"mode"), str(told.get("mode")).encode())
    finally:
        connection.disconnect()
