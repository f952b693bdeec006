"""Plain text must hold no number that belongs into the sealed request.

The parameters of a target (a description, an e-mail address, metadata) are part of a signed order. They travel and are
kept in clear, and go to Stripe. Reasons never repeat a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel
from stdnum import luhn

from tokenferry.contract.requests import TokenRequest

NUMBERS: Final = MappingProxyType(
    {
        "number": "the card number",
        "account_number": "the account number",
        "id_number": "the id number",
        "id_number_secondary": "the id number",
    }
)
"""Fields of a request that are secret wherever they are written."""
SEARCHED_FROM: Final = 8
"""Least length of a number that is searched for inside texts: a shorter one is found in many by chance."""

_RUN: Final = re.compile(r"(?<![0-9A-Za-z_])[0-9](?:[ -]?[0-9]){13,18}(?![0-9A-Za-z_])")
_CARD: Final = re.compile(
    r"4\d{15}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[68]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}|6(?:011|5\d\d|4[4-9]\d)\d{12}|62\d{14}(?:\d{3})?"
)
"""Beginning and length together, by brand. Telephone numbers have at most 15 digits, and these begin otherwise."""


def trouble_in(target: BaseModel, request: TokenRequest | None = None) -> str | None:
    """Why *target* must not travel: it holds a number of *request*, or what can only be a card number.

    A number counts as a card number if beginning, length and check digit are right, and it stands alone. An id with
    letters is none, and neither is a telephone number.
    """
    texts = list(_texts(target.model_dump(exclude_none=True, warnings=False)))
    for name, secret in _numbers(request) if request is not None else ():
        if any(_repeats(text, secret) for text in texts):
            return f"repeats {name}; leave it out: it would travel and rest in clear"
    for text in texts:
        for found in _RUN.finditer(text):
            digits = re.sub("[ -]", "", found[0])
            if _CARD.fullmatch(digits) and luhn.is_valid(digits):
                return "holds what looks like a card number; leave it out: it would travel and rest in clear"
    return None


def _repeats(text: str, secret: str) -> bool:
    text, secret = _bare(text), _bare(secret)
    return secret in text if len(secret) >= SEARCHED_FROM else bool(secret) and text == secret


def _bare(text: str) -> str:
    return "".join(filter(str.isalnum, text)).upper()


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inside in value.items():
            yield str(name)
            yield from _texts(inside)
    elif isinstance(value, list | tuple):
        for inside in value:
            yield from _texts(inside)


def _numbers(model: BaseModel) -> Iterator[tuple[str, str]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _numbers(value)
        elif name in NUMBERS and isinstance(value, str) and "_" not in value:  # or it is the id of a pii token
            yield NUMBERS[name], value
