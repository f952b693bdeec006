"""Reads rows of a JSONL file: one object in each line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tokenferry.inputs.csv_rows import keyed
from tokenferry.inputs.lines import Lines
from tokenferry.inputs.rows import BrokenRow, Row, UnreadableFile


class JsonlRows:
    """Checks the first line at once, and reads a row each time one is asked for."""

    def __init__(self, lines: Lines, maps: Mapping[str, str | None]) -> None:
        """Raises `UnreadableFile` if the first line shows that this is another kind of file."""
        self._lines = lines
        self._maps = maps
        for line in lines:
            if line.trouble is not None and "MiB" not in line.trouble:
                raise UnreadableFile(f"this is not a JSONL file in UTF-8: in its first line, {line.trouble}")
            if line.trouble is None and not line.text.strip():
                continue
            if line.trouble is None and not line.text.lstrip().startswith("{"):
                raise UnreadableFile("this is not a JSONL file: its first line is not a JSON object")
            lines.give_back([line])
            return
        raise UnreadableFile("the file is empty")

    def __iter__(self) -> Iterator[Row | BrokenRow]:
        for line in self._lines:
            name = f"row-{line.number}"
            if line.trouble is not None:
                yield BrokenRow(line.number, name, "row", line.trouble)
            elif line.text.strip():
                value = parsed(line.text)
                if isinstance(value, dict):
                    yield self._row(line.number, name, value)
                else:
                    yield BrokenRow(line.number, name, "row", f"the line {why_none(line.text)}")

    def _row(self, number: int, row_name: str, members: dict[str, Any]) -> Row | BrokenRow:
        values: dict[str, Any] = {}
        for name, value in members.items():
            field = self._maps.get(name, name)
            if field is not None and value is not None:
                if field in values:
                    return BrokenRow(number, row_name, "row", "two members of the object hold the same field")
                values[field] = value
        key = values.pop("key", row_name)
        if type(key) is int:
            key = str(key)
        if not isinstance(key, str) or not key.strip():
            return BrokenRow(number, row_name, "key", "must be a string or a whole number")
        return keyed(Row(number, key.strip(), values))


def parsed(text: str) -> Any:
    """Return the JSON value of *text*, or None if it is not JSON. An error would contain the text."""
    try:
        return _loaded(text)
    except (ValueError, RecursionError):
        return None


def why_none(text: str) -> str:
    """Why `parsed` does not accept *text* as a JSON object."""
    try:
        value = _loaded(text)
    except _Refused as error:
        return str(error)
    except (ValueError, RecursionError):
        half = text.lstrip().startswith("{")
        return f"is not a JSON object: {'it has a mistake, or its end is missing' if half else 'it is not JSON'}"
    return f"is not a JSON object: it is {_JSON_NAMES.get(type(value), 'a single value')}"


_JSON_NAMES = {list: "a list", str: "a text", int: "a number", float: "a number"}


class _Refused(ValueError):
    """Something that Python's parser would accept. The message repeats nothing of it."""


def _loaded(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse, object_pairs_hook=_once)


def _refuse(_: str) -> None:
    raise _Refused("holds NaN or Infinity, which are no numbers of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a member that is given twice: one of its values would be lost."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Refused("holds an object with the same name twice")
    return members
