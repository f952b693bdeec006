"""The emulator is as strict as the provider about terms, urls, countries, addresses and dates, and no stricter."""

from __future__ import annotations

import pytest

from tokenferry_emulator import EmulatorState, Settings
from tokenferry_emulator.testing import Provider

TERMS = {"tos_acceptance[date]": "1700000000", "tos_acceptance[ip]": "203.0.113.7"}
DOB = {"dob[day]": "31", "dob[month]": "1", "dob[year]": "1980"}


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({**TERMS, "tos_acceptance[date]": "1900000000"}, "tos_acceptance[date]"),
        ({**TERMS, "tos_acceptance[date]": "1200000000"}, "tos_acceptance[date]"),
        ({**TERMS, "tos_acceptance[ip]": "203.0.113.700"}, "tos_acceptance[ip]"),
        ({"tos_acceptance[date]": "1700000000"}, "tos_acceptance[ip]"),
        ({"tos_acceptance[ip]": "203.0.113.7"}, "tos_acceptance[date]"),
        ({"business_profile[url]": "example.com"}, "business_profile[url]"),
        ({"business_profile[support_url]": "ftp://example.com"}, "business_profile[support_url]"),
        ({"country": "ZZ"}, "country"),
        ({"individual[address][country]": "Germany"}, "individual[address][country]"),
        ({"individual[dob][day]": "31", "individual[dob][month]": "1"}, "individual[dob][year]"),
        ({"company[registration_date][year]": "1980"}, "company[registration_date][day]"),
        ({"company[ownership_declaration][date]": "1900000000"}, "company[ownership_declaration][date]"),
    ],
)
def test_a_value_that_no_account_can_have_is_refused(provider: Provider, form: dict[str, str], param: str) -> None:
    status, error = provider.refused("/v1/accounts", {"type": "custom", **form})
    assert (status, error["param"]) == (400, param)
    account = provider.custom_account()
    assert provider.refused(f"/v1/accounts/{account}", form)[1]["param"] == param


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"person[dob][year]": "1980"}, "person[dob][day]"),
        ({"person[nationality]": "ZZ"}, "person[nationality]"),
        ({"account[company][address][country]": "ZZ"}, "account[company][address][country]"),
        ({"account[individual][dob][day]": "1"}, "account[individual][dob][month]"),
        ({"person[additional_tos_acceptances][account][ip]": "x"}, "person[additional_tos_acceptances][account][ip]"),
    ],
)
def test_so_is_one_in_a_token(provider: Provider, form: dict[str, str], param: str) -> None:
    assert provider.refused("/v1/tokens", form)[1]["param"] == param


def test_good_values_and_a_birthday_that_is_unset_pass(provider: Provider) -> None:
    url = {"business_profile[url]": "https://example.com/shop", "individual[address][country]": "de"}
    account = provider.made("/v1/accounts", {"type": "custom", **TERMS, **url})
    assert account["tos_acceptance"]["date"] == 1700000000
    person = provider.made(f"/v1/accounts/{account['id']}/persons", {"first_name": "Ann", **DOB})
    provider.made(f"/v1/accounts/{account['id']}/persons/{person['id']}", {"dob": ""})
    agreement = {"type": "custom", "tos_acceptance[service_agreement]": "recipient"}
    assert provider.post("/v1/accounts", agreement).status_code == 200


@pytest.mark.parametrize(
    ("country", "number", "routing"),
    [
        ("US", "000888888885", "110000000"),
        ("GI", "00012345", "10-88-00"),
        ("GI", "GI75NWBK000000007099453", None),
        ("GB", "GB29NWBK60161331926819", None),
        ("GB", "00012345", "231470"),
        ("HK", "000123", "110-000"),
        ("HK", "0001234567890123", "110-000"),
        ("HK", "000123-456", "110-000"),
        ("SG", "0" * 31, "1100-000"),
        ("TH", "0" * 17, "110"),
        ("KR", "0" * 16, "AAAAKR22"),
        ("BN", "0" * 14, "AAAABN22XXX"),
        ("UY", "0" * 14, "110"),
        ("JP", "0001", "1100000"),
        ("DO", "000123456789", "110001"),
        ("GM", "000123456789", "AAAAGMGM001"),
        ("GY", "000123456789", "AAAAGYGG-001"),
        ("DE", "DE89370400440532013000", "COBADEFFXXX"),
    ],
)
def test_bank_accounts_that_live_calls_show_are_taken(
    provider: Provider, country: str, number: str, routing: str | None
) -> None:
    form = {"bank_account[country]": country, "bank_account[account_number]": number}
    if routing is not None:
        form["bank_account[routing_number]"] = routing
    assert provider.made("/v1/tokens", form)["bank_account"]["last4"] == number[-4:]


@pytest.mark.parametrize(
    ("country", "number", "routing"), [("GB", "00012345", None), ("GI", "00012345", None), ("HK", "00012", "110-000")]
)
def test_others_are_not(provider: Provider, country: str, number: str, routing: str | None) -> None:
    form = {"bank_account[country]": country, "bank_account[account_number]": number}
    assert (
        provider.post("/v1/tokens", form | ({"bank_account[routing_number]": routing} if routing else {})).status_code
        == 400
    )


def test_another_structure_asks_for_the_terms_again(provider: Provider) -> None:
    form = {"type": "custom", "business_type": "company", "company[structure]": "llc", **TERMS}
    account = f"/v1/accounts/{provider.made('/v1/accounts', form)['id']}"
    same = provider.made(account, {"company[structure]": "llc", "company[name]": "Ferry"})
    assert "tos_acceptance.date" not in same["requirements"]["currently_due"]
    other = provider.made(account, {"company[structure]": "private_corporation"})
    assert {"tos_acceptance.date", "tos_acceptance.ip"} <= set(other["requirements"]["currently_due"])
    again = provider.made(account, {"company[structure]": "llc", **TERMS})
    assert "tos_acceptance.date" not in again["requirements"]["currently_due"]


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"first_name": "Zoe"}, True),
        ({"dob[day]": "1", "dob[month]": "1", "dob[year]": "1980"}, True),
        ({"id_number": "000000000"}, True),
        ({"first_name": "Ann", "email": "ann@example.com"}, False),
    ],
)
@pytest.mark.parametrize("representative", [True, False])
def test_another_representative_asks_for_the_terms_again(
    provider: Provider, change: dict[str, str], again: bool, representative: bool
) -> None:
    form = {"type": "custom", "business_type": "company", **TERMS}
    account = f"/v1/accounts/{provider.made('/v1/accounts', form)['id']}"
    who = {"first_name": "Ann", **DOB, "relationship[representative]": str(representative).lower()}
    person = f"{account}/persons/{provider.made(f'{account}/persons', who)['id']}"
    provider.made(person, {"id_number": "000000000"})
    assert "tos_acceptance.date" not in provider.get(account).json()["requirements"]["currently_due"]
    provider.made(person, change)
    due = provider.get(account).json()["requirements"]["currently_due"]
    assert ("tos_acceptance.date" in due) is (again and representative)


def test_a_new_platform_is_pointed_to_accounts_v2() -> None:
    new = Provider(EmulatorState(Settings(v1_accounts=False)))
    for provider, headers in ((new, {}), (Provider(EmulatorState()), {"authorization": "Bearer sk_test_nov1"})):
        status, error = provider.refused("/v1/accounts", {"type": "custom"}, **headers)
        assert status == 400
        assert "/v2/core/accounts" in error["message"]
        assert "code" not in error


def test_a_key_of_a_claimable_sandbox_is_a_restricted_key(provider: Provider) -> None:
    assert provider.token(authorization="Bearer rkcs_test_alpha")
    assert provider.post("/v1/tokens", {}, authorization="Bearer rkx_test_alpha").status_code == 401
