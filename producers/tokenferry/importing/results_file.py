"""The results file of an import that goes on: which rows of it are done, and what late results change in it.

It is written again as a whole, beside the old one, and takes its place in one step. So after a kill it is either the
old or the new one, and what was to change is still in the checkpoint.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tokenferry.bulk.outputs import UnusableOutput
from tokenferry.contract.codes import DOUBTFUL, KEPT
from tokenferry.contract.results import AttachResult, TokenResult
from tokenferry.importing.checkpoint import Checkpoint
from tokenferry.importing.import_window import ImportCounts, PendingRow, settled_line
from tokenferry.importing.row_set import RowSet
from tokenferry.owned_files import new_beside

GOOD: Final = ("tokenized", "attached")
BAD: Final = ("declined", "failed")
PENDING: Final = ("pending", "unfinished")
"""The second one is the word of earlier versions."""


@dataclass
class CompletedRows:
    """The rows of a results file that have their final outcome."""

    rows: RowSet = field(default_factory=RowSet)
    counts: ImportCounts = field(default_factory=ImportCounts)
    pending: int = 0
    """Lines of rows without an outcome that were kept."""
    updated: int = 0
    """Rows whose line is another one now."""
    retried: dict[int, str] = field(default_factory=dict)
    """Failed rows that are sent again, with the request ids that have failed."""
    kept: int = 0
    """Failed rows whose request is a dead letter: a redrive continues it."""
    doubtful: int = 0
    """Failed rows whose request may have had an effect."""


def tidy(
    results: Path, checkpoint: Checkpoint, *, keep_pending: bool = False, retry_failed: bool = False
) -> CompletedRows:
    """Write a results file again, so that it has one line for each row with an outcome. Return what is in it.

    A late result replaces the line of its row. Lines that were cut off when the process died are deleted. So are those
    of rows without an outcome, which get theirs later, unless *keep_pending*. *retry_failed*: failed rows that left
    nothing behind get a new request id, and lose their line. Raises `UnusableOutput` and `OutputFailed`.
    """
    done = CompletedRows()
    new: Path | None = None
    try:
        descriptor, new = new_beside(results)
        with open(descriptor, "wb") as kept:
            if results.exists():
                with results.open("rb") as file:
                    kept.writelines(_lines(file, checkpoint, done, keep_pending, retry_failed))
            kept.flush()
            os.fsync(kept.fileno())
        # First the new ids: else a failed row without a line would be sent with the id that has failed.
        checkpoint.retry(done.retried)
        new.replace(results)
    except OSError as error:
        if new is not None:
            new.unlink(missing_ok=True)
        raise UnusableOutput(f"{results}: cannot be written ({error.strerror})") from None
    return done


def _lines(
    file: Any, checkpoint: Checkpoint, done: CompletedRows, keep_pending: bool, retry_failed: bool
) -> Iterator[bytes]:
    pending = RowSet()
    for text in file:
        line = _read(text, checkpoint)
        if line is None or (row := line["row"]) in done.rows or row in pending:
            continue
        before = line["status"]
        request_id = line.get("request_id", checkpoint.request_id(row))
        if request_id in checkpoint.late:
            line = _updated(line, checkpoint.late[request_id])
        if before == "failed" and (line["failure"] or {}).get("source") == "endpoint":
            line = {**line, "status": "declined"}  # an earlier version knew one word for both
        if line["status"] in PENDING:
            if keep_pending:
                pending.add(row)
                done.pending += 1
                yield text
            continue
        if retry_failed and line["status"] in BAD and _may_be_retried(line, done):
            done.retried[row] = request_id
            continue
        done.rows.add(row)
        _count(line, done.counts)
        same = line["status"] == before and request_id not in checkpoint.late
        new = text if same else json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        done.updated += new != text
        yield new


def _read(text: bytes, checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Return a line of a request that counts. None for any other line."""
    try:
        line = json.loads(text)
        row, status, failure = int(line["row"]), line["status"], line["failure"]
    except (ValueError, KeyError, TypeError):
        return None
    if not text.endswith(b"\n") or status not in (*GOOD, *BAD, *PENDING):
        return None
    if not (failure is None or isinstance(failure, dict)):
        return None
    if not checkpoint.is_own(line.get("request_id", checkpoint.request_id(row))):
        return None  # the row was sent again since
    return line  # type: ignore[no-any-return]


def _updated(line: dict[str, Any], late: list[TokenResult | AttachResult]) -> dict[str, Any]:
    """Return the line of a row after *late* results. A failure never replaces a success."""
    token: TokenResult | None = None
    for result in late:
        if line["status"] == "attached" or (line["status"] == "tokenized" and not isinstance(result, AttachResult)):
            continue
        if isinstance(result, TokenResult) and result.ok and line.get("to") is not None:
            token = result  # its object comes later
            continue
        if not result.ok and line["status"] == "tokenized":
            continue
        row = PendingRow(line["row"], line["key"], line["kind"], attaches=False, to=line.get("to"), token=token)
        new = settled_line(line["request_id"], row, result)
        if new["token"] is not None and new["token"] == line["token"]:
            new |= {name: line[name] for name in ("created", "display") if new[name] is None}
        line = new
    return line


def _may_be_retried(line: dict[str, Any], done: CompletedRows) -> bool:
    """True if the failure of a row left nothing behind, and nobody else continues its request."""
    failure = line["failure"] or {}
    code, ours = failure.get("code"), failure.get("source") != "endpoint"
    if ours and code in KEPT:
        done.kept += 1
        return False
    if line.get("object_id") or failure.get("spent_on") or code in DOUBTFUL:
        done.doubtful += 1
        return False
    return True


def _count(line: dict[str, Any], counts: ImportCounts) -> None:
    counts.sealed += 1
    counts.settled += 1
    counts.tokenized += line.get("token") is not None
    counts.attached += line["status"] == "attached"
    counts.to_attach += line["status"] == "attached" or line.get("to") is not None
    if line["status"] in BAD:
        failure = line["failure"] or {}
        counts.failed += 1
        counts.declined += line["status"] == "declined"
        counts.fail(str(failure.get("code", "unknown")), failure.get("param"))
