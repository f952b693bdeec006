"""Looking through a queue, taking out what is wanted, and losing nothing on the way.

On Redis and Valkey the list is read where it lies, and an entry is removed by what it is. On RabbitMQ a message is
held unacknowledged until it is removed, the shelf is closed or ten minutes are over, so that two who look at the same
time see different messages; whoever dies gives everything back. In neither case is a message in no place.

RabbitMQ has no way to look without a delivery, and a quorum queue counts every delivery against its limit. So only
queues whose limit is as good as none (`connecting.NO_DELIVERY_LIMIT`) may be looked through: results, dead letters, the
quarantine. What is given back comes first again, in its order.
"""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Protocol

from kombu.exceptions import ChannelError
from redis.exceptions import ResponseError

from tokenferry.broker import connecting
from tokenferry.configuration import Configuration

TOGETHER: Final = 200
"""Entries of a list read in one round trip."""
MOST_IN_HAND: Final = 2000
"""Deliveries in anybody's hand up to which those of one queue are counted: each is read for it."""
MOST_FOR_ORDER: Final = 1000
"""Messages that a look fetches for no other reason than to give them back in their order."""
HELD_FOR: Final = 600.0
"""Seconds after which what is held is given back and fetched anew: whoever holds a message for longer than RabbitMQ's
`consumer_timeout` (30 minutes; 15 in some versions) loses the channel, and with it every removal that comes later."""
UNACKED: Final = "unacked"
"""The hash of deliveries in hand, of all queues: kombu's own name for it."""
VISIBLE_WITHIN: Final = 5.0
"""Seconds until what was given back should be there again."""


@dataclass(frozen=True)
class Item:
    """One message of the queue: its body, and what its shelf knows it by."""

    body: str
    handle: Any


class Shelf(Protocol):
    """A queue that is looked through once, the oldest first."""

    def __iter__(self) -> Iterator[Item]:
        """What was there when it began; what comes meanwhile waits for the next look."""
        ...

    def remove(self, item: Item) -> bool:
        """Take *item*, the latest, off the queue for good: when this returns, the broker knows.

        False where somebody else has done so. Raises the client library's error where it may still be there.
        """
        ...

    def elsewhere(self) -> str | None:
        """What somebody else has in hand of this queue, in words; None where that is nothing, or not cheap to find."""
        ...


@contextmanager
def opened(configuration: Configuration, queue: str, *, declare: bool = False) -> Iterator[Shelf]:
    """The shelf of *queue*. What is not removed within the block is there afterwards, however it ends.

    *declare*: make the queue where it is not there yet. Raises the client library's error where the broker is away.
    """
    amqp = connecting.is_amqp(connecting.broker_url(configuration))
    connection = connecting.connect(configuration)
    connection.heartbeat = 0  # an operator may think for a while before the answer
    broken = (*connection.connection_errors, *connection.channel_errors)
    held = None
    try:
        connection.ensure_connection(max_retries=1, interval_start=0.05, reraise_as_library_errors=False)
        if declare and amqp:
            connecting.queue(queue, amqp=True).bind(connection.default_channel).declare()
        if amqp:
            held = _Held(connection.default_channel, queue, missing=(ChannelError, *connection.channel_errors))
            yield held
            held.give_back()
        else:
            yield _Listed(connection.default_channel.client, queue)
    except BaseException as error:
        if held is not None and (isinstance(error, BrokenPipeError) or not isinstance(error, broken)):
            # Nobody reads our output, for instance. The broker would give it back as well, but later, and not in order.
            with suppress(*broken):
                held.give_back()
        connection.collect(socket_timeout=1.0)
        raise
    connection.release()


class _Listed:
    """A list of Redis or Valkey: oldest at its tail."""

    def __init__(self, client: Any, queue: str) -> None:
        self._client = client
        self._queue = queue
        self._passed = 0
        """Entries at the tail that were seen and are still there."""

    def __iter__(self) -> Iterator[Item]:
        left = int(self._client.llen(self._queue))
        while left > 0:
            last = -1 - self._passed
            some = self._client.lrange(self._queue, last - min(left, TOGETHER) + 1, last)[::-1]
            if not some:
                return
            left -= len(some)
            for payload in some:
                self._passed += 1
                yield Item(_body(payload), payload)

    def remove(self, item: Item) -> bool:
        # From the tail, where it is: every entry has a delivery tag of its own, so it is this one or none.
        removed = int(self._client.lrem(self._queue, -1, item.handle)) > 0
        self._passed -= removed
        return removed

    def elsewhere(self) -> str | None:
        try:
            if int(self._client.hlen(UNACKED)) > MOST_IN_HAND:
                return None
            held = self._client.hscan_iter(UNACKED, count=TOGETHER)
            count = sum(_queue_of(value) == self._queue for _, value in held)
        except ResponseError:
            return None  # an access list keeps us from it
        if not count:
            return None
        return (
            f"{count} more {'is' if count == 1 else 'are'} in the hand of another reader; "
            "what that does not acknowledge comes back, within seconds where it has died"
        )


class _Held:
    """A queue of RabbitMQ, its messages fetched one by one and given back at the end."""

    def __init__(self, channel: Any, queue: str, *, missing: tuple[type[Exception], ...]) -> None:
        """*missing*: what the client library raises where there is no such queue."""
        self._channel = channel
        self._queue = queue
        self._missing = missing
        self._held: dict[int, bytes] = {}
        """What was fetched and not removed, oldest first: its delivery tag, and the hash it is known by."""
        self._behind = 0
        """Messages behind the one that was fetched last."""
        self._was_given_back = False
        """Whether the message that was fetched last had been in somebody's hand before."""
        self._readers: int | None = None
        """Consumers that the queue had when we began: what we fetch ourselves counts as one, too. -1: no such queue."""

    def __iter__(self) -> Iterator[Item]:
        if not self._is_there():
            return  # nothing was ever put there
        message = self._get()
        left = self._behind + 1
        seen: Counter[bytes] = Counter()
        until = time.monotonic() + HELD_FOR
        while left > 0 and message is not None:
            body = _text(message.body)
            known_by = sha256(body.encode("utf-8", "surrogatepass")).digest()
            self._held[message.delivery_tag] = known_by
            if seen[known_by]:
                seen[known_by] -= 1
            else:
                left -= 1
                yield Item(body, message.delivery_tag)
                if time.monotonic() > until:
                    seen.update(self._held.values())
                    self.give_back()
                    until = time.monotonic() + HELD_FOR
            message = self._get() if left > 0 else None

    def remove(self, item: Item) -> bool:
        self._channel.basic_ack(item.handle)
        self._ready()  # an acknowledgement has no answer; this has one, and comes behind it on the same channel
        del self._held[item.handle]
        return True

    def elsewhere(self) -> str | None:
        return "another reader is connected, and may have more in hand" if self._is_there() and self._readers else None

    def give_back(self) -> None:
        """Return what is held, in its order. Returns when the next look will see it."""
        if not self._held:
            return
        # What was given back before is first in line, and what is given back now comes behind it. So all of that is
        # fetched as well, lest a look that ends early changes the order.
        more = MOST_FOR_ORDER
        while self._was_given_back and more and (message := self._get()) is not None:
            self._held[message.delivery_tag] = b""
            more -= 1
        due = max(self._ready(), self._behind) + len(self._held)
        for tag in self._held:
            self._channel.basic_reject(tag, requeue=True)
        self._held.clear()
        until = time.monotonic() + VISIBLE_WITHIN  # somebody else may look, too, and take them before we count
        while self._ready() < due and time.monotonic() < until:
            time.sleep(0.005)

    def _get(self) -> Any:
        """The next message, or None. Comes from the queue's own process, and knows how many are behind it."""
        message = self._channel.basic_get(self._queue)
        self._behind = int(message.delivery_info["message_count"]) if message is not None else 0
        self._was_given_back = message is not None and bool(message.delivery_info["redelivered"])
        return message

    def _is_there(self) -> bool:
        """Whether there is such a queue. Asking for one that is not there closes the channel, so it is asked once."""
        if self._readers is None:
            try:
                self._readers = int(self._declared().consumer_count)
            except self._missing:
                self._readers = -1
        return self._readers >= 0

    def _ready(self) -> int:
        """How many wait, as the node says. Of a quorum queue that is busy for 250 ms it says 0 (3.10)."""
        return int(self._declared().message_count)

    def _declared(self) -> Any:
        return self._channel.queue_declare(self._queue, passive=True)


def _queue_of(registered: bytes) -> str | None:
    """The queue of a delivery in hand, as `take.lua` registers it."""
    try:
        _, _, queue = json.loads(registered)
    except (ValueError, TypeError):
        return None
    return str(queue)


def _body(payload: bytes) -> str:
    """The body of a message as kombu writes it to a list; the payload itself where it is none."""
    try:
        message = json.loads(payload)
        body, encoding = message["body"], message["properties"]["body_encoding"]
        return _text(base64.b64decode(body) if encoding == "base64" else body)
    except (ValueError, TypeError, LookupError, RecursionError):
        return _text(payload)


def _text(body: object) -> str:
    return body.decode("utf-8", "backslashreplace") if isinstance(body, bytes) else str(body)
