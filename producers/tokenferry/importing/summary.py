"""The summary of an import."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tokenferry.bulk.progress import spelled
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
    preview: Mapping[str, Any] | None = None
    """What a dry run learned, for a program."""
    preview_lines: tuple[str, ...] = ()
    """The same for a person."""

    def lines(self) -> list[str]:
        if self.preview is None:
            return super().lines()
        shown = [*self._totals(), *self.preview_lines]
        return [*shown, f"rejects: {self.rejects}"] if self.rejects and self.counts.rejected else shown

    def as_json(self) -> dict[str, Any]:
        counts = self.counts
        return {
            "rows": counts.rows,
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
            "seconds": round(self.seconds, 3),
            "calls_per_second": round(self._calls_per_second(), 3),
            "budget_per_second": self.budget_per_second,
            **self._where("last_row_read"),
            "resumable": self.resumable,
            "rows_of_earlier_runs": self.earlier,
            "rows_done_before": counts.done_before,
            "rows_left_out": self.chosen,
            **({} if self.preview is None else {"preview": self.preview}),
        }

    def _totals(self) -> Iterator[str]:
        counts = self.counts
        if self.route is None:
            yield f"{counts.rows} rows read, {counts.sealed} can be sent, {counts.rejected} rejected; nothing was sent"
            return
        yield (
            f"{counts.rows} rows in {spelled(self.seconds)}: {counts.tokenized} tokenized, {counts.attached} attached, "
            f"{counts.failed} failed, {counts.rejected} rejected, {counts.unfinished} unfinished"
        )
        if counts.done_before:
            yield f"{counts.done_before} rows were done before, by an earlier import: they have that outcome"
        yield from self._reused()
        yield f"{self._calls_per_second():.1f} token calls per second of {self.budget_per_second:g} allowed"
        if self.chosen:
            yield "rows were left out (--limit or --sample): send them with the same command and --resume instead"

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
            f'{count} {"row has" if count == 1 else "rows have"} no result yet: see "unfinished" in {self.results}. '
            f"Workers still process those that the broker has; read their results with `tokenferry results "
            f"{self.route}` and join by request_id"
        )

    def _how_to_continue(self) -> Iterator[str]:
        if self.resumable:
            yield "continue with the same command and --resume"

    def _calls_per_second(self) -> float:
        made = min(self.counts.tokenized + sum(self.counts.failures_by_code.values()), self.counts.sealed)
        return max(0, made - self.earlier) / self.seconds if self.seconds > 0 else 0.0
