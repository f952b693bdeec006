"""What stands unsealed holds no number that belongs inside the seal, and what only looks like one may stand there."""

from __future__ import annotations

import pytest

from tokenferry import (
    AccountRequest,
    BankAccountRequest,
    CardRequest,
    InvalidRequest,
    InvalidTarget,
    Order,
    PersonRequest,
    PiiRequest,
    TokenRequest,
    TokenResult,
)
from tokenferry.configuration import Configuration, KeySettings, Platform
from tokenferry.contract.connect import Individual
from tokenferry.contract.targets import CustomerCreate, CustomerSource
from tokenferry.ordering import Sealer
from tokenferry.unsealed import trouble_in

from .conftest import KeyFolder

NUMBER = "4242424242424242"
IBAN = "DE89370400440532013000"
CARD = CardRequest(number=NUMBER, exp_month="12", exp_year="2034")
BANK = BankAccountRequest(country="DE", currency="eur", account_number=IBAN)


@pytest.mark.parametrize(
    "target",
    [
        CustomerCreate(description=f"card {NUMBER}"),
        CustomerCreate(description="4242 4242-4242 4242"),
        CustomerCreate(email=f"{NUMBER}@example.com"),
        CustomerCreate(metadata={"card": f"x{NUMBER}y"}),
        CustomerCreate(metadata={NUMBER: "x"}),
        CustomerCreate(shipping={"name": NUMBER, "address": {"line1": "1 Way"}}),
    ],
)
def test_a_target_that_repeats_the_card_number_is_refused(target: CustomerCreate) -> None:
    said = trouble_in(target, CARD)
    assert said == "repeats the card number; leave it out: it would travel and rest in clear"


@pytest.mark.parametrize(
    ("request_", "text", "says"),
    [
        (BANK, "from DE89 3704 0044 0532 0130 00", "repeats the account number"),
        (BANK, IBAN.lower(), "repeats the account number"),
        (PiiRequest(id_number="000-00-0000"), "ssn 000000000", "repeats the id number"),
        (PiiRequest(id_number="1234"), "1234", "repeats the id number"),
        (AccountRequest(individual=Individual(id_number="900000001")), "900000001", "repeats the id number"),
        (PersonRequest(id_number_secondary="900000001"), "900000001", "repeats the id number"),
    ],
)
def test_so_is_one_that_repeats_the_number_of_a_bank_account_or_a_person(
    request_: TokenRequest, text: str, says: str
) -> None:
    assert str(trouble_in(CustomerCreate(description=text), request_)).startswith(says)


@pytest.mark.parametrize(
    "text",
    [
        NUMBER,
        "card: 4242-4242-4242-4242.",
        "5555555555554444",
        "2223003122003222",
        "378282246310005",
        "30569309025904",
        "6011111111111117",
        "3566002020360505",
        "6200000000000005",
    ],
)
def test_a_card_number_is_refused_also_where_nobody_knows_what_is_in_the_token(text: str) -> None:
    assert str(trouble_in(CustomerCreate(description=text))).startswith("holds what looks like a card number")


@pytest.mark.parametrize(
    "text",
    [
        "4000.0566.5566.5556",
        "4000/0566/5566/5556",
        "4000\u00a00566\u00a05566\u00a05556",
        "4000\u200b0566\u200b5566\u200b5556",
        "4000\u20130566 \u2013 5566 5556",
        "\uff14\uff10\uff10\uff10\uff10\uff15\uff16\uff16\uff15\uff15\uff16\uff16\uff15\uff15\uff15\uff16",
        "\u0664\u0660\u0660\u0660 0566 5566 5556",
        "pan4000056655665556",
        "Card-Number:4000056655665556",
        "_4000056655665556",
        "NDAwMDA1NjY1NTY2NTU1Ng==",
        "6759649826438453",
    ],
)
def test_no_spelling_hides_a_card_number(text: str) -> None:
    for target in (CustomerCreate(description=text), CustomerCreate(metadata={"note": text})):
        assert str(trouble_in(target)).startswith("holds what looks like a card number")


@pytest.mark.parametrize("text", [NUMBER[::-1], "\uff14\uff12" * 8, "4242.4242.4242.4242", f"pan{NUMBER}"])
def test_no_spelling_hides_the_number_of_the_request_itself(text: str) -> None:
    assert str(trouble_in(CustomerCreate(description=text), CARD)).startswith("repeats the card number")


def test_a_number_in_two_values_is_found() -> None:
    target = CustomerCreate(metadata={"first": "40000566", "second": "55665556"})
    assert str(trouble_in(target)).startswith("holds what looks like a card number")


@pytest.mark.parametrize("name", ["cvc", "CVC", "c\u200bvc", "card_cvv2", "ssn", "dob", "customerDob", "Date of birth"])
def test_a_name_of_a_secret_is_refused_whatever_its_value_is(name: str) -> None:
    said = str(trouble_in(CustomerCreate(metadata={name: "737"})))
    assert said.startswith("names a verification code, an id number or a date of birth")
    assert "737" not in said


@pytest.mark.parametrize("text", ["cvc 737", "CVV2: 737", "ssn 000-00-0000", "\uff43vc=737"])
def test_a_code_behind_its_name_is_refused(text: str) -> None:
    said = str(trouble_in(CustomerCreate(description=text)))
    assert said.startswith("holds what looks like a verification code or an id number")


@pytest.mark.parametrize("name", ["order", "panorama", "company", "birth_place_known", "discvc", "number"])
def test_other_names_are_no_secrets(name: str) -> None:
    assert trouble_in(CustomerCreate(metadata={name: "737"})) is None


@pytest.mark.parametrize(
    "text",
    [
        "+49 176 1234 5678",
        "4917612345678",
        "+380 44 123 45 67",
        "order 4242424242424241",
        "cus_4242424242424242",
        "order-A4242424242424242",
        "1234567812345670",
        "42424242424242424242424242",
        "2026-11-28 12:00:00 4242",
        "9007199254740993",
    ],
)
def test_telephone_numbers_and_ids_are_no_card_numbers(text: str) -> None:
    assert trouble_in(CustomerCreate(description=text)) is None


def test_a_short_number_is_not_found_in_others_by_chance() -> None:
    assert trouble_in(CustomerCreate(metadata={"row": "12345"}), PiiRequest(id_number="1234")) is None
    assert trouble_in(CustomerCreate(description="pii_123456789"), PersonRequest(id_number="pii_123456789")) is None


def test_neither_a_request_nor_an_order_leaves_the_producer_with_one(key_folder: KeyFolder) -> None:
    keys = KeySettings(recipient=key_folder.recipient, producer_signing_key=key_folder.producer)
    sealer = Sealer(Configuration(keys=keys, platforms={"main": Platform()}))
    target = CustomerCreate(description=f"card {NUMBER}")
    with pytest.raises(InvalidRequest) as refused:
        sealer.message(Order(CARD, attach=target))
    assert str(refused.value).startswith("attach: repeats the card number; leave it out")
    assert NUMBER not in str(refused.value)
    result = TokenResult(
        outcome_id="req-1:token", request_id="req-1", kind="card", platform="main", settled_at=1, token="tok_1"
    )
    with pytest.raises(InvalidTarget, match="customer_create: holds what looks like a card number") as wrong:
        sealer.attach_message(result, target, reply_to=None, attach_id=None)
    assert NUMBER not in str(wrong.value)
    source = CustomerSource(customer="cus_4242424242424242")
    assert sealer.attach_message(result, source, reply_to=None, attach_id="order-7")[0] == "order-7"
