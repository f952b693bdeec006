"""Removes what may be a card number from texts that people see."""

from __future__ import annotations

import re
from typing import Final

from stdnum import luhn

LONG_NUMBER: Final = re.compile(r"[0-9](?:[ -]?[0-9]){11,}")


def masked(text: str) -> str:
    """Shorten every number of twelve or more digits in *text* to its last four.

    >>> masked("row-7"), masked("customer 0000 0000 0000")
    ('row-7', 'customer ...0000')
    """
    return LONG_NUMBER.sub(lambda found: "..." + found[0][-4:], text)


def may_be_card_number(text: str) -> bool:
    """True if *text* contains a number of 12 to 19 digits whose check digit (Luhn) is right, as every card number has.

    One number in ten is like that by chance.

    >>> may_be_card_number("200000000001"), may_be_card_number("000000000000"), may_be_card_number("seller-7")
    (False, True, False)
    """
    found = (re.sub("[ -]", "", match[0]) for match in LONG_NUMBER.finditer(text))
    return any(len(digits) <= 19 and luhn.is_valid(digits) for digits in found)
