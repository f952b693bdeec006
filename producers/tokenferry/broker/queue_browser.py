"""Reading a queue without consuming it, and removing single messages. No message is lost on the way.

On Redis and Valkey the list is read in place, and an entry is removed by its value. On RabbitMQ a message is held
unacknowledged until it is removed, the browser is closed, or ten minutes are over. So two browsers see different
messages at the same time, and everything that a dead one held goes back to the queue.

RabbitMQ can show a message only by delivering it, and a quorum queue counts every delivery against its limit. So only
queues with as good as no limit (`connecting.NO_DELIVERY_LIMIT`) may be browsed: results, dead letters, the quarantine.
What is given back comes first again, in its order.
"""

from __future__ import annotations

import base64
import json
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Protocol

from amqp.exceptions import AMQPError
from kombu import Connection
from kombu.exceptions import ChannelError
from redis.exceptions import ResponseError

from tokenferry.broker import connecting
from tokenferry.broker.patience import PATIENCE, ask, is_missing, let_go, passes
from tokenferry.configuration import Configuration
from tokenferry.contract.queues import MAX_MESSAGE_BYTES, MAX_TAKEN_BYTES, register_of
from tokenferry.contract.result_signature import only_signature

TOGETHER: Final = 50
"""Entries of a list that are read in one round trip, unless they are long."""
LONGEST: Final = 2 * MAX_MESSAGE_BYTES
"""Bytes of an entry. The longest that a worker has put here is a body of `MAX_MESSAGE_BYTES` in base64."""
LOOK: Final = Path(__file__).with_name("look_through.lua").read_text(encoding="utf-8")
MOST_IN_HAND: Final = 2000
"""Unacknowledged deliveries up to which those of one queue are counted, because each of them must be read."""
MOST_FOR_ORDER: Final = 1000
"""Messages fetched at most only to give them back in their order."""
HELD_FOR: Final = 600.0
"""Seconds after which held messages are given back and fetched again. RabbitMQ closes a channel that holds a message
for longer than its `consumer_timeout` (30 minutes; 15 in some versions), and later removals would be lost with it."""
UNACKED: Final = "unacked"
"""The hash of unacknowledged deliveries, as kombu names it. Workers and readers have one of their own behind a dot."""
VISIBLE_WITHIN: Final = 5.0
"""Seconds within which a message that was given back should be visible again."""


@dataclass(frozen=True)
class QueuedMessage:
    """One message of the queue: its body, and the handle by which the browser finds it."""

    body: str
    handle: Any
    headers: Mapping[str, Any] = field(default_factory=dict)
    """Only the signature of a result, if it has one."""


class QueueBrowser(Protocol):
    """A queue that is read once, the oldest message first."""

    def __iter__(self) -> Iterator[QueuedMessage]:
        """The messages that were there at the beginning. Later ones are not seen."""
        ...

    def remove(self, item: QueuedMessage) -> bool:
        """Remove *item*, the latest one, from the queue for good. When this returns, the broker has done it.

        False if somebody else has removed it. Raises the client library's error if it may still be there.
        """
        ...

    def elsewhere(self) -> str | None:
        """A sentence about messages that another reader holds; None if there are none, or if it is costly to know."""
        ...


@contextmanager
def open_browser(
    configuration: Configuration,
    queue: str,
    *,
    declare: bool = False,
    held_for: float = HELD_FOR,
    patience: float = PATIENCE,
) -> Iterator[QueueBrowser]:
    """Browse *queue*. What is not removed within the block stays in the queue, however the block ends.

    *declare*: declare the queue if it is not there. *held_for* and *patience*: seconds, as the constants of these
    names. Raises the client library's error if the broker is away.
    """
    amqp = connecting.is_amqp(connecting.broker_url(configuration))
    connection = connecting.connect(configuration)
    connection.heartbeat = 0  # an operator may take a while to answer a question
    broken = (*connection.connection_errors, *connection.channel_errors)
    held = None
    try:
        connection.ensure_connection(max_retries=1, interval_start=0.05, reraise_as_library_errors=False)
        if declare and amqp:
            declared = connecting.queue(queue, amqp=True)
            ask(connection, lambda connection: declared.bind(connection.default_channel).declare(), queue=queue)
        if amqp:
            held = _AmqpBrowser(connection, queue, held_for=held_for, patience=patience)
            yield held
            held.give_back()
        else:
            yield _RedisBrowser(connection.default_channel, queue)
    except BaseException as error:
        if held is not None and (isinstance(error, BrokenPipeError) or not isinstance(error, broken)):
            # For instance a closed output pipe. The broker would give it back as well, but later, and not in order.
            with suppress(*broken):
                held.give_back()
        connection.collect(socket_timeout=1.0)
        raise
    connection.release()


class _RedisBrowser:
    """A list of Redis or Valkey, with the oldest message at its tail."""

    def __init__(self, channel: Any, queue: str) -> None:
        self._client = channel.bare_client
        self._look = self._client.register_script(LOOK)
        self._queue = queue
        self._key_of = channel.key_of
        self._key = channel.key_of(queue)
        self._passed = 0
        """Entries at the tail that were read and are still there."""

    def __iter__(self) -> Iterator[QueuedMessage]:
        left = int(self._client.llen(self._key))
        while left > 0:
            last = -1 - self._passed
            limits = [last - min(left, TOGETHER) + 1, last, LONGEST, MAX_TAKEN_BYTES]
            some = self._look(keys=[self._key], args=limits)
            if not some:
                return
            left -= len(some)
            for payload in some:
                self._passed += 1
                yield QueuedMessage(_body(payload), payload, _headers(payload))

    def remove(self, item: QueuedMessage) -> bool:
        # From the tail: every entry has its own delivery tag, so it is this one or none.
        removed = int(self._client.lrem(self._key, -1, item.handle)) > 0
        self._passed -= removed
        return removed

    def elsewhere(self) -> str | None:
        register = register_of(self._queue)
        counts = [self._in_hand(key) for key in ((UNACKED, f"{UNACKED}.{register}") if register else (UNACKED,))]
        count = sum(counts)
        if not count:
            return None
        return (
            f"{count} more {'is' if count == 1 else 'are'} in the hand of another reader; "
            "what that does not acknowledge comes back, within seconds where it has died"
        )

    def _in_hand(self, key: str) -> int:
        """Deliveries of the queue in one register; 0 where it is costly to know, or this user lacks the right."""
        try:
            register = self._key_of(key)
            if int(self._client.hlen(register)) > MOST_IN_HAND:
                return 0
            values = (value for _, value in self._client.hscan_iter(register, count=TOGETHER))
            return sum(_queue_of(value) == self._queue for value in values)
        except ResponseError:
            return 0


class _AmqpBrowser:
    """A queue of RabbitMQ. Messages are fetched one by one and given back at the end.

    RabbitMQ may end the connection meanwhile (`tokenferry.broker.patience`). Then everything that is held goes back to
    the queue, and is fetched again over the next connection: it is not shown twice, and what was to be removed is
    removed then.
    """

    def __init__(self, connection: Connection, queue: str, *, held_for: float, patience: float) -> None:
        self._connection = connection
        self._queue = queue
        self._held_for = held_for
        self._patience = patience
        self._channel: Any = None
        """The channel of the delivery tags below."""
        self._held: dict[int, bytes] = {}
        """What was shown and not removed, oldest first: delivery tag and hash of the body."""
        self._next: deque[Any] = deque()
        """Messages that were fetched during a removal, and are still to be shown."""
        self._shown: Counter[bytes] = Counter()
        """What was shown and has gone back to the queue since, by hash."""
        self._owed: Counter[bytes] = Counter()
        """What was removed over a connection that ended before the queue had surely received it, by hash."""
        self._acknowledged: list[bytes] = []
        """What was removed since the last answer of the queue."""
        self._behind = 0
        """Messages that wait behind the one that was fetched last."""
        self._was_given_back = False
        """Whether the message that was fetched last had been delivered before."""
        self._readers: int | None = None
        """Consumers of the queue when we began, before we counted as one. -1: no such queue."""
        self._complete = 0.0
        """Monotonic time when everything that a lost connection gives back is in the queue again."""

    def __iter__(self) -> Iterator[QueuedMessage]:
        if not self._is_there():
            return  # the queue was never used
        message = self._fetch()
        left = self._behind + 1
        until = time.monotonic() + self._held_for
        while message is not None:
            body = _text(message.body)
            self._held[message.delivery_tag] = _hash(body)
            left -= 1
            headers = only_signature(message.properties.get("application_headers"))
            yield QueuedMessage(body, (self._channel, message.delivery_tag), headers)
            if left <= 0:
                return
            if time.monotonic() > until:
                self.give_back()
                until = time.monotonic() + self._held_for
            message = self._next.popleft() if self._next else self._fetch()

    def remove(self, item: QueuedMessage) -> bool:
        channel, tag = item.handle
        digest = _hash(item.body)
        if channel is not self._channel:  # it went back to the queue, and may have been fetched again already
            tag = next((tag for tag, held in self._held.items() if held == digest), None)
        if tag is None:
            self._shown[digest] -= 1
            self._owed[digest] += 1
        else:
            self._held.pop(tag, None)
            self._acknowledged.append(digest)
            try:
                self._channel.basic_ack(tag)
            except (AMQPError, OSError) as error:
                if not passes(error):
                    raise
        # An acknowledgement has no answer, but the next message proves it: the queue handles both in order.
        while (message := self._fetch()) is not None:
            self._next.append(message)
            if self._owed[digest] <= 0 or len(self._next) > TOGETHER:
                break
        return True

    def give_back(self) -> None:
        """Give back what is held, in its order. Returns when another browser would see it."""
        if not self._held and not self._next:
            return
        try:
            held = [*self._held, *(message.delivery_tag for message in self._next), *self._given_back_before()]
            due = max(self._ready(), self._behind) + len(held)
            for tag in held:
                self._channel.basic_reject(tag, requeue=True)
            self._gone_back()
            until = time.monotonic() + VISIBLE_WITHIN  # another reader may take them before we count
            while self._ready() < due and time.monotonic() < until:
                time.sleep(0.005)
        except (AMQPError, OSError) as error:
            if not passes(error):
                raise
            let_go(self._connection)  # which gives back everything
            self._connection_lost()

    def _given_back_before(self) -> Iterator[int]:
        """Fetch what an earlier browser gave back. Yields its delivery tags.

        It is first in line. What is given back now would come behind it, and the order would change.
        """
        for _ in range(MOST_FOR_ORDER):
            if not self._was_given_back or (message := self._channel.basic_get(self._queue)) is None:
                return
            self._behind = int(message.delivery_info["message_count"])
            self._was_given_back = bool(message.delivery_info["redelivered"])
            yield message.delivery_tag

    def elsewhere(self) -> str | None:
        return "another reader is connected, and may have more in hand" if self._is_there() and self._readers else None

    def _is_there(self) -> bool:
        """Whether there is such a queue. Asked once, because a question about a missing queue closes the channel."""
        if self._readers is None:
            try:
                self._readers = ask(self._connection, self._count_readers, queue=self._queue, seconds=self._patience)
            except ChannelError as error:
                if not is_missing(error):
                    raise
                self._readers = -1
        return self._readers >= 0

    def _count_readers(self, connection: Connection) -> int:
        return int(connection.default_channel.queue_declare(self._queue, passive=True).consumer_count)

    def _fetch(self) -> Any:
        """Fetch and hold the next message that was not shown yet; None if there is none."""
        while True:
            message = ask(self._connection, self._get, queue=self._queue, seconds=self._patience)
            if message is None:
                if time.monotonic() >= self._complete:
                    return None
                time.sleep(0.02)
                continue
            digest = _hash(_text(message.body))
            if self._shown[digest] <= 0:
                return message
            self._shown[digest] -= 1
            self._held[message.delivery_tag] = digest

    def _get(self, connection: Connection) -> Any:
        """Fetch one message that is not to be removed; None if there is none."""
        if connection.default_channel is not self._channel:
            if self._channel is not None:
                self._connection_lost()
            self._channel = connection.default_channel
        while (message := self._channel.basic_get(self._queue)) is not None:
            self._acknowledged.clear()  # the queue has answered, so it has received every earlier removal
            self._behind = int(message.delivery_info["message_count"])
            self._was_given_back = bool(message.delivery_info["redelivered"])
            digest = _hash(_text(message.body))
            if self._owed[digest] <= 0:
                return message
            self._owed[digest] -= 1
            self._acknowledged.append(digest)
            self._channel.basic_ack(message.delivery_tag)
        self._acknowledged.clear()
        self._behind, self._was_given_back = 0, False
        return None

    def _connection_lost(self) -> None:
        """Note that everything fetched is in the queue again, and that the last removals may be."""
        self._gone_back()
        self._owed.update(self._acknowledged)
        self._acknowledged.clear()
        self._complete = time.monotonic() + VISIBLE_WITHIN

    def _gone_back(self) -> None:
        self._shown.update(self._held.values())
        self._held.clear()
        self._next.clear()

    def _ready(self) -> int:
        """Messages that wait, as the node says. For a quorum queue that is busy for 250 ms it says 0 (3.10)."""
        return int(self._channel.queue_declare(self._queue, passive=True).message_count)


def _queue_of(registered: bytes) -> str | None:
    """The queue of an unacknowledged delivery, as `take.lua` registers it."""
    try:
        _, _, queue = json.loads(registered)
    except (ValueError, TypeError):
        return None
    return str(queue)


def _body(payload: bytes) -> str:
    """The body of a message as kombu writes it to a list; the payload itself if it is no such message."""
    try:
        message = json.loads(payload)
        body, encoding = message["body"], message["properties"]["body_encoding"]
        return _text(base64.b64decode(body) if encoding == "base64" else body)
    except (ValueError, TypeError, LookupError, RecursionError):
        return _text(payload)


def _headers(payload: bytes) -> Mapping[str, Any]:
    """The headers of a message as kombu writes it to a list."""
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return only_signature(message.get("headers")) if isinstance(message, dict) else {}


def _text(body: object) -> str:
    return body.decode("utf-8", "backslashreplace") if isinstance(body, bytes) else str(body)


def _hash(body: str) -> bytes:
    return sha256(body.encode("utf-8", "surrogatepass")).digest()
