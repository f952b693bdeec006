"""Looking through a queue that nobody consumes, taking out what is wanted, and losing nothing on the way.

On Redis and Valkey the list is read where it lies, and an entry is removed by what it is. On RabbitMQ a message is
held unacknowledged until it is removed, the shelf is closed or ten minutes are over, so that two who look at the same
time see different messages; whoever dies gives everything back. In neither case is a message in no place.
"""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Protocol

from kombu.exceptions import ChannelError

from tokenferry.broker import connecting
from tokenferry.configuration import Configuration
from tokenferry.contract.queues import MAX_MESSAGE_BYTES, MAX_TAKEN_BYTES

TOGETHER: Final = 50
"""Entries of a list read in one round trip, unless they are long."""
LONGEST: Final = 2 * MAX_MESSAGE_BYTES
"""Bytes of an entry. The longest that a worker has put here is a body of `MAX_MESSAGE_BYTES` in base64."""
LOOK: Final = Path(__file__).with_name("look.lua").read_text(encoding="utf-8")
HELD_FOR: Final = 600.0
"""Seconds after which what is held is given back and fetched anew: whoever holds a message for longer than RabbitMQ's
`consumer_timeout` (30 minutes; 15 in some versions) loses the channel, and with it every removal that comes later."""
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


@contextmanager
def opened(configuration: Configuration, queue: str, *, declare: bool = False) -> Iterator[Shelf]:
    """The shelf of *queue*. What is not removed within the block is there afterwards, however it ends.

    *declare*: make the queue where it is not there yet. Raises the client library's error where the broker is away.
    """
    amqp = connecting.is_amqp(connecting.broker_url(configuration))
    connection = connecting.connect(configuration)
    connection.heartbeat = 0  # an operator may think for a while before the answer
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
    except BaseException:
        connection.collect(socket_timeout=1.0)
        raise
    connection.release()


class _Listed:
    """A list of Redis or Valkey: oldest at its tail."""

    def __init__(self, client: Any, queue: str) -> None:
        self._client = client
        self._look = client.register_script(LOOK)
        self._queue = queue
        self._passed = 0
        """Entries at the tail that were seen and are still there."""

    def __iter__(self) -> Iterator[Item]:
        left = int(self._client.llen(self._queue))
        while left > 0:
            last = -1 - self._passed
            limits = [last - min(left, TOGETHER) + 1, last, LONGEST, MAX_TAKEN_BYTES]
            some = self._look(keys=[self._queue], args=limits)
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

    def __iter__(self) -> Iterator[Item]:
        try:
            message = self._get()
        except self._missing:
            return  # nothing was ever set aside
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

    def give_back(self) -> None:
        """Return what is held, in its order. Returns when the next look will see it."""
        if not self._held:
            return
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
        return message

    def _ready(self) -> int:
        """How many wait, as the node says. Of a quorum queue that is busy for 250 ms it says 0 (3.10)."""
        return int(self._channel.queue_declare(self._queue, passive=True).message_count)


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
