"""Which rights the form of a token request needs: to clone what was saved earlier, and to send fields of its own."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Final, Union, get_args, get_origin
from urllib.parse import parse_qsl

from pydantic import BaseModel

from tokenferry.contract.requests import REQUESTS, Kind
from tokenferry_worker.keys.policy import Right

SAVED: Final = frozenset({"customer", "card", "bank_account", "bank_account[payment_method]"})
"""Names that stand for a card or bank account that Stripe has already."""
_PLACE: Final = re.compile(r"\[[0-9]+\]")


def rights_needed(kind: Kind, form: str) -> frozenset[Right]:
    """Return the rights without which the request of this *form* is refused.

    >>> sorted(rights_needed("card", "customer=cus_1&card[number]=4242&card[colour]=red"))
    ['clone_saved_card', 'extra_fields']
    """
    needed: set[Right] = set()
    for name, _ in parse_qsl(form, keep_blank_values=True):
        if name in SAVED:
            needed.add("clone_saved_card")
        spelled = _PLACE.sub("[#]", name)
        if not names_of(kind).intersection((spelled, f"{spelled.rpartition('[')[0]}[*]")):
            needed.add("extra_fields")
    return frozenset(needed)


@cache
def names_of(kind: Kind) -> frozenset[str]:
    """Return the names in a form of this *kind* that the contract knows.

    `[#]` stands for every place in a list, `[*]` for every name in a mapping.
    """
    model = REQUESTS[kind]
    fields = model.model_fields
    inside = (_names(f"{kind}[{name}]", field.annotation) for name, field in fields.items() if name not in model.beside)
    return frozenset({*model.beside, *(name for names in inside for name in names)})


def _names(name: str, annotation: Any) -> Iterator[str]:
    origin = get_origin(annotation)
    if origin in (Annotated, Union, types.UnionType):
        parts = get_args(annotation)
        for part in parts[:1] if origin is Annotated else parts:
            yield from _names(name, part)
    elif origin in (tuple, list):
        yield from _names(f"{name}[#]", get_args(annotation)[0])
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for inner, field in annotation.model_fields.items():
            yield from _names(f"{name}[{field.serialization_alias or inner}]", field.annotation)
    elif origin in (dict, Mapping):
        yield f"{name}[*]"
    else:
        yield name
