"""What an import needs to know to go on after whatever has stopped it.

The results file is its memory of outcomes: a row with a last word in it is done. This file, beside it, holds the
rest: the name that request ids are made of, the route, what was asked for, and the rows the broker has taken. No card
data and no plain hash of any: the file that is imported is recognised by a keyed hash, whose key only this producer can
make.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from tokenferry.bulk.outputs import OutputFailed, UnusableOutput
from tokenferry.contract.names import new_id
from tokenferry.importing.import_window import ImportCounts
from tokenferry.sealing import Signer

FORMAT: Final = 1
_DOMAIN: Final = b"tokenferry/v1/import\0"


class Unresumable(UnusableOutput):
    """An import cannot go on where it stopped. Says why and what to do; nothing was sent."""


@dataclass(frozen=True)
class SameImport:
    """What must be the same in every run of one import."""

    stream: BinaryIO
    """The file, open and seekable."""
    signer: Signer
    options: Mapping[str, Any]
    """What was asked for, by the name of the option."""

    def fingerprint(self, name: str) -> str:
        """A keyed hash of the file's bytes (PCI DSS 3.5.1.1). Leaves the stream where it was."""
        key = hashlib.sha256(self.signer.sign(_DOMAIN + name.encode())).digest()
        place = self.stream.tell()
        self.stream.seek(0)
        found = hashlib.blake2b(key=key, digest_size=32)
        while block := self.stream.read(1 << 20):
            found.update(block)
        self.stream.seek(place)
        return found.hexdigest()


class Checkpoint:
    """One import's memory. Without a path it remembers nothing, and serves all the same."""

    def __init__(self, path: Path | None = None, *, name: str | None = None, route: str | None = None) -> None:
        self.path = path
        self.name = name or new_id()
        """Every request id of the import begins with it."""
        self.route = route or f"import-{self.name[-8:]}"
        self.is_resumed = False
        self.taken: set[int] = set()
        """Rows that the broker has taken, in earlier runs."""
        self._descriptor: int | None = None

    @classmethod
    def of(cls, results: Path, about: SameImport, *, resume: bool, force: bool) -> Checkpoint:
        """The memory beside a results file: a new one, or with *resume* the one an earlier run has left.

        Raises `Unresumable` where that is about something else, or in use.
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
                memory = cls._begun(path, descriptor, about)
            elif resume:
                memory = cls._resumed(path, head, rows, about)
            else:
                raise Unresumable(
                    f"{results}: an import into it was interrupted; go on with --resume, or start anew with --force"
                )
        except BaseException:
            os.close(descriptor)
            raise
        memory._descriptor = descriptor
        return memory

    @classmethod
    def _begun(cls, path: Path, descriptor: int, about: SameImport) -> Checkpoint:
        memory = cls(path)
        head = {
            "format": FORMAT,
            "name": memory.name,
            "route": memory.route,
            "options": dict(about.options),
            "fingerprint": about.fingerprint(memory.name),
        }
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(head).encode() + b"\n", 0)
            os.fsync(descriptor)
            os.lseek(descriptor, 0, os.SEEK_END)
        except OSError as error:
            raise UnusableOutput(f"{path}: cannot be written ({error.strerror})") from None
        return memory

    @classmethod
    def _resumed(cls, path: Path, head: bytes, rows: list[bytes], about: SameImport) -> Checkpoint:
        try:
            said = json.loads(head)
            known = said["format"], said["name"], said["route"], dict(said["options"]), said["fingerprint"]
        except (ValueError, KeyError, TypeError):
            raise Unresumable(f"{path}: is not what an import remembers; start anew with --force") from None
        form, name, route, options, fingerprint = known
        if form != FORMAT:
            raise Unresumable(f"{path}: was written by another version of tokenferry; resume with that version")
        for option, value in about.options.items():
            if options.get(option) != value:
                raise Unresumable(
                    f"--{option}: is not what it was when this import began; resume with the same options"
                )
        if about.fingerprint(name) != fingerprint:
            raise Unresumable(
                "the file is not the one this import began with (or the producer's key is another one): resume with "
                "the original file, or import the new one into other --results"
            )
        memory = cls(path, name=name, route=route)
        memory.is_resumed = True
        memory.taken = {int(row) for row in rows[:-1] if row.isdigit()}  # the last line never ended
        return memory

    def request_id(self, row: int) -> str:
        """The id of a row's request: the same in every run."""
        return f"{self.name}-{row}"

    def row(self, request_id: str) -> int | None:
        """The row of a request id of ours."""
        name, _, row = request_id.rpartition("-")
        return int(row) if name == self.name and row.isdigit() else None

    def take(self, row: int) -> None:
        """Remember that the broker has a row. From any thread. Raises `OutputFailed`."""
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, b"%d\n" % row)
        except OSError as error:
            raise OutputFailed(f"{self.path}: cannot be written ({error.strerror})") from None

    def close(self, *, done: bool) -> None:
        """Let go of the file; with *done* it goes, for there is nothing to resume."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None and self.path is not None:
            if done:
                with suppress(OSError):
                    self.path.unlink()
            os.close(descriptor)


@dataclass
class CompletedRows:
    """The rows of a results file that have their last word."""

    rows: set[int] = field(default_factory=set)
    counts: ImportCounts = field(default_factory=ImportCounts)


def done_in(results: Path) -> CompletedRows:
    """Read a results file that is to be written on, and leave in it only lines that are a row's last word.

    Rows that were unfinished get their line later, and a line that was being written when the process died goes.
    Raises `UnusableOutput`.
    """
    done = CompletedRows()
    rest = results.with_name(results.name + ".new")
    try:
        descriptor = os.open(rest, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as kept:
            if results.exists():
                with results.open("rb") as file:
                    kept.writelines(line for line in file if _is_last_word(line, done))
            kept.flush()
            os.fsync(kept.fileno())
        rest.replace(results)
    except OSError as error:
        rest.unlink(missing_ok=True)
        raise UnusableOutput(f"{results}: cannot be written on ({error.strerror})") from None
    return done


def _is_last_word(line: bytes, done: CompletedRows) -> bool:
    try:
        said = json.loads(line)
        row, status, failure = int(said["row"]), said["status"], said["failure"]
    except (ValueError, KeyError, TypeError):
        return False
    if not line.endswith(b"\n") or status not in ("tokenized", "attached", "failed") or row in done.rows:
        return False
    done.rows.add(row)
    counts = done.counts
    counts.sealed += 1
    counts.settled += 1
    counts.tokenized += said.get("token") is not None
    counts.attached += status == "attached"
    counts.to_attach += status == "attached"
    if status == "failed":
        counts.failed += 1
        counts.failures_by_code[failure["code"] if isinstance(failure, dict) else "unknown"] += 1
    return True
