"""The summary of an import."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tokenferry.bulk.progress import counted, spelled
from tokenferry.bulk.run_summary import RunSummary
from tokenferry.contract.codes import Code
from tokenferry.importing.import_window import CORRECTABLE, OTHER_CONTENT, ImportCounts


@dataclass(frozen=True, kw_only=True)
class ImportSummary(RunSummary[ImportCounts]):
    """One import, finished or not."""

    run = "import"
    item = "row"

    budget_per_second: float
    resumable: bool = False
    """True if --resume can continue it."""
    earlier: int = 0
    """Rows that earlier runs have finished."""
    chosen: bool = False
    """True if --limit or --sample left rows of the file out."""
    nothing_sent: bool = False
    """True if this run only wrote late outcomes."""
    updated: int = 0
    """Rows that have another line now, because their outcome came late."""
    fingerprint: str | None = None
    """The keyed hash of the imported file. None if it is a pipe."""
    not_retried: tuple[str, ...] = ()
    """Why failed rows were not sent again, although --retry-failed was given."""
    preview: Mapping[str, Any] | None = None
    """What a dry run learned, for a program."""
    preview_lines: tuple[str, ...] = ()
    """The same for a person."""

    def lines(self) -> list[str]:
        if self.preview is None:
            return super().lines()
        shown = [*self._totals(), *self.preview_lines]
        return [*shown, f"rejects: {self.rejects}"] if self.rejects and self.counts.rejected else shown

    @property
    def exit_code(self) -> int:
        """0 if every row succeeded, or there was nothing left to do. Else 1."""
        return 0 if self.nothing_sent and not self.not_retried else super().exit_code

    def items_read(self) -> int:
        return sum(self.counts.outcomes().values())

    def _more(self) -> dict[str, Any]:
        counts = self.counts
        return {
            "calls": {"tokens_per_second": self._per_second(counts.tokenized + self._without_token())}
            | {"attaches_per_second": self._per_second(counts.attached)},
            "budget_per_second": self.budget_per_second,
            "resumable": self.resumable,
            "rows_of_earlier_runs": self.earlier,
            "rows_left_out": self.chosen,
            "rows_updated": self.updated,
            **({} if self.preview is None else {"preview": self.preview}),
        }

    def _earlier_names(self) -> dict[str, Any]:
        counts = self.counts
        return {
            "refused": counts.rejected,
            "sealed": counts.sealed,
            "tokenized": counts.tokenized,
            "attached": counts.attached,
            "failed": counts.failed,
            "unfinished": counts.unfinished,
            "failures_by_code": dict(counts.failures_by_code.most_common()),
            "failures": [
                {"code": code, "param": param, "count": count} for (code, param), count in counts.failures.most_common()
            ],
            "refusals_by_reason": dict(counts.rejections_by_reason.most_common()),
            "calls_per_second": self._per_second(counts.tokenized + self._without_token()),
            "last_row_read": self.last,
            "rows_done_before": counts.done_before,
        }

    def _totals(self) -> Iterator[str]:
        counts = self.counts
        rows = counted(self.items_read(), "row")
        if self.route is None:
            yield f"{rows} read, {counts.sealed} can be sent, {counts.rejected} rejected; nothing was sent"
            return
        if self.nothing_sent:
            yield from self._of_nothing_sent()
        took = "" if self.nothing_sent else f" in {spelled(self.seconds)}"
        yield f"{rows}{took}: " + ", ".join(f"{count} {outcome}" for outcome, count in counts.outcomes().items())
        if counts.done_before:
            before = f"{counted(counts.done_before, 'row')} {'was' if counts.done_before == 1 else 'were'} done before"
            yield f"{before}, by an earlier import, and got that outcome"
        yield from self._reused()
        if not self.nothing_sent:
            rate = f"{self._per_second(counts.tokenized + self._without_token()):.1f} tokens"
            if counts.to_attach:
                rate += f" and {self._per_second(counts.attached):.1f} attaches"
            yield f"{rate} per second (at most {self.budget_per_second:g} tokens per second are allowed)"
        if self.chosen:
            yield "rows were left out (--limit or --sample): send them with the same command and --resume instead"

    def _of_nothing_sent(self) -> Iterator[str]:
        if not self.resumable:
            yield "this import is finished: nothing was sent"
        yield f"{counted(self.updated, 'row')} got a late outcome"
        yield from self.not_retried

    def _reused(self) -> Iterator[str]:
        """Why keys of earlier imports were not sent again."""
        reasons: Counter[str] = Counter()
        for (code, param), count in self.counts.failures.items():
            if code in (Code.REQUEST_ID_REUSED, Code.ATTACH_ID_REUSED):
                reasons[CORRECTABLE if (param or "").startswith("generation=") else OTHER_CONTENT] += count
        yield from (f"{count} rows were not sent: {reason}" for reason, count in reasons.items())

    def _failures(self) -> Counter[str]:
        return Counter(
            {f"{code} ({param})" if param else code: count for (code, param), count in self.counts.failures.items()}
        )

    def _unfinished_items(self) -> str:
        count = self.counts.unfinished
        return (
            f'{count} {"row has" if count == 1 else "rows have"} no result yet: see "pending" in {self.results}. '
            f"Workers still process those that the broker has; read their results with `tokenferry results "
            f"{self.route}` and join by request_id"
        )

    def _how_to_continue(self) -> Iterator[str]:
        if self.resumable:
            yield "continue with the same command and --resume"

    def _without_token(self) -> int:
        """Rows that failed before they had a token."""
        return max(0, self.counts.settled - self.counts.tokenized)

    def _per_second(self, calls: int) -> float:
        """Calls of this run per second. Those of earlier runs are left out."""
        return round(max(0, calls - self.earlier) / self.seconds, 3) if self.seconds > 0 else 0.0
