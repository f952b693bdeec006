"""One run of `tokenferry import`: connects the file, the producer, the checkpoint and the two output files."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

import click

from tokenferry.broker.reachability import reach
from tokenferry.bulk.outputs import Outputs, UnusableOutput
from tokenferry.bulk.waiting import WaitingReasons
from tokenferry.commands import bulk
from tokenferry.configuration import Configuration
from tokenferry.consuming import Results
from tokenferry.import_notes import ImportNote, State, noting
from tokenferry.importing.checkpoint import Checkpoint, CompletedRows, SameImport, done_in
from tokenferry.importing.choosing import Chosen, spread
from tokenferry.importing.import_window import ImportCounts, ImportWindow
from tokenferry.importing.meter import CheckMeter, Meter, RateInForce
from tokenferry.importing.preview import Preview
from tokenferry.importing.row_checks import Examiner, examine
from tokenferry.importing.row_ids import KeyRules, with_usable_keys
from tokenferry.importing.run import Import
from tokenferry.importing.summary import ImportSummary
from tokenferry.inputs.csv_rows import CsvRows
from tokenferry.inputs.guessing import guessed, map_file
from tokenferry.inputs.json_rows import JsonRows
from tokenferry.inputs.json_values import json_values
from tokenferry.inputs.lines import Lines
from tokenferry.inputs.mapping import ColumnMap, parse_constants, parse_maps, read_map_file
from tokenferry.inputs.orders import RowDefaults
from tokenferry.inputs.rows import BrokenRow, Row, UnreadableFile
from tokenferry.producer import Producer, Sealer
from tokenferry.result_signers import ResultSigners

DELIMITERS: Final = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}


@dataclass(frozen=True, kw_only=True)
class ImportOptions(bulk.BulkOptions):
    """The options of one import."""

    resume: bool
    again: bool
    """True if rows that were done before are to be done once more."""
    namespace: str | None
    key_prefix: str
    maps: tuple[str, ...]
    map_file: str | None
    constants: tuple[str, ...]
    leave_out_rest: bool
    null: tuple[str, ...]
    format_: str | None
    delimiter: str | None
    encoding: str | None
    limit: int | None
    sample: int | None
    max_failures: int | None
    kind: str | None
    connected_account: str | None
    lane: Any

    @property
    def key_rules(self) -> KeyRules:
        """Which rows may be sent by their key."""
        return KeyRules(self.key_prefix, self.namespace)

    def new_namespace(self) -> str:
        """What the ids of a new import are derived from, beside its rows. With --again it is another one each time."""
        return (self.namespace or "") + (f"~{secrets.token_hex(8)}" if self.again else "")

    def column_map(self) -> ColumnMap:
        """What the user says about the columns: the map file, and the options, which win. Raises `InvalidMapping`."""
        given = read_map_file(self.map_file) if self.map_file is not None else ColumnMap()
        return given.with_options(
            columns=parse_maps(self.maps),
            constants=parse_constants(self.constants),
            leaves_out_rest=self.leave_out_rest,
            null=self.null or None,
        )


class ImportRun:
    """An import of an open file."""

    def __init__(self, options: ImportOptions, configuration: Configuration, stream: BufferedReader) -> None:
        """Raises `InvalidMapping`, and `UnreadableFile` if the file has no rows or keys that could be imported."""
        self._options = options
        self._configuration = configuration
        self._stream = stream
        self._size = _size(stream)
        self._budget = RateInForce.of(configuration, options.platform)
        self._given = options.column_map()
        self._lines, self._rows = self._chosen()
        self.has_keys = False
        """True if the rows have keys. Not known of a pipe that need not be read ahead."""
        self._read_ahead: Iterable[Row | BrokenRow] = self._rows
        if self._size is not None or options.key_prefix or options.force:
            self._read_ahead, self.has_keys = with_usable_keys(self._rows)

    def check(self) -> ImportSummary:
        """A dry run: check every row, and send nothing."""
        started = time.monotonic()
        counts, preview = ImportCounts(), Preview()
        sealer = Sealer(self._configuration)
        outputs = Outputs(None, self._options.rejects, force=self._options.force)
        meter = CheckMeter(counts, self._lines, self._size)
        try:
            with bulk.shown(meter.line, quiet=self._options.quiet):
                examiner = Examiner(self._defaults(None), outputs, counts, preview, rules=self._options.key_rules)
                examine(self._read_ahead, examiner, sealer, counts, preview)
        finally:
            outputs.close()
        return ImportSummary(
            counts,
            time.monotonic() - started,
            None,
            self._options.rejects,
            None,
            budget_per_second=self._budget.tokens,
            chosen=self._rows.left_out,
            preview=preview.as_json(self._configuration),
            preview_lines=tuple(preview.lines(self._configuration)),
        )

    def run(self) -> ImportSummary:
        """Send the rows and write their results. Continue where an earlier run stopped."""
        ResultSigners.load(self._configuration)  # refused before any file is made
        # The file and the checkpoint are the outbox of this import: no envelope needs to be stored twice.
        with Producer(self._configuration, outbox=False) as producer:
            reach(self._configuration)
            checkpoint = self._checkpoint(producer)
            try:
                done, outputs = self._open_outputs(checkpoint)
            except BaseException:
                checkpoint.close(done=not checkpoint.is_resumed)
                raise
            return self._send(producer, checkpoint, done, outputs)

    def _chosen(self) -> tuple[Lines, Chosen]:
        """The lines of the file, and the rows of it that are wanted."""
        options = self._options
        lines, rows = _opened_rows(self._stream, options, self._given)
        if options.sample is None:
            return lines, Chosen(rows, limit=options.limit)
        if self._size is None:
            raise click.UsageError("--sample reads the file twice: it cannot be used with standard input")
        records = spread(options.sample, of=sum(1 for _ in rows))
        self._stream.seek(0)
        lines, rows = _opened_rows(self._stream, options, self._given)
        return lines, Chosen(rows, records=records)

    def _open_outputs(self, checkpoint: Checkpoint) -> tuple[CompletedRows, Outputs]:
        options, done = self._options, CompletedRows()
        if checkpoint.is_resumed and options.results is not None:
            done = done_in(options.results)
            checkpoint.accepted -= done.rows
        outputs = Outputs(
            options.results,
            options.rejects,
            force=options.force,
            resume=checkpoint.is_resumed,
            key_prefix=options.key_prefix,
        )
        return done, outputs

    def _send(self, producer: Producer, checkpoint: Checkpoint, done: CompletedRows, outputs: Outputs) -> ImportSummary:
        options, route = self._options, checkpoint.route
        window = ImportWindow()
        window.counts = done.counts
        meter = Meter(window, self._budget, self._lines, self._size)
        notes = [f"results come to route {route}"]
        if checkpoint.is_resumed:
            notes.insert(0, f"resuming: {len(done.rows)} rows are done")
        complete = False
        note = partial(_note, options, checkpoint.name, window, meter, time.time())
        with (
            noting(self._configuration.path(self._configuration.data), note, window.pending_keys) as ended,
            bulk.shown(meter.line, *notes, quiet=options.quiet) as display,
        ):
            run = Import(
                producer,
                Results(route, self._configuration, outbox=False, on_notice=WaitingReasons(display.note).take),
                Examiner(self._defaults(route), outputs, window.counts, rules=options.key_rules),
                window,
                outputs,
                checkpoint,
                done=done.rows,
                max_failures=options.max_failures,
                limits=options.limits,
                note=display.note,
            )
            try:
                run.run(self._read_ahead)
                finished = run.read_all and not window.counts.unfinished and run.reason is None
                complete = finished and not self._rows.left_out
                ended("finished" if finished else "stopped")
            finally:
                outputs.close()
                checkpoint.close(done=complete)
        return ImportSummary(
            window.counts,
            time.monotonic() - window.started,
            options.results,
            options.rejects,
            route,
            run.reason,
            run.last,
            run.read_all,
            budget_per_second=self._budget.tokens,
            resumable=checkpoint.path is not None and not complete,
            earlier=len(done.rows),
            chosen=self._rows.left_out,
        )

    def _checkpoint(self, producer: Producer) -> Checkpoint:
        """Open the checkpoint. It is a file only if the rows and the results are files too."""
        options, results = self._options, self._options.results
        if results is None or self._size is None or (results.exists() and not results.is_file()):
            return Checkpoint(namespace=options.new_namespace())
        must_stay = {
            "format": options.format_,
            "delimiter": options.delimiter,
            "map": list(options.maps),
            **self._stays_of_the_map(),
            "kind": options.kind,
            "platform": options.platform,
            "connected-account": options.connected_account,
            "lane": options.lane,
        }
        same = SameImport(self._stream, producer.sealer.signer, must_stay)
        return Checkpoint.of(
            results, same, resume=options.resume, force=options.force, namespace=options.new_namespace()
        )

    def _stays_of_the_map(self) -> dict[str, Any]:
        """What else the user says about the file. A default is left out, so that earlier versions' imports resume."""
        options = self._options
        given = {
            "map-file": _digest(self._given) if options.map_file is not None else None,
            "set": list(options.constants),
            "leave-out-rest": options.leave_out_rest,
            "null": list(options.null),
            "encoding": options.encoding,
            "namespace": options.namespace,
        }
        return {name: value for name, value in given.items() if value}

    def _defaults(self, route: str | None) -> RowDefaults:
        options, names = self._options, frozenset(self._configuration.platforms)
        return RowDefaults(
            names,
            options.kind,
            options.platform,
            options.connected_account,
            options.lane,
            route,
            self._given.formats,
        )


def write_suggested_map(options: ImportOptions, path: Path) -> None:
    """Write a map file with a guess for each column of the file. An existing file is never overwritten."""
    everything = ColumnMap(leaves_out_rest=True)
    with options.opened(to_be="read") as stream:
        lines, rows = _opened_rows(stream, options, everything)
        if isinstance(rows, CsvRows):
            names: list[str] = rows.names
        else:
            names = next((list(value.value) for value in json_values(lines) if value.trouble is None), [])
    text = map_file(names)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UnusableOutput(f"{path}: exists already; name another file") from None
    except OSError as error:
        raise UnusableOutput(f"{path}: cannot be written ({error.strerror})") from None
    known = sum(guess is not None for _, guess in guessed(names))
    click.echo(f"{path}: {known} of {len(names)} columns have a guess. Read it, correct it, then use --map-file {path}")


def _digest(given: ColumnMap) -> str:
    """A short name of everything that a map says."""
    parts = (
        sorted((column, name or "") for column, name in given.columns.items()),
        sorted(given.constants.items()),
        sorted((name, sorted(words.items())) for name, words in given.values.items()),
        sorted(given.formats.items()),
        given.leaves_out_rest,
        sorted(given.null) if given.null is not None else None,
        given.encoding,
        given.delimiter,
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _note(
    options: ImportOptions, name: str, window: ImportWindow, meter: Meter, started: float, state: State
) -> ImportNote:
    counts, results = window.counts, options.results
    names = ("rows", "sealed", "tokenized", "attached", "failed", "rejected")
    runs = state == "running"
    return ImportNote(
        name=name,
        file=os.path.basename(options.file) if options.file != "-" else "-",
        results=str(results.resolve()) if results is not None else None,
        started=started,
        noted=time.time(),
        state=state,
        counts={each: getattr(counts, each) for each in names} | {"unfinished": len(window) or counts.unfinished},
        rows_expected=meter.rows_expected() if runs else None,
        seconds_left=meter.seconds_left() if runs else None,
        waits=window.waits,
    )


def _size(stream: BufferedReader) -> int | None:
    """The bytes of a file. None for a pipe: they are not known."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _opened_rows(stream: BufferedReader, options: ImportOptions, given: ColumnMap) -> tuple[Lines, CsvRows | JsonRows]:
    """The lines of the file, and its rows. Its first character tells JSON from CSV if the user does not."""
    try:
        lines = Lines(stream, encoding=options.encoding or given.encoding)
        named_json = Path(options.file.removesuffix(".gz")).suffix in (".json", ".jsonl", ".ndjson")
        if options.format_ == "jsonl" or (options.format_ is None and (named_json or lines.start()[:1] in ("{", "["))):
            return lines, JsonRows(lines, given)
        delimiter = DELIMITERS[options.delimiter] if options.delimiter else given.delimiter
        return lines, CsvRows(lines, given, delimiter=delimiter)
    except UnreadableFile as error:
        raise UnreadableFile(f"{options.file_name}: {error}") from None
