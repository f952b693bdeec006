"""The Idempotency-Key: what was answered is answered again."""

from collections.abc import Callable

import pytest

from tokenferry_emulator import EmulatorState, Settings
from tokenferry_emulator.testing import BANK, CARD, HttpAnswer, Provider


def _code(answer: HttpAnswer) -> str | None:
    code: str | None = answer.json()["error"].get("code")
    return code


def test_the_same_key_gives_the_same_token_with_a_new_request_id(provider: Provider) -> None:
    first, second = (provider.post("/v1/tokens", CARD, idempotency_key="k") for _ in range(2))
    assert first.content == second.content
    assert second.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert second.headers["original-request"] == first.headers["request-id"] != second.headers["request-id"]
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"] == "k"
    assert provider.ledger()["tokens_created"] == 1
    assert provider.get("/_ledger/keys/k").json() == {"key": "k", "tokens": [first.json()["id"]]}


def test_a_replay_of_a_spent_token_gives_its_first_body(provider: Provider) -> None:
    token = provider.token(idempotency_key="k")
    provider.made("/v1/customers", {"source": token})
    again = provider.made("/v1/tokens", CARD, idempotency_key="k")
    assert (again["id"], again["used"]) == (token, False)


def test_other_parameters_under_the_same_key_are_an_error(provider: Provider) -> None:
    provider.token(idempotency_key="k")
    status, error = provider.refused("/v1/tokens", {**CARD, "card[exp_month]": "11"}, idempotency_key="k")
    assert (status, error["type"], "code" in error) == (400, "idempotency_error", False)
    assert error["message"].startswith(
        "Keys for idempotent requests can only be used with the same parameters they were first used with. "
        "Try using a key other than 'k'"
    )


def test_another_endpoint_under_the_same_key_is_an_error(provider: Provider) -> None:
    provider.token(idempotency_key="k")
    status, error = provider.refused("/v1/customers", {}, idempotency_key="k")
    assert (status, error["type"]) == (400, "idempotency_error")
    assert "('/v1/customers' vs '/v1/tokens')" in error["message"]


def test_the_order_of_parameters_does_not_matter(provider: Provider) -> None:
    first = provider.token(idempotency_key="k")
    assert provider.token(dict(reversed(CARD.items())), idempotency_key="k") == first


def test_a_key_in_flight_is_409(provider_with: Callable[[Settings], Provider]) -> None:
    provider = provider_with(Settings(latency_ms=20))
    answers = provider.at_once([("/v1/tokens", CARD, {"idempotency_key": "k"})] * 2)
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    assert _code(next(answer for answer in answers if answer.status_code == 409)) == "idempotency_key_in_use"
    assert provider.token(idempotency_key="k") in [answer.json().get("id") for answer in answers]


@pytest.mark.parametrize(
    "form",
    [
        {**CARD, "card[number]": "4242424242424241"},
        {**BANK, "bank_account[account_number]": "9876543210"},
    ],
)
def test_an_error_of_the_endpoint_is_kept_and_says_not_to_retry(provider: Provider, form: dict[str, str]) -> None:
    first, second = (provider.post("/v1/tokens", form, idempotency_key="k") for _ in range(2))
    assert first.content == second.content
    assert first.headers["stripe-should-retry"] == second.headers["stripe-should-retry"] == "false"
    assert second.headers["idempotent-replayed"] == "true"


def test_a_500_is_kept_although_the_token_was_made(provider: Provider) -> None:
    provider.world.faults.set({"script": [{"kind": "error_500"}]})
    answers = [provider.post("/v1/tokens", CARD, idempotency_key="k") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [500, 500]
    assert answers[1].headers["idempotent-replayed"] == "true"
    assert provider.ledger()["tokens_created"] == 1


def test_parameter_errors_are_not_kept(provider: Provider) -> None:
    assert provider.refused("/v1/tokens", {**CARD, "card[colour]": "red"}, idempotency_key="k")[0] == 400
    assert provider.token(idempotency_key="k")


@pytest.mark.parametrize("fault", ["rate_429_global", "lock_timeout", "error_503", "error_500_before"])
def test_what_was_stopped_before_it_began_is_not_kept(provider: Provider, fault: str) -> None:
    provider.world.faults.set({"script": [{"kind": fault}]})
    assert provider.post("/v1/tokens", CARD, idempotency_key="k").status_code >= 429
    answer = provider.post("/v1/tokens", CARD, idempotency_key="k")
    assert answer.status_code == 200
    assert "idempotent-replayed" not in answer.headers


def test_a_token_in_use_is_not_kept_so_the_same_key_may_try_again(
    provider_with: Callable[[Settings], Provider],
) -> None:
    provider = provider_with(Settings(latency_ms=20, decline_consumes=False))
    token = provider.token({**CARD, "card[number]": "4000000000000002"})
    calls = [("/v1/customers", {"source": token}, {"idempotency_key": key}) for key in ("first", "second")]
    assert sorted(answer.status_code for answer in provider.at_once(calls)) == [400, 402]
    assert provider.refused("/v1/customers", {"source": token}, idempotency_key="second")[0] == 402


def test_keys_belong_to_account_mode_and_connected_account(provider: Provider) -> None:
    account = provider.custom_account()
    ids = {
        provider.token(idempotency_key="k"),
        provider.token(idempotency_key="k", stripe_account=account),
        provider.token(idempotency_key="k", authorization="Bearer sk_live_alpha"),
        provider.token(idempotency_key="k", authorization="Bearer sk_test_beta"),
    }
    assert len(ids) == 4
    assert provider.token(idempotency_key="k", authorization="Bearer pk_test_alpha") in ids
    assert provider.ledger()["tokens_by_idempotency_key"] == {"keys": 1, "max": 4, "repeated": {"k": 4}}


def test_a_key_is_pruned_after_24_hours() -> None:
    now = [1_800_000_000.0]
    provider = Provider(EmulatorState(clock=lambda: now[0]))
    first = provider.token(idempotency_key="k")
    now[0] += 24 * 3600 - 1
    assert provider.token(idempotency_key="k") == first
    now[0] += 1
    assert provider.token(idempotency_key="k") != first


def test_a_key_has_no_effect_on_a_get_and_may_not_be_longer_than_255(provider: Provider) -> None:
    token = provider.token()
    answers = [provider.get(f"/v1/tokens/{token}", idempotency_key="k") for _ in range(2)]
    assert all("idempotent-replayed" not in answer.headers for answer in answers)
    assert provider.post("/v1/tokens", CARD, idempotency_key="k" * 256).status_code == 400
