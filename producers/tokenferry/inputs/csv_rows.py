"""Reads rows of a CSV file. A broken row is one rejected row, not a broken file.

A quoted cell may contain line ends, so one record can span several lines, up to a limit. If a quote is never closed,
only the row that opened it is rejected: the lines after it are read again as rows of their own.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from tokenferry.inputs.columns import Field, field_of, looks_like_data, read_header
from tokenferry.inputs.lines import LONGEST, Line, Lines
from tokenferry.inputs.rows import BrokenRow, Row, UnreadableFile

DELIMITERS: Final = (",", ";", "\t", "|")
MOST_LINES: Final = 100
"""Lines that one record may span."""
LONGEST_KEY: Final = 200

csv.field_size_limit(LONGEST)


class CsvRows:
    """Reads the header at once, and a row each time one is asked for."""

    def __init__(self, lines: Lines, maps: Mapping[str, str | None], *, delimiter: str | None = None) -> None:
        """Raises `UnreadableFile` if the first line is not a valid header."""
        self._lines = lines
        header = _header_line(lines)
        self._delimiter = delimiter or _sniffed(header, maps)
        try:
            names = self._cells([header])
        except csv.Error:
            raise UnreadableFile("the header line is not CSV: a quote in it is not closed") from None
        self.fields: Sequence[Field | None] = read_header(names, maps)
        self._has_key = any(field is not None and field.name == "key" for field in self.fields)

    def __iter__(self) -> Iterator[Row | BrokenRow]:
        for line in self._lines:
            if line.trouble is not None:
                yield self._broken(line, line.trouble)
            elif line.text.strip():
                yield self._row(line)

    def _row(self, first: Line) -> Row | BrokenRow:
        record, trouble = self._record(first)
        cells: list[str] = []
        if trouble is None:
            try:
                cells = self._cells(record)
            except csv.Error:
                trouble = "the row is not CSV: a quote stands where none may"
        if trouble is None and len(cells) != len(self.fields):
            trouble = f"the row has {len(cells)} cells, the header has {len(self.fields)}"
        if trouble is not None:
            self._lines.give_back(record[1:])
            return self._broken(first, trouble)
        values: dict[str, str] = {}
        for field, cell in zip(self.fields, cells, strict=True):
            if field is not None and (text := cell.strip()):
                values[field.name if field.kind is None else f"{field.kind}.{field.name}"] = text
        key = values.pop("key", "") if self._has_key else _key_of(first)
        if not key:
            return BrokenRow(first.number, _key_of(first), "key", "is required: the file has a key column")
        return keyed(Row(first.number, key, values, typed=False))

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
        return BrokenRow(line.number, _key_of(line), "row", reason)


def keyed(row: Row) -> Row | BrokenRow:
    """Return *row*, or a broken row if its key is not valid."""
    if len(row.key) > LONGEST_KEY or not row.key.isprintable():
        return BrokenRow(row.number, f"row-{row.number}", "key", f"must be printable, at most {LONGEST_KEY} characters")
    return row


def _header_line(lines: Lines) -> Line:
    for line in lines:
        if line.trouble is not None:
            raise UnreadableFile(f"this is not a CSV file in UTF-8: in its first line, {line.trouble}")
        if "\r" in line.text:
            raise UnreadableFile("the line ends are CR alone; save the file with LF or CRLF")
        if line.text.strip():
            return line
    raise UnreadableFile("the file is empty")


def _sniffed(header: Line, maps: Mapping[str, str | None]) -> str:
    """The delimiter with which the header has most known names, then most columns."""

    def fit(delimiter: str) -> tuple[int, int]:
        names = [name.strip().strip('"') for name in header.text.split(delimiter)]
        known = sum(name in maps or (not looks_like_data(name) and field_of(name) is not None) for name in names)
        return known, len(names)

    return max(DELIMITERS, key=fit)


def _key_of(line: Line) -> str:
    return f"row-{line.number}"
