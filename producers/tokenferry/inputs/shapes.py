"""What the fields of a request or target look like, read off the models: which are nested, which want a number.

A CSV cell is always text, and the models are strict: the text "12" is no day of birth. So a cell is turned into
what its field wants where that is unambiguous, and handed on as it is where not; the model then says what is wrong.
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
    """One field, or a whole model: what can stand below it, or which plain type it is."""

    plain: type | None = None
    fields: Mapping[str, Shape] = field(default_factory=dict)
    each: Shape | None = None
    """What every item of a list, or every value under a free key, looks like."""
    keyed: bool = False
    """Whether `each` stands under keys of the caller's own rather than under positions."""

    def at(self, path: str) -> Shape | None:
        """What the dotted *path* leads to, or None where no such field is.

        >>> from tokenferry.contract.requests import AccountRequest
        >>> shape_of(AccountRequest).at("individual.dob.day").plain
        <class 'int'>
        """
        here: Shape | None = self
        for step in path.split("."):
            if here is None:
                return None
            here = here._below(step)
        return here

    def _below(self, step: str) -> Shape | None:
        if self.each is None:
            return self.fields.get(step)
        if self.keyed:
            return self.each if step else None
        return self.each if step.isascii() and step.isdigit() and int(step[:4]) < _LONGEST_LIST else None

    def leaves(self, under: str = "") -> Iterator[str]:
        """The dotted names of every plain value; `.0` stands for a list, `.KEY` for free keys."""
        if self.plain is not None:
            yield under
        if self.each is not None:
            yield from self.each.leaves(f"{under}.{'KEY' if self.keyed else '0'}")
        for name, shape in self.fields.items():
            yield from shape.leaves(f"{under}.{name}" if under else name)

    def read(self, text: str) -> Any:
        """The cell *text* as this field wants it, unchanged where that is not clear."""
        if self.plain is bool and text.casefold() in ("true", "false"):
            return text.casefold() == "true"
        if self.plain is int and _WHOLE.fullmatch(text):
            return int(text)
        if self.plain is float and _DECIMAL.fullmatch(text):
            return float(text)
        return text


@cache
def shape_of(model: type[BaseModel]) -> Shape:
    """The shape of a model, below it the shapes of its fields."""
    return Shape(fields={name: _shape(declared.annotation) for name, declared in model.model_fields.items()})


def _shape(annotation: Any) -> Shape:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _shape(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        # None and "" (which unsets a value) are no shapes of their own: what remains is one.
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


def planted(values: Mapping[str, Any], shape: Shape | None = None) -> dict[str, Any]:
    """Dotted names as nested objects; positions become lists where *shape* has a list.

    Raises `ValueError` naming the field where a name is both a value and a group.

    >>> planted({"dob.day": 1, "dob.year": 1901})
    {'dob': {'day': 1, 'year': 1901}}
    """
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *outer, last = path.split(".")
        here = tree
        for step in outer:
            here = here.setdefault(step, {})
            if not isinstance(here, dict):
                raise ValueError(path)
        if last in here:
            raise ValueError(path)
        here[last] = value
    return {name: _listed(value, shape.fields.get(name) if shape else None) for name, value in tree.items()}


def _listed(value: Any, shape: Shape | None) -> Any:
    if not isinstance(value, dict) or shape is None:
        return value
    if shape.each is not None and not shape.keyed and all(shape.at(name) is not None for name in value):
        return [value[name] for name in sorted(value, key=int)]
    return {name: _listed(item, shape.fields.get(name)) for name, item in value.items()}
