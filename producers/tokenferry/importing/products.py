"""What an import is made for: a table of the caller's ids with Stripe's, and a manifest that says what is in the files.

Both are written at the end of each run, from the results file and the rejects file, row by row.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tokenferry.bulk.outputs import UnusableOutput, shown_key
from tokenferry.owned_files import new_beside
from tokenferry.shown import cell

COLUMNS: Final = ("status", "row", "kind", "to", "token", "object_id", "stored_id", "request_id", "created")
"""What a table can show beside the two ids, by the names of the results file."""
OF_CARDS: Final = ("brand", "bank_name", "last4", "country", "currency", "funding", "fingerprint")
OF_FAILURES: Final = ("code", "param", "decline_code")
ALL: Final = (*COLUMNS, *OF_CARDS, *OF_FAILURES)
FORMAT: Final = 1


def write_ids(path: Path, results: Path, rejects: Path | None, columns: tuple[str, ...] = ()) -> int:
    """Write one line for each row: `source_id`, `stripe_id` and *columns*. Return how many rows there are.

    `stripe_id` is the object that the token became, or the token itself. It is empty for rows that have neither. The
    file takes its place as a whole. Raises `UnusableOutput`.
    """
    new: Path | None = None
    count = 0
    try:
        descriptor, new = new_beside(path)
        with open(descriptor, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["source_id", "stripe_id", *columns])
            for line in _lines(results, rejects):
                writer.writerow([cell(str(value)) for value in _cells(line, columns)])
                count += 1
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        if new is not None:
            new.unlink(missing_ok=True)
        raise UnusableOutput(f"{path}: cannot be written ({error.strerror})") from None
    return count


def write_manifest(
    path: Path, files: Mapping[str, Path], summary: Mapping[str, Any], input_: Mapping[str, Any]
) -> None:
    """Write what is in each of *files*, and how far the import came. Raises `UnusableOutput`.

    *files*: by what they are (`results`, ...). *summary*: as `--json` prints it. *input_*: the name and the keyed hash
    of the imported file.
    """
    outcomes = summary["outcomes"]
    manifest = {
        "format": FORMAT,
        "input": dict(input_),
        "complete": bool(summary["read_to_the_end"] and not outcomes["pending"] and not summary["rows_left_out"]),
        "rows": summary["rows"],
        "outcomes": outcomes,
        "outputs": {name: _described(file, name) for name, file in files.items() if file.is_file()},
    }
    new: Path | None = None
    try:
        descriptor, new = new_beside(path)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        if new is not None:
            new.unlink(missing_ok=True)
        raise UnusableOutput(f"{path}: cannot be written ({error.strerror})") from None


def _lines(results: Path, rejects: Path | None) -> Iterator[dict[str, Any]]:
    """The rows of both files. A rejected row comes once, however many reasons it has."""
    with results.open(encoding="utf-8") as file:
        yield from map(json.loads, file)
    if rejects is None or not rejects.is_file():
        return
    last = ""
    with rejects.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            if line["row"] != last:
                last = line["row"]
                yield {"key": line["key"], "row": last, "status": "rejected"}


def _cells(line: Mapping[str, Any], columns: tuple[str, ...]) -> Iterator[Any]:
    yield shown_key(line["key"])
    yield line.get("object_id") or line.get("token") or ""
    for column in columns:
        part: Mapping[str, Any] = line
        if column in OF_CARDS:
            part = line.get("display") or {}
        elif column in OF_FAILURES:
            part = line.get("failure") or {}
        value = part.get(column)
        yield "" if value is None else value


def _described(path: Path, name: str) -> dict[str, Any]:
    """The size and the SHA-256 of a file, and how many lines with content it has."""
    digest, size, lines = hashlib.sha256(), 0, 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
            lines += block.count(b"\n")
    rows = lines if name == "results" else max(0, lines - 1)
    return {"file": path.name, "lines": rows, "bytes": size, "sha256": digest.hexdigest()}
