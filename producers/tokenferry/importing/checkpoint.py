"""The checkpoint file of an import, with which it continues after an interruption.

The results file tells which rows are done: those with a final outcome. The checkpoint beside it holds the rest: what
request ids are derived from, the route, the options, and the rows that the broker has accepted. It contains
no card data and no plain hash of any. The imported file is recognised by a keyed hash, and only this producer can
derive the key.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from tokenferry.bulk.outputs import OutputFailed, UnusableOutput
from tokenferry.contract.names import new_id
from tokenferry.importing.import_window import ImportCounts
from tokenferry.importing.row_ids import KeyedRow
from tokenferry.sealing import Signer

FORMAT: Final = 2
_BY_ROW_ONLY: Final = 1
"""The format of the version before: its ids are made of the row, also where the file has keys. Such an import goes on
with the ids that it began with."""
_DOMAIN: Final = b"tokenferry/v1/import\0"


class Unresumable(UnusableOutput):
    """An import cannot continue where it stopped. The message says why, and what to do. Nothing was sent."""


@dataclass(frozen=True)
class SameImport:
    """The file and the options, which must be the same in every run of one import."""

    stream: BinaryIO
    """The file, open and seekable."""
    signer: Signer
    options: Mapping[str, Any]
    """Values by option name."""

    def fingerprint(self, name: str) -> str:
        """Return a keyed hash of the file's bytes (PCI DSS 3.5.1.1). The stream's position stays as it was."""
        key = hashlib.sha256(self.signer.sign(_DOMAIN + name.encode())).digest()
        position = self.stream.tell()
        self.stream.seek(0)
        digest = hashlib.blake2b(key=key, digest_size=32)
        while block := self.stream.read(1 << 20):
            digest.update(block)
        self.stream.seek(position)
        return digest.hexdigest()


class Checkpoint:
    """The checkpoint of one import. Without a path it stores nothing, and its methods work all the same."""

    def __init__(
        self,
        path: Path | None = None,
        *,
        name: str | None = None,
        route: str | None = None,
        namespace: str | None = "",
        began: int | None = None,
    ) -> None:
        """*namespace*: see `KeyedRow.request_id`. None: ids are made of the row also where the file has keys.

        *began*: Unix milliseconds; default: now.
        """
        self.path = path
        self.name = name or new_id()
        """The request ids of rows without a key begin with it."""
        self.namespace = namespace
        self.began = int(time.time() * 1000) if began is None else began
        """When the first run began. An outcome that is older is one of an earlier import."""
        self.route = route or f"import-{self.name[-8:]}"
        self.is_resumed = False
        self.accepted: set[int] = set()
        """Rows that the broker accepted in earlier runs."""
        self._descriptor: int | None = None

    @classmethod
    def of(
        cls, results: Path, same: SameImport, *, resume: bool, force: bool, namespace: str | None = ""
    ) -> Checkpoint:
        """Open the checkpoint beside a results file: a new one, or with *resume* that of an earlier run.

        *namespace*: of a new one.

        Raises `Unresumable` if it belongs to another import, or another process uses it.
        """
        path = results.with_name(results.name + ".resume")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UnusableOutput(f"{path}: cannot be written ({error.strerror})") from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Unresumable(f"{results}: another process is importing into it") from None
            with open(descriptor, "rb", closefd=False) as file:
                head, *rows = file.read().split(b"\n")
            if not rows or (force and not resume):  # a line that never ended: nothing was sent after it
                checkpoint = cls._new(path, descriptor, same, namespace)
            elif resume:
                checkpoint = cls._resumed(path, head, rows, same)
            else:
                raise Unresumable(
                    f"{results}: an import into it was interrupted; continue with --resume, or start again with --force"
                )
        except BaseException:
            os.close(descriptor)
            raise
        checkpoint._descriptor = descriptor
        return checkpoint

    @classmethod
    def _new(cls, path: Path, descriptor: int, same: SameImport, namespace: str | None) -> Checkpoint:
        checkpoint = cls(path, namespace=namespace)
        head = {
            "format": FORMAT,
            "name": checkpoint.name,
            "route": checkpoint.route,
            "namespace": checkpoint.namespace,
            "began": checkpoint.began,
            "options": dict(same.options),
            "fingerprint": same.fingerprint(checkpoint.name),
        }
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(head).encode() + b"\n", 0)
            os.fsync(descriptor)
            os.lseek(descriptor, 0, os.SEEK_END)
        except OSError as error:
            raise UnusableOutput(f"{path}: cannot be written ({error.strerror})") from None
        return checkpoint

    @classmethod
    def _resumed(cls, path: Path, head: bytes, rows: list[bytes], same: SameImport) -> Checkpoint:
        try:
            stored = json.loads(head)
            format_, name, route = stored["format"], stored["name"], stored["route"]
            options, fingerprint = dict(stored["options"]), stored["fingerprint"]
            namespace, began = stored.get("namespace"), int(stored.get("began", 0))
        except (ValueError, KeyError, TypeError):
            raise Unresumable(f"{path}: is not the checkpoint of an import; start again with --force") from None
        if format_ not in (FORMAT, _BY_ROW_ONLY):
            raise Unresumable(f"{path}: was written by another version of tokenferry; resume with that version")
        for option, value in same.options.items():
            if options.get(option) != value:
                raise Unresumable(
                    f"--{option}: differs from the run that began this import; resume with the same options"
                )
        if same.fingerprint(name) != fingerprint:
            raise Unresumable(
                "the file is not the one this import began with (or the producer's key is another one): resume with "
                "the original file, or import the new one into other --results"
            )
        checkpoint = cls(path, name=name, route=route, namespace=namespace, began=began)
        checkpoint.is_resumed = True
        checkpoint.accepted = {int(row) for row in rows[:-1] if row.isdigit()}  # the last line may be cut off
        return checkpoint

    def request_id(self, row: int, keyed: KeyedRow | None = None) -> str:
        """Return the request id of a row. It is the same in every run, and with a key also in every import.

        *keyed*: None: the row has no key.
        """
        if keyed is None or self.namespace is None:
            return f"{self.name}-{row}"
        return keyed.request_id(self.namespace)

    def row(self, request_id: str) -> int | None:
        """Return the row of a request id. None if the id is not of this import, or was derived from a key."""
        name, _, row = request_id.rpartition("-")
        return int(row) if name == self.name and row.isdigit() else None

    def accept(self, row: int) -> None:
        """Store that the broker has accepted a row. Any thread may call it. Raises `OutputFailed`."""
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, b"%d\n" % row)
        except OSError as error:
            raise OutputFailed(f"{self.path}: cannot be written ({error.strerror})") from None

    def close(self, *, done: bool) -> None:
        """Close the file. With *done* delete it: there is nothing to resume."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None and self.path is not None:
            if done:
                with suppress(OSError):
                    self.path.unlink()
            os.close(descriptor)


@dataclass
class CompletedRows:
    """The rows of a results file that have their final outcome."""

    rows: set[int] = field(default_factory=set)
    counts: ImportCounts = field(default_factory=ImportCounts)


def done_in(results: Path) -> CompletedRows:
    """Read the results file of an interrupted import, and keep in it only lines with a row's final outcome.

    Unfinished rows get their line later. A line that was cut off when the process died is deleted too.
    Raises `UnusableOutput`.
    """
    done = CompletedRows()
    new = results.with_name(results.name + ".new")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as kept:
            if results.exists():
                with results.open("rb") as file:
                    kept.writelines(line for line in file if _is_final(line, done))
            kept.flush()
            os.fsync(kept.fileno())
        new.replace(results)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise UnusableOutput(f"{results}: cannot be written ({error.strerror})") from None
    return done


def _is_final(line: bytes, done: CompletedRows) -> bool:
    """True if *line* is the final outcome of a row, which is then added to *done*."""
    try:
        outcome = json.loads(line)
        row, status, failure = int(outcome["row"]), outcome["status"], outcome["failure"]
    except (ValueError, KeyError, TypeError):
        return False
    if not line.endswith(b"\n") or status not in ("tokenized", "attached", "failed") or row in done.rows:
        return False
    done.rows.add(row)
    counts = done.counts
    counts.sealed += 1
    counts.settled += 1
    counts.tokenized += outcome.get("token") is not None
    counts.attached += status == "attached"
    counts.to_attach += status == "attached"
    if status == "failed":
        counts.failed += 1
        told = failure if isinstance(failure, dict) else {}
        counts.fail(str(told.get("code", "unknown")), told.get("param"))
    return True
