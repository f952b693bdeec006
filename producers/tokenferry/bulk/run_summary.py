"""The summary of a run, for a program and for a person."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from tokenferry.bulk.window import Counters

Counts = TypeVar("Counts", bound=Counters)


@dataclass(frozen=True)
class RunSummary(ABC, Generic[Counts]):
    """One run, finished or not."""

    run: ClassVar[str]
    """What the run is called."""
    item: ClassVar[str]
    """What the file consists of."""
    most_reasons: ClassVar[int] = 12
    """Lines of a table, at most."""

    counts: Counts
    seconds: float
    results: Path | None
    rejects: Path | None
    route: str | None
    """None: a dry run, which sends nothing."""
    reason: str | None = None
    """Why it ended early."""
    last: int = 0
    """Number of the last row or document that was read."""
    read_all: bool = True

    @property
    def exit_code(self) -> int:
        """0 if everything in the file succeeded, else 1."""
        return 0 if self.counts.all_well and self.read_all and self.reason is None else 1

    def as_json(self) -> dict[str, Any]:
        """The summary for a program. Both commands have the same keys; `outcomes` adds up to `rows`.

        The names of the version before stay beside them for one version.
        """
        counts = self.counts
        return {
            **self._earlier_names(),
            "rows": self.items_read(),
            "outcomes": counts.outcomes(),
            "failures_by_reason": dict(self._failures().most_common()),
            "rejections_by_reason": dict(counts.rejections_by_reason.most_common()),
            "seconds": round(self.seconds, 3),
            "results": str(self.results) if self.results else None,
            "rejects": str(self.rejects) if self.rejects else None,
            "route": self.route if counts.unfinished else None,
            "read_to_the_end": self.read_all,
            "last_read": self.last,
            "stopped_because": self.reason,
            **self._more(),
        }

    @abstractmethod
    def items_read(self) -> int:
        """Rows or documents that were read, those of earlier runs included."""

    @abstractmethod
    def _more(self) -> dict[str, Any]:
        """What only this command says to a program."""

    @abstractmethod
    def _earlier_names(self) -> dict[str, Any]:
        """The same under the names of the version before, for one version."""

    def lines(self) -> list[str]:
        """The summary for a person."""
        counts = self.counts
        shown = [*self._totals()]
        shown += self._table("rejected", counts.rejections_by_reason)
        shown += self._table("failed", self._failures())
        if self.results and self.route is not None:
            shown.append(f"results: {self.results}")
        if self.rejects and counts.rejected:
            shown.append(f"rejects: {self.rejects}")
        return shown

    def unfinished(self) -> str | None:
        """What is not finished, and how to continue. None if everything is finished."""
        if self.reason is None and not self.counts.unfinished:
            return None
        parts = [f"{self.run} stopped: {self.reason}"]
        if self.counts.unfinished:
            parts.append(self._unfinished_items())
        if not self.read_all and self.last:
            parts.append(f"the {self.item}s after {self.item} {self.last} were not read: nothing of them was sent")
        elif not self.read_all:
            parts.append(f"no {self.item} was read")
        return "; ".join((*parts, *self._how_to_continue()))

    def _failures(self) -> Counter[str]:
        """Failures for a person: by code, and by the parameter that Stripe names."""
        return self.counts.failures_by_code

    @abstractmethod
    def _totals(self) -> Iterator[str]:
        """The first lines for a person."""

    @abstractmethod
    def _unfinished_items(self) -> str:
        """Where items without an outcome are, and where their outcome will be."""

    @abstractmethod
    def _how_to_continue(self) -> Iterator[str]:
        """What to do next, in a few words."""

    def _table(self, title: str, counted: Counter[str]) -> Iterator[str]:
        if counted:
            yield f"{title}:"
        for reason, count in counted.most_common(self.most_reasons):
            yield f"  {count:>7}  {reason}"
        if (more := len(counted) - self.most_reasons) > 0:
            yield f"  and {more} more {'reasons' if more > 1 else 'reason'}"
