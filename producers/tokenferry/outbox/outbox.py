"""The outbox as producers and readers of results use it. A message is accepted once it is committed to the file."""

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

_Submitted = tuple[Outgoing, "Future[None]"]

BATCH: Final = 500
"""Messages in one commit, at most. They arrived while the commit before was being written."""
NOTE_ROUTE_AGAIN: Final = 3600.0
"""Seconds after which the outbox records once more that a route is read."""


def now_ms() -> int:
    """Unix time in milliseconds."""
    return int(time.time() * 1000)


class Outbox:
    """Keeps sealed messages on the disk until their outcome is known.

    One thread writes, and commits together what arrived meanwhile. Close it, or use it as a context manager.

    >>> with Outbox(Path("outbox.db")) as outbox, Producer(outbox=outbox) as producer:      # doctest: +SKIP
    ...     producer.send(PiiRequest(id_number="000000000"), reply_to="onboarding")
    """

    def __init__(self, path: Path, *, limits: OutboxLimits | None = None, wait: float = 10.0) -> None:
        """*wait*: seconds for which another process may hold the file. Raises `UnusableOutbox`."""
        self.path = path
        self.accepted = threading.Event()
        """Set whenever there is a new message to send."""
        self._limits = limits or OutboxLimits()
        self._wait = wait
        self._process = fork_guard.ForkGuard("an outbox")
        self._store = OutboxStore(path, durable=True, wait=wait)
        self._outcomes: OutboxStore | None = None
        self._routes: dict[str, float] = {}
        self._incoming: queue.SimpleQueue[_Submitted | None] = queue.SimpleQueue()
        self._closed = False
        self._closing = threading.Lock()
        self._thread: threading.Thread | None = None

    @classmethod
    def of(cls, configuration: Configuration) -> Outbox | None:
        """Open the configured outbox. None if none is configured. Raises `UnusableOutbox`."""
        settings = configuration.outbox
        if settings.path is None:
            return None
        limits = OutboxLimits(settings.max_rows, settings.max_megabytes * 1024 * 1024)
        return cls(configuration.path(settings.path), limits=limits, wait=configuration.broker.publish_timeout)

    def submit(self, message: Outgoing) -> Future[None]:
        """Keep *message*. The future ends with None once it is on the disk, else with `OutboxFull` or `OutboxFailed`.

        Raises `RuntimeError` if the outbox is closed, or was opened before this process was forked.
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
        """Record that outcomes on *route* will be reported with `settled`. Its requests are kept until then.

        Raises `OutboxFailed`.
        """
        self._routes[route] = time.monotonic()
        self._outcome_store().read_route(route, now=now_ms())

    def settled(self, request_id: str, *, route: str | None = None) -> None:
        """Report that the outcome of a request is known, so that it is not sent again.

        Never raises: a request whose outcome was missed is only sent once more.
        """
        try:
            if route is not None and time.monotonic() - self._routes.get(route, -NOTE_ROUTE_AGAIN) >= NOTE_ROUTE_AGAIN:
                self.reads(route)
            self._outcome_store().settle(request_id)
        except OutboxFailed as error:
            log.warning("outbox: request %s may be sent once more than needed: %s", request_id, error)

    def close(self) -> None:
        """Write what was submitted, then close the file. A forked process leaves that to its parent."""
        if not self._process.is_this:
            return
        with self._closing:
            closed, self._closed = self._closed, True
        if closed:
            return
        if self._thread is not None:
            self._incoming.put(None)
            self._thread.join(self._wait + 5.0)
        for store in (self._store, self._outcomes):
            if store is not None:
                store.close()

    def __enter__(self) -> Outbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _outcome_store(self) -> OutboxStore:
        """A second connection, which does not sync: after a power cut a request is at most sent once more."""
        with self._closing:
            if self._outcomes is None:
                self._outcomes = OutboxStore(self.path, durable=False, wait=self._wait)
            return self._outcomes

    def _run(self) -> None:
        while (first := self._incoming.get()) is not None:
            batch, is_last = self._batch(first)
            # A message whose owner has cancelled it by now is not accepted.
            self._keep([(message, future) for message, future in batch if future.set_running_or_notify_cancel()])
            if is_last:
                return

    def _batch(self, first: _Submitted) -> tuple[list[_Submitted], bool]:
        """*first* and what else was submitted meanwhile; and whether the outbox was closed behind it."""
        batch = [first]
        while len(batch) < BATCH:
            try:
                item = self._incoming.get_nowait()
            except queue.Empty:
                break
            if item is None:
                return batch, True
            batch.append(item)
        return batch, False

    def _keep(self, batch: list[_Submitted]) -> None:
        if not batch:
            return
        try:
            accepted = self._store.append([message for message, _ in batch], now=now_ms(), limits=self._limits)
        except OutboxFailed as error:
            for _, future in batch:
                future.set_exception(type(error)(str(error), maybe_sent=error.maybe_sent))
            return
        except Exception as error:  # a bug must reach the callers, not end this thread silently
            for _, future in batch:
                future.set_exception(OutboxFailed(f"{self.path}: {type(error).__name__}", maybe_sent=True))
            return
        self.accepted.set()
        for (_, future), is_kept in zip(batch, accepted, strict=True):
            if is_kept:
                future.set_result(None)
            else:
                future.set_exception(OutboxFull(self._full(), maybe_sent=False))

    def _full(self) -> str:
        return (
            f"{self.path}: the outbox is full ([outbox] max_rows is {self._limits.rows}, max_megabytes "
            f"{self._limits.bytes // 1024**2}); nothing was accepted. `tokenferry outbox status` shows why"
        )
