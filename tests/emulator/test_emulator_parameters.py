"""What is said about parameters nobody knows, that are missing, or that cannot be read."""

import pytest

from tokenferry_emulator.form import nest, pairs_of
from tokenferry_emulator.parameters import table
from tokenferry_emulator.routes import ROUTES
from tokenferry_emulator.testing import BANK, CARD, Provider


@pytest.mark.parametrize(
    ("path", "form", "param"),
    [
        ("/v1/tokens", {**CARD, "card[numbr]": "x"}, "card[numbr]"),
        ("/v1/tokens", {**CARD, "colour": "x"}, "colour"),
        ("/v1/tokens", {"account[legal_entity][first_name]": "x"}, "account[legal_entity]"),
        ("/v1/tokens", {"person[address][street]": "x"}, "person[address][street]"),
        ("/v1/customers", {"surname": "x"}, "surname"),
        ("/v1/payment_methods", {"type": "card", "card[tok]": "x"}, "card[tok]"),
        ("/v1/payment_intents", {"amount": "1", "payment_method_options[card][cvc]": "x"}, None),
    ],
)
def test_an_unknown_parameter_is_named_by_its_whole_path(
    provider: Provider, path: str, form: dict[str, str], param: str | None
) -> None:
    param = param or "payment_method_options[card][cvc]"
    status, error = provider.refused(path, form)
    assert (status, error["code"], error["param"]) == (400, "parameter_unknown", param)
    assert error["message"] == f"Received unknown parameter: {param}"


@pytest.mark.parametrize(
    ("path", "form", "param"),
    [
        ("/v1/tokens", {name: CARD[name] for name in CARD if name != "card[exp_month]"}, "card[exp_month]"),
        ("/v1/tokens", {name: BANK[name] for name in BANK if name != "bank_account[account_number]"}, None),
        ("/v1/tokens", {"cvc_update[cvc]": ""}, "cvc_update[cvc]"),
        ("/v1/charges", {"amount": "100", "source": "tok_visa"}, "currency"),
        ("/v1/payment_methods", {"card[token]": "tok_visa"}, "type"),
        ("/v1/payment_intents", {"currency": "usd"}, "amount"),
    ],
)
def test_a_missing_parameter_is_named(provider: Provider, path: str, form: dict[str, str], param: str | None) -> None:
    status, error = provider.refused(path, form)
    assert status == 400
    assert error["code"] in ("parameter_missing", "parameter_invalid_empty")
    assert error["param"] == (param or "bank_account[account_number]")


def test_a_card_without_a_number_is_a_card_error(provider: Provider) -> None:
    status, error = provider.refused("/v1/tokens", {"card[exp_month]": "1"})
    assert (status, error["code"], error["param"]) == (402, "invalid_number", "number")


@pytest.mark.parametrize(
    ("form", "param", "code"),
    [
        ({"person[dob][day]": "first"}, "person[dob][day]", "parameter_invalid_integer"),
        ({**CARD, "card[exp_year]": "soon"}, "card[exp_year]", "parameter_invalid_integer"),
        ({"account[tos_shown_and_accepted]": "yes"}, "account[tos_shown_and_accepted]", None),
        ({"account[business_type]": "circus"}, "account[business_type]", None),
        ({"person[email]": "nobody"}, "person[email]", "email_invalid"),
        ({"card": ""}, "card", "parameter_invalid_empty"),
        ({"pii": "x"}, "pii", None),
    ],
)
def test_a_value_of_the_wrong_type_is_named(
    provider: Provider, form: dict[str, str], param: str, code: str | None
) -> None:
    status, error = provider.refused("/v1/tokens", form)
    assert (status, error["param"], error.get("code")) == (400, param, code)


def test_a_parameter_error_never_repeats_a_long_value(provider: Provider) -> None:
    answer = provider.post("/v1/tokens", {**CARD, "person[dob][day]": "4242424242424242"})
    assert answer.status_code == 400
    assert "4242424242424242" not in answer.text


def test_lists_may_be_written_with_numbers_or_without(provider: Provider) -> None:
    for key in ("expand[]", "expand[0]"):
        customer = provider.made("/v1/customers", {"source": "tok_visa", key: "sources"})
        assert len(customer["sources"]["data"]) == 1


def test_brackets_nest_and_the_last_of_two_wins() -> None:
    assert nest(pairs_of("a[b][c]=1&a[b][d]=2&e=3&e=4&f[=5")) == {"a": {"b": {"c": "1", "d": "2"}}, "e": "4", "f[": "5"}


def test_an_unknown_url_is_404_in_the_recorded_words(provider: Provider) -> None:
    answer = provider.post("/v1/customers/", {"email": "user@example.com"})
    message = answer.json()["error"]["message"]
    assert answer.status_code == 404
    assert message.startswith("Unrecognized request URL (POST: /v1/customers/). If you are trying to list objects")


def test_every_endpoint_has_a_table_of_parameters_that_can_be_read() -> None:
    for route in ROUTES:
        assert table(route.allowed).children
