"""One run of `tokenferry import`: connects the file, the producer, the checkpoint and the two output files."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

from tokenferry.broker.reachability import reach
from tokenferry.bulk.outputs import Outputs
from tokenferry.commands import bulk
from tokenferry.configuration import Configuration
from tokenferry.consuming import Results
from tokenferry.import_notes import ImportNote, State, noting
from tokenferry.importing.checkpoint import Checkpoint, CompletedRows, SameImport, done_in
from tokenferry.importing.import_window import ImportCounts, ImportWindow
from tokenferry.importing.meter import Meter, RateInForce
from tokenferry.importing.row_checks import Examiner, examine
from tokenferry.importing.run import Import
from tokenferry.importing.summary import ImportSummary
from tokenferry.inputs.columns import parse_maps
from tokenferry.inputs.csv_rows import CsvRows
from tokenferry.inputs.jsonl_rows import JsonlRows
from tokenferry.inputs.lines import Lines
from tokenferry.inputs.orders import RowDefaults
from tokenferry.inputs.rows import UnreadableFile
from tokenferry.producer import Producer, Sealer
from tokenferry.result_signers import ResultSigners

DELIMITERS: Final = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}


@dataclass(frozen=True, kw_only=True)
class ImportOptions(bulk.BulkOptions):
    """The options of one import."""

    resume: bool
    again: bool
    """True if rows that are attached already may be attached a second time."""
    maps: tuple[str, ...]
    format_: str | None
    delimiter: str | None
    kind: str | None
    connected_account: str | None
    lane: Any


class ImportRun:
    """An import of an open file."""

    def __init__(self, options: ImportOptions, configuration: Configuration, stream: BufferedReader) -> None:
        """Raises `InvalidMapping`, and `UnreadableFile` if the file has no rows that could be imported."""
        self._options = options
        self._configuration = configuration
        self._stream = stream
        self._size = _size(stream)
        self._budget = RateInForce.of(configuration, options.platform)
        self._lines = Lines(stream)
        self._rows = _rows(self._lines, options)

    def check(self) -> ImportSummary:
        """A dry run: check every row, and send nothing."""
        started = time.monotonic()
        counts = ImportCounts()
        sealer = Sealer(self._configuration)
        outputs = Outputs(None, self._options.rejects, force=self._options.force)
        try:
            examine(self._rows, Examiner(self._defaults(None), outputs, counts), sealer, counts)
        finally:
            outputs.close()
        seconds = time.monotonic() - started
        return ImportSummary(counts, seconds, None, self._options.rejects, None, budget_per_second=self._budget.tokens)

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

    def _open_outputs(self, checkpoint: Checkpoint) -> tuple[CompletedRows, Outputs]:
        options, done = self._options, CompletedRows()
        if checkpoint.is_resumed and options.results is not None:
            done = done_in(options.results)
            checkpoint.accepted -= done.rows
        outputs = Outputs(options.results, options.rejects, force=options.force, resume=checkpoint.is_resumed)
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
                Results(route, self._configuration, outbox=False),
                Examiner(self._defaults(route), outputs, window.counts),
                window,
                outputs,
                checkpoint,
                done=done.rows,
                limits=options.limits,
                note=display.note,
            )
            try:
                run.run(self._rows)
                complete = run.read_all and not window.counts.unfinished and run.reason is None
                ended("finished" if complete else "stopped")
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
        )

    def _checkpoint(self, producer: Producer) -> Checkpoint:
        """Open the checkpoint. It is a file only if the rows and the results are files too."""
        options, results = self._options, self._options.results
        if results is None or self._size is None or (results.exists() and not results.is_file()):
            return Checkpoint()
        must_stay = {
            "format": options.format_,
            "delimiter": options.delimiter,
            "map": list(options.maps),
            "kind": options.kind,
            "platform": options.platform,
            "connected-account": options.connected_account,
            "lane": options.lane,
        }
        same = SameImport(self._stream, producer.sealer.signer, must_stay)
        return Checkpoint.of(results, same, resume=options.resume, force=options.force)

    def _defaults(self, route: str | None) -> RowDefaults:
        options, names = self._options, frozenset(self._configuration.platforms)
        return RowDefaults(names, options.kind, options.platform, options.connected_account, options.lane, route)


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


def _rows(lines: Lines, options: ImportOptions) -> CsvRows | JsonlRows:
    maps = parse_maps(options.maps)
    format_ = options.format_ or ("jsonl" if Path(options.file).suffix in (".jsonl", ".ndjson") else "csv")
    try:
        if format_ == "jsonl":
            return JsonlRows(lines, maps)
        return CsvRows(lines, maps, delimiter=DELIMITERS[options.delimiter] if options.delimiter else None)
    except UnreadableFile as error:
        raise UnreadableFile(f"{options.file_name}: {error}") from None
