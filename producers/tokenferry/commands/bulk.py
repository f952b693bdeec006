"""What `import` and `onboard` share: their options, opening the file, the progress and the end."""

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
CTRL_C = "Ctrl-C stops cleanly within a few seconds, twice stops at once"


@dataclass(frozen=True, kw_only=True)
class BulkOptions:
    """The options of both commands."""

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
    def limits(self) -> RunLimits:
        """How many items may be without an outcome at once, and how long to wait."""
        return RunLimits(self.window, self.timeout, self.give_up_after)

    @property
    def file_name(self) -> str:
        """The name of the file, for messages."""
        return "standard input" if self.file == "-" else self.file

    def check_outputs(self, items: str) -> None:
        """Raise `click.UsageError` if requests would be sent and their outcomes not be written."""
        if not self.dry_run and (self.results is None or self.rejects is None):
            raise click.UsageError(f"give --results and --rejects (or only check the {items} with --dry-run)")

    @contextmanager
    def opened(self, *, to_be: str) -> Iterator[BufferedReader]:
        """Open the file. Raises `UnusableOutput` if an output would overwrite it, and `UnreadableFile`."""
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
    """The file of rows or accounts, and the two files that are written."""
    results = f"Write the outcome of each {item} to this file."
    rejects = f"Write {item}s that are not sent, and why, to this file."
    return _stacked(
        click.argument("file"),
        click.option("--results", type=PATH, metavar="OUT.jsonl", help=results),
        click.option("--rejects", type=PATH, metavar="OUT.csv", help=rejects),
        click.option("--force", is_flag=True, help="Overwrite results and rejects files that have content."),
    )


def patience_options(items: str, *, run: str, window: int, give_up_after: float | None) -> Decorator:
    """How many items may be without an outcome at once, and how long to wait. The numbers are the defaults."""
    silent = "Stop if nothing (no result, no reply from the broker) arrives for this long."
    how_many: dict[str, Any] = {"type": click.IntRange(1, 100_000), "default": window, "show_default": True}
    seconds: dict[str, Any] = {"type": SECONDS, "metavar": "SECONDS", "show_default": True}
    return _stacked(
        click.option("--window", help=f"{items} without an outcome at once, at most.", **how_many),
        click.option("--timeout", help=f"End the {run} after this long. Default: never.", **seconds),
        click.option("--give-up-after", default=give_up_after, help=silent, **seconds),
    )


def output_options(item: str) -> Decorator:
    """What is sent, and what is printed."""
    return _stacked(
        click.option("--dry-run", is_flag=True, help=f"Check every {item}, send nothing."),
        click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object."),
        click.option("--quiet", is_flag=True, help="Show no progress."),
        config_option,
    )


def end(context: click.Context, summary: RunSummary[Any], *, as_json: bool) -> NoReturn:
    """Print the summary, and exit."""
    click.echo(json.dumps(summary.as_json()) if as_json else "\n".join(summary.lines()))
    if (unfinished := summary.unfinished()) is not None:
        click.echo(f"tokenferry: {unfinished}", err=True)
    context.exit(summary.exit_code)


@contextmanager
def shown(line: Callable[[], str], *notes: str, quiet: bool) -> Iterator[Progress]:
    """Show *notes* first, then the progress *line* again and again, and our warnings between."""
    progress = Progress(line, quiet=quiet)
    log, warnings = logging.getLogger("tokenferry"), _Warnings(progress.note)
    log.addHandler(warnings)
    try:
        with progress:
            for text in notes:
                if not quiet:
                    progress.note(text)
            yield progress
    finally:
        log.removeHandler(warnings)


class _Warnings(logging.Handler):
    """Shows each warning once, and not again every second."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._note = note
        self._last = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text != self._last:
            self._last = text
            self._note(text)
