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
from tokenferry.bulk.interrupting import Interruption
from tokenferry.bulk.outputs import Outputs, UnusableOutput
from tokenferry.bulk.waiting import WaitingReasons
from tokenferry.commands import bulk
from tokenferry.commands.taking import take_out
from tokenferry.configuration import Configuration
from tokenferry.consuming import Results
from tokenferry.import_notes import ImportNote, State, noting
from tokenferry.importing.checkpoint import Checkpoint, Finished, SameImport, Unresumable
from tokenferry.importing.choosing import Chosen, spread
from tokenferry.importing.import_window import ImportCounts, ImportWindow
from tokenferry.importing.meter import CheckMeter, Meter, RateInForce
from tokenferry.importing.preview import Preview
from tokenferry.importing.products import write_ids, write_manifest
from tokenferry.importing.results_file import CompletedRows, tidy
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
    retry_failed: bool
    refresh: bool
    ids_out: Path | None
    ids_columns: tuple[str, ...]
    manifest: Path | None
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

    def check_repeat(self) -> None:
        """Raise `click.UsageError` if options exclude each other."""
        chosen = [
            name
            for name, is_set in (
                ("--resume", self.resume),
                ("--retry-failed", self.retry_failed),
                ("--refresh", self.refresh),
            )
            if is_set
        ]
        if self.refresh and len(chosen) > 1:
            raise click.UsageError("--refresh sends nothing: it cannot be used with --resume or --retry-failed")
        if chosen and (self.file == "-" or self.dry_run or self.force):
            raise click.UsageError(
                f"{chosen[0]} continues with a file: it cannot be used with standard input, --dry-run or --force"
            )
        if chosen and self.again:
            raise click.UsageError(f"--again begins another import, and {chosen[0]} goes on with one: give one of them")

    def check_products(self) -> None:
        """Raise `click.UsageError` if the table of ids or the manifest cannot be written from the other outputs."""
        outputs = [path for path in (self.results, self.rejects, self.ids_out, self.manifest) if path is not None]
        if len({path.resolve() for path in (*outputs, Path(self.file))}) != len(outputs) + 1:
            raise click.UsageError("FILE, --results, --rejects, --ids-out and --manifest must be different files")
        made_of = self.results if self.ids_out or self.manifest else None
        if made_of is not None and made_of.exists() and not made_of.is_file():
            raise click.UsageError("--ids-out and --manifest are made from --results, which must be a regular file")
        if self.ids_columns and self.ids_out is None:
            raise click.UsageError("--ids-columns needs --ids-out")
        for path in (self.ids_out, self.manifest):
            if path is not None and (path.is_dir() or not path.parent.is_dir()):
                raise UnusableOutput(f"{path}: is a folder, or its folder does not exist; name a file")

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
                late = self._late(checkpoint) if checkpoint.finished is not None else None
                if late is not None and not late.retried:
                    checkpoint.close()
                    return finished_summary(
                        options=self._options, budget=self._budget, checkpoint=checkpoint, done=late
                    )
                done, outputs = self._open_outputs(checkpoint)
                done.retried = late.retried if late is not None else done.retried
            except BaseException:
                checkpoint.close(delete=not checkpoint.is_resumed)
                raise
            return self._send(producer, checkpoint, done, outputs)

    def _late(self, checkpoint: Checkpoint) -> CompletedRows:
        """Take the late outcomes of a finished import off its route, into the results file."""
        assert self._options.results is not None
        finished = checkpoint.finished
        done = refresh(self._configuration, checkpoint, self._options.results, retry_failed=self._options.retry_failed)
        if finished is not None and (missing := finished.done - len(done.rows) - len(done.retried)) > 0:
            raise Unresumable(
                f"{self._options.results}: {missing} of its {finished.done} lines are gone, although this import was "
                "finished. Put the file back; or import into other --results, which uses every row again"
            )
        return done

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
            done = tidy(options.results, checkpoint, retry_failed=options.retry_failed)
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
        for row, results in checkpoint.late.items():
            if row not in done.rows:
                window.expect(results)
        reasons = WaitingReasons(lambda text: display.note(text))
        meter = Meter(window, self._lines, self._size, lambda: reasons.current)
        complete = False
        note = partial(_note, options, checkpoint.name, window, meter, time.time())
        with (
            noting(self._configuration.path(self._configuration.data), note, window.pending_keys) as ended,
            bulk.shown(meter.line, *self._notes(checkpoint, done), quiet=options.quiet) as display,
        ):
            run = Import(
                producer,
                Results(route, self._configuration, outbox=False, on_notice=reasons.take),
                Examiner(self._defaults(route), outputs, window.counts, rules=options.key_rules),
                window,
                outputs,
                checkpoint,
                done=done.rows,
                max_failures=options.max_failures,
                limits=options.limits,
                note=display.note,
                is_explained=lambda: bool(reasons.current),
            )
            try:
                run.run(self._read_ahead)
                finished = run.read_all and not window.counts.unfinished and run.reason is None
                complete = finished and not self._rows.left_out
                ended("finished" if finished else "stopped")
            finally:
                outputs.close()
                self._end(checkpoint, window.counts, complete=complete)
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
            fingerprint=checkpoint.fingerprint,
        )

    def _notes(self, checkpoint: Checkpoint, done: CompletedRows) -> list[str]:
        """What is said before the first row is sent."""
        later = "; continue with the same command and --resume" if checkpoint.path is not None else ""
        notes = [f"results come to route {checkpoint.route}", f"{bulk.CTRL_C}{later}"]
        if checkpoint.is_resumed:
            notes.insert(0, f"resuming: {len(done.rows)} rows are done")
        if self._options.retry_failed:
            notes.insert(0, f"{_rows(len(done.retried))} out again, as new requests")
            notes[1:1] = not_retried(done)
        return notes

    def _end(self, checkpoint: Checkpoint, counts: ImportCounts, *, complete: bool) -> None:
        """Write late outcomes into the results file, note that nothing is left to do, and close the checkpoint."""
        results = self._options.results
        try:
            if checkpoint.path is not None and results is not None:
                if checkpoint.late:
                    counts.take_outcomes_of(tidy(results, checkpoint, keep_pending=True).counts)
                if complete:
                    checkpoint.finish(Finished(counts.rows, counts.settled, dict(counts.rejections_by_reason)))
        finally:
            checkpoint.close()

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
        if options.retry_failed and self.has_keys and producer.sealer.version == 1:
            raise Unresumable("--retry-failed: rows with a key need envelope = 2 below [producer]")
        checkpoint = Checkpoint.of(
            results,
            same,
            resume=options.resume or options.retry_failed,
            force=options.force,
            namespace=options.new_namespace(),
        )
        if options.retry_failed and not checkpoint.is_resumed:
            checkpoint.close(delete=True)
            raise Unresumable(f"{results}: there is no earlier import into it whose failed rows could be sent again")
        return checkpoint

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


def refresh(
    configuration: Configuration, checkpoint: Checkpoint, results: Path, *, retry_failed: bool = False
) -> CompletedRows:
    """Take what waits on the route of an import into its results file. Its other lines stay as they are."""
    with Interruption() as interruption, Results(checkpoint.route, configuration, outbox=False) as reader:
        take_out(reader, checkpoint, interruption)
    return tidy(results, checkpoint, keep_pending=True, retry_failed=retry_failed)


def refreshed(options: ImportOptions, configuration: Configuration) -> ImportSummary:
    """`--refresh`: read the route of an earlier import again, and send nothing."""
    assert options.results is not None
    ResultSigners.load(configuration)
    reach(configuration)
    checkpoint = Checkpoint.existing(options.results)
    try:
        done = refresh(configuration, checkpoint, options.results)
    finally:
        checkpoint.close()
    return finished_summary(options, RateInForce.of(configuration, options.platform), checkpoint, done)


def finished_summary(
    options: ImportOptions, budget: RateInForce, checkpoint: Checkpoint, done: CompletedRows
) -> ImportSummary:
    """The summary of a run that sent nothing: of the results file, and of what the last run knew."""
    counts, finished = done.counts, checkpoint.finished
    counts.unfinished = done.pending
    counts.sealed += done.pending
    if finished is not None:
        counts.rejected = finished.rejected
        counts.rejections_by_reason.update(finished.rejections)
    return ImportSummary(
        counts,
        0.0,
        options.results,
        options.rejects,
        checkpoint.route,
        read_all=finished is not None,
        budget_per_second=budget.tokens,
        resumable=finished is None,
        earlier=len(done.rows),
        nothing_sent=True,
        updated=done.updated,
        fingerprint=checkpoint.fingerprint,
        not_retried=tuple(not_retried(done)) if options.retry_failed else (),
    )


def write_products(options: ImportOptions, summary: ImportSummary) -> None:
    """Write the table of ids and the manifest, where they are wanted. Raises `UnusableOutput`."""
    results, rejects = options.results, options.rejects
    if results is None or options.dry_run:
        return
    files = {"results": results} | ({"rejects": rejects} if rejects is not None else {})
    if options.ids_out is not None:
        write_ids(options.ids_out, results, rejects, options.ids_columns)
        files["ids"] = options.ids_out
    if options.manifest is not None:
        input_ = {"file": Path(options.file).name, "keyed_hash": summary.fingerprint}
        write_manifest(options.manifest, files, summary.as_json(), input_)


def not_retried(done: CompletedRows) -> list[str]:
    """Why failed rows are not sent again."""
    notes = []
    if done.kept:
        notes.append(
            f"{_rows(done.kept, 'is', 'are')} not sent again, because a dead letter holds the request: correct the "
            "cause, then `tokenferry dead-letters redrive`, then the same import with --refresh"
        )
    if done.doubtful:
        notes.append(
            f"{_rows(done.doubtful, 'is', 'are')} not sent again, because the call may have had an effect: look at the "
            "target first (see `failure` in the results)"
        )
    return notes


def _rows(count: int, one: str = "goes", many: str = "go") -> str:
    return f"{count} failed row {one}" if count == 1 else f"{count} failed rows {many}"


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
