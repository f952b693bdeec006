"""`tokenferry import`: a file of rows in, a results file and a rejects file out."""

from __future__ import annotations

import json
import logging
import os
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import click

from tokenferry.configuration import Configuration, InvalidConfiguration, load
from tokenferry.consuming import Results
from tokenferry.contract.names import LANES
from tokenferry.importing.columns import known_names, parse_maps
from tokenferry.importing.csv_rows import CsvRows
from tokenferry.importing.examining import Examiner, examine
from tokenferry.importing.jsonl_rows import JsonlRows
from tokenferry.importing.ledger import Counts, Ledger
from tokenferry.importing.lines import Lines
from tokenferry.importing.orders import KINDS, Defaults
from tokenferry.importing.outputs import Outputs, UnusableOutput
from tokenferry.importing.progress import Budget, Meter, Progress
from tokenferry.importing.reaching import reach
from tokenferry.importing.report import Summary
from tokenferry.importing.rows import BrokenRow, Row, UnreadableFile
from tokenferry.importing.run import Import, Patience
from tokenferry.producer import Producer, Sealer

EPILOG = """
\b
The file
  CSV with a header line, or JSONL (one JSON object in each line). Columns:
    key                  your own id of the row, unique; without such a column the row is called row-N,
                         N being its line in the file
    kind                 card, bank_account, pii, account, person or cvc_update (or --kind for all rows)
    number, exp_month    fields of the kind by name, dotted where nested: individual.dob.day;
                         card.number is the same as number, and never taken for another kind
    attach.to            what to spend the token on: customer_create, payment_method, charge, ...;
                         its fields beside it: attach.email, attach.customer, attach.metadata.order
    platform, connected_account, lane
  An empty cell is a field that is not given. All names there are: tokenferry import --columns
  In JSONL fields may also be nested: {"key": "7", "kind": "card", "card": {...}, "attach": {...}}

\b
The results file has one line for every row that was sent, readable by its owner only:
  {"key", "row", "request_id", "kind", "status", "token", "object_id", "stored_id", "display", "failure"}
  status is tokenized, attached, failed or unfinished. Join it to your file by key.
  A key that could be a card number is shortened to its last four digits; then join by row.
The rejects file has a line (row, key, field, reason) for every reason why a row was not sent.
No file and no message ever repeats a value.

\b
Exit codes
  0  every row has its token (and its attached object)
  1  some row was refused, failed or is unfinished, or the broker is away
  2  wrong usage or configuration, or a file that cannot be imported; nothing was sent

\b
Examples
  tokenferry import onboarding.csv --results out.jsonl --rejects rejects.csv
  tokenferry import cards.csv --kind card --map "Card No=number" --map "Notes=" \\
      --results out.jsonl --rejects rejects.csv
  export-rows | tokenferry import - --format jsonl --results out.jsonl --rejects rejects.csv --json
"""


def _show_columns(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo("\n".join(known_names()))
        context.exit()


SECONDS = click.FloatRange(min=0, min_open=True)
PATH = click.Path(path_type=Path)
DELIMITER_NAMES = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}


@dataclass(frozen=True)
class Wanted:
    """The options of one import."""

    file: str
    results: Path | None
    rejects: Path | None
    force: bool
    maps: tuple[str, ...]
    format_: str | None
    delimiter: str | None
    kind: str | None
    platform: str | None
    connected_account: str | None
    lane: Any
    window: int
    timeout: float | None
    give_up_after: float | None
    dry_run: bool
    as_json: bool
    quiet: bool
    config: Path | None


@click.command("import", epilog=EPILOG)
@click.argument("file")
@click.option("--results", type=PATH, metavar="OUT.jsonl", help="What became of each row is written here.")
@click.option("--rejects", type=PATH, metavar="OUT.csv", help="Rows that were not sent, and why, are written here.")
@click.option("--force", is_flag=True, help="Overwrite results and rejects files that have content.")
@click.option(
    "--map",
    "maps",
    multiple=True,
    metavar="COLUMN=FIELD",
    help='What a column means; "COLUMN=" leaves it out. Repeatable.',
)
@click.option("--format", "format_", type=click.Choice(["csv", "jsonl"]), help="Default: by the file's name, else CSV.")
@click.option("--delimiter", type=click.Choice([*DELIMITER_NAMES]), help="Default: found in the header.")
@click.option("--kind", type=click.Choice(KINDS), help="The kind of rows that name none.")
@click.option("--platform", metavar="NAME", help="The platform of rows that name none. Default: the only one.")
@click.option("--connected-account", metavar="ID", help="The connected account of rows that name none.")
@click.option("--lane", type=click.Choice(LANES), help="Default: bulk; realtime where a CVC is carried.")
@click.option(
    "--window", type=click.IntRange(1, 100_000), default=2000, show_default=True, help="Rows under way at once."
)
@click.option("--timeout", type=SECONDS, metavar="SECONDS", help="End the import after this long. Default: never.")
@click.option("--give-up-after", type=SECONDS, metavar="SECONDS", help="End it after so long without any result.")
@click.option("--dry-run", is_flag=True, help="Check every row, send nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.option("--config", type=PATH, metavar="FILE", help="Default: tokenferry.toml in this folder.")
@click.option(
    "--columns",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_columns,
    help="List every column name there is.",
)
@click.pass_context
def import_(context: click.Context, /, **options: Any) -> None:
    """Tokenize every row of FILE (- for standard input), and attach the tokens of rows that ask for it.

    Rows are checked, sealed and handed to the broker here; workers tokenize them at the account's rate. The file is
    read as fast as that goes on: at most --window rows are under way, so memory stays small however long it is.

    Ctrl-C stops cleanly: results are taken in for a few seconds more, the rest is listed as unfinished. A second
    Ctrl-C stops at once.
    """
    wanted = Wanted(**options)
    if not wanted.dry_run and (wanted.results is None or wanted.rejects is None):
        raise click.UsageError("name --results and --rejects (or only check the rows with --dry-run)")
    configuration = load(wanted.config)
    if wanted.platform is not None:
        configuration.platform(wanted.platform)
    elif not configuration.platforms:
        raise InvalidConfiguration("no platform is configured; add [platforms.NAME] to tokenferry.toml")
    with _opened(wanted) as stream:
        lines = Lines(stream)
        source = _source(lines, wanted)
        summary = (_checked if wanted.dry_run else _imported)(source, lines, _size(stream), configuration, wanted)
    if wanted.as_json:
        click.echo(json.dumps(summary.as_json()))
    else:
        click.echo("\n".join(summary.lines()))
    if (left := summary.unfinished()) is not None:
        click.echo(f"tokenferry: {left}", err=True)
    context.exit(summary.exit_code)


Source = Iterable[Row | BrokenRow]


def _imported(source: Source, lines: Lines, size: int | None, configuration: Configuration, wanted: Wanted) -> Summary:
    route = f"import-{secrets.token_hex(4)}"
    budget = _budget(configuration, wanted)
    with Producer(configuration) as producer:
        reach(configuration)
        results = Results(route, configuration)
        outputs = Outputs(wanted.results, wanted.rejects, force=wanted.force)
        ledger = Ledger()
        examiner = Examiner(_defaults(configuration, wanted, route), outputs, ledger.counts)
        patience = Patience(wanted.window, wanted.timeout, wanted.give_up_after)
        progress = Progress(Meter(ledger, budget, lines, size).line, quiet=wanted.quiet)
        with progress, _noted(progress.note):
            if not wanted.quiet:
                progress.note(f"results come to route {route}")
            run = Import(producer, results, examiner, ledger, outputs, patience=patience, note=progress.note)
            try:
                run.run(source)
            finally:
                outputs.close()
    return Summary(
        ledger.counts,
        time.monotonic() - ledger.started,
        budget.tokens,
        wanted.results,
        wanted.rejects,
        route,
        run.reason,
        run.last_row,
        run.read_all,
    )


def _checked(source: Source, lines: Lines, size: int | None, configuration: Configuration, wanted: Wanted) -> Summary:
    started = time.monotonic()
    counts = Counts()
    sealer = Sealer(configuration)
    outputs = Outputs(None, wanted.rejects, force=wanted.force)
    try:
        examine(source, Examiner(_defaults(configuration, wanted, None), outputs, counts), sealer, counts)
    finally:
        outputs.close()
    seconds = time.monotonic() - started
    return Summary(counts, seconds, _budget(configuration, wanted).tokens, None, wanted.rejects, None)


def _defaults(configuration: Configuration, wanted: Wanted, route: str | None) -> Defaults:
    names = frozenset(configuration.platforms)
    return Defaults(names, wanted.kind, wanted.platform, wanted.connected_account, wanted.lane, route)


def _budget(configuration: Configuration, wanted: Wanted) -> Budget:
    return Budget.of(configuration, wanted.platform)


@contextmanager
def _opened(wanted: Wanted) -> Iterator[BinaryIO]:
    if wanted.file == "-":
        yield sys.stdin.buffer
        return
    path = Path(wanted.file)
    for output in (wanted.results, wanted.rejects):
        if output is not None and output.resolve() == path.resolve():
            raise UnusableOutput(f"{output}: is the file to be imported; name another one")
    try:
        stream = path.open("rb")
    except OSError as error:
        raise UnreadableFile(f"{path}: cannot be read ({error.strerror})") from None
    with stream:
        yield stream


def _size(stream: BinaryIO) -> int | None:
    """Bytes of a file; None for a pipe, whose end nobody knows."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _source(lines: Lines, wanted: Wanted) -> Source:
    maps: Mapping[str, str | None] = parse_maps(wanted.maps)
    format_ = wanted.format_ or ("jsonl" if Path(wanted.file).suffix in (".jsonl", ".ndjson") else "csv")
    try:
        if format_ == "jsonl":
            return JsonlRows(lines, maps)
        return CsvRows(lines, maps, delimiter=DELIMITER_NAMES[wanted.delimiter] if wanted.delimiter else None)
    except UnreadableFile as error:
        name = "standard input" if wanted.file == "-" else wanted.file
        raise UnreadableFile(f"{name}: {error}") from None


class _Notes(logging.Handler):
    """Shows warnings of ours between the progress, the same one once and not every second."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._note = note
        self._last = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text != self._last:
            self._last = text
            self._note(text)


@contextmanager
def _noted(note: Callable[[str], None]) -> Iterator[None]:
    log = logging.getLogger("tokenferry")
    handler = _Notes(note)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
