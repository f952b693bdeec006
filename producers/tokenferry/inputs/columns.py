"""What the columns of a file mean. Their names are field names, or `--map` maps them to field names.

The whole header is checked before anything is sent. A message repeats a name only if it looks like a name, because the
first line of a file without a header is data.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import get_args

from tokenferry.contract.requests import REQUESTS, Kind
from tokenferry.contract.targets import TARGETS
from tokenferry.errors import ProducerError
from tokenferry.inputs.rows import UnreadableFile
from tokenferry.inputs.shapes import Shape, shape_of

ABOUT_THE_ROW = ("key", "kind", "platform", "connected_account", "lane")
"""Columns that are not fields of the request."""

_LOOKS_LIKE_A_NAME = re.compile(r"[^\W\d][\w .:/()#&'-]{0,60}")
_MANY_DIGITS = 5


class InvalidMapping(ProducerError, ValueError):
    """A `--map` that is not valid. The message is safe to show."""

    exit_code = 2


@dataclass(frozen=True)
class Field:
    """The field that one column holds. `kind` is None if every kind may have it."""

    name: str
    kind: str | None = None


def field_of(name: str) -> Field | None:
    """Return the field with this column name, or None.

    >>> field_of("card.number"), field_of("number").kind, field_of("attach.customer").name
    (Field(name='number', kind='card'), None, 'attach.customer')
    """
    if name in ABOUT_THE_ROW:
        return Field(name)
    first, _, rest = name.partition(".")
    if rest and first == "attach":
        return Field(name) if rest == "to" or any(shape_at(to, rest) for to in TARGETS) else None
    if rest and first in REQUESTS and shape_at(first, rest):
        return Field(rest, kind=first)
    return Field(name) if any(shape_at(kind, name) for kind in REQUESTS) else None


def shape_at(owner: str, path: str) -> Shape | None:
    """The shape of a plain field of a kind or target. None if there is no such field."""
    shape = shapes()[owner].at(path)
    return shape if shape is not None and shape.plain is not None else None


@cache
def shapes() -> Mapping[str, Shape]:
    """The shapes of every kind and every target, by name."""
    models = {**{str(kind): model for kind, model in REQUESTS.items()}, **TARGETS}
    return {name: shape_of(model) for name, model in models.items()}


@cache
def known_names() -> tuple[str, ...]:
    """All column names, for suggestions and help."""
    kinds = {leaf for kind in get_args(Kind) for leaf in shapes()[kind].leaves()}
    targets = {f"attach.{leaf}" for to in TARGETS for leaf in shapes()[to].leaves()}
    return (*ABOUT_THE_ROW, *sorted(kinds), *sorted(targets))


def parse_maps(maps: Iterable[str]) -> dict[str, str | None]:
    """Parse `COLUMN=FIELD` options into field names by column name. None ignores the column.

    Raises `InvalidMapping`.
    """
    parsed: dict[str, str | None] = {}
    for text in maps:
        source, equals, target = (part.strip() for part in text.rpartition("="))
        if not equals or not source:
            raise InvalidMapping('--map wants "COLUMN=FIELD", or "COLUMN=" to leave a column out')
        if source in parsed:
            raise InvalidMapping(f"--map names {quoted(source)} twice")
        if target and field_of(target) is None:
            raise InvalidMapping(f"--map: {quoted(target)} is not a field{suggestion(target)}")
        parsed[source] = target or None
    return parsed


def read_header(header: Sequence[str], maps: Mapping[str, str | None]) -> list[Field | None]:
    """Return the field of each column. None for a column that is ignored.

    Raises `UnreadableFile`, which names unknown columns and says how to continue.
    """
    names = [name.strip() for name in header]
    for position, name in enumerate(names, 1):
        if name and name not in maps and looks_like_data(name):
            raise UnreadableFile(f"column {position} of the header looks like data: the file has no header line")
    if missing := [source for source in maps if source not in names]:
        raise UnreadableFile(f"--map names {_some(missing)}, and the header has no such column")
    fields: list[Field | None] = []
    unknown: list[str] = []
    for position, name in enumerate(names, 1):
        field_name = maps.get(name, name)
        field = field_of(field_name) if field_name else None
        fields.append(field)
        if field is None and name not in maps:
            unknown.append(f"{quoted(name)}{suggestion(name)}" if name else f"column {position} has no name")
    if unknown:
        listed = "; ".join(unknown[:5]) + (f"; and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise UnreadableFile(
            f'unknown column: {listed}. Name the field with --map "COLUMN=FIELD", or leave it out with --map "COLUMN="'
        )
    _refuse_twice(names, fields)
    return fields


def _refuse_twice(names: Sequence[str], fields: Sequence[Field | None]) -> None:
    seen: dict[Field, str] = {}
    for name, field in zip(names, fields, strict=True):
        if field is None:
            continue
        if field in seen:
            raise UnreadableFile(f"columns {quoted(seen[field])} and {quoted(name)} both hold {field.name}")
        seen[field] = name


def looks_like_data(name: str) -> bool:
    """True if *name* may be a value: it has many digits, is a mail address, or does not look like a name.

    >>> looks_like_data("Card No."), looks_like_data("4242 4242"), looks_like_data("z@example.com")
    (False, True, True)
    """
    return sum(map(str.isdigit, name)) >= _MANY_DIGITS or not _LOOKS_LIKE_A_NAME.fullmatch(name)


def quoted(name: str) -> str:
    """Return *name* in quotes if it looks like a name. Otherwise say that it is not shown."""
    return "(not shown: it looks like data)" if looks_like_data(name) else f"'{name}'"


def suggestion(name: str) -> str:
    """Suggest similar names, in words."""
    plain = re.sub(r"[^a-z0-9.]+", "_", name.casefold()).strip("_")
    near = difflib.get_close_matches(plain, known_names(), n=3, cutoff=0.6)
    if not near:
        tail = plain.rpartition("_")[2]
        near = [known for known in known_names() if tail and known == tail][:1]
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(quoted(name) for name in names[:5])
