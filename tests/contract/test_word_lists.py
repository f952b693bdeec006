"""Words and codes that Stripe does not know are refused before a call is spent on them."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from tokenferry.checks import check, check_target
from tokenferry.contract.requests import BankAccountRequest, CardRequest, PersonRequest, TokenRequest
from tokenferry.contract.targets import AccountCreate, PaymentMethod, Target
from tokenferry.contract.word_lists import COUNTRIES, CURRENCIES, WORDS

TABLES = Path(__file__).parents[2] / "emulator" / "tokenferry_emulator" / "allowed"
TODAY = datetime.date(2026, 1, 1)


def words_of_the_sdk(name: str) -> set[frozenset[str]]:
    """All sets of words that the SDK's types give for a field of this name."""
    found = set()
    for table in TABLES.glob("*.txt"):
        for line in table.read_text().splitlines():
            field, _, words = line.strip().partition(" ")
            if field == name and "|" in words:
                found.add(frozenset(filter(None, words.split("|"))))
    return found


@pytest.mark.parametrize("name", WORDS)
def test_the_words_are_those_of_the_pinned_sdk(name: str) -> None:
    found = words_of_the_sdk(name)
    assert found
    assert frozenset().union(*found) == WORDS[name]


def test_the_codes_are_codes() -> None:
    assert len(COUNTRIES) == 250
    assert all(len(code) == 2 and code.isupper() for code in COUNTRIES)
    assert {"usd", "eur", "jpy", "usdc"} < CURRENCIES
    assert all(code.islower() for code in CURRENCIES)


def bank(**fields: str) -> BankAccountRequest:
    usual = {"country": "US", "currency": "usd", "account_number": "000123456789", "routing_number": "110000000"}
    return BankAccountRequest.model_validate({**usual, **fields})


@pytest.mark.parametrize(
    ("request_", "field", "reason"),
    [
        (bank(account_holder_type="Company"), "bank_account.account_holder_type", "must be written company"),
        (bank(account_holder_type="person"), "bank_account.account_holder_type", "must be one of company, individual"),
        (bank(account_type="giro"), "bank_account.account_type", "must be one of checking, futsu, savings, toza"),
        (bank(country="UK"), "bank_account.country", "is not an ISO 3166 country code; write GB"),
        (bank(country="XX"), "bank_account.country", "is not an ISO 3166 country code, like US"),
        (bank(currency="eru"), "bank_account.currency", "is not an ISO 4217 currency code, like usd"),
        (PersonRequest(first_name="Ada", nationality="ZZ"), "person.nationality", "is not an ISO 3166 country code"),
        (PersonRequest(first_name="Ada", political_exposure="yes"), "person.political_exposure", "must be one of"),
    ],
)
def test_a_word_that_is_not_known_is_refused_by_its_field(request_: TokenRequest, field: str, reason: str) -> None:
    problems = check(request_, today=TODAY, live=False)
    assert any(problem.field == field and problem.reason.startswith(reason) for problem in problems), problems


def test_nested_words_of_a_card_and_of_targets_are_checked() -> None:
    card = CardRequest.model_validate(
        {"number": "4242424242424242", "exp_month": "12", "exp_year": "2040", "networks": {"preferred": "amex"}}
    )
    assert [problem.field for problem in check(card, today=TODAY, live=False)] == ["card.networks.preferred"]
    account: Target = AccountCreate.model_validate({"type": "custom", "country": "UK"})
    assert [str(problem) for problem in check_target(account, today=TODAY)] == [
        "account_create.country: is not an ISO 3166 country code; write GB"
    ]
    assert check_target(PaymentMethod(), today=TODAY) == ()
