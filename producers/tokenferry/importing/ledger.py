"""Which rows are outstanding, and the numbers of the import.

Two threads ask it: the one that reads rows and the one that follows results. It knows row keys and ids, no values.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tokenferry.contract.results import AttachResult, TokenResult

HandedOver = Literal["yes", "unknown", "no"]
RECENT = 10.0
"""Seconds over which the current rate is measured."""


class LedgerClosed(RuntimeError):
    """A result came after the import had written down its row as unfinished: the result stays on its route."""


@dataclass(slots=True)
class Outstanding:
    """One row that has no outcome yet."""

    number: int
    key: str
    kind: str
    attaches: bool
    handed_over: HandedOver = "unknown"
    """Whether the broker has confirmed its request."""
    token: TokenResult | None = None


@dataclass
class Counts:
    """The numbers of one import so far. A row that is tokenized and then fails to attach counts in both."""

    rows: int = 0
    refused: int = 0
    sealed: int = 0
    tokenized: int = 0
    attached: int = 0
    failed: int = 0
    settled: int = 0
    """Rows with an outcome, good or bad."""
    unfinished: int = 0
    to_attach: int = 0
    """Sealed rows that ask for an attach."""
    failures_by_code: Counter[str] = field(default_factory=Counter)
    refusals_by_reason: Counter[str] = field(default_factory=Counter)


class Ledger:
    """Outstanding rows by request id. Safe to use from several threads."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts = Counts()
        self._clock = clock
        self._rows: dict[str, Outstanding] = {}
        self._changed = threading.Condition()
        self._calls: deque[tuple[float, int]] = deque()
        self._closed = False
        self.tokens_open = 0
        """Rows whose token call is still to be made."""
        self.attaches_open = 0
        """Rows whose token is there and waits to be attached."""
        self.started = clock()
        self.last_result = self.started

    def __len__(self) -> int:
        return len(self._rows)

    def enter(self, request_id: str, row: Outstanding) -> None:
        """Expect the outcome of a row: before it is published, so that no result can be faster."""
        with self._changed:
            if not self._rows:
                self.last_result = self._clock()  # from here on somebody is waited for
            self._rows[request_id] = row
            self.tokens_open += 1
            self.counts.sealed += 1
            self.counts.to_attach += row.attaches

    def withdraw(self, request_id: str) -> None:
        """The row was refused after all."""
        with self._changed:
            row = self._rows.pop(request_id)
            self.tokens_open -= 1
            self.counts.sealed -= 1
            self.counts.to_attach -= row.attaches
            self._changed.notify_all()

    def mark(self, request_id: str, handed_over: HandedOver) -> None:
        """Note what the broker said of a request."""
        with self._changed:
            if (row := self._rows.get(request_id)) is not None:
                row.handed_over = handed_over
            self._changed.notify_all()

    def settle(self, result: TokenResult | AttachResult, write: Callable[[dict[str, Any]], None]) -> None:
        """Take in a result; when it is the row's last word, *write* its line. A result of no row is passed over.

        Raises what *write* raises, and then has changed nothing, so that the result can be delivered again.
        """
        with self._changed:
            if self._closed:
                raise LedgerClosed
            row = self._rows.get(result.request_id)
            if row is None:
                return
            last = isinstance(result, AttachResult) or not result.ok or not row.attaches
            if last:
                write(settled_line(result.request_id, row, result))
                del self._rows[result.request_id]
            self._count(row, result, last=last)
            self.last_result = self._clock()
            self._changed.notify_all()

    def _count(self, row: Outstanding, result: TokenResult | AttachResult, *, last: bool) -> None:
        counts = self.counts
        if row.token is None:  # an attach result may be faster than its token's
            self.tokens_open -= 1
            self._note_call()
            counts.tokenized += result.token is not None
        else:
            self.attaches_open -= 1
        if isinstance(result, AttachResult):
            counts.attached += result.ok
        elif not last:
            row.token = result
            self.attaches_open += 1
        if result.failure is not None:
            counts.failed += 1
            counts.failures_by_code[result.failure.code] += 1
        counts.settled += last

    def wait(self, seconds: float) -> None:
        """Wait for a change, at most this long."""
        with self._changed:
            self._changed.wait(seconds)

    def close(self) -> list[tuple[str, Outstanding]]:
        """What is still outstanding, for good: later results are left to whoever reads the route."""
        with self._changed:
            self._closed = True
            left = list(self._rows.items())
            self._rows.clear()
            self.counts.unfinished = len(left)
            return left

    def rate(self) -> float:
        """Token calls per second, of late."""
        with self._changed:
            now = self._clock()
            self._forget_calls(now)
            seconds = min(RECENT, max(1.0, now - self.started))
            return sum(count for _, count in self._calls) / seconds

    def _note_call(self) -> None:
        now = self._clock()
        if self._calls and now - self._calls[-1][0] < 0.25:
            at, count = self._calls[-1]
            self._calls[-1] = at, count + 1
        else:
            self._calls.append((now, 1))
        self._forget_calls(now)

    def _forget_calls(self, now: float) -> None:
        while self._calls and self._calls[0][0] <= now - RECENT:
            self._calls.popleft()


def settled_line(request_id: str, row: Outstanding | None, result: TokenResult | AttachResult | None) -> dict[str, Any]:
    """The line about one request for the results file; without *result* it is unfinished."""
    token = result if isinstance(result, TokenResult) else row.token if row else None
    attach = result if isinstance(result, AttachResult) else None
    failure = result.failure if result is not None else None
    status = "unfinished"
    if result is not None:
        status = "failed" if failure else "attached" if attach else "tokenized"
    line: dict[str, Any] = {"key": row.key, "row": row.number} if row else {}
    line |= {
        "request_id": request_id,
        "kind": row.kind if row else result.kind if result else None,
        "status": status,
        "token": (token.token if token else None) or (attach.token if attach else None),
        "object_id": attach.object_id if attach else None,
        "stored_id": attach.stored_id if attach else None,
        "display": token.display.model_dump(exclude_none=True) if token and token.display else None,
        "failure": failure.model_dump(exclude_none=True) if failure else None,
    }
    if result is None and row is not None:
        line["handed_over"] = row.handed_over
    return line
