"""Prints the result of all checks, for a person or as JSON."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokenferry.shown import decorated, shown
from tokenferry_worker.doctor.verdicts import Check, State

MARKS: Final[Mapping[State, tuple[str, str]]] = {
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "failed": ("✗", "red"),
}
PLAIN: Final[Mapping[State, str]] = {"ok": "+", "warning": "!", "failed": "x"}
"""For a terminal that cannot show these characters."""
UNWATCHED: Final = 140
"""Columns of a line in a file or a pipe."""


@dataclass(frozen=True)
class Report:
    """Every check, and the settings in force."""

    checks: Sequence[Check]
    settings: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """True if no check failed. There may be warnings."""
        return all(check.state != "failed" for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """Return the report for a program."""
        return {"ok": self.ok, "checks": [asdict(check) for check in self.checks], "settings": self.settings}

    def show(self, console: Console | None = None) -> None:
        """Print a line per check, with what to do below it, then the settings, then the counts."""
        console = console or Console(file=decorated(sys.stdout), highlight=False)
        if not console.is_terminal:
            console.width = UNWATCHED
        area = ""
        # One table, so that the columns of all areas stand below each other.
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=1)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for check in self.checks:
            mark, colour = MARKS[check.state]
            name = check.name if check.area != area else " " * (len(area) + 1) + check.name[len(area) + 1 :]
            area = check.area
            table.add_row(
                Text(mark if _shows(console) else PLAIN[check.state], colour), Text(shown(name)), _finding(check)
            )
            if check.do:
                table.add_row("", "", Text(f"{'→' if _shows(console) else '->'} {shown(check.do)}", "bold"))
        console.print(table)
        console.print(Text("\nsettings in force", "bold"))
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for setting, value in _flat(self.settings):
            grid.add_row(Text(f"  {shown(setting)}"), Text(shown(value)))
        console.print(grid)
        console.print(Text(f"\n{self._summary()}"))

    def _summary(self) -> str:
        count = Counter(check.state for check in self.checks)
        warnings = f"{count['warning']} warning{'' if count['warning'] == 1 else 's'}"
        return f"{len(self.checks)} checks: {count['ok']} ok, {warnings}, {count['failed']} failed"


def _finding(check: Check) -> Text:
    return Text.assemble((f"{shown(check.subject)}  ", "dim"), shown(check.says))


def _shows(console: Console) -> bool:
    return console.encoding.lower().startswith("utf")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None and value != {}:
            yield f"{prefix}{name}", str(value)
