"""Published test data only: https://docs.stripe.com/testing. People are made up."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

from tokenferry.contract.connect import Address, CalendarDate, Individual
from tokenferry.contract.requests import (
    AccountRequest,
    BankAccountRequest,
    CardRequest,
    PersonRequest,
    PiiRequest,
)

Brand = Literal["visa", "mastercard", "amex", "discover"]

CARDS: Final[Mapping[Brand, str]] = MappingProxyType(
    {
        "visa": "4242424242424242",
        "mastercard": "5555555555554444",
        "amex": "378282246310005",
        "discover": "6011111111111117",
    }
)
DECLINES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "generic_decline": "4000000000000002",
        "insufficient_funds": "4000000000009995",
        "lost_card": "4000000000009987",
        "stolen_card": "4000000000009979",
    }
)
"""Cards that can be tokenized, and are declined when the token is used. By the `decline_code` of the answer."""


def card(brand: Brand = "visa", *, cvc: str | None = None) -> CardRequest:
    """A card that works. *cvc*: any three digits (four for amex); it is not kept in any queue on disk."""
    return CardRequest(number=CARDS[brand], exp_month=12, exp_year=2040, cvc=cvc)


def declined_card(decline_code: str = "generic_decline") -> CardRequest:
    """A card that is declined when its token is used. *decline_code*: one of `DECLINES`."""
    return CardRequest(number=DECLINES[decline_code], exp_month=12, exp_year=2040)


def bank_account() -> BankAccountRequest:
    """A bank account that works, in the US."""
    return BankAccountRequest(
        country="US",
        currency="usd",
        account_number="000123456789",
        routing_number="110000000",
        account_holder_name="Jenny Rosen",
        account_holder_type="individual",
    )


def id_number() -> PiiRequest:
    """An id number that verifies."""
    return PiiRequest(id_number="000000000")


def person() -> PersonRequest:
    """A person of a connected account, who verifies."""
    return PersonRequest(
        first_name="Jenny",
        last_name="Rosen",
        dob=CalendarDate(day=1, month=1, year=1901),
        address=Address(line1="address_full_match", city="Seattle", state="WA", postal_code="98104", country="US"),
        id_number="000000000",
    )


def account() -> AccountRequest:
    """Who stands behind a connected account: an individual, who accepts the terms."""
    return AccountRequest(
        business_type="individual",
        individual=Individual(first_name="Jenny", last_name="Rosen", email="jenny@example.com"),
        tos_shown_and_accepted=True,
    )
