"""What decides how a bank account number is written: its country."""

from __future__ import annotations

from typing import Final


def countries(codes: str) -> frozenset[str]:
    """Country codes, separated by blanks.

    >>> sorted(countries("DE FR"))
    ['DE', 'FR']
    """
    return frozenset(codes.split())


DIGITS_ALONE: Final = countries("AR AU CA GB IN JP MX NZ PE US")
"""Account numbers are digits: a dash in one is decoration. Elsewhere some formats need dashes."""
IBAN_IS_ENOUGH: Final = countries(
    "AE AT BE BG BJ CH CI CR CY CZ DE DK EE ES FI FR GB GI GR HR HU IE IL IS IT LI LT LU LV MC MT NE NL NO PL PT RO SE "
    "SI SK SN TN"
)
"""Stripe wants no bank code beside an IBAN."""
