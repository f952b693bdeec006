"""A token is spent once, wherever it is spent."""

from collections.abc import Callable
from typing import Any

import pytest

from tokenferry_emulator import EmulatorState, Settings
from tokenferry_emulator.testing import BANK, CARD, DEBIT, Provider

ACCOUNT = {"account[business_type]": "individual", "account[tos_shown_and_accepted]": "true"}
DECLINED = {**CARD, "card[number]": "4000000000000002"}
CHARGE = {"amount": "100", "currency": "usd"}
Spend = Callable[[Provider, str], tuple[str, dict[str, str]]]


def _intent(provider: Provider, token: str) -> tuple[str, dict[str, str]]:
    data = {"payment_method_data[type]": "card", "payment_method_data[card][token]": token}
    return "/v1/payment_intents", {**CHARGE, **data}


def _account_path(provider: Provider, below: str = "") -> str:
    return f"/v1/accounts/{provider.custom_account()}{below}"


SPENDERS: dict[str, tuple[dict[str, str], Spend]] = {
    "card on a new customer": (CARD, lambda p, t: ("/v1/customers", {"source": t})),
    "card by its old name": (CARD, lambda p, t: ("/v1/customers", {"card": t})),
    "bank on a new customer": (BANK, lambda p, t: ("/v1/customers", {"source": t})),
    "card on a customer": (CARD, lambda p, t: (f"/v1/customers/{p.made('/v1/customers')['id']}", {"source": t})),
    "card as a source": (CARD, lambda p, t: (f"/v1/customers/{p.made('/v1/customers')['id']}/sources", {"source": t})),
    "bank as a source": (BANK, lambda p, t: (f"/v1/customers/{p.made('/v1/customers')['id']}/sources", {"source": t})),
    "card in a charge": (CARD, lambda p, t: ("/v1/charges", {**CHARGE, "source": t})),
    "card in a payment method": (CARD, lambda p, t: ("/v1/payment_methods", {"type": "card", "card[token]": t})),
    "card in a payment intent": (CARD, _intent),
    "card in a Source": (CARD, lambda p, t: ("/v1/sources", {"type": "card", "token": t})),
    "bank in a Source": (BANK, lambda p, t: ("/v1/sources", {"type": "sepa_debit", "token": t, "currency": "eur"})),
    "bank in a top-up": (BANK, lambda p, t: ("/v1/topups", {**CHARGE, "source": t})),
    "bank on a new account": (BANK, lambda p, t: ("/v1/accounts", {"type": "custom", "external_account": t})),
    "bank on an account": (BANK, lambda p, t: (_account_path(p), {"external_account": t})),
    "bank by its old name": (BANK, lambda p, t: (_account_path(p), {"bank_account": t})),
    "bank as external": (BANK, lambda p, t: (_account_path(p, "/external_accounts"), {"external_account": t})),
    "debit card as external": (DEBIT, lambda p, t: (_account_path(p, "/external_accounts"), {"external_account": t})),
    "account on a new account": (ACCOUNT, lambda p, t: ("/v1/accounts", {"type": "custom", "account_token": t})),
    "account on an account": (ACCOUNT, lambda p, t: (_account_path(p), {"account_token": t})),
    "person on an account": (
        {"person[first_name]": "J"},
        lambda p, t: (_account_path(p, "/persons"), {"person_token": t}),
    ),
    "pii on an account": (
        {"pii[id_number]": "000000000"},
        lambda p, t: (_account_path(p), {"individual[id_number]": t}),
    ),
    "second pii": (
        {"pii[id_number]": "000000000"},
        lambda p, t: (_account_path(p), {"individual[id_number_secondary]": t}),
    ),
    "pii on a person": ({"pii[id_number]": "000000000"}, lambda p, t: (_account_path(p, "/persons"), {"id_number": t})),
}


@pytest.mark.parametrize("how", SPENDERS)
def test_a_token_is_spent_by_its_first_use_and_refused_at_the_second(provider: Provider, how: str) -> None:
    form, spend = SPENDERS[how]
    token = provider.token(form)
    path, attach = spend(provider, token)
    made = provider.made(path, attach)
    assert provider.get(f"/v1/tokens/{token}").json()["used"] is True
    status, error = provider.refused(*spend(provider, token))
    assert (status, error["type"], error["code"]) == (400, "invalid_request_error", "token_already_used")
    assert error["message"] == f"You cannot use a Stripe token more than once: {token}."
    uses = provider.get(f"/_ledger/tokens/{token}").json()["uses"]
    assert len(uses) == 1
    assert made["id"] in uses or how == "card in a payment intent"


@pytest.mark.parametrize("how", SPENDERS)
def test_of_twenty_uses_at_the_same_time_exactly_one_succeeds(
    provider_with: Callable[[Settings], Provider], how: str
) -> None:
    provider = provider_with(Settings(latency_ms=5, lock_timeout_ms=1))
    form, spend = SPENDERS[how]
    token = provider.token(form)
    path, attach = spend(provider, token)
    answers = provider.at_once([(path, attach, {"idempotency_key": f"use-{at}"}) for at in range(20)])
    assert [answer.status_code for answer in answers].count(200) == 1
    codes = {answer.json()["error"]["code"] for answer in answers if answer.status_code != 200}
    assert codes <= {"token_in_use", "token_already_used", "lock_timeout"}
    assert provider.ledger()["uses"] | {"of_magic_tokens": 0} == {
        "total": 1,
        "max_per_token": 1,
        "tokens_used_more_than_once": [],
        "of_magic_tokens": 0,
    }


def test_a_second_consumer_meanwhile_is_told_that_the_token_is_in_use(
    provider_with: Callable[[Settings], Provider],
) -> None:
    provider = provider_with(Settings(latency_ms=20))
    token = provider.token()
    answers = provider.at_once([("/v1/customers", {"source": token}, {})] * 2)
    assert sorted(answer.status_code for answer in answers) == [200, 400]
    error = next(answer for answer in answers if answer.status_code == 400).json()["error"]
    assert (error["code"], error["type"]) == ("token_in_use", "invalid_request_error")


def test_a_refused_parameter_does_not_spend_the_token(provider: Provider) -> None:
    token = provider.token()
    assert provider.refused("/v1/customers", {"source": token, "surname": "x"})[0] == 400
    assert provider.refused("/v1/charges", {"amount": "0", "currency": "usd", "source": token})[0] == 400
    assert provider.made("/v1/customers", {"source": token})


def test_the_stored_source_keeps_the_id_it_had_in_the_token(provider: Provider) -> None:
    token = provider.made("/v1/tokens", BANK)
    customer = provider.made("/v1/customers", {"source": token["id"]})
    assert customer["default_source"] == token["bank_account"]["id"]
    source = provider.get(f"/v1/customers/{customer['id']}/sources/{customer['default_source']}").json()
    assert source["customer"] == customer["id"]


def test_a_bank_token_made_on_the_account_keeps_its_id_there_and_a_platform_one_does_not(provider: Provider) -> None:
    account = provider.custom_account()
    at_home = provider.made("/v1/tokens", BANK, stripe_account=account)
    made = provider.made(f"/v1/accounts/{account}", {"external_account": at_home["id"]})
    assert made["external_accounts"]["data"][0]["id"] == at_home["bank_account"]["id"]
    other = provider.made("/v1/tokens", BANK)
    made = provider.made(f"/v1/accounts/{account}", {"external_account": other["id"]})
    assert made["external_accounts"]["data"][0]["id"] != other["bank_account"]["id"]


def test_an_account_update_replaces_the_default_of_that_currency_and_the_list_endpoint_adds(provider: Provider) -> None:
    account = provider.custom_account()
    path = f"/v1/accounts/{account}"
    first = provider.made(path, {"external_account": provider.token(BANK)})["external_accounts"]["data"][0]["id"]
    second = provider.made(f"{path}/external_accounts", {"external_account": provider.token(DEBIT)})["id"]
    listed = provider.get(f"{path}/external_accounts").json()["data"]
    assert [(one["id"], one["default_for_currency"]) for one in listed] == [(first, True), (second, False)]
    provider.made(path, {"external_account": provider.token(BANK)})
    ids = [one["id"] for one in provider.get(f"{path}/external_accounts").json()["data"]]
    assert first not in ids
    assert second in ids
    assert provider.get(f"{path}/external_accounts/{second}").json()["account"] == account


def test_a_credit_card_is_no_external_account(provider: Provider) -> None:
    path = f"/v1/accounts/{provider.custom_account()}/external_accounts"
    assert provider.refused(path, {"external_account": provider.token()})[1]["code"] == "invalid_card_type"


def test_an_account_that_the_provider_looks_after_takes_no_external_account(provider: Provider) -> None:
    account = provider.made("/v1/accounts", {"type": "standard"})["id"]
    path = f"/v1/accounts/{account}/external_accounts"
    assert provider.refused(path, {"external_account": provider.token(BANK)})[0] == 403


@pytest.mark.parametrize("wrong", ["pii_", "ct_", "cpt_", "cvctok_"])
def test_a_token_of_another_type_is_refused_and_not_spent(provider: Provider, wrong: str) -> None:
    forms = {
        "pii_": {"pii[id_number]": "000000000"},
        "ct_": ACCOUNT,
        "cpt_": {"person[first_name]": "J"},
        "cvctok_": {"cvc_update[cvc]": "123"},
    }
    token = provider.token(forms[wrong])
    assert provider.refused("/v1/customers", {"source": token})[0] == 400
    assert provider.get(f"/_ledger/tokens/{token}").json()["spent"] is False
    assert provider.refused("/v1/accounts", {"account_token": provider.token()})[0] == 400


@pytest.mark.parametrize("spent", [True, False])
def test_whether_a_decline_spends_the_token_is_a_setting(
    provider_with: Callable[[Settings], Provider], spent: bool
) -> None:
    provider = provider_with(Settings(decline_consumes=spent))
    token = provider.token(DECLINED)
    status, error = provider.refused("/v1/customers", {"source": token})
    assert (status, error["code"], error["decline_code"]) == (402, "card_declined", "generic_decline")
    assert error["message"] == "Your card was declined."
    again = provider.refused("/v1/customers", {"source": token})[1]["code"]
    assert again == ("token_already_used" if spent else "card_declined")
    assert provider.ledger()["objects"] == {}
    assert provider.ledger()["declined"] == (1 if spent else 2)


@pytest.mark.parametrize(
    ("number", "code", "decline_code"),
    [
        ("4000000000009995", "card_declined", "insufficient_funds"),
        ("4000000000009987", "card_declined", "lost_card"),
        ("4000000000009979", "card_declined", "stolen_card"),
        ("4000000000006975", "card_declined", "card_velocity_exceeded"),
        ("4000000000000069", "expired_card", "expired_card"),
        ("4000000000000127", "incorrect_cvc", "incorrect_cvc"),
        ("4000000000000119", "processing_error", "processing_error"),
    ],
)
def test_declining_cards_decline_when_attached_and_when_charged(
    provider: Provider, number: str, code: str, decline_code: str
) -> None:
    form = {**CARD, "card[number]": number}
    for path, attach in (("/v1/customers", {}), ("/v1/charges", CHARGE)):
        status, error = provider.refused(path, {**attach, "source": provider.token(form)})
        assert (status, error["code"], error["decline_code"]) == (402, code, decline_code)
    method = provider.made("/v1/payment_methods", {"type": "card", "card[token]": provider.token(form)})["id"]
    customer = provider.made("/v1/customers")["id"]
    assert provider.refused(f"/v1/payment_methods/{method}/attach", {"customer": customer})[1]["code"] == code


def test_the_incorrect_cvc_card_is_fine_without_a_cvc(provider: Provider) -> None:
    form = {name: value for name, value in CARD.items() if name != "card[cvc]"}
    provider.made("/v1/customers", {"source": provider.token({**form, "card[number]": "4000000000000127"})})


def test_the_card_that_attaches_declines_when_charged_and_the_failed_charge_is_kept(provider: Provider) -> None:
    customer = provider.made("/v1/customers", {"source": provider.token({**CARD, "card[number]": "4000000000000341"})})
    status, error = provider.refused("/v1/charges", {**CHARGE, "customer": customer["id"]})
    assert (status, error["code"]) == (402, "card_declined")
    assert provider.get(f"/v1/charges/{error['charge']}").json()["status"] == "failed"


def test_a_bank_account_goes_on_a_customer_once_and_only_with_its_holder(provider: Provider) -> None:
    customer = provider.made("/v1/customers", {"source": provider.token(BANK)})["id"]
    path = f"/v1/customers/{customer}/sources"
    assert provider.refused(path, {"source": provider.token(BANK)})[1]["code"] == "bank_account_exists"
    anonymous = {name: value for name, value in BANK.items() if "holder" not in name}
    assert provider.refused(path, {"source": provider.token(anonymous)})[1]["param"] == "account_holder_name"


def test_an_unverified_bank_account_cannot_be_charged(provider: Provider) -> None:
    status, error = provider.refused("/v1/charges", {**CHARGE, "source": provider.token(BANK)})
    assert (status, error["code"]) == (400, "bank_account_unverified")
    assert provider.made("/v1/charges", {**CHARGE, "source": "btok_us_verified"})["status"] == "succeeded"


def test_magic_tokens_can_be_used_again_and_again(provider: Provider) -> None:
    ids = {provider.made("/v1/customers", {"source": "tok_visa"})["default_source"] for _ in range(3)}
    assert len(ids) == 3
    assert provider.refused("/v1/customers", {"source": "tok_visa_chargeDeclinedLostCard"})[0] == 402


def test_a_payment_method_is_attached_once(provider: Provider) -> None:
    method = provider.made("/v1/payment_methods", {"type": "card", "card[token]": provider.token()})["id"]
    customer = provider.made("/v1/customers")["id"]
    path = f"/v1/payment_methods/{method}/attach"
    assert provider.made(path, {"customer": customer})["customer"] == customer
    status, error = provider.refused(path, {"customer": customer})
    assert (status, "code" in error) == (400, False)
    assert error["message"] == "The payment method you provided has already been attached to a customer."
    status, error = provider.refused("/v1/payment_methods/abcd/attach", {"customer": customer})
    assert (status, error["message"], error["param"]) == (404, "No such PaymentMethod: 'abcd'", "payment_method")


def _saved_card_intent(provider: Provider, number: str = CARD["card[number]"]) -> str:
    card = {"type": "card", "card[token]": provider.token({**CARD, "card[number]": number})}
    method = provider.made("/v1/payment_methods", card)["id"]
    form = {**CHARGE, "payment_method": method, "confirmation_method": "manual"}
    return str(provider.made("/v1/payment_intents", form)["id"])


def test_a_cvc_token_is_spent_by_a_confirmation_only(provider: Provider) -> None:
    cvc = {"payment_method_options[card][cvc_token]": provider.token({"cvc_update[cvc]": "123"})}
    assert provider.refused("/v1/payment_intents", {**CHARGE, "payment_method": "pm_x", **cvc})[0] == 400
    confirmed = provider.made(f"/v1/payment_intents/{_saved_card_intent(provider)}/confirm", cvc)
    assert confirmed["status"] == "succeeded"
    status, error = provider.refused(f"/v1/payment_intents/{_saved_card_intent(provider)}/confirm", cvc)
    assert (status, error["code"]) == (400, "token_already_used")


def test_a_declined_confirmation_names_the_intent_and_waits_for_another_card(provider: Provider) -> None:
    intent = _saved_card_intent(provider, "4000000000000341")
    status, error = provider.refused(f"/v1/payment_intents/{intent}/confirm")
    assert (status, error["code"], error["payment_intent"]["id"]) == (402, "card_declined", intent)
    assert provider.get(f"/v1/payment_intents/{intent}").json()["status"] == "requires_payment_method"


def test_an_account_made_with_a_token_is_changed_with_tokens_only(provider: Provider) -> None:
    form: dict[str, Any] = {**ACCOUNT, "account[individual][first_name]": "Jane"}
    account = provider.made("/v1/accounts", {"type": "custom", "account_token": provider.token(form)})
    assert account["tos_acceptance"]["ip"] == "127.0.0.1"
    assert account["individual"]["first_name"] == "Jane"
    path = f"/v1/accounts/{account['id']}"
    assert provider.refused(path, {"individual[first_name]": "Joan"})[0] == 400
    changed = provider.made(path, {"account_token": provider.token({"account[individual][last_name]": "Doe"})})
    assert (changed["individual"]["first_name"], changed["individual"]["last_name"]) == ("Jane", "Doe")
    pii = provider.token({"pii[id_number]": "000000000"})
    assert provider.made(path, {"individual[id_number]": pii})["individual"]["id_number_provided"] is True


def test_an_account_cannot_be_made_with_a_token_without_the_terms(provider: Provider) -> None:
    token = provider.token({"account[business_type]": "individual"})
    assert provider.refused("/v1/accounts", {"type": "custom", "account_token": token})[1]["param"] == "account_token"


def test_what_is_due_shrinks_as_data_arrives(provider: Provider) -> None:
    account = provider.made("/v1/accounts", {"type": "custom", "business_type": "individual"})
    due = account["requirements"]["currently_due"]
    assert {"external_account", "individual.id_number", "tos_acceptance.date"} <= set(due)
    path = f"/v1/accounts/{account['id']}"
    after = provider.made(path, {"external_account": provider.token(BANK), "individual[id_number]": "000000000"})
    assert not {"external_account", "individual.id_number"} & set(after["requirements"]["currently_due"])


def test_persons_are_made_read_changed_and_listed(provider: Provider) -> None:
    path = f"/v1/accounts/{provider.custom_account()}/persons"
    token = provider.token({"person[first_name]": "Jane", "person[relationship][owner]": "true"})
    person = provider.made(path, {"person_token": token, "last_name": "Doe", "metadata[a]": "1"})
    assert (person["first_name"], person["last_name"], person["metadata"]) == ("Jane", "Doe", {"a": "1"})
    changed = provider.made(f"{path}/{person['id']}", {"person_token": provider.token({"person[last_name]": "Roe"})})
    assert (changed["first_name"], changed["last_name"], changed["metadata"]) == ("Jane", "Roe", {"a": "1"})
    assert provider.get(f"{path}/{person['id']}").json() == changed
    assert [one["id"] for one in provider.get(path).json()["data"]] == [person["id"]]


def test_an_identity_number_that_does_not_match_leaves_the_person_unverified(provider: Provider) -> None:
    path = f"/v1/accounts/{provider.custom_account()}/persons"
    for number, status in (("000000000", "verified"), ("111111111", "unverified")):
        person = provider.made(path, {"id_number": provider.token({"pii[id_number]": number})})
        assert (person["id_number_provided"], person["verification"]["status"]) == (True, status)


def test_a_token_that_is_too_old_is_unknown_where_a_lifetime_is_set() -> None:
    now = [1_800_000_000.0]
    provider = Provider(EmulatorState(Settings(token_lifetime=600), clock=lambda: now[0]))
    token = provider.token()
    now[0] += 601
    assert provider.refused("/v1/customers", {"source": token})[1]["code"] == "resource_missing"


def test_writes_on_one_customer_are_seen_as_such_when_methods_are_attached(
    provider_with: Callable[[Settings], Provider],
) -> None:
    provider = provider_with(Settings(latency_ms=5))
    customer = provider.made("/v1/customers")["id"]
    methods = [provider.made("/v1/payment_methods", {"type": "card", "card[token]": "tok_visa"})["id"] for _ in "ab"]
    answers = provider.at_once([(f"/v1/payment_methods/{one}/attach", {"customer": customer}, {}) for one in methods])
    assert {answer.status_code for answer in answers} == {200}
    assert provider.ledger()["per_object_concurrent_writes_peak"] == 2


def test_a_company_owes_a_representative_its_owners_and_what_its_people_owe(provider: Provider) -> None:
    company = {"account[business_type]": "company", "account[company][name]": "Imaginary Goods"}
    company |= {"account[company][tax_id]": "000000000", "account[tos_shown_and_accepted]": "true"}
    form = {"type": "custom", "account_token": provider.token(company), "external_account": provider.token(BANK)}
    path = f"/v1/accounts/{provider.made('/v1/accounts', form)['id']}"

    def due() -> list[str]:
        return list(provider.get(path).json()["requirements"]["currently_due"])

    assert due() == ["company.owners_provided", "representative.first_name", "representative.last_name"]
    jenny = {
        "person[first_name]": "Jenny",
        "person[last_name]": "Rosen",
        "person[relationship][representative]": "true",
    }
    jenny |= {f"person[dob][{name}]": value for name, value in (("day", "1"), ("month", "1"), ("year", "1901"))}
    person = provider.made(f"{path}/persons", {"person_token": provider.token(jenny)})["id"]
    assert due() == ["company.owners_provided", f"{person}.id_number"]
    provider.made(f"{path}/persons/{person}", {"id_number": provider.token({"pii[id_number]": "000000000"})})
    owners = provider.token({"account[company][owners_provided]": "true"})
    assert provider.made(path, {"account_token": owners})["charges_enabled"]
    assert due() == []
