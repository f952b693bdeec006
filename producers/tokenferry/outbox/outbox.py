"""The outbox as a producer and a reader of results use it: accepted means committed."""

from __future__ import annotations

import logging
import queue
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from tokenferry.broker import fork_guard
from tokenferry.broker.publishing import Outgoing
from tokenferry.configuration import Configuration
from tokenferry.outbox.errors import OutboxFailed, OutboxFull
from tokenferry.outbox.store import OutboxLimits, OutboxStore

log = logging.getLogger(__name__)

BATCH: Final = 500
"""Messages in one commit at most: what came while the last one was being written."""
SAY_AGAIN: Final = 3600.0
"""Seconds after which a route is noted as read once more."""


def now_ms() -> int:
    """Unix time in milliseconds."""
    return int(time.time() * 1000)


class Outbox:
    """Takes sealed messages, each future done once its message is on the disk; forgets them when told the outcome.

    One thread writes, and commits together what came meanwhile. Close it, or use it as a context manager.

    >>> with Outbox(Path("outbox.db")) as outbox, Producer(outbox=outbox) as producer:      # doctest: +SKIP
    ...     producer.send(PiiRequest(id_number="000000000"), reply_to="onboarding")
    """

    def __init__(self, path: Path, *, limits: OutboxLimits | None = None, wait: float = 10.0) -> None:
        """*wait*: seconds for which another process may hold the file. Raises `UnusableOutbox`."""
        self.path = path
        self.accepted = threading.Event()
        """Set whenever there is something new to be sent."""
        self._limits = limits or OutboxLimits()
        self._wait = wait
        self._process = fork_guard.ForkGuard("an outbox")
        self._book = OutboxStore(path, durable=True, wait=wait)
        self._outcomes: OutboxStore | None = None
        self._routes: dict[str, float] = {}
        self._incoming: queue.SimpleQueue[tuple[Outgoing, Future[None]] | None] = queue.SimpleQueue()
        self._closed = False
        self._closing = threading.Lock()
        self._thread: threading.Thread | None = None

    @classmethod
    def of(cls, configuration: Configuration) -> Outbox | None:
        """The configured one, where one is configured. Raises `UnusableOutbox`."""
        settings = configuration.outbox
        if settings.path is None:
            return None
        limits = OutboxLimits(settings.max_rows, settings.max_megabytes * 1024 * 1024)
        return cls(configuration.path(settings.path), limits=limits, wait=configuration.broker.publish_timeout)

    def submit(self, message: Outgoing) -> Future[None]:
        """Keep *message*; the future ends with None once it is on the disk, or with `OutboxFull` or `OutboxFailed`.

        Raises `RuntimeError` when it is closed, or was made before this process was forked.
        """
        self._process.check()
        if message.expires_at is None:
            raise ValueError("this message must not be kept on a disk")
        future: Future[None] = Future()
        with self._closing:
            if self._closed:
                raise RuntimeError("the outbox is closed")
            if self._thread is None:  # a reader of results never needs it
                self._thread = threading.Thread(target=self._run, name="tokenferry-outbox", daemon=True)
                self._thread.start()
            self._incoming.put((message, future))
        return future

    def reads(self, route: str) -> None:
        """Outcomes on *route* will be told with `settled`: its requests are kept until then, or until they expire.

        Raises `OutboxFailed`.
        """
        self._routes[route] = time.monotonic()
        self._outcome_book().read_route(route, now=now_ms())

    def settled(self, request_id: str, *, route: str | None = None) -> None:
        """The outcome of a request is known: it is not sent again. Never raises: what is missed is only sent again."""
        try:
            if route is not None and time.monotonic() - self._routes.get(route, -SAY_AGAIN) >= SAY_AGAIN:
                self.reads(route)
            self._outcome_book().settle(request_id)
        except OutboxFailed as error:
            log.warning("outbox: request %s may be sent once more than needed: %s", request_id, error)

    def close(self) -> None:
        """Write what was submitted, then close the file. In a forked process it is the parent's to do."""
        if not self._process.is_this:
            return
        with self._closing:
            closed, self._closed = self._closed, True
        if closed:
            return
        if self._thread is not None:
            self._incoming.put(None)
            self._thread.join(self._wait + 5.0)
        for book in (self._book, self._outcomes):
            if book is not None:
                book.close()

    def __enter__(self) -> Outbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _outcome_book(self) -> OutboxStore:
        """A second connection, without syncing: an outcome that a power cut takes back is only asked for again."""
        with self._closing:
            if self._outcomes is None:
                self._outcomes = OutboxStore(self.path, durable=False, wait=self._wait)
            return self._outcomes

    def _run(self) -> None:
        more = True
        while more:
            batch: list[tuple[Outgoing, Future[None]]] = []
            item = self._incoming.get()
            while item is not None:
                batch.append(item)
                if len(batch) == BATCH:
                    break
                try:
                    item = self._incoming.get_nowait()
                except queue.Empty:
                    break
            else:
                more = False
            # What its owner has taken back by now is not accepted.
            self._keep([(message, future) for message, future in batch if future.set_running_or_notify_cancel()])

    def _keep(self, batch: list[tuple[Outgoing, Future[None]]]) -> None:
        if not batch:
            return
        try:
            taken = self._book.append([message for message, _ in batch], now=now_ms(), limits=self._limits)
        except OutboxFailed as error:
            for _, future in batch:
                future.set_exception(type(error)(str(error), maybe_sent=error.maybe_sent))
            return
        except Exception as error:  # a bug must reach the callers, not end this thread silently
            for _, future in batch:
                future.set_exception(OutboxFailed(f"{self.path}: {type(error).__name__}", maybe_sent=True))
            return
        self.accepted.set()
        for (_, future), kept in zip(batch, taken, strict=True):
            if kept:
                future.set_result(None)
            else:
                future.set_exception(OutboxFull(self._full(), maybe_sent=False))

    def _full(self) -> str:
        return (
            f"{self.path}: the outbox is full ([outbox] max_rows is {self._limits.rows}, max_megabytes "
            f"{self._limits.bytes // 1024**2}); nothing was accepted. `tokenferry outbox status` says what it waits for"
        )
