"""Prevents that an import attaches rows a second time because its results file exists already.

An attach cannot be undone. Rows with a key are done once, whoever imports them. Rows without a key, and those of the
version before, are other rows in another import: each would get another token, which would become another object.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tokenferry.bulk.outputs import UnusableOutput
from tokenferry.contract.codes import Code
from tokenferry.importing.row_ids import PREFIX

_DOUBTFUL = frozenset({Code.TOKEN_IN_DOUBT, Code.OUTCOME_UNKNOWN})
"""Failures after which a call may have had its effect all the same."""


@dataclass
class Attached:
    """How many rows of a results file are attached, or may be."""

    certain: int = 0
    perhaps: int = 0
    unreadable: int = 0
    """Lines that are not results of an import, so their rows may be attached or not."""

    def __bool__(self) -> bool:
        return bool(self.certain or self.perhaps or self.unreadable)


def refuse_to_attach_again(results: Path, *, by_key: bool) -> None:
    """Raise `UnusableOutput` if *results* contains rows that may be attached, or lines that cannot be read.

    *by_key*: True if the rows to be imported have keys. Then those that were sent by their key do not count.
    """
    attached = attached_in(results, by_key=by_key)
    if not attached:
        return
    reasons = []
    if attached.certain:
        reasons.append(f"{_rows(attached.certain)} of it {'is' if attached.certain == 1 else 'are'} attached already")
    if attached.perhaps:
        reasons.append(f"{_rows(attached.perhaps)} of it may be attached already")
    if attached.unreadable:
        reasons.append(f"{attached.unreadable} of its lines cannot be read, so nobody knows whether they are attached")
    raise UnusableOutput(
        f"{results}: {'; '.join(reasons)}. Importing them again would attach them a second time: another customer, "
        "bank account, charge, ... for each. To finish an interrupted import use --resume; for other rows name other "
        "--results; to attach these again on purpose use --force --again"
    )


def attached_in(results: Path, *, by_key: bool = False) -> Attached:
    """Count the attached rows of a results file. There are none if it does not exist or is no regular file.

    *by_key*: without those that were sent by their key.
    """
    attached = Attached()
    if not results.is_file():
        return attached
    try:
        with results.open("rb") as file:
            for line in file:
                _count(line, attached, by_key=by_key)
    except OSError:
        attached.unreadable += 1
    return attached


def _count(line: bytes, attached: Attached, *, by_key: bool) -> None:
    try:
        outcome = json.loads(line)
        status, token, object_id = outcome["status"], outcome["token"], outcome["object_id"]
        failure = outcome["failure"] or {}
        spent_on, doubtful = failure.get("spent_on"), failure.get("code") in _DOUBTFUL
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        attached.unreadable += 1
        return
    if by_key and str(outcome.get("request_id", "")).startswith(PREFIX):
        return
    if status == "attached" or object_id or spent_on:
        attached.certain += 1
    elif doubtful or (status == "unfinished" and token):  # a row with a token and no outcome is being attached
        attached.perhaps += 1


def _rows(count: int) -> str:
    return f"{count} {'row' if count == 1 else 'rows'}"
