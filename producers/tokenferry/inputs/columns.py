"""The names that columns may have.

A message repeats a name only if it looks like a name, because the first line of a file without a header is data.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import get_args

from tokenferry.contract.requests import REQUESTS, Kind
from tokenferry.contract.targets import TARGETS
from tokenferry.inputs.shapes import Shape, shape_of
from tokenferry.inputs.tidying import COMBINED

ABOUT_THE_ROW = ("key", "kind", "platform", "connected_account", "lane")
"""Columns that are not fields of the request."""

_LOOKS_LIKE_A_NAME = re.compile(r"[^\W\d][\w .:/()#&'-]{0,60}")
_MANY_DIGITS = 5


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
    if rest and first in REQUESTS and _takes(first, rest):
        return Field(rest, kind=first)
    return Field(name) if any(_takes(kind, name) for kind in REQUESTS) else None


def date_at(name: str) -> bool:
    """True if the column *name* holds a date: day, month and year."""
    first, _, rest = name.partition(".")
    if first == "attach":
        return any(_is_date(shapes()[to].at(rest)) for to in TARGETS)
    if rest and first in REQUESTS and _is_date(shapes()[first].at(rest)):
        return True
    return any(_is_date(shapes()[kind].at(name)) for kind in REQUESTS)


def shape_at(owner: str, path: str) -> Shape | None:
    """The shape of a field of a kind or target that a column can hold. None if there is no such field."""
    shape = shapes()[owner].at(path)
    return shape if shape is not None and (shape.plain is not None or shape.is_date) else None


def _takes(kind: str, path: str) -> bool:
    return shape_at(kind, path) is not None or path in COMBINED.get(kind, ())


def _is_date(shape: Shape | None) -> bool:
    return shape is not None and shape.is_date


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
    near = difflib.get_close_matches(plain, known_names(), n=2, cutoff=0.7)
    if not near:
        tail = plain.rpartition("_")[2]
        near = [known for known in known_names() if tail and known == tail][:1]
    return f" (did you mean {' or '.join(near)}?)" if near else ""
