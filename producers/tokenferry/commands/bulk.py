"""What the two commands over a file share: their options, the file, what is shown meanwhile and at the end."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

import click

from tokenferry.bulk.bulk_run import RunLimits
from tokenferry.bulk.outputs import UnusableOutput
from tokenferry.bulk.progress import Progress
from tokenferry.bulk.run_summary import RunSummary
from tokenferry.inputs.objects import standard_input
from tokenferry.inputs.rows import UnreadableFile
from tokenferry.options import SECONDS, config_option

Decorator = Callable[[Any], Any]
PATH = click.Path(path_type=Path)


@dataclass(frozen=True, kw_only=True)
class BulkOptions:
    """The options that both commands have."""

    file: str
    results: Path | None
    rejects: Path | None
    force: bool
    platform: str | None
    window: int
    timeout: float | None
    give_up_after: float | None
    dry_run: bool
    as_json: bool
    quiet: bool
    config: Path | None

    @property
    def patience(self) -> RunLimits:
        """How long to wait, and how much may be under way."""
        return RunLimits(self.window, self.timeout, self.give_up_after)

    @property
    def file_name(self) -> str:
        """The file, for a person."""
        return "standard input" if self.file == "-" else self.file

    def check_outputs(self, items: str) -> None:
        """Raises `click.UsageError` where something would be sent and nothing written."""
        if not self.dry_run and (self.results is None or self.rejects is None):
            raise click.UsageError(f"name --results and --rejects (or only check the {items} with --dry-run)")

    @contextmanager
    def opened(self, *, to_be: str) -> Iterator[BufferedReader]:
        """The file, open. Raises `UnusableOutput` where it would be overwritten, and `UnreadableFile`."""
        if self.file == "-":
            stdin: Any = standard_input()
            yield stdin if isinstance(stdin, BufferedReader) else BufferedReader(stdin)
            return
        path = Path(self.file)
        for output in (self.results, self.rejects):
            if output is not None and output.resolve() == path.resolve():
                raise UnusableOutput(f"{output}: is the file to be {to_be}; name another one")
        try:
            stream = path.open("rb")
        except OSError as error:
            raise UnreadableFile(f"{path}: cannot be read ({error.strerror})") from None
        with stream:
            yield stream


def _stacked(*decorators: Decorator) -> Decorator:
    return lambda command: reduce(lambda made, each: each(made), reversed(decorators), command)


def file_options(item: str) -> Decorator:
    """The file of rows or accounts, and the two that are written."""
    became = f"What became of each {item} is written here."
    refused = f"{item.capitalize()}s that were not sent, and why, are written here."
    return _stacked(
        click.argument("file"),
        click.option("--results", type=PATH, metavar="OUT.jsonl", help=became),
        click.option("--rejects", type=PATH, metavar="OUT.csv", help=refused),
        click.option("--force", is_flag=True, help="Overwrite results and rejects files that have content."),
    )


def patience_options(items: str, *, run: str, window: int, give_up_after: float | None) -> Decorator:
    """How much may be under way, and how long it may take; *window* and *give_up_after* are defaults."""
    silent = "Stop if nothing (no result, no reply from the broker) arrives for this long."
    how_many: dict[str, Any] = {"type": click.IntRange(1, 100_000), "default": window, "show_default": True}
    seconds: dict[str, Any] = {"type": SECONDS, "metavar": "SECONDS", "show_default": True}
    return _stacked(
        click.option("--window", help=f"{items} under way at once.", **how_many),
        click.option("--timeout", help=f"End the {run} after this long. Default: never.", **seconds),
        click.option("--give-up-after", default=give_up_after, help=silent, **seconds),
    )


def telling_options(item: str) -> Decorator:
    """What is done and shown."""
    return _stacked(
        click.option("--dry-run", is_flag=True, help=f"Check every {item}, send nothing."),
        click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object."),
        click.option("--quiet", is_flag=True, help="Show no progress."),
        config_option,
    )


def end(context: click.Context, summary: RunSummary[Any], *, as_json: bool) -> NoReturn:
    """Say how it ended, and exit."""
    click.echo(json.dumps(summary.as_json()) if as_json else "\n".join(summary.lines()))
    if (left := summary.unfinished()) is not None:
        click.echo(f"tokenferry: {left}", err=True)
    context.exit(summary.exit_code)


@contextmanager
def shown(line: Callable[[], str], *first: str, quiet: bool) -> Iterator[Progress]:
    """Show what is to be said *first*, then how the run is going, with warnings of ours between."""
    progress = Progress(line, quiet=quiet)
    log, notes = logging.getLogger("tokenferry"), _Notes(progress.note)
    log.addHandler(notes)
    try:
        with progress:
            for text in () if quiet else first:
                progress.note(text)
            yield progress
    finally:
        log.removeHandler(notes)


class _Notes(logging.Handler):
    """Shows the same warning once and not every second."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._note = note
        self._last = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text != self._last:
            self._last = text
            self._note(text)
