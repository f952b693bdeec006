"""Making and reading tokens."""

import re
from pathlib import Path

import pytest

from tokenferry_emulator.testing import BANK, CARD, DEBIT, Provider

PERSON = {"person[first_name]": "Jane", "person[dob][day]": "1", "person[dob][month]": "1", "person[dob][year]": "1901"}
ACCOUNT = {"account[business_type]": "individual", "account[tos_shown_and_accepted]": "true"}
KINDS = {
    "card": (CARD, "tok_"),
    "bank_account": (BANK, "btok_"),
    "pii": ({"pii[id_number]": "000000000"}, "pii_"),
    "account": (ACCOUNT, "ct_"),
    "person": (PERSON, "cpt_"),
    "cvc_update": ({"cvc_update[cvc]": "123"}, "cvctok_"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_made_with_its_prefix_and_read_back_the_same(provider: Provider, kind: str) -> None:
    form, prefix = KINDS[kind]
    token = provider.made("/v1/tokens", form)
    assert token["id"].startswith(prefix)
    assert (token["type"], token["used"], token["livemode"]) == (kind, False, False)
    assert provider.get(f"/v1/tokens/{token['id']}").json() == token


def test_a_card_token_has_the_recorded_keys_in_the_recorded_order(provider: Provider) -> None:
    token = provider.made("/v1/tokens", CARD)
    assert list(token) == ["id", "object", "card", "client_ip", "created", "livemode", "type", "used"]
    recorded = "address_city address_country address_line1 address_line1_check address_line2 address_state address_zip"
    recorded += " address_zip_check brand country cvc_check dynamic_last4 exp_month exp_year fingerprint funding id"
    recorded += " last4 metadata name object tokenization_method"
    assert set(recorded.split()) <= set(token["card"])
    assert (token["card"]["exp_month"], token["card"]["exp_year"]) == (12, 2044)


PAGE = (Path(__file__).parents[1] / "cards" / "stripe-testing.md").read_text()
BY_COUNTRY = re.findall(r"^\| [^|]*\(([A-Z]{2})\)[^|]*\| (\d+) \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("country", "number"), BY_COUNTRY)
def test_a_published_card_of_a_country_is_of_that_country(provider: Provider, country: str, number: str) -> None:
    assert provider.made("/v1/tokens", {**CARD, "card[number]": number})["card"]["country"] == country


def test_every_other_published_card_is_of_the_united_states_but_those_of_two_brands(provider: Provider) -> None:
    assert len(BY_COUNTRY) == 63
    others = set(re.findall(r"\| (\d+) \|$", PAGE, re.MULTILINE)) - {number for _, number in BY_COUNTRY}
    shown = {number: provider.made("/v1/tokens", {**CARD, "card[number]": number})["card"] for number in others}
    abroad = {number: card["country"] for number, card in shown.items() if card["country"] != "US"}
    assert abroad == {
        "4000002500001001": "FR",
        "5555552500001001": "FR",
        "4000050360000001": "AU",
        "5555050360000080": "AU",
    }


def test_a_bank_token_has_the_recorded_keys(provider: Provider) -> None:
    bank = provider.made("/v1/tokens", {**BANK, "bank_account[currency]": "USD"})["bank_account"]
    assert bank["currency"] == "usd"
    assert (bank["last4"], bank["routing_number"], bank["status"]) == ("6789", "110000000", "new")


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"card[number]": "4242424242424241"}, "incorrect_number", "number"),
        ({"card[number]": "42424242"}, "invalid_number", "number"),
        ({"card[exp_month]": "13"}, "invalid_expiry_month", "exp_month"),
        ({"card[exp_year]": "2020"}, "invalid_expiry_year", "exp_year"),
        ({"card[cvc]": "99"}, "invalid_cvc", "cvc"),
    ],
)
def test_a_card_that_cannot_be_right_is_refused_at_tokenization(
    provider: Provider, change: dict[str, str], code: str, param: str
) -> None:
    status, error = provider.refused("/v1/tokens", {**CARD, **change})
    assert (status, error["type"], error["code"], error["param"]) == (402, "card_error", code, param)


@pytest.mark.parametrize("number", ["4000000000000002", "4000000000009995", "4000000000000069", "4100000000000019"])
def test_a_card_that_will_be_declined_still_makes_a_token(provider: Provider, number: str) -> None:
    assert provider.made("/v1/tokens", {**CARD, "card[number]": number})["card"]["last4"] == number[-4:]


def test_a_card_number_may_have_spaces_and_a_year_two_digits(provider: Provider) -> None:
    card = provider.made("/v1/tokens", {**CARD, "card[number]": "4000 0566 5566 5556", "card[exp_year]": "44"})["card"]
    assert (card["last4"], card["funding"], card["exp_year"]) == ("5556", "debit", 2044)


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"bank_account[account_number]": "9876543210"}, "account_number_invalid", "bank_account[account_number]"),
        ({"bank_account[routing_number]": "123456789"}, "routing_number_invalid", "bank_account[routing_number]"),
        ({"bank_account[routing_number]": None}, "parameter_missing", "bank_account[routing_number]"),
        ({"bank_account[country]": None}, "parameter_missing", "bank_account[country]"),
        ({"bank_account[country]": "AQ"}, "country_unsupported", "bank_account[country]"),
    ],
)
def test_a_bank_account_that_cannot_be_right_is_refused(
    provider: Provider, change: dict[str, str | None], code: str, param: str
) -> None:
    form = {name: value for name, value in {**BANK, **change}.items() if value is not None}
    status, error = provider.refused("/v1/tokens", form)
    assert (status, error["type"], error["code"], error["param"]) == (400, "invalid_request_error", code, param)


@pytest.mark.parametrize(
    ("country", "number", "routing", "answered"),
    [
        ("DE", "DE89370400440532013000", None, "110000000"),
        ("FR", "FR89370400440532013000", None, "110000000"),
        ("CH", "CH9300762011623852957", None, "110000000"),
        ("GB", "00012345", "23-14-70", "23-14-70"),
        ("CA", "000123456789", "11000-000", "11000-000"),
        ("AU", "000123456", "110000", "11 0000"),
        ("JP", "0001234", "1100000", "1100000"),
        ("IN", "000123456789", "HDFC0004051", "HDFC0004051"),
        ("NZ", "1100000000000010", None, "110000"),
        ("ZA", "000001234", "FIRNZAJJ", "FIRNZAJJXXX"),
        ("MY", "000123456000", "HBMBMYKL", "TESTMYKLXXX"),
        ("AZ", "AZ77ADJE12345678901234567890", "123456-123456", "123456123456"),
    ],
)
def test_bank_accounts_of_other_countries_have_their_own_formats(
    provider: Provider, country: str, number: str, routing: str | None, answered: str
) -> None:
    form = {"bank_account[country]": country, "bank_account[account_number]": number}
    if routing is not None:
        form["bank_account[routing_number]"] = routing
    assert provider.made("/v1/tokens", form)["bank_account"]["routing_number"] == answered


def test_an_iban_of_another_country_is_refused(provider: Provider) -> None:
    form = {"bank_account[country]": "DE", "bank_account[account_number]": "FR89370400440532013000"}
    assert provider.refused("/v1/tokens", form)[1]["code"] == "account_number_invalid"


def test_chile_needs_an_account_type_and_japan_has_one_anyway(provider: Provider) -> None:
    chile = {
        "bank_account[country]": "CL",
        "bank_account[account_number]": "000123456789",
        "bank_account[routing_number]": "110",
    }
    assert provider.refused("/v1/tokens", chile)[1]["param"] == "bank_account[account_type]"
    japan = {**chile, "bank_account[country]": "JP", "bank_account[routing_number]": "1100000"}
    japan["bank_account[account_number]"] = "0001234"
    assert provider.made("/v1/tokens", japan)["bank_account"]["account_type"] == "futsu"


def test_no_kind_and_two_kinds_are_both_refused(provider: Provider) -> None:
    status, error = provider.refused("/v1/tokens", {})
    assert (status, error["message"][:37]) == (400, "You must supply either a card, custom")
    assert provider.refused("/v1/tokens", {**CARD, **BANK})[0] == 400


def test_an_unknown_token_is_404_with_param_id(provider: Provider) -> None:
    answer = provider.get("/v1/tokens/tok_unknown")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (404, "resource_missing", "id")


def test_reading_a_magic_name_gives_a_fresh_token_at_each_call(provider: Provider) -> None:
    first, second = (provider.get("/v1/tokens/tok_visa").json() for _ in range(2))
    assert first["id"] != second["id"]
    assert first["client_ip"] is None
    assert provider.made("/v1/customers", {"source": first["id"]})["default_source"] == first["card"]["id"]


def test_a_pii_token_can_go_into_a_person_token_and_is_then_used(provider: Provider) -> None:
    pii = provider.token({"pii[id_number]": "000000000"})
    provider.token({"person[first_name]": "Jane", "person[id_number]": pii})
    assert provider.get(f"/v1/tokens/{pii}").json()["used"] is True
    assert provider.refused("/v1/tokens", {"person[id_number]": pii})[1]["code"] == "token_already_used"


def test_raw_card_refusal_is_402_without_a_code(provider: Provider) -> None:
    status, error = provider.refused("/v1/tokens", CARD, authorization="Bearer sk_test_noraw")
    assert (status, error["type"], "code" in error) == (402, "invalid_request_error", False)
    assert error["message"].startswith("Sending credit card numbers directly to the Stripe API is generally unsafe.")
    assert provider.post("/v1/tokens", BANK, authorization="Bearer sk_test_noraw").status_code == 200


def test_a_saved_card_is_cloned_to_a_connected_account_only(provider: Provider) -> None:
    account = provider.custom_account()
    customer = provider.made("/v1/customers", {"source": provider.token()})
    assert provider.refused("/v1/tokens", {"customer": customer["id"]})[1]["param"] == "customer"
    clone = provider.made("/v1/tokens", {"customer": customer["id"]}, stripe_account=account)
    assert (clone["type"], clone["card"]["last4"], clone["card"]["cvc_check"]) == ("card", "4242", "pass")
    named = {"customer": customer["id"], "card": customer["default_source"]}
    assert provider.made("/v1/tokens", named, stripe_account=account)["id"] != clone["id"]
    assert provider.made("/v1/customers", {"source": clone["id"]}, stripe_account=account)["id"]
    status, error = provider.refused("/v1/tokens", {"customer": "cus_none"}, stripe_account=account)
    assert (status, error["param"]) == (400, "customer")


def test_a_saved_bank_account_is_cloned_too(provider: Provider) -> None:
    account = provider.custom_account()
    customer = provider.made("/v1/customers", {"source": provider.token(BANK)})
    named = {"customer": customer["id"], "bank_account": customer["default_source"]}
    clone = provider.made("/v1/tokens", named, stripe_account=account)
    assert clone["id"].startswith("btok_")
    provider.made(f"/v1/accounts/{account}", {"external_account": clone["id"]})


def test_a_us_bank_account_payment_method_becomes_a_token_once(provider: Provider) -> None:
    method = provider.made(
        "/v1/payment_methods",
        {
            "type": "us_bank_account",
            "us_bank_account[account_number]": "000123456789",
            "us_bank_account[routing_number]": "110000000",
            "us_bank_account[account_holder_type]": "individual",
            "billing_details[name]": "Jenny Rosen",
        },
    )
    form = {"bank_account[payment_method]": method["id"]}
    assert provider.refused("/v1/tokens", {**form, "bank_account[country]": "US"})[1]["code"] == "parameters_exclusive"
    assert provider.made("/v1/tokens", form)["bank_account"]["last4"] == "6789"
    assert provider.refused("/v1/tokens", form)[0] == 400


def test_the_debit_card_keeps_its_currency_and_others_have_no_such_key(provider: Provider) -> None:
    assert provider.made("/v1/tokens", DEBIT)["card"]["currency"] == "usd"
    assert "currency" not in provider.made("/v1/tokens", CARD)["card"]
