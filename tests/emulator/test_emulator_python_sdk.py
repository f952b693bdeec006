"""The official Python SDK does not notice the difference."""

import itertools
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import stripe

from tokenferry_emulator.testing import EmulatorProcess

CARD = {"number": "4242424242424242", "exp_month": "12", "exp_year": "2044", "cvc": "123"}
BANK = {
    "country": "US",
    "currency": "usd",
    "account_number": "000123456789",
    "routing_number": "110000000",
    "account_holder_name": "Jenny Rosen",
    "account_holder_type": "individual",
}
PARAMETERS: dict[str, dict[str, Any]] = {
    "card": {"card": {**CARD, "name": "Jenny", "address_line1": "1 Main", "networks": {"preferred": "visa"}}},
    "bank_account": {"bank_account": BANK},
    "pii": {"pii": {"id_number": "000000000"}},
    "account": {
        "account": {
            "business_type": "company",
            "company": {"name": "Acme", "address": {"line1": "address_full_match"}, "owners_provided": True},
            "tos_shown_and_accepted": True,
        }
    },
    "person": {
        "person": {
            "first_name": "Jane",
            "dob": {"day": 1, "month": 1, "year": 1901},
            "full_name_aliases": ["Joan", "Jean"],
            "relationship": {"owner": True, "percent_ownership": 25.5},
        }
    },
    "cvc_update": {"cvc_update": {"cvc": "123"}},
}
_numbers = itertools.count()


def _client(emulator: EmulatorProcess, key: str = "sk_test_alpha", retries: int = 0) -> stripe.StripeClient:
    return stripe.StripeClient(key, base_addresses={"api": emulator.url}, max_network_retries=retries)


@pytest.fixture(scope="module")
def sdk(emulator: EmulatorProcess) -> stripe.StripeClient:
    return _client(emulator)


@pytest.fixture
def faults(emulator: EmulatorProcess) -> Iterator[Any]:
    def script(kind: str) -> None:
        httpx.post(f"{emulator.url}/_faults", json={"script": [{"kind": kind}]}).raise_for_status()

    yield script
    httpx.delete(f"{emulator.url}/_faults")


def _key() -> dict[str, Any]:
    return {"idempotency_key": f"sdk-{next(_numbers)}"}


def _token(sdk: stripe.StripeClient, kind: str = "card", **options: Any) -> str:
    parameters: Any = PARAMETERS[kind]
    return sdk.v1.tokens.create(parameters, options).id


@pytest.mark.parametrize("kind", PARAMETERS)
def test_it_creates_reads_and_replays_every_kind(sdk: stripe.StripeClient, kind: str) -> None:
    options: Any = _key()
    parameters: Any = PARAMETERS[kind]
    token = sdk.v1.tokens.create(parameters, options)
    assert (token.object, token.type, token.used, token.livemode) == ("token", kind, False, False)
    assert sdk.v1.tokens.retrieve(token.id).to_dict() == token.to_dict()
    again = sdk.v1.tokens.create(parameters, options)
    assert again.id == token.id
    assert again.last_response is not None
    assert token.last_response is not None
    assert again.last_response.headers["idempotent-replayed"] == "true"
    assert again.last_response.request_id != token.last_response.request_id


def test_it_attaches_a_card_to_a_customer_in_every_way(sdk: stripe.StripeClient) -> None:
    customer = sdk.v1.customers.create({"source": _token(sdk), "expand": ["sources"]})
    assert customer.sources is not None
    assert customer.sources.data[0].id == customer.default_source
    source = sdk.v1.customers.payment_sources.create(customer.id, {"source": _token(sdk), "metadata": {"n": "2"}})
    listed = sdk.v1.customers.payment_sources.list(customer.id)
    assert [one.id for one in listed.data] == [customer.default_source, source.id]
    updated = sdk.v1.customers.update(customer.id, {"source": _token(sdk), "name": "Jenny"})
    assert updated.default_source not in (None, customer.default_source)
    assert sdk.v1.customers.retrieve(customer.id).name == "Jenny"
    method = sdk.v1.payment_methods.create({"type": "card", "card": {"token": _token(sdk)}})
    attached = sdk.v1.payment_methods.attach(method.id, {"customer": customer.id})
    assert attached.customer == customer.id
    assert sdk.v1.payment_methods.retrieve(method.id).customer == customer.id


def test_it_charges_tops_up_and_makes_sources(sdk: stripe.StripeClient) -> None:
    charge = sdk.v1.charges.create({"amount": 100, "currency": "usd", "source": _token(sdk)})
    assert sdk.v1.charges.retrieve(charge.id).status == "succeeded"
    topup = sdk.v1.topups.create({"amount": 100, "currency": "usd", "source": _token(sdk, "bank_account")})
    assert sdk.v1.topups.retrieve(topup.id).status == "pending"
    source = sdk.v1.sources.create({"type": "card", "token": _token(sdk), "usage": "reusable"})
    assert sdk.v1.sources.retrieve(source.id).status == "chargeable"


def test_it_confirms_a_payment_intent_with_a_fresh_cvc(sdk: stripe.StripeClient) -> None:
    method = sdk.v1.payment_methods.create({"type": "card", "card": {"token": _token(sdk)}})
    intent = sdk.v1.payment_intents.create(
        {"amount": 100, "currency": "usd", "payment_method": method.id, "confirmation_method": "manual"}
    )
    assert intent.status == "requires_confirmation"
    cvc = _token(sdk, "cvc_update")
    confirmed = sdk.v1.payment_intents.confirm(
        intent.id, {"payment_method_options": {"card": {"cvc_token": cvc}}, "off_session": True}
    )
    assert confirmed.status == "succeeded"
    data: Any = {"type": "card", "card": {"token": _token(sdk)}}
    once = sdk.v1.payment_intents.create(
        {"amount": 100, "currency": "usd", "confirm": True, "payment_method_data": data}
    )
    assert sdk.v1.payment_intents.retrieve(once.id).status == "succeeded"


def test_it_makes_and_changes_connected_accounts(sdk: stripe.StripeClient) -> None:
    account = sdk.v1.accounts.create(
        {
            "type": "custom",
            "country": "US",
            "capabilities": {"transfers": {"requested": True}},
            "account_token": _token(sdk, "account"),
            "external_account": _token(sdk, "bank_account"),
        }
    )
    assert account.external_accounts is not None
    assert account.external_accounts.total_count == 1
    bank = sdk.v1.accounts.external_accounts.create(
        account.id, {"external_account": _token(sdk, "bank_account", stripe_account=account.id)}
    )
    listed = sdk.v1.accounts.external_accounts.list(account.id)
    assert bank.id in [one.id for one in listed.data]
    assert sdk.v1.accounts.external_accounts.retrieve(account.id, bank.id).id == bank.id
    updated = sdk.v1.accounts.update(account.id, {"individual": {"id_number": _token(sdk, "pii")}})
    assert updated.individual is not None
    assert updated.individual.id_number_provided is True
    assert sdk.v1.accounts.retrieve(account.id).id == account.id


def test_it_makes_and_changes_persons(sdk: stripe.StripeClient) -> None:
    account = sdk.v1.accounts.create({"type": "custom", "business_type": "company"}).id
    person = sdk.v1.accounts.persons.create(account, {"person_token": _token(sdk, "person")})
    assert (person.first_name, person.dob.year if person.dob else None) == ("Jane", 1901)
    changed = sdk.v1.accounts.persons.update(account, person.id, {"id_number": _token(sdk, "pii")})
    assert changed.id_number_provided is True
    assert sdk.v1.accounts.persons.retrieve(account, person.id).id == person.id
    assert len(sdk.v1.accounts.persons.list(account).data) == 1


def test_it_clones_a_saved_card_to_a_connected_account(sdk: stripe.StripeClient) -> None:
    account = sdk.v1.accounts.create({"type": "custom"}).id
    customer = sdk.v1.customers.create({"source": _token(sdk)})
    clone = sdk.v1.tokens.create({"customer": customer.id}, {"stripe_account": account})
    assert clone.last_response is not None
    assert clone.last_response.headers["stripe-account"] == account
    sdk.v1.customers.create({"source": clone.id}, {"stripe_account": account})


def test_a_wrong_card_is_a_card_error(sdk: stripe.StripeClient) -> None:
    with pytest.raises(stripe.CardError) as caught:
        sdk.v1.tokens.create({"card": {**CARD, "number": "4242424242424241"}})  # type: ignore[typeddict-item]
    assert (caught.value.code, caught.value.param, caught.value.http_status) == ("incorrect_number", "number", 402)


def test_a_declined_card_is_a_card_error_when_attached(sdk: stripe.StripeClient) -> None:
    token = sdk.v1.tokens.create({"card": {**CARD, "number": "4000000000009995"}})  # type: ignore[typeddict-item]
    with pytest.raises(stripe.CardError) as caught:
        sdk.v1.customers.create({"source": token.id})
    assert caught.value.code == "card_declined"
    assert caught.value.error is not None
    assert caught.value.error.decline_code == "insufficient_funds"


def test_a_used_and_an_unknown_token_are_invalid_requests(sdk: stripe.StripeClient) -> None:
    token = _token(sdk)
    sdk.v1.customers.create({"source": token})
    for source, code in ((token, "token_already_used"), ("tok_unknown", "resource_missing")):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            sdk.v1.customers.create({"source": source})
        assert (caught.value.code, caught.value.http_status) == (code, 400)
    with pytest.raises(stripe.InvalidRequestError) as caught:
        sdk.v1.tokens.retrieve("tok_unknown")
    assert (caught.value.code, caught.value.http_status) == ("resource_missing", 404)


def test_other_parameters_under_one_key_are_an_idempotency_error(sdk: stripe.StripeClient) -> None:
    options: Any = _key()
    sdk.v1.tokens.create({"pii": {"id_number": "000000000"}}, options)
    with pytest.raises(stripe.IdempotencyError):
        sdk.v1.tokens.create({"pii": {"id_number": "000000001"}}, options)


def test_a_wrong_key_a_foreign_account_and_a_rate_limit_have_their_classes(
    emulator: EmulatorProcess, sdk: stripe.StripeClient, faults: Any
) -> None:
    with pytest.raises(stripe.AuthenticationError):
        _token(_client(emulator, "sk_test_invalid"))
    with pytest.raises(stripe.PermissionError):
        _token(sdk, stripe_account="acct_unknown")
    faults("rate_429_global")
    with pytest.raises(stripe.RateLimitError):
        _token(sdk)
    faults("error_500_before")
    with pytest.raises(stripe.APIError):
        _token(sdk)
    faults("error_502_html")
    with pytest.raises(stripe.APIError):
        _token(sdk)
    faults("reset_after")
    with pytest.raises(stripe.APIConnectionError):
        _token(sdk)


def test_its_own_retry_after_a_lost_answer_finds_the_same_token(emulator: EmulatorProcess, faults: Any) -> None:
    sdk = _client(emulator, retries=1)
    options: Any = _key()
    parameters: Any = PARAMETERS["card"]
    faults("reset_after")
    token = sdk.v1.tokens.create(parameters, options)
    known = httpx.get(f"{emulator.url}/_ledger/keys/{options['idempotency_key']}").json()
    assert known["tokens"] == [token.id]


def test_its_own_retry_after_a_lock_time_out_succeeds(emulator: EmulatorProcess, faults: Any) -> None:
    faults("lock_timeout")
    assert _token(_client(emulator, retries=1))
