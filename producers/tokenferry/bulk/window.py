"""The rows or accounts of a run that have no outcome yet, by request id, and the run's counts.

Two threads use it: one reads the file, the other reads results. It knows keys and ids, and no values.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

from tokenferry.broker.publishing import Outgoing
from tokenferry.contract.requests import Problem
from tokenferry.contract.results import AttachResult, OnboardingResult, TokenResult

HandedOver = Literal["yes", "unknown", "no"]
Write = Callable[[dict[str, Any]], None]
"""Appends a line to the results file."""


class Closed(RuntimeError):
    """A result came after its item was written to the file as unfinished. The result stays on its route."""


@dataclass(slots=True)
class Pending:
    """One row or account without an outcome."""

    number: int
    """Its line or position in the file."""
    key: str
    handed_over: HandedOver = field(default="unknown", kw_only=True)
    """Whether the broker has confirmed its request."""
    message: Outgoing | None = field(default=None, repr=False, kw_only=True)
    """The sealed request, so that it can be sent again."""
    sent_again: int = field(default=0, kw_only=True)
    """How often it was sent again because it seemed to be lost."""
    not_lost_before: float = field(default=0.0, kw_only=True)
    """When it may be sent again for that reason once more, in monotonic seconds."""


@dataclass(kw_only=True)
class Counters(ABC):
    """The counts that every run has."""

    rejected: int = 0
    """Read, and not sent."""
    unfinished: int = 0
    """Sent, and without an outcome when the run ended."""
    failures_by_code: Counter[str] = field(default_factory=Counter)
    failures: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    """By code and the parameter that Stripe names."""
    rejections_by_reason: Counter[str] = field(default_factory=Counter)

    def fail(self, code: str, param: str | None) -> None:
        """Count one failure."""
        self.failures_by_code[code] += 1
        self.failures[code, param] += 1

    def reject(self, problems: Iterable[Problem]) -> None:
        """Count one item that is not sent, and each reason."""
        self.rejected += 1
        self.rejections_by_reason.update(map(str, problems))

    @abstractmethod
    def outcomes(self) -> dict[str, int]:
        """How many items have which outcome. Together they are all that were read."""

    @property
    def all_well(self) -> bool:
        """True if nothing was rejected and nothing is unfinished."""
        return not (self.rejected or self.unfinished)


Item = TypeVar("Item", bound=Pending)
Outcome = TypeVar("Outcome", bound=TokenResult | AttachResult | OnboardingResult)


class Window(ABC, Generic[Item, Outcome]):
    """The items without an outcome. Safe to use from several threads."""

    counts: Counters
    outcomes: ClassVar[tuple[type, ...]]
    """The types of results that the items get. Others on the route are ignored."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.started = clock()
        self.last_result = self.started
        self.waits: str | None = None
        """What the run waits for, if that is not a result."""
        self.guess: str | None = None
        """Why no result comes, as far as this program can find out. None as soon as one comes."""
        self.early: Callable[[str], bool] = lambda request_id: False
        """True for a request that will be entered later. A result that comes first is kept until then."""
        self.late: Callable[[Outcome], None] = lambda result: None
        """Called with a result of a request that is not in the window, and will not be entered."""
        self._clock = clock
        self._items: dict[str, Item] = {}
        self._early: dict[str, list[Outcome]] = {}
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def item(self, request_id: str) -> Item | None:
        """Return the item of a request. None if it has its outcome."""
        return self._items.get(request_id)

    def items(self) -> list[tuple[str, Item]]:
        """Return all items with their request ids, oldest first."""
        with self._changed:
            return list(self._items.items())

    def enter(self, request_id: str, item: Item, write: Write) -> None:
        """Add an item. Call this before its request is published, so that no result can be faster.

        A result may have come all the same, if an earlier run published the request. It is settled at once.
        """
        with self._changed:
            if not self._items:
                self.last_result = self._clock()  # a silence begins here, at the earliest
            self._items[request_id] = item
            self._count_entered(item)
            early = self._early.pop(request_id, [])
        for result in early:
            self.settle(result, write)

    def expect(self, results: Iterable[Outcome]) -> None:
        """Keep results of requests that will be entered later."""
        for result in results:
            self._early.setdefault(result.request_id, []).append(result)

    def mark(self, request_id: str, handed_over: HandedOver) -> None:
        """Record whether the broker has a request."""
        with self._changed:
            if (item := self._items.get(request_id)) is not None:
                item.handed_over = handed_over
            self._changed.notify_all()

    def settle(self, result: Outcome, write: Write) -> None:
        """Process a result. If it is the last one of its item, *write* the line. Ignore results of other requests.

        Raises `Closed` and what *write* raises. Nothing has changed then, and the result can be delivered again.
        """
        with self._changed:
            if self._closed:
                raise Closed
            item = self._items.get(result.request_id)
            if item is None:
                self._unexpected(result, write)
                return
            last = self._is_last(item, result)
            if last:
                write(self.line(result.request_id, item, result))
                del self._items[result.request_id]
            self._count(item, result, last=last)
            self.last_result = self._clock()
            self.guess = None
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait for a change, for this many seconds at most."""
        with self._changed:
            self._changed.wait(seconds)

    def close(self) -> list[tuple[str, Item]]:
        """Process no further results. Return the items without an outcome."""
        with self._changed:
            self._closed = True
            left = list(self._items.items())
            self._items.clear()
            self.counts.unfinished = len(left)
            return left

    def pass_on_early(self) -> None:
        """Call `late` with the results whose items were never entered. Call this after `close`."""
        early, self._early = self._early, {}
        for results in early.values():
            for result in results:
                self.late(result)

    @abstractmethod
    def line(self, request_id: str, item: Item, result: Outcome | None) -> dict[str, Any]:
        """Return the line of one item for the results file. Without *result* it is unfinished."""

    @abstractmethod
    def _count_entered(self, item: Item) -> None: ...

    @abstractmethod
    def _count(self, item: Item, result: Outcome, *, last: bool) -> None: ...

    def _unexpected(self, result: Outcome, write: Write) -> None:
        """Process a result of a request that is not in the window: it is too early, or of another run."""
        if self.early(result.request_id):
            self._early.setdefault(result.request_id, []).append(result)
        else:
            self.late(result)

    def _is_last(self, item: Item, result: Outcome) -> bool:
        return True
