"""What of a run is under way, by request id, and the numbers of it all.

Two threads ask: the one that reads the file and the one that follows results. Keys and ids are known here, no values.
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
    """A result came after its item had been written down as unfinished: the result stays on its route."""


@dataclass(slots=True)
class Pending:
    """One row or account without an outcome."""

    number: int
    """Its place in the file."""
    key: str
    handed_over: HandedOver = field(default="unknown", kw_only=True)
    """Whether the broker has confirmed its request."""
    message: Outgoing | None = field(default=None, repr=False, kw_only=True)
    """The sealed request, to hand it over again."""
    found_missing: int = field(default=0, kw_only=True)
    """How often it was handed over again because it seemed to be lost."""
    let_alone_until: float = field(default=0.0, kw_only=True)
    """When it may be found missing once more, in monotonic seconds."""


@dataclass(kw_only=True)
class Counters:
    """The numbers that every run has."""

    refused: int = 0
    """What was read and not sent."""
    unfinished: int = 0
    """What was sent, and had no outcome when the run ended."""
    failures_by_code: Counter[str] = field(default_factory=Counter)
    refusals_by_reason: Counter[str] = field(default_factory=Counter)

    def refuse(self, problems: Iterable[Problem]) -> None:
        """Count one that is not sent, and each reason."""
        self.refused += 1
        self.refusals_by_reason.update(map(str, problems))

    @property
    def all_well(self) -> bool:
        """Whether everything that was read came to a good end."""
        return not (self.refused or self.unfinished)


Item = TypeVar("Item", bound=Pending)
Outcome = TypeVar("Outcome", bound=TokenResult | AttachResult | OnboardingResult)


class Window(ABC, Generic[Item, Outcome]):
    """What has no outcome yet. Safe to use from several threads."""

    counts: Counters
    outcomes: ClassVar[tuple[type, ...]]
    """The results it is about; others on the route are somebody else's."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.started = clock()
        self.last_result = self.started
        self.waits: str | None = None
        """What the run waits for, where that is not a result."""
        self.early: Callable[[str], bool] = lambda request_id: False
        """Whether a request will be entered yet, so that its result is kept until then."""
        self._clock = clock
        self._items: dict[str, Item] = {}
        self._early: dict[str, list[Outcome]] = {}
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def item(self, request_id: str) -> Item | None:
        """What a request is about, while it has no outcome."""
        return self._items.get(request_id)

    def items(self) -> list[tuple[str, Item]]:
        """All of them, the oldest first."""
        with self._changed:
            return list(self._items.items())

    def enter(self, request_id: str, item: Item, write: Write) -> None:
        """Expect an outcome: before the request is published, so that no result can be faster.

        A result that came all the same, because an earlier run had published it, is settled at once.
        """
        with self._changed:
            if not self._items:
                self.last_result = self._clock()  # from here on somebody is waited for
            self._items[request_id] = item
            self._count_entered(item)
            early = self._early.pop(request_id, [])
        for result in early:
            self.settle(result, write)

    def mark(self, request_id: str, handed_over: HandedOver) -> None:
        """Note what the broker said of a request."""
        with self._changed:
            if (item := self._items.get(request_id)) is not None:
                item.handed_over = handed_over
            self._changed.notify_all()

    def settle(self, result: Outcome, write: Write) -> None:
        """Take in a result; when it is the last word, *write* its line. A result of nothing here is passed over.

        Raises `Closed`, and what *write* raises, and then has changed nothing: the result can be delivered again.
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
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait for a change, at most this long."""
        with self._changed:
            self._changed.wait(seconds)

    def close(self) -> list[tuple[str, Item]]:
        """What has no outcome, for good: later results are left to whoever reads the route."""
        with self._changed:
            self._closed = True
            left = list(self._items.items())
            self._items.clear()
            self.counts.unfinished = len(left)
            return left

    @abstractmethod
    def line(self, request_id: str, item: Item, result: Outcome | None) -> dict[str, Any]:
        """The line about one item for the results file; without *result* it is unfinished."""

    @abstractmethod
    def _count_entered(self, item: Item) -> None: ...

    @abstractmethod
    def _count(self, item: Item, result: Outcome, *, last: bool) -> None: ...

    def _unexpected(self, result: Outcome, write: Write) -> None:
        """A result of nothing that is under way: too early, or of somebody else."""
        if self.early(result.request_id):
            self._early.setdefault(result.request_id, []).append(result)

    def _is_last(self, item: Item, result: Outcome) -> bool:
        return True
