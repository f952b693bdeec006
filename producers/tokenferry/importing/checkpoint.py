"""The checkpoint file of an import, with which it continues after an interruption, and is repeated when it is finished.

The results file tells which rows are done: those with a final outcome. The checkpoint beside it holds the rest. It is a
log. Its first line has what request ids are derived from, the route, the options and a keyed hash of the
imported file, whose key only this producer can derive. Each other line is one of:

    7               the broker has accepted row 7
    retry 7 2 ID    row 7, whose request ID has failed, is sent for the second time
    late {...}      a result that came after its row had its line in the results file
    finished {...}  every row of the file has its outcome, or was rejected

It contains no card data and no plain hash of any. A line of another kind is ignored.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from pydantic import ValidationError

from tokenferry.bulk.outputs import OutputFailed, UnusableOutput
from tokenferry.contract.names import new_id
from tokenferry.contract.results import AnyResult, AttachResult, TokenResult, parse_result
from tokenferry.importing.row_ids import PREFIX, KeyedRow
from tokenferry.importing.row_set import RowSet
from tokenferry.owned_files import open_owned
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


@dataclass(frozen=True)
class Finished:
    """What the last run of a finished import knows, and the results file does not show."""

    rows: int
    """Rows of the file."""
    done: int
    """Rows with an outcome. Each has its line in the results file."""
    rejections: Mapping[str, int] = field(default_factory=dict)
    """How often each reason was given for a row that was not sent."""

    @property
    def rejected(self) -> int:
        """Rows that were not sent."""
        return self.rows - self.done


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
        self.fingerprint: str | None = None
        """The keyed hash of the imported file."""
        self.is_resumed = False
        self.accepted = RowSet()
        """Rows that the broker accepted in earlier runs."""
        self.late: dict[str, list[TokenResult | AttachResult]] = {}
        """Results that came after the line of their row, by request id, oldest first."""
        self.finished: Finished | None = None
        """None while a row has no outcome."""
        self._attempts: dict[int, int] = {}
        """How often a row was sent as a new request, where that is more than once."""
        self._descriptor: int | None = None

    @classmethod
    def of(
        cls, results: Path, same: SameImport, *, resume: bool, force: bool, namespace: str | None = ""
    ) -> Checkpoint:
        """Open the checkpoint beside a results file: a new one, or with *resume* that of an earlier run.

        *namespace*: of a new one.

        Raises `Unresumable` if it belongs to another import, or another process uses it.
        """
        path = path_of(results)
        descriptor = _locked(path, results, create=True)
        try:
            checkpoint = cls(path)
            head = None if force and not resume else checkpoint._read(descriptor)
            if head is None or (checkpoint.finished and not resume and _is_empty(results)):
                checkpoint = cls._new(path, descriptor, same, namespace)
            elif resume:
                checkpoint._check(head, same)
            elif checkpoint.finished:
                raise Unresumable(
                    f"{results}: this import is finished. --retry-failed sends its failed rows again, --refresh reads "
                    "late outcomes; name other --results for another import, or start again with --force"
                )
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
    def existing(cls, results: Path) -> Checkpoint:
        """Open the checkpoint of an earlier run, whatever its file was. Raises `Unresumable` if there is none."""
        path = path_of(results)
        if not path.exists():
            raise Unresumable(f"{path}: does not exist, so the route of this import is not known; nothing was changed")
        descriptor = _locked(path, results, create=False)
        try:
            checkpoint = cls(path)
            if checkpoint._read(descriptor) is None:
                raise _foreign(path)
        except BaseException:
            os.close(descriptor)
            raise
        checkpoint._descriptor = descriptor
        return checkpoint

    @classmethod
    def _new(cls, path: Path, descriptor: int, same: SameImport, namespace: str | None) -> Checkpoint:
        checkpoint = cls(path, namespace=namespace)
        checkpoint.fingerprint = same.fingerprint(checkpoint.name)
        head = {
            "format": FORMAT,
            "name": checkpoint.name,
            "route": checkpoint.route,
            "namespace": checkpoint.namespace,
            "began": checkpoint.began,
            "options": dict(same.options),
            "fingerprint": checkpoint.fingerprint,
        }
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(head).encode() + b"\n", 0)
            os.fsync(descriptor)
            os.lseek(descriptor, 0, os.SEEK_END)
        except OSError as error:
            raise UnusableOutput(f"{path}: cannot be written ({error.strerror})") from None
        return checkpoint

    def _read(self, descriptor: int) -> dict[str, Any] | None:
        """Read the log, line by line. Return its first line, or None if that never ended: nothing was sent after it.

        A last line that was cut off is deleted. Raises `Unresumable`.
        """
        assert self.path is not None
        with open(descriptor, "rb", closefd=False) as file:
            first = file.readline()
            if not first.endswith(b"\n"):
                return None
            try:
                head = json.loads(first)
                format_, self.name, self.route = head["format"], head["name"], head["route"]
                self.namespace, self.began = head.get("namespace"), int(head.get("began", 0))
                dict(head["options"])
                self.fingerprint = head["fingerprint"]
            except (ValueError, KeyError, TypeError):
                raise _foreign(self.path) from None
            if format_ not in (FORMAT, _BY_ROW_ONLY):
                raise Unresumable(f"{self.path}: was written by another version of tokenferry; resume with that one")
            end = len(first)
            for line in file:
                if line.endswith(b"\n"):
                    end += len(line)
                    self._apply(line)
        os.ftruncate(descriptor, end)
        os.lseek(descriptor, end, os.SEEK_SET)
        self.is_resumed = True
        return head  # type: ignore[no-any-return]

    def _apply(self, line: bytes) -> None:
        """Learn from one line. One that cannot be read is left out."""
        word, _, told = line.strip().partition(b" ")
        try:
            if word.isdigit():
                self.accepted.add(int(word))
            elif word == b"retry":
                row, attempt, *ids = told.decode().split()
                self._note_retry(int(row), int(attempt), ids[0] if ids else self.request_id(int(row)))
            elif word == b"late":
                self._note_late(parse_result(told))
            elif word == b"finished":
                self.finished = Finished(**json.loads(told))
        except (ValueError, TypeError, ValidationError):
            return

    def _check(self, head: Mapping[str, Any], same: SameImport) -> None:
        """Raise `Unresumable` if the options or the file are not those with which the import began."""
        for option, value in same.options.items():
            if head["options"].get(option) != value:
                raise Unresumable(
                    f"--{option}: differs from the run that began this import; resume with the same options"
                )
        if same.fingerprint(self.name) != self.fingerprint:
            raise Unresumable(
                "the file is not the one this import began with (or the producer's key is another one): resume with "
                "the original file, or import the new one into other --results"
            )

    def request_id(self, row: int, keyed: KeyedRow | None = None) -> str:
        """Return the request id of a row. It is the same in every run, and with a key also in every import.

        *keyed*: None: the row has no key. Such a row gets a new id when it is sent again after a failure. A row with a
        key keeps its id: it is then the next generation of it.
        """
        if keyed is not None and self.namespace is not None:
            return keyed.request_id(self.namespace)
        attempt = self.attempt(row)
        return f"{self.name}-{row}" if attempt == 1 else f"{self.name}-{row}-{attempt}"

    def attempt(self, row: int) -> int:
        """Return how often a row was sent, each time after it had failed. It counts from 1."""
        return self._attempts.get(row, 1)

    def is_own(self, request_id: str) -> bool:
        """True if a request id is of this import, and of the present attempt. Ids that are made of keys all are."""
        return request_id.startswith(PREFIX) or self.row(request_id) is not None

    def row(self, request_id: str) -> int | None:
        """Return the row of a request id. None if it is of another import or attempt, or is made of a key."""
        row = request_id.removeprefix(f"{self.name}-").partition("-")[0]
        return int(row) if row.isdigit() and self.request_id(int(row)) == request_id else None

    def accept(self, row: int) -> None:
        """Store that the broker has accepted a row. Any thread may call it. Raises `OutputFailed`."""
        self._append(b"%d\n" % row)

    def retry(self, failed: Mapping[int, str]) -> None:
        """Let rows be sent once more. When this returns, that is on the disk. Raises `OutputFailed`.

        *failed*: the request ids of the rows, which have failed.
        """
        lines = bytearray()
        for row, request_id in failed.items():
            attempt = self.attempt(row) + 1
            lines += b"retry %d %d %s\n" % (row, attempt, request_id.encode())
            self._note_retry(row, attempt, request_id)
        self._append(bytes(lines), sync=True)

    def append(self, results: Iterable[AnyResult]) -> None:
        """Store results that came after the line of their row. When this returns, they are on the disk.

        Results of other requests are left out. Raises `OutputFailed`.
        """
        noted = [result for result in results if self._note_late(result)]
        if noted:
            self._append(b"".join(b"late %s\n" % each.model_dump_json().encode() for each in noted), sync=True)

    def finish(self, finished: Finished) -> None:
        """Store that nothing is left to do, and forget what is only needed until then. Raises `OutputFailed`."""
        self.finished = finished
        self._append(b"finished %s\n" % json.dumps(vars(finished)).encode(), sync=True)

    def close(self, *, delete: bool = False) -> None:
        """Close the file. *delete*: nothing was sent, so there is nothing to resume."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None and self.path is not None:
            if delete:
                self.path.unlink(missing_ok=True)
            os.close(descriptor)

    def _append(self, lines: bytes, *, sync: bool = False) -> None:
        if self._descriptor is None or not lines:
            return
        try:
            os.write(self._descriptor, lines)
            if sync:
                os.fsync(self._descriptor)
        except OSError as error:
            raise OutputFailed(f"{self.path}: cannot be written ({error.strerror})") from None

    def _note_retry(self, row: int, attempt: int, failed: str) -> None:
        self._attempts[row] = attempt
        self.accepted.discard(row)
        self.late.pop(failed, None)
        self.finished = None

    def _note_late(self, result: AnyResult) -> bool:
        """Keep a result of this import. False: it is not of this import, or is known already."""
        if not isinstance(result, TokenResult | AttachResult) or not self.is_own(result.request_id):
            return False
        known = self.late.setdefault(result.request_id, [])
        if any(each.outcome_id == result.outcome_id for each in known):
            return False
        known.append(result)
        return True


def path_of(results: Path) -> Path:
    """Where the checkpoint of an import is."""
    return results.with_name(results.name + ".resume")


def _locked(path: Path, results: Path, *, create: bool) -> int:
    """Open a checkpoint that no other process may use meanwhile."""
    try:
        descriptor = open_owned(path, os.O_RDWR | (os.O_CREAT if create else 0))
    except OSError as error:
        raise UnusableOutput(f"{path}: cannot be written ({error.strerror})") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise Unresumable(f"{results}: another process is importing into it") from None
    return descriptor


def _is_empty(results: Path) -> bool:
    return not results.exists() or not results.stat().st_size


def _foreign(path: Path) -> Unresumable:
    return Unresumable(f"{path}: is not the checkpoint of an import; start again with --force")
