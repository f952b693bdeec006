"""Plain text must hold no number that belongs into the sealed request.

The parameters of a target (a description, an e-mail address, metadata) are part of a signed order. They travel and are
kept in clear, and go to Stripe. Reasons never repeat a value.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from types import MappingProxyType
from typing import Final

from pydantic import BaseModel

from tokenferry.contract.clear_text import bare, holds_card_number, holds_secret, is_secret_name, names_in, texts_in
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


def trouble_in(target: BaseModel, request: TokenRequest | None = None) -> str | None:
    """Why *target* must not travel: it holds a number of *request*, or what can only be a secret of somebody.

    Texts are folded before they are searched, so separators, other digits and invisible characters hide nothing. A
    number counts as a card number if beginning, length and check digit are right, and it stands alone. An id with
    letters is none, and neither is a telephone number.
    """
    given = target.model_dump(exclude_none=True, warnings=False)
    texts = list(texts_in(given))
    for name, secret in _numbers(request) if request is not None else ():
        if any(_repeats(text, secret) for text in (*texts, "".join(texts_in(given.get("metadata"))))):
            return f"repeats {name}; leave it out: it would travel and rest in clear"
    if any(map(is_secret_name, names_in(given.get("metadata")))):
        return "names a verification code, an id number or a date of birth; leave it out: it would travel in clear"
    if any(map(holds_card_number, (*texts, *_halves(given.get("metadata"))))):
        return "holds what looks like a card number; leave it out: it would travel and rest in clear"
    if any(map(holds_secret, texts)):
        return "holds what looks like a verification code or an id number; leave it out: it would travel in clear"
    return None


def _repeats(text: str, secret: str) -> bool:
    text, secret = bare(text), bare(secret)
    if len(secret) < SEARCHED_FROM:
        return bool(secret) and text == secret
    return secret in text or secret[::-1] in text


def _halves(metadata: object) -> Iterator[str]:
    """Yield what two values say together where each is of digits alone: a number may be split to fit two fields."""
    digits = [text for text in map(bare, texts_in(metadata)) if text.isdigit()]
    yield from (first + second for first, second in pairwise(digits))


def _numbers(model: BaseModel) -> Iterator[tuple[str, str]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _numbers(value)
        elif name in NUMBERS and isinstance(value, str) and "_" not in value:  # or it is the id of a pii token
            yield NUMBERS[name], value
