"""Guesses which field each column of a file holds, and writes the guesses as a map file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from tokenferry.inputs.columns import field_of, looks_like_data

_WORDS: Final = (
    ("key", "id|row id|record id|seller id|customer id|user id|external id|external identifier|reference|uuid"),
    ("number", "number|card|card no|card number|cc number|cc num|ccnum|pan|primary account number|credit card number"),
    ("exp_month", "exp month|expiration month|expiry month|card exp month|cc exp month|month"),
    ("exp_year", "exp year|expiration year|expiry year|card exp year|cc exp year|year"),
    ("expiry", "exp|expiry|expires|exp date|expiry date|expiration|expiration date|valid thru|valid until|valid to"),
    ("cvc", "cvc|cvv|cvv2|cvc2|cid|security code|card code"),
    ("name", "name|card holder|cardholder|cardholder name|card holder name|holder|name on card|full name"),
    ("first_name", "first name|given name|forename"),
    ("last_name", "last name|surname|family name"),
    ("account_number", "iban|account|account no|account number|bank account number"),
    ("routing_number", "bic|swift|swift code|routing|routing no|routing number|aba|sort code|bsb|blz|bank code"),
    ("account_holder_name", "account holder|account holder name|account owner|bank account holder"),
    ("account_holder_type", "account holder type|holder type"),
    ("country", "country|country code|bank country"),
    ("currency", "currency|currency code"),
    ("address_line1", "address|street|address 1|address line 1|line 1|line1|billing address"),
    ("address_line2", "address 2|address line 2|line 2|line2"),
    ("address_city", "city|town"),
    ("address_state", "state|province|region"),
    ("address_zip", "zip|zip code|postal|postal code|postcode|post code"),
    ("kind", "kind|type"),
)
_FIELDS: Final = {word: name for name, words in _WORDS for word in words.split("|")}


def guessed(names: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """The field of each column, or None where there is no good guess. No field is guessed twice."""
    names = list(names)
    guesses = [_guess(name) for name in names]
    taken: set[str] = set()
    for name, guess in zip(names, guesses, strict=True):
        if guess == "country" and "number" in guesses:
            guess = "address_country"  # a card has no country of its own
        if guess in taken:
            guess = None
        if guess is not None:
            taken.add(guess)
        yield name, guess


def map_file(names: Sequence[str]) -> str:
    """The text of a map file with a line for each column. Names that may be data stand by their position."""
    lines = [
        "# Guesses from the header. Read every line, correct it, then check with:",
        "#   tokenferry import FILE --map-file THIS_FILE --dry-run",
        '# "" leaves a column out. All fields: tokenferry import --columns',
        "",
        "# leave_out_rest = true          # leave out every column that is not named here",
        '# null = ["NULL", "N/A"]         # words that stand for "no value"',
        "",
        "[columns]",
    ]
    for position, (name, guess) in enumerate(guessed(names), 1):
        column = json.dumps(name, ensure_ascii=False) if name and not looks_like_data(name) else f'"#{position}"'
        lines.append(f'{column} = "{guess}"' if guess else f'{column} = ""    # no guess: left out')
    fields = {guess for _, guess in guessed(names)}
    kind = "card" if "number" in fields else "bank_account" if "account_number" in fields else None
    lines += [
        "",
        "[constants]                      # for rows that give no value",
        f'kind = "{kind}"' if kind and "kind" not in fields else '# kind = "card"',
        '# "attach.to" = "customer_create"',
        "",
        "# [values.account_holder_type]   # other words for values",
        '# Company = "company"',
        "",
        "# [formats]                      # forms of dates that are not read by themselves",
        '# expiry = "YYMM"',
    ]
    return "\n".join(lines) + "\n"


def _guess(name: str) -> str | None:
    if not name or looks_like_data(name):
        return None
    if field_of(name) is not None:
        return name
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.rpartition(".")[2])
    plain = re.sub(r"[^a-z0-9]+", " ", words.casefold()).strip()
    return _FIELDS.get(plain) or (_FIELDS.get(plain.rstrip("s")))
