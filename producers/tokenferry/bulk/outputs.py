"""The two files that a run writes: the outcome of each row that was sent, and why each other row was rejected.

Only their owner can read them. Each line is given to the system before its result is acknowledged. So after a kill,
every outcome is either in the file or still on the route.
"""

from __future__ import annotations

import csv
import json
import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from stdnum import luhn

from tokenferry.contract.requests import Problem
from tokenferry.errors import OutputFailed as OutputFailed
from tokenferry.errors import ProducerError
from tokenferry.masking import LONG_NUMBER, masked
from tokenferry.owned_files import open_owned
from tokenferry.shown import cell, visible


class UnusableOutput(ProducerError, ValueError):
    """An output file cannot be opened, or must not be overwritten. Nothing was sent."""

    exit_code = 2


def may_be_card_number(text: str) -> bool:
    """True if *text* contains a number of 12 to 19 digits whose check digit (Luhn) is right, as every card number has.

    One number in ten is like that by chance.

    >>> may_be_card_number("200000000001"), may_be_card_number("000000000000"), may_be_card_number("seller-7")
    (False, True, False)
    """
    found = (re.sub("[ -]", "", match[0]) for match in LONG_NUMBER.finditer(text))
    return any(len(digits) <= 19 and luhn.is_valid(digits) for digits in found)


def shown_key(key: str) -> str:
    """Return a row key for the results file. It is shortened if it contains a possible card number.

    The results must join back to the source by key, so a long number that fails the Luhn check stays as it is.

    >>> shown_key("200000000001"), shown_key("000000000000")
    ('200000000001', '...0000')
    """
    return masked(key) if may_be_card_number(key) else key


class Outputs:
    """The results file (JSON lines) and the rejects file (CSV), each optional."""

    def __init__(
        self,
        results: Path | None,
        rejects: Path | None,
        *,
        force: bool = False,
        resume: bool = False,
        key_prefix: str = "",
    ) -> None:
        """*force*: overwrite files that have content. *resume*: append to the results, write the rejects again.

        *key_prefix*: keys in the results that begin with it are no card numbers, and stay as they are.

        Raises `UnusableOutput` if one of them cannot be written or has content. No new file is left behind then.
        """
        paths = [path for path in (results, rejects) if path is not None]
        if len({path.resolve() for path in paths}) != len(paths):
            raise UnusableOutput(f"{results}: cannot hold results and rejects; name two files")
        for path in paths:
            _check(path, force=force or resume)
        files: dict[Path, TextIO] = {}
        made: list[Path] = []
        for path in paths:
            if not path.exists():
                made.append(path)
            try:
                files[path] = _open(path, append=resume and path == results)
            except OSError as error:
                for file in files.values():
                    file.close()
                for other in made:
                    other.unlink(missing_ok=True)
                raise UnusableOutput(f"{path}: cannot be written ({error.strerror})") from None
        self._results_path, self._rejects_path = results, rejects
        self._key_prefix = key_prefix
        self._results = files[results] if results is not None else None
        self._rejects = files[rejects] if rejects is not None else None
        self._writer = csv.writer(self._rejects, lineterminator="\n") if self._rejects else None
        if self._writer and self._rejects:
            try:
                self._writer.writerow(["row", "key", "field", "reason", "record"])
                self._rejects.flush()
            except OSError as error:
                self.close()
                raise UnusableOutput(f"{rejects}: cannot be written ({error.strerror})") from None

    def result(self, line: dict[str, Any]) -> None:
        """Append the line of one row that was sent. Raises `OutputFailed`."""
        if self._results is None:
            return
        try:
            key: str = line["key"]
            is_clear = self._key_prefix and key.startswith(self._key_prefix)
            shown = {**line, "key": key if is_clear else shown_key(key)}
            text = json.dumps(shown, ensure_ascii=False, separators=(",", ":"))
            self._results.write(visible(text) + "\n")
            self._results.flush()
        except OSError as error:
            raise OutputFailed(f"{self._results_path}: cannot be written ({error.strerror})") from None

    def reject(self, number: int, key: str, problems: Iterable[Problem], *, record: int = 0) -> None:
        """Append one line for each reason why a row was rejected. Raises `OutputFailed`.

        *number*: the line of the file. *record*: which row of the file it is, if the caller counts them.
        """
        if self._writer is None or self._rejects is None:
            return
        try:
            for problem in problems:
                row = (masked(key), problem.field, problem.reason)
                self._writer.writerow([number, *map(cell, row), record or ""])
            self._rejects.flush()
        except OSError as error:
            raise OutputFailed(f"{self._rejects_path}: cannot be written ({error.strerror})") from None

    def close(self) -> None:
        """Close both files. A failed write was reported when it happened."""
        for file in (self._results, self._rejects):
            if file is not None:
                with suppress(OSError):
                    file.close()


def _check(path: Path, *, force: bool) -> None:
    try:
        status = path.stat()
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise UnusableOutput(f"{path}: its folder does not exist") from None
        return
    except OSError as error:
        raise UnusableOutput(f"{path}: cannot be written ({error.strerror})") from None
    if stat.S_ISDIR(status.st_mode):
        raise UnusableOutput(f"{path}: is a folder; name a file")
    if stat.S_ISREG(status.st_mode) and status.st_size and not force:
        raise UnusableOutput(
            f"{path}: exists already and is not empty; name another file, continue with --resume if an earlier run "
            "wrote it, or overwrite it with --force"
        )


def _open(path: Path, *, append: bool) -> TextIO:
    descriptor = open_owned(path, os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC))
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.fchmod(descriptor, 0o600)  # an older file may have been open to others
    return open(descriptor, "w", encoding="utf-8", newline="")
