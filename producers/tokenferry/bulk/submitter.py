"""Handing sealed requests over, for as long as it takes: what is refused or lost is handed over again."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

from tokenferry.broker import connecting, depth
from tokenferry.broker.embedded import EmbeddedServerError
from tokenferry.broker.errors import StillQueued
from tokenferry.broker.publishing import Outgoing, PublishError
from tokenferry.bulk.outputs import OutputFailed
from tokenferry.bulk.window import Pending, Window
from tokenferry.configuration import Configuration
from tokenferry.outbox import OutboxFailed, OutboxFull
from tokenferry.producer import FULL

SILENCE: Final = 60.0
"""Seconds without any result after which we ask whether a worker runs, and whether the broker has lost something."""
RESUMED_SILENCE: Final = 10.0
"""The same, in a run that goes on where another was killed: what that one was told last is lost rather than late."""
LONGEST_PAUSE: Final = 10.0
"""Seconds between two tries while the broker takes nothing, at most."""
RARER: Final = 4.0
"""How many times longer one is let alone each time it was found missing: it may wait where nobody asks, as at an open
circuit or to be attached. So it is handed over again about half a dozen times in three days."""


class Submitter:
    """One run's way to the broker, or to its outbox. One thread asks it; the publisher's thread answers it."""

    def __init__(
        self,
        submit: Callable[[Outgoing], Future[None]],
        configuration: Configuration,
        window: Window[Any, Any],
        *,
        taken: Callable[[Pending], None],
        goes_on: str,
        note: Callable[[str], None],
        silence: float = SILENCE,
    ) -> None:
        """*taken*: is told what was taken, in the publisher's thread; it may raise `OutputFailed`.

        *goes_on*: what a person is told while nothing is taken. *silence*: seconds without any result until the first
        look for what was lost.
        """
        self.failure: str | None = None
        """What ends the run: what was taken cannot be remembered, or the outbox is broken."""
        self.last_taken = time.monotonic()
        self._submit = submit
        self._configuration = configuration
        self._window = window
        self._taken = taken
        self._goes_on = goes_on
        self._note = note
        self._refused: deque[str] = deque()
        """Ids that the broker has not taken."""
        self._retrying: set[str] = set()
        """Those of them that are on their way once more."""
        self._trouble: PublishError | None = None
        self._noted = ""
        self._pause = 0.25
        self._retry_at = 0.0
        self._silence = silence
        self._look_at = 0.0

    @property
    def is_stuck(self) -> bool:
        """Whether something has to be handed over again before anything new is."""
        return bool(self._refused or self._retrying)

    @property
    def trouble(self) -> str | None:
        """Why the broker takes nothing, while it does not."""
        return str(self._trouble) if self._trouble is not None else None

    def hand_over(self, request_id: str, item: Pending) -> None:
        """Start handing over what is entered into the window."""
        assert item.message is not None
        self._submit(item.message).add_done_callback(lambda done: self._handed_over(request_id, item, done))

    def again(self) -> None:
        """Hand over again what was refused, when it is time; say that we wait, and that we no longer do."""
        full, outbox_full = isinstance(self._trouble, FULL), isinstance(self._trouble, OutboxFull)
        if not self.is_stuck:
            if self._noted:
                self._noted = ""
                self._window.waits = None
                self._note(f"the {'outbox' if outbox_full else 'broker'} takes requests again")
            self._trouble = None
            self._pause = 0.25
            return
        trouble = self.trouble or "the broker did not take a request"
        slow = "slow" if isinstance(self._trouble, StillQueued) else "away"
        self._window.waits = f"the {'outbox' if outbox_full else 'queue'} is full" if full else f"the broker is {slow}"
        if self._window.waits != self._noted:
            self._noted = self._window.waits
            self._note(f"waiting: {trouble}. {self._goes_on}")
        if not self._refused or time.monotonic() < self._retry_at:
            return
        self._retry_at = time.monotonic() + self._pause
        self._pause = 1.0 if full else min(self._pause * 2, LONGEST_PAUSE)
        self._keep_server()
        for _ in range(len(self._refused)):
            request_id = self._refused.popleft()
            if (item := self._window.item(request_id)) is not None:
                self._retrying.add(request_id)
                self.hand_over(request_id, item)

    def find_lost(self) -> None:
        """After a silence: hand over again what has no outcome and is no longer in its queue, the oldest first.

        What *taken* has let go of its message is not looked for.
        """
        now = time.monotonic()
        if now - self._window.last_result < self._silence or now < self._look_at or self.is_stuck:
            return
        self._look_at = now + self._silence
        kept = [
            (request_id, item, item.message)
            for request_id, item in self._window.items()
            if item.message is not None and item.handed_over == "yes"
        ]
        expected = Counter(message.queue for _, _, message in kept)
        waiting = depth.ask(self._configuration, expected) if expected else {}
        missing = {queue: expected[queue] - count for queue, count in waiting.items()}
        lost = []
        for request_id, item, message in kept:
            if missing.get(message.queue, 0) > 0 and now >= item.let_alone_until:
                missing[message.queue] -= 1
                lost.append((request_id, item))
        if lost:
            self._note(f"{len(lost)} rows have no result and are no longer in their queue: sending them again")
        for request_id, item in lost:
            item.found_missing += 1
            item.let_alone_until = now + self._silence * RARER**item.found_missing
            self.hand_over(request_id, item)

    def _handed_over(self, request_id: str, item: Pending, done: Future[None]) -> None:
        """Runs in the publisher's thread."""
        error = None if done.cancelled() else done.exception()
        if error is None and not done.cancelled():
            try:
                self._taken(item)
            except OutputFailed as failed:
                self.failure = str(failed)
            self._retrying.discard(request_id)
            self.last_taken = time.monotonic()
            self._window.mark(request_id, "yes")
            return
        if isinstance(error, OutboxFailed) and not isinstance(error, OutboxFull):
            self.failure = str(error)  # time does not cure it
        sent_for_sure_not = done.cancelled() or (isinstance(error, PublishError) and not error.maybe_sent)
        if isinstance(error, PublishError):
            self._trouble = error
        elif error is not None:
            self._trouble = PublishError(f"publishing failed ({type(error).__name__})", maybe_sent=True)
        self._refused.append(request_id)
        self._retrying.discard(request_id)
        self._window.mark(request_id, "no" if sent_for_sure_not else "unknown")

    def _keep_server(self) -> None:
        try:
            connecting.keep_embedded_server(self._configuration)
        except EmbeddedServerError as error:
            self._note(str(error))
