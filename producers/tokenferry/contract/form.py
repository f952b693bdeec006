"""Form encoding as Stripe wants it: bracketed keys and indexed lists, always in the same order.

Equal models give equal bytes: an idempotency key may be repeated only with the same parameters.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote_plus

from pydantic import BaseModel

Pair = tuple[str, str]


def encode(pairs: Iterable[Pair]) -> str:
    """Return the body of a POST.

    >>> encode([("card[name]", "Zoë & Co"), ("expand[0]", "")])
    'card[name]=Zo%C3%AB+%26+Co&expand[0]='
    """
    return "&".join(f"{quote_plus(key, safe='[]')}={quote_plus(value)}" for key, value in pairs)


def flatten(model: BaseModel, *, under: str = "", without: Collection[str] = ()) -> Iterator[Pair]:
    """Yield the pairs of a model in the order of its fields. None is left out, '' is not.

    Field names in *without* are skipped on the first level only.
    """
    for name, field in type(model).model_fields.items():
        if name not in without:
            yield from _pairs(_inside(under, field.serialization_alias or name), getattr(model, name))


def _pairs(key: str, value: Any) -> Iterator[Pair]:
    if value is None:
        return
    if isinstance(value, BaseModel):
        yield from flatten(value, under=key)
    elif isinstance(value, Mapping):
        for name in sorted(value):  # equal mappings may differ in order; equal requests may not differ in bytes
            yield from _pairs(_inside(key, name), value[name])
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from _pairs(_inside(key, str(index)), item)
    else:
        yield key, _spelled(value)


def _inside(outer: str, name: str) -> str:
    return f"{outer}[{name}]" if outer else name


def _spelled(value: str | bool | int | float) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value)
