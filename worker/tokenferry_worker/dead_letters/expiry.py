"""Drops old dead letters and quarantined messages. One process of the fleet does it at a time."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from amqp.exceptions import AccessRefused
from redis.exceptions import NoPermissionError

from tokenferry.broker import queue_browser
from tokenferry.broker.publishing import CanPublish, Outgoing, PublishError, wait
from tokenferry.configuration import Configuration
from tokenferry.contract.queues import DEAD_LETTERS, QUARANTINE
from tokenferry_worker.circuits.breaker import CircuitStore
from tokenferry_worker.dead_letters.record import DeadLetter
from tokenferry_worker.dead_letters.retention import redated

log = logging.getLogger(__name__)

EVERY: Final = 60.0
"""Seconds between two sweeps, for the whole fleet."""
DUTY: Final = "set-aside"
"""The name of the sweep among the duties of the fleet."""
DAY: Final = 86_400.0


@dataclass
class ExpirySweeper:
    """Sweeps both queues while this process leads the duty."""

    configuration: Configuration
    publisher: CanPublish
    circuits: CircuitStore
    clock: Callable[[], Awaitable[float]]
    """Unix seconds on the store's clock: a wrong clock of this machine must drop nothing."""
    key: bytes | None = None
    """Of the hashes in notes."""
    name: str = field(default_factory=lambda: secrets.token_hex(8))

    queues: list[str] = field(default_factory=lambda: [DEAD_LETTERS, QUARANTINE])
    """Those that this worker may read."""

    async def run(self) -> None:
        """Sweep both queues again and again."""
        while True:
            for queue in list(self.queues):
                try:
                    if await self.circuits.try_lead(DUTY, self.name, lease=EVERY):
                        await asyncio.to_thread(self.sweep, queue, await self.clock())
                except (NoPermissionError, AccessRefused):
                    self.queues.remove(queue)
                    log.info("%s: this user may not read it, so workers of another user sweep it", queue)
                except Exception as error:
                    log.warning("%s was not swept (%s); trying again", queue, type(error).__name__)
            await asyncio.sleep(EVERY)

    def sweep(self, queue: str, now: float) -> int:
        """Drop every message older than its days at *now*, and return how many there were. Blocks its thread.

        It stops at the first younger one, because the oldest come first. A message without a time gets one and goes
        behind the others. It is published before it is removed, so that a crash in between leaves two, not none.
        """
        days = self.configuration.worker.dead_letter_days
        oldest, latest = (now - days * DAY) * 1000, (now + DAY) * 1000
        dropped = 0
        with queue_browser.open_browser(self.configuration, queue, declare=True) as browser:
            for message in browser:
                at = DeadLetter.read(message.body).at
                if at is None or at > latest:
                    try:
                        dated = Outgoing(queue, redated(message.body, at=now, key=self.key))
                        wait(self.publisher.submit(dated), self.configuration.broker.publish_timeout)
                    except PublishError as error:
                        log.warning("%s: a message got no time (%s); it stays as it is", queue, error)
                        continue
                elif at > oldest:
                    break
                else:
                    dropped += 1
                browser.remove(message)
        if dropped:
            log.warning("%s: dropped %d messages older than %g days", queue, dropped, days)
        return dropped
