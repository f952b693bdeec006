"""Moves messages that are not ours to the quarantine: nobody waits for it, and it stays within bounds.

A note without content is of use for a count only, so it is not waited for, and beyond `MOST_NOTES` it is not written.
A sealed message of a signer that is not known yet is kept until `[broker] quarantine_megabytes` are full. Reasons are
counted always, and logged once per interval.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Final

from amqp.exceptions import AccessRefused
from redis.exceptions import NoPermissionError

from tokenferry.broker.alarm import Alarm
from tokenferry.broker.publishing import CanPublish, Outgoing, Publisher
from tokenferry.contract.queues import MOST_NOTES, QUARANTINE
from tokenferry.contract.work_messages import Refused
from tokenferry_worker.dead_letters.retention import Kept, keep
from tokenferry_worker.health.set_aside import SetAsideCounts

log = logging.getLogger(__name__)

LOG_EVERY: Final = 10.0
"""Seconds between two log lines about what was set aside."""
MOST_ON_THE_WAY: Final = 5_000
"""Notes that one process may have given to the broker without its confirmation. Further ones are only counted."""
MEASURE_EVERY: Final = 30.0
"""Seconds between two questions to the broker."""
MEGABYTE: Final = 1_048_576


class QuarantineLevel:
    """How full the quarantine is: what the broker said the last time, and what this process has added since."""

    def __init__(self, megabytes: float) -> None:
        """*megabytes*: how much of sealed messages is kept."""
        self.most_bytes = int(megabytes * MEGABYTE)
        self._messages = self._bytes = 0
        self._lock = threading.Lock()

    def measured(self, messages: int, bytes_: int) -> None:
        """Note what the broker says."""
        with self._lock:
            self._messages, self._bytes = messages, bytes_

    def try_add(self, length: int, *, sealed: bool) -> bool:
        """Count one more message of *length* bytes. False if there is no room for it."""
        with self._lock:
            if self._bytes + length > self.most_bytes if sealed else self._messages >= MOST_NOTES:
                return False
            self._messages += 1
            self._bytes += length
            return True

    @property
    def is_half_full(self) -> bool:
        """True if somebody should look at it."""
        return 2 * self._bytes >= self.most_bytes


class Quarantine:
    """Sets messages aside for one process. May be used from every thread."""

    def __init__(
        self,
        publisher: Callable[[], CanPublish],
        counts: SetAsideCounts,
        level: QuarantineLevel,
        *,
        key: bytes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*publisher*: one of its own, so that no result waits behind garbage. *key*: of the hashes in notes."""
        self._make_publisher = publisher
        self._began: CanPublish | None = None
        self._counts = counts
        self._level = level
        self.key = key
        self._clock = clock
        self._lock = threading.Lock()
        self._on_the_way = 0
        self._unsaid: Counter[str] = Counter()
        self._unsaid_clear: Counter[str] = Counter()
        self._said_at = float("-inf")
        self._stranger: str | None = None
        """An unknown signer of whom nothing was said yet."""

    def put(
        self, body: str | bytes, reason: str, *, at: float, queue: str, stranger: str | None = None
    ) -> Future[None]:
        """Set a message of *queue* aside. The future ends when the message may be acknowledged, or with the trouble.

        *at*: Unix seconds on the store's clock. *stranger*: the unknown signer that the message names.
        """
        with self._lock:
            self._stranger = stranger or self._stranger
        kept = keep(body, reason, at=at, key=self.key)
        if kept.sealed and not self._level.try_add(len(kept.record), sealed=True):
            kept = Kept(Refused(reason).note(len(body), at=int(at * 1000)), sealed=False, clear=False)
        if not kept.sealed:
            return self.note(kept.record, reason, queue, clear=kept.clear)
        moved = self._publisher().submit(Outgoing(QUARANTINE, kept.record))
        moved.add_done_callback(partial(self._kept, reason, queue))
        return moved

    def note(self, record: str, reason: str, queue: str, *, clear: bool = False) -> Future[None]:
        """Write a note without content, or only count it. The future has ended: nothing is lost without the note."""
        with self._lock:
            may_go = self._on_the_way < MOST_ON_THE_WAY and self._level.try_add(len(record), sealed=False)
            self._on_the_way += may_go
            self._counts.dropped += not may_go
        if may_go:
            self._publisher().submit(Outgoing(QUARANTINE, record)).add_done_callback(self._arrived)
        self.count(reason, queue, clear=clear)
        return _done()

    def count(self, reason: str, queue: str, *, clear: bool = False) -> None:
        """Count a message that was set aside, and say so now or with the next ones."""
        with self._lock:
            self._counts.by_reason[reason] += 1
            self._unsaid[reason] += 1
            if clear:
                self._counts.clear_text += 1
                self._unsaid_clear[queue] += 1
        self.say()

    def say(self) -> None:
        """Log what was set aside since the last line, once per interval."""
        now = self._clock()
        with self._lock:
            if not self._unsaid or now - self._said_at < LOG_EVERY:
                return
            self._said_at = now
            reasons, self._unsaid = self._unsaid, Counter()
            clear, self._unsaid_clear = self._unsaid_clear, Counter()
            stranger, self._stranger = self._stranger, None
        counted = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common())
        log.warning(
            "%d messages are not ours or not readable (%s); moved to %s%s",
            reasons.total(),
            counted,
            QUARANTINE,
            _of(stranger),
        )
        for queue, count in clear.items():
            log.error(
                "clear text arrived in %s: %d messages held what looks like a card number or a verification code. "
                "Nothing of it was kept here. Find who writes there without sealing; the broker's files may hold it "
                "(docs/failed.md)",
                queue,
                count,
            )

    def close(self, timeout: float) -> None:
        """Send what is still on its way, for *timeout* seconds at most, and say what was not said."""
        with self._lock:
            began, self._said_at = self._began, float("-inf")
        self.say()
        if isinstance(began, Publisher):
            began.close(timeout=timeout)

    async def watch(self, measure: Callable[[], tuple[int, int]]) -> None:
        """Keep the level up to date, and raise the alarm from half of it. *measure* asks the broker, and blocks."""
        may_measure = True
        measure_at = 0.0
        alarm = Alarm(log, QUARANTINE, level=logging.ERROR)
        while True:
            self.say()
            if may_measure and time.monotonic() >= measure_at:
                measure_at = time.monotonic() + MEASURE_EVERY
                try:
                    self._level.measured(*await asyncio.to_thread(measure))
                except (NoPermissionError, AccessRefused):
                    may_measure = False
                    log.info("%s: this user may not look at it; what it adds itself is counted", QUARANTINE)
                except Exception as error:  # the broker is away: others say so
                    log.info("%s: its length is unknown (%s)", QUARANTINE, type(error).__name__)
            if self._level.is_half_full:
                alarm.failed(
                    "more than half of [broker] quarantine_megabytes is full of sealed messages whose signer is not "
                    "known. Add the missing key to [keys] signers and run `tokenferry dead-letters redrive "
                    "--quarantine --all`, or purge them"
                )
            else:
                alarm.worked()
            await asyncio.sleep(LOG_EVERY / 2)

    def _publisher(self) -> CanPublish:
        with self._lock:
            if self._began is None:
                self._began = self._make_publisher()
            return self._began

    def _kept(self, reason: str, queue: str, moved: Future[None]) -> None:
        if not moved.cancelled() and moved.exception() is None:
            self.count(reason, queue)

    def _arrived(self, future: Future[None]) -> None:
        with self._lock:
            self._on_the_way -= 1
            self._counts.dropped += not future.cancelled() and future.exception() is not None


def _of(stranger: str | None) -> str:
    """What a line of the log adds about an unknown signer."""
    if stranger is None:
        return ""
    return f". One says it is of signer '{stranger}': if another fleet uses this broker, set [broker] prefix for each"


def _done() -> Future[None]:
    future: Future[None] = Future()
    future.set_result(None)
    return future
