"""The rows of an import that have no outcome yet, and the counts of the import."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from tokenferry.broker.publishing import Outgoing
from tokenferry.bulk.pace import Pace
from tokenferry.bulk.window import Counters, Pending, Window, Write
from tokenferry.contract.codes import Code
from tokenferry.contract.results import AttachResult, TokenResult

MOST_GENERATIONS: Final = 1000
"""A row that was corrected so often is not sent once more."""
CORRECTABLE: Final = (
    "this key failed before with other content and left nothing behind; to send it corrected, the import needs "
    "envelope = 2 below [producer], and a row without a CVC"
)
OTHER_CONTENT: Final = (
    "this key was done before with other content; give it a new key, or import it under another --namespace"
)


@dataclass(slots=True)
class PendingRow(Pending):
    """One row that has no outcome yet."""

    kind: str
    attaches: bool
    token: TokenResult | None = None
    to: str | None = None
    """The target that its token is used for, where there is one."""
    again: Callable[[int], Outgoing] | None = field(default=None, repr=False, kw_only=True)
    """Seals the row again, as this generation of its request id. None where that is not possible."""
    generation: int = field(default=1, kw_only=True)


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
    done_before: int = 0
    """Rows whose outcome is older than the import: an earlier one sent them, and nothing was done again."""

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
        self.began = 0
        """Unix milliseconds. Older outcomes are those of earlier imports."""
        self._next_generations: deque[str] = deque()

    def settle(self, result: TokenResult | AttachResult, write: Write) -> None:
        """Do as `Window.settle`. A row whose request id may begin again is not settled, but kept for that."""
        with self._changed:
            if not self._goes_on(result):
                super().settle(result, write)
                return
            self._next_generations.append(result.request_id)
            self.last_result = self._clock()
            self._changed.notify_all()

    def _goes_on(self, result: TokenResult | AttachResult) -> bool:
        """True if *result* names a later generation as which its row can be sent, which is noted."""
        row, generation = self._items.get(result.request_id), next_generation(result)
        if self._closed or row is None or row.again is None or not row.generation < generation <= MOST_GENERATIONS:
            return False
        row.generation = generation
        return True

    def to_begin_again(self) -> list[tuple[str, PendingRow]]:
        """Return the rows that are to be sent as their next generation, each once."""
        with self._changed:
            ids, self._next_generations = self._next_generations, deque()
            return [(request_id, self._items[request_id]) for request_id in ids if request_id in self._items]

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
        counts.done_before += last and result.settled_at < self.began and not _is_reused(result)
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


def next_generation(result: TokenResult | AttachResult) -> int:
    """Return the generation that a refusal of a reused id names. 0: none.

    What counts is that the recorded outcome has left nothing behind, so the row may be corrected (docs/formats.md).
    """
    name, _, number = (result.failure.param or "" if result.failure and _is_reused(result) else "").partition("=")
    return int(number) if name == "generation" and number.isascii() and number.isdigit() else 0


def _is_reused(result: TokenResult | AttachResult) -> bool:
    return result.failure is not None and result.failure.code in (Code.REQUEST_ID_REUSED, Code.ATTACH_ID_REUSED)


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
    if result is not None and _is_reused(result):
        line["reason"] = CORRECTABLE if next_generation(result) else OTHER_CONTENT
    if attach is not None and attach.endpoint_request_id is not None:
        line["endpoint_request_id"] = attach.endpoint_request_id
    if row is not None and row.to is not None:
        line["to"] = row.to
    if result is None and row is not None:
        line["handed_over"] = row.handed_over
    return line
