"""A row, whatever file it came from, and the two ways in which reading can go wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class UnreadableFile(ValueError):
    """The file as a whole cannot be imported: nothing was sent. Says what to do, and never repeats a value."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its place, its key, and everything that is to be sealed, out of sight of `repr`."""

    number: int
    """The line of the file on which it begins, counted from 1."""
    key: str
    values: Mapping[str, Any] = field(repr=False)
    """`kind`, `platform`, `connected_account`, `lane` and fields by dotted name, or nested as JSON has them."""
    typed: bool = True
    """Whether values have types (JSON) or are all text (CSV)."""


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """A row that cannot be read or used, and why."""

    number: int
    key: str
    field: str
    reason: str
