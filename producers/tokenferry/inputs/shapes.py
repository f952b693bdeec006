"""The shapes of requests and targets, derived from the models: which fields are nested, and which take a number.

A CSV cell is always text, and the models are strict: the text "12" is not a valid day of birth. So a cell is converted
to the type of its field if that is unambiguous. Otherwise it stays as it is, and the model says what is wrong.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

_WHOLE = re.compile(r"-?[0-9]{1,15}")
_DECIMAL = re.compile(r"-?[0-9]{1,12}(?:\.[0-9]{1,12})?")
_LONGEST_LIST = 50


@dataclass(frozen=True)
class Shape:
    """One field or a whole model: its plain type, or the fields inside it."""

    plain: type | None = None
    fields: Mapping[str, Shape] = field(default_factory=dict)
    each: Shape | None = None
    """The shape of every item of a list, or of every value of a dictionary."""
    keyed: bool = False
    """True for a dictionary, whose keys the caller chooses. False for a list."""

    def at(self, path: str) -> Shape | None:
        """Return the shape at the dotted *path*. None if there is no such field.

        >>> from tokenferry.contract.requests import AccountRequest
        >>> shape_of(AccountRequest).at("individual.dob.day").plain
        <class 'int'>
        """
        shape: Shape | None = self
        for step in path.split("."):
            if shape is None:
                return None
            shape = shape._below(step)
        return shape

    def _below(self, step: str) -> Shape | None:
        if self.each is None:
            return self.fields.get(step)
        if self.keyed:
            return self.each if step else None
        return self.each if step.isascii() and step.isdigit() and int(step[:4]) < _LONGEST_LIST else None

    def leaves(self, under: str = "") -> Iterator[str]:
        """The dotted names of all plain values. `.0` stands for an item of a list, `.KEY` for a key of a dictionary."""
        if self.plain is not None:
            yield under
        if self.each is not None:
            yield from self.each.leaves(f"{under}.{'KEY' if self.keyed else '0'}")
        for name, shape in self.fields.items():
            yield from shape.leaves(f"{under}.{name}" if under else name)

    @property
    def is_date(self) -> bool:
        """True for a day, a month and a year, which a file may hold as one date."""
        return self.fields.keys() == {"day", "month", "year"}

    def read(self, text: str) -> Any:
        """Convert *text* to the type of this field. Return it unchanged if that is not clear."""
        if self.plain is bool and text.casefold() in ("true", "false"):
            return text.casefold() == "true"
        if self.plain is int and _WHOLE.fullmatch(text):
            return int(text)
        if self.plain is float and _DECIMAL.fullmatch(text):
            return float(text)
        return text


@cache
def shape_of(model: type[BaseModel]) -> Shape:
    """The shape of a model."""
    return Shape(fields={name: _shape(declared.annotation) for name, declared in model.model_fields.items()})


def _shape(annotation: Any) -> Shape:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _shape(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        # None and "" (which unsets a value) have no shape. One alternative remains.
        return next(shape for shape in map(_shape, get_args(annotation)) if shape != _NOTHING)
    if origin is Literal:
        return Shape(plain=str) if get_args(annotation) != ("",) else _NOTHING
    if origin is tuple:
        return Shape(each=_shape(get_args(annotation)[0]))
    if origin is dict:
        return Shape(each=_shape(get_args(annotation)[1]), keyed=True)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return shape_of(annotation)
    return Shape(plain=annotation) if annotation in (str, int, float, bool) else _NOTHING


_NOTHING = Shape()


class DoubleField(ValueError):
    """A name is given twice: as a value and as a group. The message is the name."""


def nested(texts: Mapping[str, str], shape: Shape | None) -> dict[str, Any]:
    """Make nested objects of texts by dotted name, and convert each text to the type of its field.

    Raises `DoubleField`.
    """
    fields = {name: (shape.at(name) if shape else None) for name in texts}
    return planted({name: field.read(texts[name]) if field else texts[name] for name, field in fields.items()}, shape)


def planted(values: Mapping[str, Any], shape: Shape | None = None) -> dict[str, Any]:
    """Make nested objects of values by dotted name. Positions become lists if *shape* has a list there.

    Raises `DoubleField`.

    >>> planted({"dob.day": 1, "dob.year": 1901})
    {'dob': {'day': 1, 'year': 1901}}
    """
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *outer, last = path.split(".")
        group = tree
        for step in outer:
            group = group.setdefault(step, {})
            if not isinstance(group, dict):
                raise DoubleField(path)
        if last in group:
            raise DoubleField(path)
        group[last] = value
    return {name: _listed(value, shape.fields.get(name) if shape else None) for name, value in tree.items()}


def _listed(value: Any, shape: Shape | None) -> Any:
    if not isinstance(value, dict) or shape is None:
        return value
    if shape.each is not None and not shape.keyed and all(shape.at(name) is not None for name in value):
        return [value[name] for name in sorted(value, key=int)]
    return {name: _listed(item, shape.fields.get(name)) for name, item in value.items()}
