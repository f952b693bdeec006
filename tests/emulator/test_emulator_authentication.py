"""Keys, modes and scopes: who may do what, and what can be seen from where."""

import base64
from collections.abc import Callable

import httpx
import pytest

from tokenferry_emulator import Settings
from tokenferry_emulator.testing import BANK, CARD, Provider

ACCOUNT = {"account[tos_shown_and_accepted]": "true"}


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("header", "code"),
    [("", None), ("Bearer sk_test_invalid", None), ("Bearer sk_test_expired", "api_key_expired"), ("Bearer x", None)],
)
def test_a_wrong_key_is_401_as_recorded(provider: Provider, header: str, code: str | None) -> None:
    answer = provider.post("/v1/customers", {"email": "stripe@example.org"}, authorization=header)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error.get("code")) == (401, "invalid_request_error", code)
    assert answer.headers["www-authenticate"] == 'Bearer realm="Stripe"'
    assert "request-id" not in answer.headers
    assert "sk_test_invalid" not in answer.text


def test_keys_accounts_and_card_numbers_can_be_refused_and_accepted_again_while_it_runs(fresh: httpx.Client) -> None:
    connected = {"stripe-account": "acct_given"}

    def statuses() -> list[int]:
        form = {"pii[id_number]": "000000000"}
        return [
            fresh.post("/v1/tokens", data=form).status_code,
            fresh.post("/v1/tokens", data=form, headers=connected).status_code,
            fresh.post("/v1/tokens", data=CARD).status_code,
        ]

    def told(**wish: list[str]) -> object:
        return fresh.post("/_keys", json=wish).json()

    assert statuses() == [200, 200, 200]
    assert told(reject=["acct_given", "raw_cards"]) == {"rejected": ["acct_given", "raw_cards"]}
    assert statuses() == [200, 403, 402]
    told(accept=["acct_given", "raw_cards"], reject=["sk_test_alpha"])
    assert statuses() == [401, 401, 401]
    assert told(accept=["sk_test_alpha"]) == {"rejected": []}
    assert statuses() == [200, 200, 200]
    assert fresh.post("/_keys", json={"reject": "sk_test_alpha"}).status_code == 400


def test_basic_authentication_is_as_good_as_bearer(provider: Provider) -> None:
    token = provider.token()
    basic = base64.b64encode(b"sk_test_alpha:").decode()
    assert provider.get(f"/v1/tokens/{token}", authorization=f"Basic {basic}").status_code == 200


def test_only_the_given_keys_are_accepted_if_any_are_given(provider_with: Callable[[Settings], Provider]) -> None:
    provider = provider_with(Settings(keys=frozenset({"sk_test_beta"})))
    assert provider.post("/v1/tokens", CARD).status_code == 401
    assert provider.post("/v1/tokens", CARD, **_bearer("sk_test_beta")).status_code == 200


def test_a_publishable_key_makes_tokens_and_nothing_else(provider: Provider) -> None:
    token = provider.made("/v1/tokens", CARD, **_bearer("pk_test_alpha"))["id"]
    for answer in (
        provider.get(f"/v1/tokens/{token}", **_bearer("pk_test_alpha")),
        provider.post("/v1/customers", {"source": token}, **_bearer("pk_test_alpha")),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "secret_key_required")
    assert provider.made("/v1/customers", {"source": token})


@pytest.mark.parametrize("form", [ACCOUNT, {"person[first_name]": "Jane"}])
def test_in_live_mode_account_and_person_tokens_need_the_publishable_key(
    provider: Provider, form: dict[str, str]
) -> None:
    status, error = provider.refused("/v1/tokens", form, **_bearer("sk_live_alpha"))
    assert status == 403
    assert "publishable" in error["message"]
    assert provider.made("/v1/tokens", form, **_bearer("pk_live_alpha"))["livemode"] is True
    assert provider.made("/v1/tokens", form, **_bearer("sk_test_alpha"))["livemode"] is False


def test_a_test_token_is_unknown_in_live_mode_and_the_error_says_why(provider: Provider) -> None:
    token = provider.token()
    status, error = provider.refused("/v1/customers", {"source": token}, **_bearer("sk_live_alpha"))
    assert (status, error["code"]) == (400, "resource_missing")
    assert "a similar object exists in test mode, but a live mode key was used" in error["message"]
    assert provider.refused("/v1/customers", {"source": "tok_visa"}, **_bearer("sk_live_alpha"))[0] == 400


def test_a_token_is_unknown_to_another_account_and_to_a_connected_one(provider: Provider) -> None:
    token = provider.token()
    account = provider.custom_account()
    for headers in (_bearer("sk_test_beta"), {"stripe_account": account}):
        status, error = provider.refused("/v1/customers", {"source": token}, **headers)
        assert (status, error["code"], error["message"]) == (400, "resource_missing", f"No such token: '{token}'")
    assert provider.made("/v1/customers", {"source": token})


def test_a_token_of_a_connected_account_is_good_there_and_nowhere_else(provider: Provider) -> None:
    account = provider.custom_account()
    answer = provider.post("/v1/tokens", CARD, stripe_account=account)
    token = answer.json()["id"]
    assert answer.headers["stripe-account"] == account
    assert provider.refused("/v1/customers", {"source": token})[1]["code"] == "resource_missing"
    assert provider.made("/v1/customers", {"source": token}, stripe_account=account)


def test_external_accounts_take_tokens_of_both_scopes(provider: Provider) -> None:
    account = provider.custom_account()
    connected = provider.token(BANK, stripe_account=account)
    provider.made(f"/v1/accounts/{account}", {"bank_account": connected})
    provider.made(f"/v1/accounts/{account}", {"external_account": provider.token(BANK)})


def test_an_unknown_connected_account_is_403(provider: Provider) -> None:
    for status, error in (
        provider.refused("/v1/tokens", CARD, stripe_account="acct_unknown"),
        provider.refused("/v1/accounts/acct_unknown", {"email": "a@example.com"}),
        provider.refused("/v1/tokens", CARD, stripe_account=provider.custom_account(), **_bearer("sk_test_beta")),
    ):
        assert (status, error["code"]) == (403, "account_invalid")


def test_connected_accounts_can_be_given_from_the_start(provider_with: Callable[[Settings], Provider]) -> None:
    provider = provider_with(Settings(connected_accounts=("acct_given",)))
    assert provider.made("/v1/tokens", CARD, stripe_account="acct_given")
    assert provider.made("/v1/accounts/acct_given", {"external_account": provider.token(BANK)})
