"""What is found wrong before anything is sealed, and what is left to the endpoint."""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tools import cards

import tokenferry.checks
from tokenferry.checks import TEST_CARDS, check, check_target, warn_once
from tokenferry.contract.requests import (
    AccountRequest,
    BankAccountRequest,
    CardRequest,
    CvcUpdateRequest,
    PersonRequest,
    PiiRequest,
    Problem,
    request_from,
)
from tokenferry.contract.targets import target_from

TODAY = datetime.date(2026, 6, 15)


def listed(text: str) -> list[str]:
    return text.split()


PAGES = Path(__file__).parent / "cards"


def numbers(page: str) -> list[str]:
    return re.findall(r"\| ([0-9]+) \|", (PAGES / page).read_text())


PUBLISHED = numbers("stripe-testing.md")
SAMPLES = numbers("samples.md")
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


@pytest.mark.parametrize("number", [*PUBLISHED, *SAMPLES])
def test_a_published_test_card_passes_with_test_keys_and_is_refused_with_live_keys(number):
    assert check(card(number), today=TODAY, live=False) == ()
    (problem,) = check(card(number), today=TODAY, live=True)
    assert problem == Problem("card.number", "is a published test card; test cards are refused with live keys")


def test_every_published_card_is_in_the_data_file_and_no_other() -> None:
    assert len(PUBLISHED) == len(set(PUBLISHED)) == 150
    pages = [page.read_text() for page in sorted(PAGES.glob("*.md"))]
    assert TEST_CARDS.read_text() == cards.data_file(pages)


def test_a_card_that_is_new_on_the_page_is_noticed() -> None:
    page = "<table><tr><td>Atlantis (AT)</td><td><code>4242 0000 0000 0000</code></td></tr></table>"
    (new,) = cards.lacking([page], TEST_CARDS.read_text())
    assert new == cards.Card(unpublished(), "Atlantis (AT)")
    assert cards.lacking(["| Visa | 4242424242424242 |", "| wrong | 4242424242424241 |"], TEST_CARDS.read_text()) == []


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
        ("HK", "0001234567890123", "110-000"),
        ("HK", "000123-456", "110-000"),
        ("SG", "000123456", "1100-000"),
        ("SG", "0" * 31, "1100-000"),
        ("TH", "0" * 17, "110"),
        ("KR", "0" * 16, "AAAAKR22"),
        ("BN", "0" * 14, "AAAABN22"),
        ("UY", "0" * 14, "110"),
        ("DO", "000123456789", "110001"),
        ("GM", "000123456789", "AAAAGM22-001"),
        ("GY", "000123456789", "AAAAGY22-001"),
        ("GI", "00012345", "10-88-00"),
        ("GI", "GI75NWBK000000007099453", None),
        ("GB", "GB29NWBK60161331926819", None),
        ("JP", "0001234", "1100000"),
        ("JP", "0001", "1100000"),
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


IBAN_ONLY = listed("AE BJ CI NE SN CH LI CR DE FR IS MC IL NO PL RO SE TN")
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


@pytest.mark.parametrize(
    ("country", "typed", "routing", "number", "code"),
    [
        ("NZ", "11-0000-0000000-010", None, "1100000000000010", None),
        ("US", "000-123456789", "110000000", "000123456789", "110000000"),
        ("us", "000 123\u2013456 789", " 110-000-000 ", "000123456789", "110000000"),
        ("MX", "000 000 00123456789 7", None, "000000001234567897", None),
        ("PE", "002-193-002198001234-95", None, "002193002198" + "00123495", None),
        ("GB", "0001-2345", "23\u201314\u201370", "00012345", "23-14-70"),
        ("HK", "000123\u2212456", "110-000", "000123-456", "110-000"),
        ("DE", "DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000", None, "DE89370400440532013000", None),
        ("DE", "DE89\u202f3704\u202f0044\u202f0532\u202f0130\u202f00", None, "DE89370400440532013000", None),
        ("DE", "\u200bDE89370400440532013000\ufeff", None, "DE89370400440532013000", None),
        ("DE", "\u202aDE89-3704-0044-0532-0130-00\u202c\t", None, "DE89370400440532013000", None),
    ],
)
def test_what_is_checked_of_an_account_is_what_is_sent(country, typed, routing, number, code):
    data = {"country": country, "currency": "usd", "account_number": typed, "routing_number": routing}
    request = request_from("bank_account", {name: value for name, value in data.items() if value is not None})
    assert check(request, today=TODAY, live=False) == ()
    assert request == bank(country, number, code)
    assert request.form() == bank(country, number, code).form()


@pytest.mark.parametrize("country", ["DE", "AT", "NL", "GB", "GI", "CH"])
@pytest.mark.parametrize("bic", ["COBADEFFXXX", "COBADEFF", "coba de ff xxx"])
def test_a_bic_beside_an_iban_is_left_out_where_the_iban_is_enough(country, bic):
    request = bank(country, f"{country}89370400440532013000", bic)
    assert request.routing_number is None
    assert check(request, today=TODAY, live=False) == ()


def test_a_bic_stays_where_the_country_wants_it_and_a_national_code_is_never_dropped():
    assert bank("TR", "TR330006100519786457841326", "AAAATR22").routing_number == "AAAATR22"
    assert bank("GB", "00012345", "231470").routing_number == "231470"
    assert bank("DE", "DE89370400440532013000", "37040044").routing_number == "37040044"


def test_a_sealed_document_keeps_the_numbers_its_calls_were_made_with():
    """An idempotency key allows no other form."""
    sealed = """{"country": "NZ", "currency": "nzd", "account_number": "11-0000-0000000-010"}"""
    assert BankAccountRequest.model_validate_json(sealed).account_number == "11-0000-0000000-010"
    sealed = """{"country": "DE", "currency": "eur", "account_number": "DE1", "routing_number": " COBADEFF"}"""
    assert BankAccountRequest.model_validate_json(sealed).routing_number == " COBADEFF"


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


# -- what goes beside a token ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"tos_acceptance": {"date": 1_900_000_000, "ip": "203.0.113.7"}}, "tos_acceptance.date"),
        ({"tos_acceptance": {"date": 1_230_000_000, "ip": "203.0.113.7"}}, "tos_acceptance.date"),
        ({"tos_acceptance": {"date": 1_700_000_000_000 // 1000, "ip": "203.0.113.700"}}, "tos_acceptance.ip"),
        ({"tos_acceptance": {"date": 1_700_000_000, "ip": "a:b:c"}}, "tos_acceptance.ip"),
        ({"business_profile": {"url": "example.com"}}, "business_profile.url"),
        ({"business_profile": {"support_url": "ftp://example.com"}}, "business_profile.support_url"),
        ({"business_profile": {"url": "https://example"}}, "business_profile.url"),
        ({"tos_acceptance": {"date": 1_700_000_000, "ip": "2001:db8::1"}}, None),
        ({"tos_acceptance": {"service_agreement": "recipient"}}, None),
        ({"business_profile": {"url": "HTTPS://example.com/shop?x=1", "support_url": ""}}, None),
    ],
)
def test_terms_and_urls_that_stripe_refuses_are_found_before(parameters, field):
    for to in ("account_create", "account_update"):
        target = target_from({"to": to, **({"account": "acct_1"} if to == "account_update" else {}), **parameters})
        assert fields(check_target(target, today=TODAY)) == ([f"{to}.{field}"] if field else [])


def test_a_declaration_of_the_future_is_found_in_a_token_too():
    late = {"date": 1_900_000_000, "ip": "203.0.113.7"}
    company = AccountRequest(company={"name": "X", "ownership_declaration": late})
    assert fields(check(company, today=TODAY, live=False)) == ["account.company.ownership_declaration.date"]
    guardian = PersonRequest(first_name="A", additional_tos_acceptances={"account": late})
    assert fields(check(guardian, today=TODAY, live=False)) == ["person.additional_tos_acceptances.account.date"]


# -- silence --------------------------------------------------------------------------------------------------------


def test_no_reason_ever_contains_a_value():
    requests = [
        card(number, "13", "2020", cvc="3141") for number in (*PUBLISHED, *SAMPLES, WRONG_NUMBER, unpublished())
    ]
    requests += [bank(country, "987654321", "876543210") for country in ("US", "DE", "MX", "AL")]
    for request in requests:
        for live in (True, False):
            problems = check(request, today=TODAY, live=live)
            assert problems
            assert not re.search("[0-9]{3}", "".join(map(str, problems)))


def test_the_code_contains_no_digits_that_look_like_a_card_number():
    root = Path(tokenferry.checks.__file__).parent
    for source in (root / "checks.py", TEST_CARDS, *(root / "contract").glob("*.py")):
        assert not re.search("[0-9]{12,}", source.read_text()), source.name


def test_the_checks_do_not_load_a_library_that_is_slow_to_import():
    code = "import sys, tokenferry.checks; print(*{name.split('.')[0] for name in sys.modules})"
    paths = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=paths)
    assert not {"schwifty", "pycountry", "stripe"} & set(loaded.stdout.split())


def test_a_target_that_stripe_will_remove_is_warned_of_once(caplog):
    warn_once.cache_clear()
    charge = target_from({"to": "charge", "amount": 5, "currency": "eur"})
    for _ in range(3):
        assert check_target(charge, today=TODAY) == ()
        assert check_target(target_from({"to": "customer_create"}), today=TODAY) == ()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "payment_intent" in record.getMessage()
