"""Gives sealed requests to the broker, or to the outbox, until it has all of them."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from itertools import islice
from typing import Any, Final

from tokenferry.broker import connecting, depth
from tokenferry.broker.embedded import EmbeddedServerError
from tokenferry.broker.errors import StillQueued
from tokenferry.broker.publishing import Outgoing, PublishError
from tokenferry.bulk.outputs import OutputFailed
from tokenferry.bulk.window import Pending, Window
from tokenferry.configuration import Configuration
from tokenferry.outbox import OutboxFailed, OutboxFull
from tokenferry.outbox.lost import LostFinder, times_longer
from tokenferry.producer import FULL

SILENCE: Final = 60.0
"""Seconds without a result after which the run asks whether a worker runs, and looks for lost requests."""
RESUMED_SILENCE: Final = 10.0
"""The same for a run that continues a killed one: a result that reached that one is lost rather than late."""
FIRST_PAUSE: Final = 0.25
"""Seconds between the first two tries while the broker accepts nothing. Each further pause is twice as long."""
LONGEST_PAUSE: Final = 10.0


class Submitter:
    """Submits the requests of one run. The run's thread calls it, the publisher's thread reports to it."""

    def __init__(
        self,
        submit: Callable[[Outgoing], Future[None]],
        configuration: Configuration,
        window: Window[Any, Any],
        *,
        accepted: Callable[[Pending], None],
        while_waiting: str,
        note: Callable[[str], None],
        silence: float = SILENCE,
        depths: Callable[[Iterable[str]], Mapping[str, int]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*accepted*: called in the publisher's thread with each accepted item. It may raise `OutputFailed`.

        *while_waiting*: shown to a person while nothing is accepted. *silence*: seconds without a result until the
        first look for lost requests. *depths*: returns how many requests wait in each queue; default: ask the broker.
        """
        self.failure: str | None = None
        """Why the run must end: an accepted row cannot be recorded, or the outbox is broken."""
        self._clock = clock
        self.last_accepted = clock()
        self._submit = submit
        self._configuration = configuration
        self._window = window
        self._accepted = accepted
        self._while_waiting = while_waiting
        self._note = note
        self._refused: deque[str] = deque()
        """Ids of requests that were not accepted."""
        self._retrying: set[str] = set()
        """Ids of those that were submitted once more and have no answer yet."""
        self._trouble: PublishError | None = None
        self._noted = ""
        self._pause = FIRST_PAUSE
        self._retry_at = 0.0
        self._silence = silence
        self._look_at = 0.0
        self._depths = depths or partial(depth.ask, configuration)
        self._lost = LostFinder(self, self._depths)

    @property
    def is_stuck(self) -> bool:
        """True if a request must be submitted again before a new one is."""
        return bool(self._refused or self._retrying)

    @property
    def trouble(self) -> str | None:
        """Why nothing is accepted at the moment."""
        return str(self._trouble) if self._trouble is not None else None

    def submit(self, request_id: str, item: Pending) -> None:
        """Submit an item that is in the window already."""
        assert item.message is not None
        self._submit(item.message).add_done_callback(lambda done: self._on_answer(request_id, item, done))

    def retry(self) -> None:
        """Submit refused requests again if it is time. Report when waiting begins and when it ends."""
        if not self.is_stuck:
            self._note_end_of_waiting()
            self._trouble = None
            self._pause = FIRST_PAUSE
            return
        self._note_waiting()
        if not self._refused or self._clock() < self._retry_at:
            return
        self._retry_at = self._clock() + self._pause
        self._pause = 1.0 if isinstance(self._trouble, FULL) else min(self._pause * 2, LONGEST_PAUSE)
        try:
            connecting.keep_embedded_server(self._configuration)
        except EmbeddedServerError as error:
            self._note(str(error))
        for _ in range(len(self._refused)):
            request_id = self._refused.popleft()
            if (item := self._window.item(request_id)) is not None:
                self._retrying.add(request_id)
                self.submit(request_id, item)

    def find_lost(self) -> None:
        """After a silence: submit again what has no outcome and is no longer in its queue.

        An item whose message was deleted by *accepted* is left out.
        """
        now = self._clock()
        if now - self._window.last_result < self._silence or now < self._look_at or self.is_stuck:
            return
        self._look_at = now + self._silence
        if count := sum(self._lost.send_lost_again(now).values()):
            self._note(f"{count} rows have no result and are no longer in their queue: sending them again")

    def waiting(self) -> Mapping[str, int]:
        """How many messages wait in the queues of the accepted items; nothing if the broker does not answer."""
        return self._depths({queue for _, _, queue in self._on_the_broker()})

    def unanswered(self, *, now: float) -> dict[str, int]:
        """See `Unanswered`."""
        count: Counter[str] = Counter()
        due = set()
        for _, item, queue in self._on_the_broker():
            count[queue] += 1
            if now >= item.not_lost_before:
                due.add(queue)
        return {queue: count[queue] for queue in due}

    def send_again(self, queue: str, missing: int, *, now: float) -> int:
        """See `Unanswered`."""
        due = (
            (request_id, item)
            for request_id, item, name in self._on_the_broker()
            if name == queue and now >= item.not_lost_before
        )
        lost = list(islice(due, max(0, missing)))
        for request_id, item in lost:
            item.sent_again += 1
            item.not_lost_before = now + self._silence * times_longer(item.sent_again)
            self.submit(request_id, item)
        return len(lost)

    def _on_the_broker(self) -> Iterator[tuple[str, Pending, str]]:
        """Accepted items that can be submitted again, oldest first, each with its queue."""
        for request_id, item in self._window.items():
            if item.message is not None and item.handed_over == "yes":
                yield request_id, item, item.message.queue

    def _note_waiting(self) -> None:
        match self._trouble:
            case OutboxFull():
                reason = "the outbox is full"
            case error if isinstance(error, FULL):
                reason = "the queue is full"
            case StillQueued():
                reason = "the broker is slow"
            case _:
                reason = "the broker is away"
        self._window.waits = reason
        if reason != self._noted:
            self._noted = reason
            trouble = self.trouble or "the broker did not accept a request"
            self._note(f"waiting: {trouble}. {self._while_waiting}")

    def _note_end_of_waiting(self) -> None:
        if self._noted:
            self._noted = ""
            self._window.waits = None
            self._note(f"the {'outbox' if isinstance(self._trouble, OutboxFull) else 'broker'} takes requests again")

    def _on_answer(self, request_id: str, item: Pending, done: Future[None]) -> None:
        """Runs in the publisher's thread."""
        if done.cancelled():
            self._on_refusal(request_id, None, maybe_sent=False)
        elif (error := done.exception()) is None:
            self._on_accepted(request_id, item)
        else:
            if not isinstance(error, PublishError):
                error = PublishError(f"publishing failed ({type(error).__name__})", maybe_sent=True)
            self._on_refusal(request_id, error, maybe_sent=error.maybe_sent)

    def _on_accepted(self, request_id: str, item: Pending) -> None:
        try:
            self._accepted(item)
        except OutputFailed as error:
            self.failure = str(error)
        self._retrying.discard(request_id)
        self.last_accepted = self._clock()
        self._window.mark(request_id, "yes")

    def _on_refusal(self, request_id: str, error: PublishError | None, *, maybe_sent: bool) -> None:
        if isinstance(error, OutboxFailed) and not isinstance(error, OutboxFull):
            self.failure = str(error)  # waiting does not help
        self._trouble = error or self._trouble
        self._refused.append(request_id)
        self._retrying.discard(request_id)
        self._window.mark(request_id, "unknown" if maybe_sent else "no")
