"""A file of results that grows at its end. Every line of it is on the disk, even after a crash."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from tokenferry.bulk.outputs import OutputFailed, UnusableOutput
from tokenferry.contract.results import AnyResult
from tokenferry.owned_files import open_owned
from tokenferry.shown import visible

TAIL: Final = 64 * 1024 * 1024
"""Bytes at the end of the file from which outcome ids are read: some hundred thousand results."""
HEADS: Final = (b'{"outcome_id":', b'{"type":"onboarding",')
"""How our lines begin. If the last line begins otherwise, it is not a line of ours that was cut off."""


class ResultFile:
    """Results as JSON lines. Only the owner can read it, and one process at a time writes to it."""

    def __init__(self, path: Path) -> None:
        """Open or create the file, and repair a last line that was cut off in a crash.

        Raises `UnusableOutput` if it is no regular file, has other content, cannot be written, or another process
        writes to it. The file is not changed then.
        """
        self.path = path
        self.outcome_ids: list[str] = []
        """Outcome ids of the results at the end of the file."""
        try:
            if path.exists() and not path.is_file():
                raise UnusableOutput(
                    f"{path}: is not a regular file. What is written to a pipe or a terminal may never be read, and "
                    "the results would be gone; name a file"
                )
            is_new = not path.exists()
            self._descriptor = open_owned(path, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:
            raise UnusableOutput(f"{path}: its folder does not exist") from None
        except OSError as error:
            raise UnusableOutput(f"{path}: cannot be written ({error.strerror})") from None
        try:
            self._begin(is_new=is_new)
        except OSError as error:
            self.close()
            raise UnusableOutput(f"{path}: cannot be written ({error.strerror})") from None
        except UnusableOutput:
            self.close()
            raise

    def append(self, results: Iterable[AnyResult]) -> None:
        """Write *results*. When this returns, they are on the disk.

        Raises `OutputFailed`. None of them counts as written then.
        """
        data = b"".join(visible(result.model_dump_json()).encode() + b"\n" for result in results)
        if not data:
            return
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], self._size + written)
            os.fsync(self._descriptor)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise OutputFailed(f"{self.path}: cannot be written ({error.strerror})") from None
        self._size += len(data)

    def close(self) -> None:
        """Close the file, so that others can write to it."""
        os.close(self._descriptor)

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, *, is_new: bool) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnusableOutput(f"{self.path}: another process writes to it; name another file") from None
        status = os.fstat(self._descriptor)
        self._size = status.st_size
        self._read_end()
        os.fchmod(self._descriptor, 0o600)  # an older file may have been open to others
        if is_new:
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _read_end(self) -> None:
        """Read the outcome ids, and repair the last line. Raises `UnusableOutput` if a line is no result."""
        start = max(0, self._size - TAIL)
        with open(self._descriptor, "rb", closefd=False) as file:
            file.seek(start)
            if start:
                start += len(file.readline())  # the rest of a line that begins before
            for line in file:
                outcome_id = _outcome_id(line)
                if outcome_id is not None:
                    self.outcome_ids.append(outcome_id)
                elif line.endswith(b"\n") or not any(line[: len(head)] == head[: len(line)] for head in HEADS):
                    raise UnusableOutput(f"{self.path}: holds something other than results; name another file")
                else:
                    # The line was cut off, so its result was not acknowledged: it comes again.
                    self._size -= len(line)
                    os.ftruncate(self._descriptor, self._size)
                    return
                if not line.endswith(b"\n"):
                    os.pwrite(self._descriptor, b"\n", self._size)
                    self._size += 1


def _outcome_id(line: bytes) -> str | None:
    """The outcome id of a line. None if the line is no result, or was cut off."""
    try:
        result = json.loads(line)
        outcome_id, type_ = result["outcome_id"], result["type"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return outcome_id if isinstance(outcome_id, str) and type_ in ("token", "attach", "onboarding") else None
