"""What an import into a results file that is there already would do a second time.

An attach cannot be taken back, and nothing makes a second import of a file the same as the first: every row would get
another token, and that token another object.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tokenferry.bulk.outputs import UnusableOutput
from tokenferry.contract.codes import Code

_DOUBTFUL = frozenset({Code.TOKEN_IN_DOUBT, Code.OUTCOME_UNKNOWN})
"""Failures after which a call may have had its effect all the same."""


@dataclass
class Attached:
    """The rows of a results file whose token was spent, or may have been."""

    certain: int = 0
    perhaps: int = 0
    unreadable: int = 0
    """Lines that are no result of an import, so nobody knows."""

    def __bool__(self) -> bool:
        return bool(self.certain or self.perhaps or self.unreadable)


def refuse_to_attach_again(results: Path) -> None:
    """Raise `UnusableOutput` where *results* holds rows that are attached, or cannot be read."""
    found = attached_in(results)
    if not found:
        return
    said = []
    if found.certain:
        said.append(f"{_rows(found.certain)} of it {'is' if found.certain == 1 else 'are'} attached already")
    if found.perhaps:
        said.append(f"{_rows(found.perhaps)} of it may be attached already")
    if found.unreadable:
        said.append(f"{found.unreadable} of its lines cannot be read, so nobody knows whether they are attached")
    raise UnusableOutput(
        f"{results}: {'; '.join(said)}. Importing them again would attach them a second time: another customer, bank "
        "account, charge, ... for each. To finish an interrupted import use --resume; for other rows name other "
        "--results; to attach these again on purpose use --force --again"
    )


def attached_in(results: Path) -> Attached:
    """What a results file says about attached rows. One that is not there, or is no regular file, says nothing."""
    found = Attached()
    if not results.is_file():
        return found
    try:
        with results.open("rb") as file:
            for line in file:
                _count(line, found)
    except OSError:
        found.unreadable += 1
    return found


def _count(line: bytes, found: Attached) -> None:
    try:
        said = json.loads(line)
        status, token, object_id, failure = said["status"], said["token"], said["object_id"], said["failure"] or {}
        spent_on, doubtful = failure.get("spent_on"), failure.get("code") in _DOUBTFUL
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        found.unreadable += 1
        return
    if status == "attached" or object_id or spent_on:
        found.certain += 1
    elif doubtful or (
        status == "unfinished" and token
    ):  # a row without an outcome that has its token is being attached
        found.perhaps += 1


def _rows(count: int) -> str:
    return f"{count} {'row' if count == 1 else 'rows'}"
