"""Nothing sealed is kept for ever: what was set aside long ago is dropped, by one process of the fleet at a time."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from tokenferry.broker import queue_browser
from tokenferry.broker.publishing import CanPublish, Outgoing, PublishError, wait
from tokenferry.configuration import Configuration
from tokenferry.contract.queues import DEAD_LETTERS, QUARANTINE
from tokenferry_worker.circuits.breaker import CircuitStore
from tokenferry_worker.dead_letters.record import DeadLetter
from tokenferry_worker.dead_letters.retention import redated

log = logging.getLogger(__name__)

EVERY: Final = 60.0
"""Seconds between two looks, for the whole fleet."""
DUTY: Final = "set-aside"
"""What the look is called among the duties of the fleet."""
DAY: Final = 86_400.0


@dataclass
class ExpirySweeper:
    """One process's readiness to sweep."""

    configuration: Configuration
    publisher: CanPublish
    circuits: CircuitStore
    clock: Callable[[], Awaitable[float]]
    """Unix seconds, by the store: what a worker's own clock thinks of the date must drop nothing."""
    name: str = field(default_factory=lambda: secrets.token_hex(8))

    async def run(self) -> None:
        """Look after both queues, for ever."""
        while True:
            for queue in (DEAD_LETTERS, QUARANTINE):
                try:
                    if await self.circuits.try_lead(DUTY, self.name, lease=EVERY):
                        await asyncio.to_thread(self.sweep, queue, await self.clock())
                except Exception as error:
                    log.warning("%s was not swept (%s); trying again", queue, type(error).__name__)
            await asyncio.sleep(EVERY)

    def sweep(self, queue: str, now: float) -> int:
        """Drop what is older at *now* than it may get; how many there were. A thread may wait here as long as it likes.

        Stops at the first that is younger: the oldest come first. One that nobody has dated is dated, and goes behind
        the others: published first, removed then, so that a death in between leaves two and not none.
        """
        days = self.configuration.worker.dead_letter_days
        oldest, soonest = (now - days * DAY) * 1000, (now + DAY) * 1000
        dropped = 0
        with queue_browser.open_browser(self.configuration, queue, declare=True) as shelf:
            for item in shelf:
                letter = DeadLetter.read(item.body)
                if letter.at is None or letter.at > soonest:
                    try:
                        anew = Outgoing(queue, redated(item.body, at=now))
                        wait(self.publisher.submit(anew), self.configuration.broker.publish_timeout)
                    except PublishError as error:
                        log.warning("%s: one was not dated (%s); it stays as it is", queue, error)
                        continue
                elif letter.at > oldest:
                    break
                else:
                    dropped += 1
                shelf.remove(item)
        if dropped:
            log.warning("%s: dropped %d that had been there for %g days", queue, dropped, days)
        return dropped
