"""From the outbox to the broker: one sender per file, for as long as it takes."""

from __future__ import annotations

import logging
import math
import threading
import time
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_some
from contextlib import suppress
from dataclasses import replace
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
    wait,
)
from tokenferry.configuration import Configuration
from tokenferry.outbox.errors import OutboxFailed
from tokenferry.outbox.locking import SenderLock
from tokenferry.outbox.outbox import now_ms
from tokenferry.outbox.store import AFTERMATH, OutboxEntry, OutboxStore

log = logging.getLogger(__name__)

BATCH: Final = 200
LOOK: Final = 0.25
"""Seconds between two looks for what other processes have accepted."""
TIDY: Final = 30.0
"""Seconds between two sweeps, at most."""
FULL: Final = 2.0
"""Seconds for which a queue is left alone that takes no more, or whose messages are refused."""
LONGEST: Final = 30.0
"""Seconds between two tries while the broker is away, at most."""


class Sender:
    """Delivers what an outbox holds. `start` for a thread of its own, or `round` by round."""

    def __init__(
        self, path: Path, publisher: Publisher, configuration: Configuration, *, news: threading.Event | None = None
    ) -> None:
        """*news*: set whenever there is something new to be sent. Raises `UnusableOutbox`."""
        self.lock = SenderLock(path)
        self._news = news or threading.Event()
        self.trouble: str | None = None
        """Why the last round could not send everything."""
        self.sent = 0
        """Messages that the broker has confirmed."""
        self._book = OutboxStore(path, durable=False, wait=configuration.broker.publish_timeout)
        self._publisher = publisher
        self._configuration = configuration
        self._blocked: dict[str, float] = {}
        """Queues that took no more, and when to try them again."""
        self._confirmed: list[int] = []
        """Confirmed by the broker, and not yet written down as such."""
        self._failures = 0
        self._tidy_at = 0.0
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
            self._news.wait(pause) if self.trouble is None else self._stop.wait(pause)
            self._news.clear()

    def stop(self) -> None:
        """End `run` from any thread."""
        self._stop.set()
        self._news.set()

    def close(self, *, flush: float = 0.0) -> bool:
        """Stop; before that, for *flush* seconds at most and while the broker takes it, send what is left.

        False where not everything could be sent. A try that is still under way ends by itself, and the lock with it.
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
            self._end()  # whatever ended it: another process may be there to send

    def _end(self) -> None:
        self.lock.release()
        self._book.close()

    def drain(self, seconds: float = math.inf) -> None:
        """Send until nothing is left, until no more is taken, or for so long; not while another process sends."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._may_send() and self.left():
            before = self.sent
            self.round()
            if self.trouble is not None and self.sent == before:
                return

    def left(self) -> bool:
        """Whether something waits to be sent."""
        try:
            return bool(self._book.to_send(1, besides=()))
        except OutboxFailed:
            return True

    def count(self) -> int:
        """How many wait to be sent. Raises `OutboxFailed`."""
        return self._book.waiting()

    def round(self) -> float:
        """Send a batch, sweep where it is time; the seconds after which to do it again. Never raises."""
        try:
            return self._round()
        except OutboxFailed as failed:
            self._warn(str(failed))
            return FULL
        except Exception as bug:  # whatever it was, a sender that dies would leave everything where it is
            self._warn(f"the sender failed ({type(bug).__name__})")
            return LONGEST

    def _round(self) -> float:
        if time.monotonic() >= self._tidy_at:
            self._tidy_at = time.monotonic() + min(TIDY, self._configuration.outbox.resend_after)
            self._sweep()
        self._write_down()
        now = time.monotonic()
        self._blocked = {queue: until for queue, until in self._blocked.items() if until > now}
        entries = self._book.to_send(BATCH, besides=self._blocked)
        if not entries:
            if not self._blocked:
                self._say(None)
            return LOOK
        error = self._deliver(entries)
        self._write_down()
        self._say(error)
        if not self._failures:
            return 0.0
        self._keep_server()
        return min(LOOK * 2.0 ** min(self._failures, 10), LONGEST)

    def _may_send(self) -> bool:
        try:
            return self.lock.take()
        except OSError as error:
            log.warning("outbox: %s cannot be locked (%s)", self.lock.path, error.strerror)
            return False

    def _deliver(self, entries: list[OutboxEntry]) -> str | None:
        """Publish them all; why some of them could not be."""
        timeout = self._configuration.broker.publish_timeout
        sending: list[tuple[OutboxEntry, Future[None]]] = [
            (entry, self._publisher.submit(self._bounded(entry.message), timeout=timeout)) for entry in entries
        ]
        self._await([future for _, future in sending], timeout)
        errors: dict[str, PublishError] = {}
        hopeless: list[int] = []
        away: PublishError | None = None
        for entry, future in sending:
            try:
                wait(future, -GRACE)
            except PublishError as error:
                errors[entry.message.queue] = error
                if entry.expired_before(now_ms() - AFTERMATH) and not isinstance(error, StillQueued):
                    hopeless.append(entry.seq)
                if isinstance(error, (BrokerUnavailable, PublishTimeout)):
                    away = error
            else:
                self._confirmed.append(entry.seq)
        self._failures = self._failures + 1 if away is not None and not self._confirmed else 0
        for queue, answer in errors.items():
            if isinstance(answer, BrokerFull) or away is None:
                self._blocked[queue] = time.monotonic() + FULL
        self.sent += len(self._confirmed)
        if hopeless:
            self._book.give_up(hopeless)
            log.error("outbox: %d requests could not be sent and have expired long ago; given up", len(hopeless))
        return str(next(iter(errors.values()))) if errors else None

    def _await(self, futures: list[Future[None]], timeout: float) -> None:
        """Wait for all of them; once we are to stop, only while some come in."""
        pending = set(futures)
        moved = time.monotonic()
        until = moved + timeout + GRACE
        while pending and time.monotonic() < (min(until, moved + 1.0) if self._stop.is_set() else until):
            done, pending = wait_for_some(pending, timeout=0.2)
            if done:
                moved = time.monotonic()

    def _bounded(self, message: Outgoing) -> Outgoing:
        return replace(message, bound=depth.bound_of(message.queue, self._configuration))

    def _write_down(self) -> None:
        if self._confirmed:
            after = int(self._configuration.outbox.resend_after * 1000)
            self._book.confirm(self._confirmed, now=now_ms(), resend_after=after)
            self._confirmed = []

    def _say(self, trouble: str | None) -> None:
        """Let everybody know what is the trouble, or that there is none: here, in the log and in the file."""
        self._warn(trouble)
        if trouble != self._noted:
            with suppress(OutboxFailed):  # then with the next round
                self._book.note(trouble, now=now_ms())
                self._noted = trouble

    def _warn(self, trouble: str | None) -> None:
        if trouble is not None and trouble != self.trouble:
            log.warning("outbox: %s; what it holds is sent as soon as that is over", trouble)
        self.trouble = trouble

    def _sweep(self) -> None:
        """Send again what has no outcome and is no longer in its queue; forget what is of no more use."""
        settings = self._configuration
        given_up = self._book.tidy(
            now=now_ms(),
            keep=int(settings.outbox.keep_confirmed * 1000),
            horizon=int(settings.store.journal_days * 86_400_000 / 2),
        )
        if given_up:
            log.error("outbox: the outcome of %d requests never came; they have expired", given_up)
        if due := self._book.unanswered(now=now_ms()):
            for queue, waiting in depth.ask(self._configuration, due).items():
                # Queues are read in order: what is no longer there is the oldest of what has no outcome.
                again = self._book.send_again(queue, due[queue] - waiting, now=now_ms())
                if again:
                    log.warning("outbox: %d requests in %s have no outcome; sending them again", again, queue)

    def _keep_server(self) -> None:
        try:
            connecting.keep_embedded_server(self._configuration)
        except (EmbeddedServerError, OSError) as error:
            log.warning("outbox: %s", error)
