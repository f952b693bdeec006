"""The rows of an import that have no outcome yet, and the counts of the import."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenferry.bulk.window import Counters, Pending, Window
from tokenferry.contract.results import AttachResult, TokenResult

RECENT = 10.0
"""Seconds over which the present rate is measured."""


@dataclass(slots=True)
class PendingRow(Pending):
    """One row that has no outcome yet."""

    kind: str
    attaches: bool
    token: TokenResult | None = None


@dataclass
class ImportCounts(Counters):
    """The counts of one import so far. A row that is tokenized and then fails to attach counts as both."""

    rows: int = 0
    sealed: int = 0
    tokenized: int = 0
    attached: int = 0
    failed: int = 0
    settled: int = 0
    """Rows with their final outcome, good or bad."""
    to_attach: int = 0
    """Sealed rows with an attach target."""

    @property
    def all_well(self) -> bool:
        """True if every row has its token, and its attached object if one was requested."""
        return super().all_well and not self.failed


class ImportWindow(Window[PendingRow, TokenResult | AttachResult]):
    """The rows of an import that have no outcome yet."""

    counts: ImportCounts
    outcomes = (TokenResult, AttachResult)

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock=clock)
        self.counts = ImportCounts()
        self._calls: deque[tuple[float, int]] = deque()
        self.tokens_open = 0
        """Rows that have no token result yet."""
        self.attaches_open = 0
        """Rows that have their token and no attach result yet."""

    def line(self, request_id: str, item: PendingRow, result: TokenResult | AttachResult | None) -> dict[str, Any]:
        return settled_line(request_id, item, result)

    def pending_keys(self) -> dict[str, str]:
        """Return the request id of each row under way that has a key, by its key."""
        return {item.key: request_id for request_id, item in self.items() if item.key}

    def _count_entered(self, item: PendingRow) -> None:
        self.tokens_open += 1
        self.counts.sealed += 1
        self.counts.to_attach += item.attaches

    def _is_last(self, item: PendingRow, result: TokenResult | AttachResult) -> bool:
        return isinstance(result, AttachResult) or not result.ok or not item.attaches

    def _count(self, item: PendingRow, result: TokenResult | AttachResult, *, last: bool) -> None:
        counts = self.counts
        if item.token is None:  # an attach result may come before the token's
            self.tokens_open -= 1
            self._note_call()
            counts.tokenized += result.token is not None
        else:
            self.attaches_open -= 1
        if isinstance(result, AttachResult):
            counts.attached += result.ok
        elif not last:
            item.token = result
            self.attaches_open += 1
        if result.failure is not None:
            counts.failed += 1
            counts.fail(result.failure.code, result.failure.param)
        counts.settled += last

    def rate(self) -> float:
        """Token calls per second, in the last seconds."""
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


def settled_line(request_id: str, row: PendingRow | None, result: TokenResult | AttachResult | None) -> dict[str, Any]:
    """Return the line of one request for the results file. Without *result* it is unfinished."""
    token = result if isinstance(result, TokenResult) else row.token if row else None
    attach = result if isinstance(result, AttachResult) else None
    failure = result.failure if result is not None else None
    display = (token.display if token else None) or (attach.display if attach else None)
    status = "unfinished"
    if result is not None:
        status = "failed" if failure else "attached" if attach else "tokenized"
    line: dict[str, Any] = {"key": row.key, "row": row.number} if row else {}
    line |= {
        "request_id": request_id,
        "kind": row.kind if row else result.kind if result else None,
        "status": status,
        "token": (token.token if token else None) or (attach.token if attach else None),
        "created": token.created if token else None,
        "object_id": attach.object_id if attach else None,
        "stored_id": attach.stored_id if attach else None,
        "display": display.model_dump(exclude_none=True) if display else None,
        "failure": failure.model_dump(exclude_none=True) if failure else None,
    }
    if attach is not None and attach.endpoint_request_id is not None:
        line["endpoint_request_id"] = attach.endpoint_request_id
    if result is None and row is not None:
        line["handed_over"] = row.handed_over
    return line
