"""Reads rows of JSON: one object in each line, an array of objects, or objects that span several lines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tokenferry.contract.requests import REQUESTS
from tokenferry.inputs.columns import field_of, shapes
from tokenferry.inputs.csv_rows import keyed
from tokenferry.inputs.json_values import JsonValue, json_values, parsed
from tokenferry.inputs.lines import Lines
from tokenferry.inputs.mapping import NOTHING, ColumnMap, bare
from tokenferry.inputs.rows import BrokenRow, Row, suspicious

_ABSENT: Final = object()
_KEY: Final = re.compile(r'"key"\s*:\s*("[^"\\]{1,200}"|[0-9]{1,18})')


class JsonRows:
    """Checks the beginning at once, and reads a row each time one is asked for."""

    def __init__(self, lines: Lines, given: ColumnMap) -> None:
        """Raises `UnreadableFile` if the beginning shows that this is another kind of file."""
        self._given = given
        self._values = json_values(lines)

    def __iter__(self) -> Iterator[Row | BrokenRow]:
        for record, item in enumerate(self._values, 1):
            if item.trouble is not None:
                yield BrokenRow(item.number, self._key_in(item), "row", item.trouble, record)
            else:
                yield self._row(item.number, record, item.value)

    def _key_in(self, item: JsonValue) -> str:
        """The key of a row that cannot be used, as far as it can be read."""
        found = _KEY.search(item.text)
        key = parsed(found[1]) if found else None
        usable = isinstance(key, str | int) and str(key).isprintable() and "\ufffd" not in str(key)
        return str(key) if usable else f"row-{item.number}"

    def _row(self, number: int, record: int, members: dict[str, Any]) -> Row | BrokenRow:
        row_name = f"row-{number}"
        values: dict[str, Any] = {}
        for name, value in self._mapped(members):
            if name in values:
                reason = "two members of the object hold the same field"
                return BrokenRow(number, row_name, "row", reason, record)
            values[name] = value
        has_key = "key" in values
        key = values.pop("key", row_name)
        if type(key) is int:
            key = str(key)
        if not isinstance(key, str) or not key.strip():
            return BrokenRow(number, row_name, "key", "must be a string or a whole number", record)
        try:
            clean = {name: self._clean(value, bare(name)) for name, value in values.items()}
        except _Suspect as suspect:
            return BrokenRow(number, key.strip(), *suspicious(suspect.path, suspect.word), record)
        clean = {name: value for name, value in clean.items() if value is not _ABSENT}
        self._add_constants(clean)
        return keyed(Row(number, key.strip(), clean, record=record, has_key=has_key))

    def _mapped(self, members: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        columns = self._given.columns
        for name, value in members.items():
            field = columns.get(name, name)
            if field is None or value is None:
                continue
            if self._given.leaves_out_rest and name not in columns and not _is_known(name):
                continue
            yield field, value
        for path, field in columns.items():
            if field is not None and path not in members and (value := _at(members, path)) is not None:
                yield field, value

    def _clean(self, value: Any, path: str) -> Any:
        """Return *value* in the user's words for it. `_ABSENT` if it stands for "no value"."""
        if isinstance(value, dict):
            under = "" if path in REQUESTS else f"{path}."
            clean = {name: self._clean(inner, f"{under}{name}") for name, inner in value.items()}
            return {name: inner for name, inner in clean.items() if inner is not _ABSENT}
        if not isinstance(value, str):
            return value
        text = self._given.word(path, value)
        if text == NOTHING or (text and self._given.is_nothing(text)):
            return _ABSENT
        if self._given.suspect(text):
            raise _Suspect(path, text)
        return text

    def _add_constants(self, values: dict[str, Any]) -> None:
        kind = values.get("kind", self._given.constants.get("kind"))
        inside = values.get(kind) if isinstance(kind, str) else None
        attach = values.get("attach")
        for name, value in self._given.constants.items():
            first, _, rest = name.partition(".")
            if name in values or (first in REQUESTS and rest and first != kind):
                continue
            if first == "attach" and isinstance(attach, dict) and _at(attach, rest) is not None:
                continue
            if isinstance(inside, dict) and _at(inside, bare(name)) is not None:
                continue
            values[name] = value


class _Suspect(Exception):
    """A word that may stand for "no value"."""

    def __init__(self, path: str, word: str) -> None:
        super().__init__(path)
        self.path, self.word = path, word


def _is_known(name: str) -> bool:
    """True if *name* is a field, a group of fields, a kind or the plan."""
    if name in REQUESTS or name == "attach" or field_of(name) is not None:
        return True
    return any(shapes()[kind].at(name) is not None for kind in REQUESTS)


def _at(members: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of nested objects. None if there is none."""
    value: Any = members
    for step in path.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value
