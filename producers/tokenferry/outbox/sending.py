"""Sends messages from an outbox to the broker. Each outbox has one sender at a time."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_some
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from tokenferry.broker import connecting, depth
from tokenferry.broker.embedded import EmbeddedServerError
from tokenferry.broker.errors import StillQueued
from tokenferry.broker.publishing import (
    GRACE,
    BrokerFull,
    BrokerUnavailable,
    Outgoing,
    Publisher,
    PublishError,
    PublishTimeout,
)
from tokenferry.configuration import Configuration
from tokenferry.outbox.errors import OutboxFailed
from tokenferry.outbox.locking import SenderLock
from tokenferry.outbox.lost import LostFinder
from tokenferry.outbox.outbox import now_ms
from tokenferry.outbox.store import AFTERMATH, OutboxEntry, OutboxStore

log = logging.getLogger(__name__)

BATCH: Final = 200
LOOK: Final = 0.25
"""Seconds between two checks for messages that other processes have accepted."""
SWEEP: Final = 30.0
"""Seconds between two sweeps, at most."""
FULL: Final = 2.0
"""Seconds for which a queue is left alone after it was full or refused a message."""
LONGEST: Final = 30.0
"""Seconds between two tries while the broker is away, at most."""


class Sender:
    """Sends what an outbox holds: in a thread of its own (`start`), or one `round` after the other."""

    def __init__(
        self,
        path: Path,
        publisher: Publisher,
        configuration: Configuration,
        *,
        news: threading.Event | None = None,
        keep_server: Callable[[Configuration], object] = connecting.keep_embedded_server,
    ) -> None:
        """*news*: set by others when there is a new message. *keep_server*: starts the embedded server again.

        Raises `UnusableOutbox`.
        """
        self.lock = SenderLock(path)
        self._news = news or threading.Event()
        self.trouble: str | None = None
        """Why the last round could not send everything."""
        self.sent = 0
        """Messages that the broker has confirmed."""
        self._store = OutboxStore(path, durable=False, wait=configuration.broker.publish_timeout)
        self._lost = LostFinder(self._store, partial(depth.ask, configuration))
        self._keep_server = keep_server
        self._publisher = publisher
        self._configuration = configuration
        self._blocked: dict[str, float] = {}
        """Queues that were full or refused a message, and when to try them again (monotonic seconds)."""
        self._confirmed: list[int] = []
        """Messages that the broker has confirmed and the outbox has not recorded yet."""
        self._failures = 0
        self._sweep_at = 0.0
        self._noted: str | None = None
        self._stop = threading.Event()
        self._flush = 0.0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Send from a thread, whenever no other process does."""
        self._thread = threading.Thread(target=self._work, name="tokenferry-sender", daemon=True)
        self._thread.start()

    def run(self) -> None:
        """Send until `stop`."""
        while not self._stop.is_set():
            if not self._may_send():
                self._stop.wait(1.0)
                continue
            pause = self.round()
            if self.trouble is None:
                self._news.wait(pause)
            else:
                self._stop.wait(pause)
            self._news.clear()

    def stop(self) -> None:
        """End `run` from any thread."""
        self._stop.set()
        self._news.set()

    def close(self, *, flush: float = 0.0) -> bool:
        """Stop. First send what is left, for *flush* seconds at most and while the broker takes it.

        Return False if something could not be sent. A try that is still under way ends by itself and frees the lock.
        """
        self._flush = flush
        self.stop()
        if self._thread is None:
            self._end()
            return True
        self._thread.join(1.0 if self.trouble else flush + 1.0)
        return not self._thread.is_alive() and self.trouble is None

    def _work(self) -> None:
        try:
            self.run()
            if self._flush and self.trouble is None:
                self.drain(self._flush)
        finally:
            self._end()  # whatever ended it: another process may be ready to send

    def _end(self) -> None:
        self.lock.release()
        self._store.close()

    def drain(self, seconds: float = math.inf) -> None:
        """Send until nothing is left, the broker takes no more, the time is over, or another process sends."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._may_send() and self.left():
            before = self.sent
            self.round()
            if self.trouble is not None and self.sent == before:
                return

    def left(self) -> bool:
        """True if something waits to be sent, or if that cannot be found out."""
        try:
            return bool(self._store.to_send(1, besides=()))
        except OutboxFailed:
            return True

    def count(self) -> int:
        """How many messages wait to be sent. Raises `OutboxFailed`."""
        return self._store.waiting()

    def round(self) -> float:
        """Send a batch, and sweep if it is time. Return the seconds until the next round. Never raises."""
        try:
            return self._round()
        except OutboxFailed as failed:
            self._warn(str(failed))
            return FULL
        except Exception as bug:  # a sender that dies would send nothing any more
            self._warn(f"the sender failed ({type(bug).__name__})")
            return LONGEST

    def _round(self) -> float:
        if time.monotonic() >= self._sweep_at:
            self._sweep_at = time.monotonic() + min(SWEEP, self._configuration.outbox.resend_after)
            self._sweep()
        self._record_confirmed()
        now = time.monotonic()
        self._blocked = {queue: until for queue, until in self._blocked.items() if until > now}
        entries = self._store.to_send(BATCH, besides=self._blocked)
        if not entries:
            if not self._blocked:
                self._report(None)
            return LOOK
        trouble = self._send(entries)
        self._record_confirmed()
        self._report(trouble)
        if not self._failures:
            return 0.0
        try:
            self._keep_server(self._configuration)
        except (EmbeddedServerError, OSError) as error:
            log.warning("outbox: %s", error)
        return min(LOOK * 2.0 ** min(self._failures, 10), LONGEST)

    def _may_send(self) -> bool:
        try:
            return self.lock.take()
        except OSError as error:
            log.warning("outbox: %s cannot be locked (%s)", self.lock.path, error.strerror)
            return False

    def _send(self, entries: list[OutboxEntry]) -> str | None:
        """Publish *entries*. Return why some of them could not be sent, None if all were."""
        timeout = self._configuration.broker.publish_timeout
        futures = [self._publisher.submit(self._bounded(entry.message), timeout=timeout) for entry in entries]
        self._wait_for(futures, timeout)
        errors: dict[str, PublishError] = {}
        hopeless: list[int] = []
        is_away = False
        for entry, future in zip(entries, futures, strict=True):
            error = _error_of(future)
            if error is None:
                self._confirmed.append(entry.seq)
                continue
            errors[entry.message.queue] = error
            is_away |= isinstance(error, (BrokerUnavailable, PublishTimeout))
            if entry.expired_before(now_ms() - AFTERMATH) and not isinstance(error, StillQueued):
                hopeless.append(entry.seq)
        self._failures = self._failures + 1 if is_away and not self._confirmed else 0
        for queue, error in errors.items():
            if isinstance(error, BrokerFull) or not is_away:
                self._blocked[queue] = time.monotonic() + FULL
        self.sent += len(self._confirmed)
        if hopeless:
            self._store.give_up(hopeless)
            log.error("outbox: %d requests could not be sent and have expired long ago; given up", len(hopeless))
        return str(next(iter(errors.values()))) if errors else None

    def _wait_for(self, futures: list[Future[None]], timeout: float) -> None:
        """Wait for all of them. After `stop`, wait only while one ends each second."""
        pending = set(futures)
        moved = time.monotonic()
        until = moved + timeout + GRACE
        while pending and time.monotonic() < (min(until, moved + 1.0) if self._stop.is_set() else until):
            done, pending = wait_for_some(pending, timeout=0.2)
            if done:
                moved = time.monotonic()

    def _bounded(self, message: Outgoing) -> Outgoing:
        return replace(message, bound=depth.bound_of(message.queue, self._configuration))

    def _record_confirmed(self) -> None:
        if self._confirmed:
            after = int(self._configuration.outbox.resend_after * 1000)
            self._store.confirm(self._confirmed, now=now_ms(), resend_after=after)
            self._confirmed = []

    def _report(self, trouble: str | None) -> None:
        """Report the trouble, or None if it is over: in `trouble`, in the log and in the file."""
        self._warn(trouble)
        if trouble != self._noted:
            with suppress(OutboxFailed):  # then with the next round
                self._store.note(trouble, now=now_ms())
                self._noted = trouble

    def _warn(self, trouble: str | None) -> None:
        if trouble is not None and trouble != self.trouble:
            log.warning("outbox: %s; what it holds is sent as soon as that is over", trouble)
        self.trouble = trouble

    def _sweep(self) -> None:
        """Delete what is of no more use, and send again what the broker may have lost."""
        settings = self._configuration
        given_up = self._store.tidy(
            now=now_ms(),
            keep=int(settings.outbox.keep_confirmed * 1000),
            horizon=int(settings.store.journal_days * 86_400_000 / 2),
        )
        if given_up:
            log.error("outbox: the outcome of %d requests never came; they have expired", given_up)
        for queue, count in self._lost.send_lost_again(now_ms()).items():
            log.warning("outbox: %d requests in %s have no outcome; sending them again", count, queue)


def _error_of(future: Future[None]) -> PublishError | None:
    """Why the message of a future was not published. One that has not ended is taken back, if that is possible."""
    if not future.done():
        return PublishTimeout("the broker did not answer in time", maybe_sent=not future.cancel())
    error = future.exception()
    if error is None or isinstance(error, PublishError):
        return error
    raise error
