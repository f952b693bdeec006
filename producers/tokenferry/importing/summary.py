"""What an import says at its end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tokenferry.bulk.progress import spelled
from tokenferry.bulk.run_summary import RunSummary
from tokenferry.importing.import_window import ImportCounts


@dataclass(frozen=True, kw_only=True)
class ImportSummary(RunSummary[ImportCounts]):
    """One import, finished or not."""

    budget_per_second: float
    resumable: bool = False
    """Whether it can go on where it stopped."""
    earlier: int = 0
    """Rows that had their result from earlier runs."""

    def as_json(self) -> dict[str, Any]:
        counts = self.counts
        names = ("rows", "refused", "sealed", "tokenized", "attached", "failed", "unfinished")
        return {
            **{name: getattr(counts, name) for name in names},
            "failures_by_code": dict(counts.failures_by_code.most_common()),
            "refusals_by_reason": dict(counts.refusals_by_reason.most_common()),
            "seconds": round(self.seconds, 3),
            "calls_per_second": round(self._calls_per_second(), 3),
            "budget_per_second": self.budget_per_second,
            **self._where("last_row_read"),
            "resumable": self.resumable,
            "rows_of_earlier_runs": self.earlier,
        }

    def _numbers(self) -> Iterator[str]:
        counts = self.counts
        if self.route is None:
            yield f"{counts.rows} rows read, {counts.sealed} can be sent, {counts.refused} refused; nothing was sent"
            return
        yield (
            f"{counts.rows} rows in {spelled(self.seconds)}: {counts.tokenized} tokenized, {counts.attached} attached, "
            f"{counts.failed} failed, {counts.refused} refused, {counts.unfinished} unfinished"
        )
        yield f"{self._calls_per_second():.1f} token calls per second of {self.budget_per_second:g} allowed"

    def _left(self) -> Iterator[str]:
        counts = self.counts
        yield f"import stopped: {self.reason}"
        if counts.unfinished:
            rows = "row has" if counts.unfinished == 1 else "rows have"
            yield (
                f"{counts.unfinished} {rows} no result yet: they are in "
                f'{self.results} as "unfinished". Those that were handed over go on; read what becomes of them with '
                f"`tokenferry results {self.route}` and join by request_id"
            )
        if not self.read_all and self.last:
            yield f"the rows after row {self.last} were not read: nothing of them was sent"
        elif not self.read_all:
            yield "no row was read"
        if self.resumable:
            yield "go on with the same command and --resume"

    def _calls_per_second(self) -> float:
        made = min(self.counts.tokenized + sum(self.counts.failures_by_code.values()), self.counts.sealed)
        return max(0, made - self.earlier) / self.seconds if self.seconds > 0 else 0.0
