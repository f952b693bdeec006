"""What a channel holds, and how much more it may take."""

from __future__ import annotations

import os
import threading
from collections import Counter
from typing import Any

from kombu.log import get_logger
from kombu.transport import redis as stock
from redis.exceptions import ResponseError

from tokenferry.broker.redis_transport.register import Credit
from tokenferry.contract.queues import held_bytes

logger = get_logger(__name__)

MOST_PER_TAKE = 250
"""Messages per queue in one take, also when the prefetch count is unlimited (0)."""


class QoS(stock.QoS):  # type: ignore[misc,unused-ignore]
    """What this channel holds, and how much more of each queue it may take. For any thread."""

    def __init__(self, channel: Any, prefetch_count: int = 0) -> None:
        super().__init__(channel, prefetch_count)
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._held: dict[str, tuple[str, int]] = {}  # delivery tag -> queue and bytes, in the order taken
        self._used: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    def credit(self, queue: str) -> Credit | None:
        """What may still be taken from *queue*; None: nothing."""
        prefetch = int(self.prefetch_count or 0)
        room = held_bytes(len(self.channel.active_queues), prefetch) - self._bytes[queue]
        messages = min(MOST_PER_TAKE, prefetch - self._used[queue]) if prefetch else MOST_PER_TAKE
        return Credit(messages, room) if messages > 0 and room > 0 else None

    def can_consume(self) -> bool:
        return any(self.credit(queue) for queue in self.channel.active_queues)

    def hold(self, tag: str, queue: str, length: int) -> None:
        """Count a delivery of *length* bytes as ours: its lease is renewed from now on."""
        with self._lock:
            self._held[tag] = queue, length
            self._used[queue] += 1
            self._bytes[queue] += length

    def holds(self, tag: str) -> bool:
        return tag in self._held

    def held(self) -> list[str]:
        with self._lock:
            return list(self._held)

    def release(self, tag: str) -> bool:
        """Give the credit of a delivery back. False if it is not ours any more."""
        with self._lock:
            held = self._held.pop(tag, None)
            if held is not None:
                queue, length = held
                self._used[queue] -= 1
                self._bytes[queue] -= length
            return held is not None

    def append(self, message: Any, delivery_tag: str) -> None:
        """Do nothing: the take has registered it."""

    def ack(self, delivery_tag: str) -> None:
        if self.release(delivery_tag):
            self.channel.note_ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if not requeue:
            self.ack(delivery_tag)
        elif self.release(delivery_tag):
            try:
                self.channel.give_back([delivery_tag])
            except (*self.channel.connection_errors, ResponseError) as error:
                logger.warning("not given back (%s): returns when its lease ends", type(error).__name__)
            self.channel.credit_returned()

    def restore_unacked(self, client: Any = None) -> list[Any]:
        """Give everything back at once. What could not be given back stays known, for a late acknowledgement."""
        try:
            self.channel.give_back(held := self.held())
            for tag in held:
                self.release(tag)
        except (*self.channel.connection_errors, ResponseError) as error:
            logger.warning("deliveries not given back (%s): return when their lease ends", type(error).__name__)
        return []

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """The end of the channel or of the process. Never dumps messages to a file: the broker has them all."""
        self._on_collect.cancel()
        if self._pid != os.getpid():
            return  # a forked child has inherited the channel: the deliveries are its parent's
        if self.restore_at_shutdown and self.channel.do_restore and self.channel.giving_back_may_work:
            self.restore_unacked()

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the stock sweep does not know leases. `Keeper` does the work."""
