"""A row of a CSV or JSONL file, a row that cannot be used, and the error for a file that cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenferry.errors import ProducerError


class UnreadableFile(ProducerError, ValueError):
    """The whole file cannot be read. Nothing was sent. The message says what to do, and never repeats a value."""

    exit_code = 2


class InvalidMapping(ProducerError, ValueError):
    """A `--map`, `--set` or map file that is not valid. The message is safe to show."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its line, its key, and its values, which `repr` does not show."""

    number: int
    """The line of the file on which it begins, counted from 1."""
    key: str
    values: Mapping[str, Any] = field(repr=False)
    """`kind`, `platform`, `connected_account`, `lane` and fields by dotted name, or nested as JSON has them."""
    typed: bool = True
    """True if values have types (JSON), False if all are text (CSV)."""
    record: int = 0
    """Which row of the file it is, counted from 1 without the header: what a spreadsheet shows, less one."""
    has_key: bool = False
    """True if the file gives the key. False if it is made of the row's number."""


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """A row that cannot be used, and why."""

    number: int
    key: str
    field: str
    reason: str
    record: int = 0


def suspicious(name: str, word: str) -> tuple[str, str]:
    """Field and reason of a row with a *word* that may stand for "no value". The word is one of a fixed list."""
    return name, (
        f'holds {word}, which often stands for "no value": leave such values out with --null "{word}", or keep them as '
        'text with --null ""'
    )
