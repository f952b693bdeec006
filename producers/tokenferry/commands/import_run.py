"""One run of an import as its options want it: what it reads, sends, remembers and writes."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

from tokenferry.broker.reachability import reach
from tokenferry.bulk.outputs import Outputs
from tokenferry.commands import bulk
from tokenferry.configuration import Configuration
from tokenferry.consuming import Results
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
    """Whether rows that are attached already may be attached a second time."""
    maps: tuple[str, ...]
    format_: str | None
    delimiter: str | None
    kind: str | None
    connected_account: str | None
    lane: Any


class ImportRun:
    """One file of rows, open, and what is to be done with it."""

    def __init__(self, wanted: ImportOptions, configuration: Configuration, stream: BufferedReader) -> None:
        """Raises `InvalidMapping`, and `UnreadableFile` where it has no rows that could be imported."""
        self._wanted = wanted
        self._configuration = configuration
        self._stream = stream
        self._size = _size(stream)
        self._budget = RateInForce.of(configuration, wanted.platform)
        self._lines = Lines(stream)
        self._rows = _rows(self._lines, wanted)

    def check(self) -> ImportSummary:
        """A dry run: nothing is sent."""
        started = time.monotonic()
        counts = ImportCounts()
        sealer = Sealer(self._configuration)
        outputs = Outputs(None, self._wanted.rejects, force=self._wanted.force)
        try:
            examine(self._rows, Examiner(self._defaults(None), outputs, counts), sealer, counts)
        finally:
            outputs.close()
        budget = self._budget.tokens
        seconds = time.monotonic() - started
        return ImportSummary(counts, seconds, None, self._wanted.rejects, None, budget_per_second=budget)

    def run(self) -> ImportSummary:
        """Send the rows and follow their results, from where an earlier run has stopped."""
        wanted, configuration = self._wanted, self._configuration
        ResultSigners.load(configuration)  # refused before any file is made
        # The file and what is remembered of it are this import's outbox: an envelope need not be kept twice.
        with Producer(configuration, outbox=False) as producer:
            reach(configuration)
            memory = self._memory(producer)
            complete = False
            try:
                done = done_in(wanted.results) if memory.is_resumed and wanted.results is not None else CompletedRows()
                memory.taken -= done.rows
                outputs = Outputs(wanted.results, wanted.rejects, force=wanted.force, resume=memory.is_resumed)
            except BaseException:
                memory.close(done=not memory.is_resumed)
                raise
            results = Results(memory.route, configuration, outbox=False)
            ledger = ImportWindow()
            ledger.counts = done.counts
            examiner = Examiner(self._defaults(memory.route), outputs, ledger.counts)
            first = [f"results come to route {memory.route}"]
            if memory.is_resumed:
                first.insert(0, f"resuming: {len(done.rows)} rows are done")
            meter = Meter(ledger, self._budget, self._lines, self._size)
            with bulk.shown(meter.line, *first, quiet=wanted.quiet) as telling:
                run = Import(
                    producer,
                    results,
                    examiner,
                    ledger,
                    outputs,
                    memory,
                    done=done.rows,
                    patience=wanted.patience,
                    note=telling.note,
                )
                try:
                    run.run(self._rows)
                    complete = run.read_all and not ledger.counts.unfinished and run.reason is None
                finally:
                    outputs.close()
                    memory.close(done=complete)
        return ImportSummary(
            ledger.counts,
            time.monotonic() - ledger.started,
            wanted.results,
            wanted.rejects,
            memory.route,
            run.reason,
            run.last,
            run.read_all,
            budget_per_second=self._budget.tokens,
            resumable=memory.path is not None and not complete,
            earlier=len(done.rows),
        )

    def _memory(self, producer: Producer) -> Checkpoint:
        """What this import remembers, or has remembered: of a file, in a file."""
        wanted, results = self._wanted, self._wanted.results
        if results is None or self._size is None or (results.exists() and not results.is_file()):
            return Checkpoint()
        options = {
            "format": wanted.format_,
            "delimiter": wanted.delimiter,
            "map": list(wanted.maps),
            "kind": wanted.kind,
            "platform": wanted.platform,
            "connected-account": wanted.connected_account,
            "lane": wanted.lane,
        }
        about = SameImport(self._stream, producer.sealer.signer, options)
        return Checkpoint.of(results, about, resume=wanted.resume, force=wanted.force)

    def _defaults(self, route: str | None) -> RowDefaults:
        wanted, names = self._wanted, frozenset(self._configuration.platforms)
        return RowDefaults(names, wanted.kind, wanted.platform, wanted.connected_account, wanted.lane, route)


def _size(stream: BufferedReader) -> int | None:
    """Bytes of a file; None for a pipe, whose end nobody knows."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _rows(lines: Lines, wanted: ImportOptions) -> CsvRows | JsonlRows:
    maps = parse_maps(wanted.maps)
    format_ = wanted.format_ or ("jsonl" if Path(wanted.file).suffix in (".jsonl", ".ndjson") else "csv")
    try:
        if format_ == "jsonl":
            return JsonlRows(lines, maps)
        return CsvRows(lines, maps, delimiter=DELIMITERS[wanted.delimiter] if wanted.delimiter else None)
    except UnreadableFile as error:
        raise UnreadableFile(f"{wanted.file_name}: {error}") from None
