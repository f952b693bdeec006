"""Reads rows of a CSV file. A broken row is one rejected row, not a broken file.

A quoted cell may contain line ends, so one record can span several lines, up to a limit. If a quote is never closed,
only the row that opened it is rejected: the lines after it are read again as rows of their own.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from tokenferry.contract.requests import REQUESTS
from tokenferry.inputs.columns import Field, field_of, looks_like_data
from tokenferry.inputs.header import NAMELESS, read_header
from tokenferry.inputs.lines import LONGEST, Line, Lines
from tokenferry.inputs.mapping import ColumnMap, bare
from tokenferry.inputs.rows import BrokenRow, Row, UnreadableFile, suspicious

DELIMITERS: Final = (",", ";", "\t", "|")
MOST_LINES: Final = 100
"""Lines that one record may span."""
LONGEST_KEY: Final = 200
_SEP: Final = re.compile(r'"?sep=(.)"?', re.IGNORECASE)

csv.field_size_limit(LONGEST)


class CsvRows:
    """Reads the header at once, and a row each time one is asked for."""

    def __init__(self, lines: Lines, given: ColumnMap, *, delimiter: str | None = None) -> None:
        """Raises `UnreadableFile` if the first line is not a valid header."""
        self._lines = lines
        self._given = given
        first, named = _header_line(lines)
        header, trouble = self._record(first)
        self._delimiter = delimiter or named or _sniffed(first, given)
        try:
            if trouble is not None:
                raise csv.Error
            self.names = [" ".join(name.split()) for name in self._cells(header)]
        except csv.Error:
            raise UnreadableFile("the header line is not CSV: a quote in it is not closed") from None
        self.fields: Sequence[Field | None] = read_header(self.names, given)
        found = [position for position, field in enumerate(self.fields) if field is not None and field.name == "key"]
        self._key_position = found[0] if found else None

    def __iter__(self) -> Iterator[Row | BrokenRow]:
        record = 0
        for line in self._lines:
            if line.trouble is None and not line.text.strip():
                continue
            item = self._broken(line, line.trouble) if line.trouble is not None else self._row(line)
            if item is not None:
                record += 1
                yield replace(item, record=record)

    def _row(self, first: Line) -> Row | BrokenRow | None:
        """Read the row that begins with *first*. None for one without any value, as spreadsheets write them."""
        record, trouble = self._record(first)
        cells: list[str] = []
        if trouble is None:
            try:
                cells = [cell.strip() for cell in self._cells(record)]
            except csv.Error:
                trouble = "the row is not CSV: a quote stands where none may"
        if trouble is None and not any(cells):
            return None
        width = len(self.fields)
        if trouble is None and (len(cells) < width or any(cells[width:])):
            trouble = f"the row has {len(cells)} cells, the header has {width}"
        if trouble is not None:
            self._lines.give_back(record[1:])
            return self._broken(first, trouble)
        return self._read(first, cells)

    def _read(self, first: Line, cells: Sequence[str]) -> Row | BrokenRow:
        values: dict[str, str] = {}
        key = _key_of(first)
        if self._key_position is not None:
            key = cells[self._key_position]
            if self._given.is_nothing(key):
                return BrokenRow(first.number, _key_of(first), "key", "is required: the file has a key column")
        for position, field in enumerate(self.fields):
            cell = cells[position]
            if field is None or not cell or position == self._key_position:
                continue
            if field is NAMELESS:
                reason = (
                    f'column {position + 1} has no name and holds a value: leave it out with --map "#{position + 1}="'
                )
                return BrokenRow(first.number, key, "row", reason)
            text = self._given.word(field.name, cell)
            if self._given.suspect(text):
                return BrokenRow(first.number, key, *suspicious(field.name, text))
            if not self._given.is_nothing(text):
                values[field.name if field.kind is None else f"{field.kind}.{field.name}"] = text
        self._add_constants(values)
        return keyed(Row(first.number, key, values, typed=False, has_key=self._key_position is not None))

    def _add_constants(self, values: dict[str, str]) -> None:
        """Give the row the constants that it has no value for. Those of another kind are none of its fields."""
        kind = values.get("kind", self._given.constants.get("kind"))
        for name, value in self._given.constants.items():
            first, _, rest = name.partition(".")
            foreign = rest and first in REQUESTS and kind is not None and first != kind
            if not foreign and name not in values and bare(name) not in values:
                values[name] = value

    def _record(self, first: Line) -> tuple[list[Line], str | None]:
        """Return the lines of the record that begins with *first*, and what is wrong with them."""
        record = [first]
        size = len(first.text)
        quotes = first.text.count('"')
        while quotes % 2:
            following = next(self._lines, None)
            if following is None:
                return record, "a quote in the row is not closed"
            record.append(following)
            size += len(following.text)
            quotes += following.text.count('"')
            if following.trouble is not None or len(record) > MOST_LINES or size > LONGEST:
                return record, "a quote in the row is not closed"
        return record, None

    def _cells(self, record: Sequence[Line]) -> list[str]:
        text = "\n".join(line.text for line in record)
        (cells,) = csv.reader([text], delimiter=self._delimiter, strict=True)
        return cells

    def _broken(self, line: Line, reason: str) -> BrokenRow:
        return BrokenRow(line.number, self._key_in(line), "row", reason)

    def _key_in(self, line: Line) -> str:
        """The key of a row that cannot be used, as far as it can be read."""
        if self._key_position is not None:
            with suppress(csv.Error, StopIteration):
                cells = next(csv.reader([line.text], delimiter=self._delimiter))
                key = cells[self._key_position].strip() if self._key_position < len(cells) else ""
                if key and key.isprintable() and len(key) <= LONGEST_KEY and "\ufffd" not in key:
                    return key
        return _key_of(line)


def keyed(row: Row) -> Row | BrokenRow:
    """Return *row*, or a broken row if its key is not valid."""
    if len(row.key) > LONGEST_KEY or not row.key.isprintable():
        return BrokenRow(row.number, f"row-{row.number}", "key", f"must be printable, at most {LONGEST_KEY} characters")
    return row


def _header_line(lines: Lines) -> tuple[Line, str | None]:
    """The first line with a text, and the delimiter that a line like `sep=;` before it names (Excel writes it)."""
    delimiter = None
    for line in lines:
        if line.trouble is not None:
            raise UnreadableFile(f"this is not a CSV file: in its first line, {line.trouble}")
        if delimiter is None and (named := _SEP.fullmatch(line.text.strip())):
            delimiter = named[1]
        elif line.text.strip():
            return line, delimiter
    raise UnreadableFile("the file is empty")


def _sniffed(header: Line, given: ColumnMap) -> str:
    """The delimiter with which the header has most known names, then most columns."""

    def fit(delimiter: str) -> tuple[int, int]:
        names = [name.strip().strip('"') for name in header.text.split(delimiter)]
        known = sum(
            name in given.columns or (not looks_like_data(name) and field_of(name) is not None) for name in names
        )
        return known, len(names)

    return max(DELIMITERS, key=fit)


def _key_of(line: Line) -> str:
    return f"row-{line.number}"
