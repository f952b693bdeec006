"""Reads JSON values one by one: from JSON lines, from one long array, or from objects that span several lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from tokenferry.inputs.lines import LONGEST, Lines
from tokenferry.inputs.rows import UnreadableFile

_SIGN: Final = re.compile(r'["\\{}\[\]]')
_BETWEEN: Final = " \t\r\n,[]\ufeff"
"""What may stand between the objects of an array."""


@dataclass(frozen=True, slots=True)
class JsonValue:
    """One value of a file, or what is wrong with it."""

    number: int
    """The line in JSON lines; otherwise which object of the file it is. Counted from 1."""
    value: Any = field(default=None, repr=False)
    trouble: str | None = None
    text: str = field(default="", repr=False)
    """What can be read of the line where there is trouble: to find the key in it, and for nothing else."""


def json_values(lines: Lines) -> Iterator[JsonValue]:
    """Read every value of a file. Raises `UnreadableFile` if its beginning shows that it is no such file."""
    start = lines.start()
    if not start:
        raise UnreadableFile("the file is empty")
    if start[0] not in "{[":
        raise UnreadableFile("this is not JSON: the file begins neither with an object nor with an array")
    if start[0] == "[" or _spans_lines(lines):
        return _whole_objects(lines)
    return _of_lines(lines)


def _spans_lines(lines: Lines) -> bool:
    """True if the first object does not end where its line ends, and the next line begins none.

    A first line that is a whole object decides it: whoever writes into a pipe may wait for its outcome.
    """
    first = next(lines, None)
    if first is None or first.trouble or parsed(first.text) is not None:
        lines.give_back([first] if first is not None else [])
        return False
    second = next(lines, None)
    lines.give_back([line for line in (first, second) if line is not None])
    return second is not None and not second.text.lstrip().startswith("{")


def _of_lines(lines: Lines) -> Iterator[JsonValue]:
    for line in lines:
        if line.trouble is not None:
            yield JsonValue(line.number, trouble=line.trouble, text=line.text)
        elif line.text.strip():
            value = parsed(line.text)
            if isinstance(value, dict):
                yield JsonValue(line.number, value)
            else:
                yield JsonValue(line.number, value, f"the line {why_none(line.text)}")


def _whole_objects(lines: Lines) -> Iterator[JsonValue]:
    number = 0
    objects = _Objects()
    try:
        for piece in _text_of(lines):
            for text in objects.cut(piece):
                number += 1
                yield _one(number, text)
    except UnreadableFile as error:
        yield JsonValue(number + 1, trouble=str(error))
        return
    if objects.open:
        yield JsonValue(number + 1, trouble="the file ends in the middle of an object")


def _text_of(lines: Lines) -> Iterator[str]:
    """The lines that were given back, then the rest."""
    yield from (f"{line.text}\n" for line in lines.given_back())
    yield from lines.pieces()


def _one(number: int, text: str | None) -> JsonValue:
    if text is None:
        return JsonValue(number, trouble="the object is longer than 1 MiB")
    if any("\ud800" <= character <= "\udfff" for character in text):
        return JsonValue(number, trouble="the object is not UTF-8")
    value = parsed(text)
    return JsonValue(number, value, None if isinstance(value, dict) else f"the text {why_none(text)}")


class _Objects:
    """Cuts text into the texts of its outermost objects. What stands between them is a text, too."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._size = 0
        self._depth = 0
        self._in_string = False
        self._escaped = False

    @property
    def open(self) -> bool:
        """True in the middle of an object."""
        return self._depth > 0

    def cut(self, piece: str) -> Iterator[str | None]:
        """Return the objects that end in *piece*. None is one that is too long."""
        start = 0
        for position, sign in self._signs(piece):
            if sign in "{[":
                if not self._depth:
                    if sign == "[":
                        continue
                    if (between := piece[start:position]).strip(_BETWEEN):
                        yield between
                    start = position
                self._depth += 1
            elif self._depth:
                self._depth -= 1
                if not self._depth:
                    yield self._whole(piece[start : position + 1])
                    start = position + 1
        rest = piece[start:]
        if self._depth:
            self._keep(rest)
        elif rest.strip(_BETWEEN):
            yield rest

    def _signs(self, piece: str) -> Iterator[tuple[int, str]]:
        """The brackets of *piece* that are not in a string, with their positions."""
        skip = int(self._escaped)
        self._escaped = False
        for found in _SIGN.finditer(piece):
            position, sign = found.start(), found[0]
            if position < skip:
                continue
            if sign == '"':
                self._in_string = not self._in_string
            elif not self._in_string and sign != "\\":
                yield position, sign
            elif sign == "\\" and self._in_string:
                skip = position + 2
                self._escaped = skip > len(piece)

    def _keep(self, text: str) -> None:
        self._size += len(text)
        if self._size <= LONGEST:
            self._parts.append(text)

    def _whole(self, end: str) -> str | None:
        self._keep(end)
        text = "".join(self._parts) if self._size <= LONGEST else None
        self._parts, self._size = [], 0
        return text


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


_JSON_NAMES: Final = {list: "a list", str: "a text", int: "a number", float: "a number"}


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
