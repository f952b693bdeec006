"""How a run ended: what every summary says, for a program and for a person."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from tokenferry.bulk.window import Counters

Numbers = TypeVar("Numbers", bound=Counters)


@dataclass(frozen=True)
class RunSummary(ABC, Generic[Numbers]):
    """One run, finished or not."""

    most_reasons: ClassVar[int] = 12
    """Lines of a table for a person."""

    counts: Numbers
    seconds: float
    results: Path | None
    rejects: Path | None
    route: str | None
    """None: nothing was to be sent."""
    reason: str | None = None
    """Why it ended early."""
    last: int = 0
    """The last row or document that was read."""
    read_all: bool = True

    @property
    def exit_code(self) -> int:
        """0 when everything in the file came to a good end, else 1."""
        return 0 if self.counts.all_well and self.read_all and self.reason is None else 1

    @abstractmethod
    def as_json(self) -> dict[str, Any]:
        """For a program."""

    def lines(self) -> list[str]:
        """For a person."""
        counts = self.counts
        shown = [*self._numbers()]
        shown += self._table("refused", counts.refusals_by_reason)
        shown += self._table("failed", counts.failures_by_code)
        if self.results and self.route is not None:
            shown.append(f"results: {self.results}")
        if self.rejects and counts.refused:
            shown.append(f"rejects: {self.rejects}")
        return shown

    def unfinished(self) -> str | None:
        """What is left, and how to go on; None when nothing is."""
        if self.reason is None and not self.counts.unfinished:
            return None
        return "; ".join(self._left())

    @abstractmethod
    def _numbers(self) -> Iterator[str]:
        """The first lines for a person."""

    @abstractmethod
    def _left(self) -> Iterator[str]:
        """What `unfinished` says, part by part."""

    def _where(self, last: str) -> dict[str, Any]:
        """For a program: the files, and how far it went; *last* is its word for the last that was read."""
        return {
            "results": str(self.results) if self.results else None,
            "rejects": str(self.rejects) if self.rejects else None,
            "route": self.route if self.counts.unfinished else None,
            "read_to_the_end": self.read_all,
            last: self.last,
            "stopped_because": self.reason,
        }

    def _table(self, title: str, counted: Counter[str]) -> Iterator[str]:
        if counted:
            yield f"{title}:"
        for what, count in counted.most_common(self.most_reasons):
            yield f"  {count:>7}  {what}"
        if (more := len(counted) - self.most_reasons) > 0:
            yield f"  and {more} more {'reasons' if more > 1 else 'reason'}"
