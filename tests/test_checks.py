"""What is found wrong before anything is sealed, and what is left to the endpoint."""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tokenferry.checks
from tokenferry.checks import check
from tokenferry.contract.requests import (
    AccountRequest,
    BankAccountRequest,
    CardRequest,
    CvcUpdateRequest,
    PersonRequest,
    PiiRequest,
    Problem,
)

TODAY = datetime.date(2026, 6, 15)


def listed(text: str) -> list[str]:
    return text.split()


PUBLISHED = listed("""
4242424242424242 5555555555554444 2223003122003222 5105105105105100 378282246310005 371449635398431 6011111111111117
3056930009020004 36227206271667 6555900000604105 3566002020360505 6200000000000005 4000056655665556 5200828282828210
4000002500001001 5555552500001001 4000000000000002 4000000000009995 4000000000009987 4000000000009979 4000000000006975
4000000000000069 4000000000000127 4000000000000119 4000000000000341 4000000000000101 4000000000000036 4000000000000028
4000000000000010 4000000000000044 4100000000000019 4000000000004954 4000000000009235 4000050360000001 5555050360000080
4000002760003184 4000008260003178
""")
WRONG_NUMBER = "4242424242424241"


def unpublished() -> str:
    """A number that passes Luhn and is no published test card, made here so that none stands in a file."""
    return "4242" + "0" * 12


def card(number: str = "4242424242424242", month: str = "12", year: str = "2030", **more: Any) -> CardRequest:
    return CardRequest(number=number, exp_month=month, exp_year=year, **more)


def bank(country: str, number: str, routing: str | None = None, **more: Any) -> BankAccountRequest:
    return BankAccountRequest(
        country=country, currency=more.pop("currency", "usd"), account_number=number, routing_number=routing, **more
    )


def fields(problems: tuple[Problem, ...]) -> list[str]:
    return [problem.field for problem in problems]


# -- cards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", PUBLISHED)
def test_a_published_test_card_passes_with_test_keys_and_is_refused_with_live_keys(number):
    assert check(card(number), today=TODAY, live=False) == ()
    (problem,) = check(card(number), today=TODAY, live=True)
    assert problem == Problem("card.number", "is a published test card; test cards are refused with live keys")


def test_a_live_looking_card_is_refused_with_test_keys_and_passes_with_live_keys():
    (problem,) = check(card(unpublished()), today=TODAY, live=False)
    assert problem.reason == "not a published test card; live card numbers are refused with test keys"
    assert check(card(unpublished()), today=TODAY, live=True) == ()


@pytest.mark.parametrize("live", [True, False])
def test_a_number_with_a_wrong_digit_fails_the_luhn_check_and_nothing_else_is_said(live):
    (problem,) = check(card(WRONG_NUMBER), today=TODAY, live=live)
    assert problem.field == "card.number"
    assert "Luhn" in problem.reason


@pytest.mark.parametrize(
    ("month", "year", "wrong"),
    [
        ("6", "2026", []),
        ("06", "26", []),
        ("12", "2076", []),
        ("5", "2026", ["card.exp_month"]),
        ("12", "2025", ["card.exp_year"]),
        ("12", "25", ["card.exp_year"]),
        ("13", "2030", ["card.exp_month"]),
        ("0", "2030", ["card.exp_month"]),
        ("13", "2020", ["card.exp_month", "card.exp_year"]),
        ("12", "2077", ["card.exp_year"]),
    ],
)
def test_a_card_is_good_until_the_last_day_of_its_month(month, year, wrong):
    last_day = datetime.date(2026, 6, 30)
    assert fields(check(card(month=month, year=year), today=last_day, live=False)) == wrong


@pytest.mark.parametrize(
    ("number", "cvc", "wrong"),
    [
        ("4242424242424242", "314", []),
        ("4242424242424242", "3141", ["card.cvc"]),
        ("378282246310005", "3141", []),
        ("371449635398431", "314", ["card.cvc"]),
        ("36227206271667", "314", []),
    ],
)
def test_a_cvc_has_three_digits_and_four_on_american_express(number, cvc, wrong):
    assert fields(check(card(number, cvc=cvc), today=TODAY, live=False)) == wrong


def test_cloned_cards_and_the_other_kinds_have_nothing_to_check():
    for request in (
        CardRequest(customer="cus_1", card="card_1"),
        BankAccountRequest(customer="cus_1"),
        BankAccountRequest(payment_method="pm_1"),
        PiiRequest(id_number="000000000"),
        CvcUpdateRequest(cvc="3141"),
    ):
        assert check(request, today=TODAY, live=True) == ()


# -- bank accounts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("country", "number", "routing"),
    [
        ("DE", "DE89370400440532013000", None),
        ("FR", "FR89370400440532013000", None),
        ("CH", "CH9300762011623852957", None),
        ("MX", "000000001234567897", None),
        ("NZ", "1100000000000010", None),
        ("US", "000123456789", "110000000"),
        ("us", "000111111116", "110000000"),
        ("CA", "000123456789", "11000-000"),
        ("GB", "00012345", "23-14-70"),
        ("GB", "DE89370400440532013000", None),
        ("AU", "000123456", "110000"),
        ("HK", "000123456", "110-000"),
        ("SG", "000123456", "1100-000"),
        ("JP", "0001234", "1100000"),
        ("IN", "000123456789", "HDFC0004051"),
        ("VN", "000123456789", "01101100"),
        ("PY", "000123456789", "0"),
        ("JM", "000123456789", "111-00000"),
        ("ZA", "000123456789", "FIRNZAJJ"),
        ("MY", "000123456000", "HBMBMYKL"),
        ("AZ", "DE89370400440532013000", "123456-123456"),
        ("XK", "anything-0", None),
    ],
)
def test_documented_test_accounts_pass_in_test_mode(country, number, routing):
    assert check(bank(country, number, routing), today=TODAY, live=False) == ()


IBAN_ONLY = listed("AE BJ CI NE SN CH LI CR DE FR IS MC GI IL NO PL RO SE TN")
IBAN_AND_BIC = listed("AL AO AZ BA BH EG GT JO KW KZ MA MD MG MK MU PK QA RS SA SM SV TR")
NUMBER_AND_BIC = listed("AG AM BN BS BT BW DZ EC ET GA GY KE KH KR LA LC MN MO MY MZ NA NG OM PA RW TW TZ ZA")
NUMBER_AND_ROUTING = listed("US CA GB AU HK SG JP IN BD VN TH ID BO CL CO DO UY PY GH JM TT PH LK UZ")


@pytest.mark.parametrize("country", IBAN_ONLY)
def test_a_country_of_ibans_wants_an_iban_and_no_routing_number(country):
    iban = f"{country}89370400440532013000"
    assert check(bank(country, iban), today=TODAY, live=False) == ()
    assert fields(check(bank(country, "000123456789"), today=TODAY, live=False)) == ["bank_account.account_number"]
    assert fields(check(bank(country, iban, "110000000"), today=TODAY, live=False)) == ["bank_account.routing_number"]


@pytest.mark.parametrize("country", IBAN_AND_BIC)
def test_some_countries_want_an_iban_and_the_bic(country):
    iban = f"{country}89370400440532013000"
    assert check(bank(country, iban, f"AAAA{country}22"), today=TODAY, live=False) == ()
    assert fields(check(bank(country, iban), today=TODAY, live=False)) == ["bank_account.routing_number"]


@pytest.mark.parametrize("country", [*NUMBER_AND_BIC, *NUMBER_AND_ROUTING])
def test_a_country_of_national_numbers_wants_a_routing_number(country):
    more = {"account_type": "checking"} if country in ("CL", "CO") else {}
    routing = "110000000" if country == "US" else "110000"
    assert check(bank(country, "000123456789", routing, **more), today=TODAY, live=False) == ()
    problems = check(bank(country, "000123456789", **more), today=TODAY, live=False)
    assert fields(problems) == ["bank_account.routing_number"]


def test_the_check_digits_of_an_iban_count_only_with_live_keys():
    made_up = bank("FR", "FR89370400440532013000")
    assert check(made_up, today=TODAY, live=False) == ()
    assert fields(check(made_up, today=TODAY, live=True)) == ["bank_account.account_number"]
    assert check(bank("DE", "DE89 3704 0044 0532 0130 00"), today=TODAY, live=True) == ()
    assert check(bank("CH", "CH9300762011623852957"), today=TODAY, live=True) == ()


def test_an_iban_of_a_country_outside_the_registry_is_judged_by_its_sum_alone():
    body = "SN0100152000048500003035"
    check_digits = 98 - int("".join(str(int(char, 36)) for char in f"{body}SN00")) % 97
    right, wrong = (f"SN{digits:02}{body}" for digits in (check_digits, (check_digits + 1) % 97))
    assert check(bank("SN", right), today=TODAY, live=True) == ()
    assert fields(check(bank("SN", wrong), today=TODAY, live=True)) == ["bank_account.account_number"]


@pytest.mark.parametrize("routing", ["110000001", "11000000", "CHASUS33"])
def test_an_american_routing_number_has_nine_digits_and_a_check_digit(routing):
    problems = check(bank("US", "000123456789", routing), today=TODAY, live=False)
    assert fields(problems) == ["bank_account.routing_number"]


@pytest.mark.parametrize(
    ("country", "number"), [("MX", "123"), ("AR", "1" * 21), ("NZ", "1" * 14), ("PE", "1" * 19), ("US", "12X4")]
)
def test_national_numbers_of_known_length_have_that_length(country, number):
    routing = "110000000" if country == "US" else None
    problems = check(bank(country, number, routing), today=TODAY, live=False)
    assert fields(problems) == ["bank_account.account_number"]


def test_account_types_are_asked_for_where_the_country_has_them():
    place = ["bank_account.account_type"]
    assert check(bank("JP", "0001234", "1100000", account_type="toza"), today=TODAY, live=False) == ()
    assert fields(check(bank("JP", "0001234", "1100000", account_type="checking"), today=TODAY, live=False)) == place
    assert fields(check(bank("CL", "000123456789", "110"), today=TODAY, live=False)) == place
    assert check(bank("CO", "000123456789", "110", account_type="savings"), today=TODAY, live=False) == ()


# -- people and companies -------------------------------------------------------------------------------------------


def test_a_birthday_is_a_day_of_the_calendar_and_not_in_the_future():
    def problems(day: int, month: int, year: int) -> list[str]:
        dob = {"day": day, "month": month, "year": year}
        of_account = check(AccountRequest(individual={"dob": dob}), today=TODAY, live=False)
        of_person = check(PersonRequest(dob=dob), today=TODAY, live=False)
        assert [problem.reason for problem in of_account] == [problem.reason for problem in of_person]
        return fields(of_account + of_person)

    assert problems(1, 1, 1901) == []
    assert problems(30, 2, 1990) == ["account.individual.dob", "person.dob"]
    assert problems(1, 1, 2027) == ["account.individual.dob", "person.dob"]
    assert check(PersonRequest(dob=""), today=TODAY, live=False) == ()


def test_a_company_is_not_registered_in_the_future():
    request = AccountRequest(company={"registration_date": {"day": 1, "month": 1, "year": 2027}})
    assert fields(check(request, today=TODAY, live=False)) == ["account.company.registration_date"]


# -- silence --------------------------------------------------------------------------------------------------------


def test_no_reason_ever_contains_a_value():
    requests = [card(number, "13", "2020", cvc="3141") for number in (*PUBLISHED, WRONG_NUMBER, unpublished())]
    requests += [bank(country, "987654321", "876543210") for country in ("US", "DE", "MX", "AL")]
    for request in requests:
        for live in (True, False):
            problems = check(request, today=TODAY, live=live)
            assert problems
            assert not re.search("[0-9]{3}", "".join(map(str, problems)))


def test_the_code_contains_no_digits_that_look_like_a_card_number():
    root = Path(tokenferry.checks.__file__).parent
    for source in (root / "checks.py", *(root / "contract").glob("*.py")):
        assert not re.search("[0-9]{12,}", source.read_text()), source.name


def test_the_checks_do_not_load_a_library_that_is_slow_to_import():
    code = "import sys, tokenferry.checks; print(*{name.split('.')[0] for name in sys.modules})"
    paths = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=paths)
    assert not {"schwifty", "pycountry", "stripe"} & set(loaded.stdout.split())
