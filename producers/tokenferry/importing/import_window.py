"""The rows of an import that have no outcome yet, and the counts of the import."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenferry.bulk.pace import Pace
from tokenferry.bulk.window import Counters, Pending, Window
from tokenferry.contract.results import AttachResult, TokenResult


@dataclass(slots=True)
class PendingRow(Pending):
    """One row that has no outcome yet."""

    kind: str
    attaches: bool
    token: TokenResult | None = None
    to: str | None = None
    """The target that its token is used for, where there is one."""


@dataclass
class ImportCounts(Counters):
    """The counts of one import so far. A row that is tokenized and then fails to attach counts as both."""

    rows: int = 0
    sealed: int = 0
    tokenized: int = 0
    attached: int = 0
    failed: int = 0
    """Rows without success, those that Stripe declined included."""
    declined: int = 0
    """Of those, rows whose token or use Stripe declined."""
    settled: int = 0
    """Rows with their final outcome, good or bad."""
    to_attach: int = 0
    """Sealed rows with an attach target."""

    def outcomes(self) -> dict[str, int]:
        """How many rows have which outcome. Together they are the rows that were read and sent, or rejected."""
        return {
            "attached": self.attached,
            "tokenized": self.settled - self.attached - self.failed,
            "declined": self.declined,
            "failed": self.failed - self.declined,
            "rejected": self.rejected,
            "pending": self.sealed - self.settled,
        }

    def take_outcomes_of(self, other: ImportCounts) -> None:
        """Count the outcomes as *other* does, which has read them from the results file."""
        self.settled, self.tokenized, self.attached = other.settled, other.tokenized, other.attached
        self.failed, self.declined = other.failed, other.declined
        self.failures, self.failures_by_code = other.failures, other.failures_by_code

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
        self.rows_pace, self.tokens_pace, self.attaches_pace = (Pace(self.started) for _ in range(3))
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
        counts, now = self.counts, self._clock()
        if item.token is None:  # an attach result may come before the token's
            self.tokens_open -= 1
            self.tokens_pace.note(now)
            counts.tokenized += result.token is not None
        else:
            self.attaches_open -= 1
        if isinstance(result, AttachResult):
            counts.attached += result.ok
            self.attaches_pace.note(now)
        elif not last:
            item.token = result
            self.attaches_open += 1
        if result.failure is not None:
            counts.failed += 1
            counts.declined += result.failure.source == "endpoint"
            counts.fail(result.failure.code, result.failure.param)
        counts.settled += last
        if last:
            self.rows_pace.note(now)

    def rates(self) -> tuple[float, float]:
        """Token calls and attach calls per second, in the last seconds."""
        with self._changed:
            now = self._clock()
            return self.tokens_pace.recent(now), self.attaches_pace.recent(now)

    def seconds_left(self, unread: float) -> float | None:
        """Estimate how long the pending rows and *unread* more take, at the pace of the rows before."""
        with self._changed:
            return self.rows_pace.seconds_left(self._clock(), unread + len(self._items))

    def silence(self) -> float:
        """Seconds for which rows have waited without a result."""
        with self._changed:
            return self._clock() - self.last_result if self._items else 0.0


def settled_line(request_id: str, row: PendingRow | None, result: TokenResult | AttachResult | None) -> dict[str, Any]:
    """Return the line of one request for the results file. Without *result* it is pending."""
    token = result if isinstance(result, TokenResult) else row.token if row else None
    attach = result if isinstance(result, AttachResult) else None
    failure = result.failure if result is not None else None
    display = (token.display if token else None) or (attach.display if attach else None)
    status = "pending"
    if failure is not None:
        status = "declined" if failure.source == "endpoint" else "failed"
    elif result is not None:
        status = "attached" if attach else "tokenized"
    line: dict[str, Any] = {"key": row.key, "row": row.number} if row else {}
    line |= {
        "request_id": request_id,
        "kind": row.kind if row else result.kind if result else None,
        "status": status,
        "token": (token.token if token else None) or (attach.token if attach else None),
        "created": token.created if token else attach.token_created if attach else None,
        "object_id": attach.object_id if attach else None,
        "stored_id": attach.stored_id if attach else None,
        "display": display.model_dump(exclude_none=True) if display else None,
        "failure": failure.model_dump(exclude_none=True) if failure else None,
    }
    if attach is not None and attach.endpoint_request_id is not None:
        line["endpoint_request_id"] = attach.endpoint_request_id
    if row is not None and row.to is not None:
        line["to"] = row.to
    if result is None and row is not None:
        line["handed_over"] = row.handed_over
    return line
