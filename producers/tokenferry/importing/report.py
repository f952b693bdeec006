"""What an import says at its end: the same numbers for a program and for a person."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenferry.importing.ledger import Counts
from tokenferry.importing.progress import spelled

_MOST_REASONS = 12


@dataclass(frozen=True)
class Summary:
    """One import, finished or not."""

    counts: Counts
    seconds: float
    budget_per_second: float
    results: Path | None
    rejects: Path | None
    route: str | None
    """None for a dry run."""
    reason: str | None = None
    """Why it ended early."""
    last_row: int = 0
    read_all: bool = True

    @property
    def exit_code(self) -> int:
        """0 when every row of the file has its token (and its attached object), else 1."""
        counts = self.counts
        good = not (counts.refused or counts.failed or counts.unfinished)
        return 0 if good and self.read_all and self.reason is None else 1

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        counts = self.counts
        return {
            "rows": counts.rows,
            "refused": counts.refused,
            "sealed": counts.sealed,
            "tokenized": counts.tokenized,
            "attached": counts.attached,
            "failed": counts.failed,
            "unfinished": counts.unfinished,
            "failures_by_code": dict(counts.failures_by_code.most_common()),
            "refusals_by_reason": dict(counts.refusals_by_reason.most_common()),
            "seconds": round(self.seconds, 3),
            "calls_per_second": round(self._calls_per_second(), 3),
            "budget_per_second": self.budget_per_second,
            "results": str(self.results) if self.results else None,
            "rejects": str(self.rejects) if self.rejects else None,
            "route": self.route if counts.unfinished else None,
            "read_to_the_end": self.read_all,
            "last_row_read": self.last_row,
            "stopped_because": self.reason,
        }

    def lines(self) -> list[str]:
        """For a person."""
        counts = self.counts
        if self.route is None:
            shown = [
                f"{counts.rows} rows read, {counts.sealed} can be sent, {counts.refused} refused; nothing was sent"
            ]
        else:
            shown = [
                f"{counts.rows} rows in {spelled(self.seconds)}: {counts.tokenized} tokenized, "
                f"{counts.attached} attached, "
                f"{counts.failed} failed, {counts.refused} refused, {counts.unfinished} unfinished",
                f"{self._calls_per_second():.1f} token calls per second of {self.budget_per_second:g} allowed",
            ]
        shown += _table("refused", counts.refusals_by_reason.most_common())
        shown += _table("failed", counts.failures_by_code.most_common())
        if self.results and self.route is not None:
            shown.append(f"results: {self.results}")
        if self.rejects and counts.refused:
            shown.append(f"rejects: {self.rejects}")
        return shown

    def unfinished(self) -> str | None:
        """What is left, and how to go on; None when nothing is."""
        counts = self.counts
        if self.reason is None and not counts.unfinished:
            return None
        said = [f"import stopped: {self.reason}"]
        if counts.unfinished:
            rows = "row has" if counts.unfinished == 1 else "rows have"
            said.append(
                f"{counts.unfinished} {rows} no result yet: they are in "
                f'{self.results} as "unfinished". Those that were handed over go on; read what becomes of them with '
                f"`tokenferry results {self.route}` and join by request_id"
            )
        if not self.read_all:
            said.append(
                f"the rows after row {self.last_row} were not read: nothing of them was sent"
                if self.last_row
                else "no row was read"
            )
        return "; ".join(said)

    def _calls_per_second(self) -> float:
        made = self.counts.tokenized + sum(self.counts.failures_by_code.values())
        return min(made, self.counts.sealed) / self.seconds if self.seconds > 0 else 0.0


def _table(title: str, counted: list[tuple[str, int]]) -> list[str]:
    shown = [f"{title}:"] if counted else []
    shown += [f"  {count:>7}  {what}" for what, count in counted[:_MOST_REASONS]]
    if (more := len(counted) - _MOST_REASONS) > 0:
        shown.append(f"  and {more} more {'reasons' if more > 1 else 'reason'}")
    return shown
