"""What the tests send: published test data only, one request of every kind."""

from __future__ import annotations

from collections.abc import Iterator

from tokenferry import (
    AccountRequest,
    BankAccountRequest,
    CardRequest,
    CvcUpdateRequest,
    Order,
    PersonRequest,
    PiiRequest,
    TokenRequest,
)
from tokenferry.contract.connect import Address, Individual

CARDS = (
    "4242424242424242",
    "5555555555554444",
    "2223003122003222",
    "5105105105105100",
    "6011111111111117",
    "3566002020360505",
)
DECLINED_BY_CUSTOMERS = "4000000000000002"
WRONG_NUMBER = "4242424242424241"
UNKNOWN_ACCOUNT = "000987654321"
"""No published test account: refused when the token is to be made."""


def card(at: int = 0) -> CardRequest:
    """A card without a verification code, so that it may travel in bulk."""
    return CardRequest(number=CARDS[at % len(CARDS)], exp_month="12", exp_year="2044")


def cards(count: int, reply_to: str, **options: object) -> Iterator[Order]:
    """So many card orders for platform `main`, or another one."""
    for at in range(count):
        yield Order(card(at), **{"platform": "main", "reply_to": reply_to, **options})  # type: ignore[arg-type]


def bank_account() -> BankAccountRequest:
    return BankAccountRequest(
        country="US",
        currency="usd",
        account_number="000123456789",
        routing_number="110000000",
        account_holder_name="Wilhelmina Quagmire",
        account_holder_type="individual",
    )


def pii() -> PiiRequest:
    return PiiRequest(id_number="222222222")


def account() -> AccountRequest:
    return AccountRequest(
        business_type="individual",
        individual=Individual(
            first_name="Wilhelmina",
            last_name="Quagmire",
            address=Address(line1="address_full_match"),
            ssn_last_4="0000",
        ),
        tos_shown_and_accepted=True,
    )


def person() -> PersonRequest:
    return PersonRequest(first_name="Wilhelmina", last_name="Quagmire", id_number="111111111")


def cvc_update() -> CvcUpdateRequest:
    return CvcUpdateRequest(cvc="987")


def one_of_every_kind() -> tuple[TokenRequest, ...]:
    return card(), bank_account(), pii(), account(), person(), cvc_update()
