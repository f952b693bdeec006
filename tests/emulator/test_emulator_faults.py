"""Faults, as a caller sees them over a real connection."""

import time

import httpx
import pytest

from tokenferry_emulator.faults import KINDS, Faults, UnreadableFaults
from tokenferry_emulator.testing import CARD, EmulatorProcess, Provider


def _script(fresh: httpx.Client, kind: str, times: int = 1) -> None:
    fresh.post("/_faults", json={"script": [{"kind": kind, "times": times, "path": "/v1/tokens"}]}).raise_for_status()


def _create(fresh: httpx.Client, key: str = "k") -> httpx.Response:
    return fresh.post("/v1/tokens", data=CARD, headers={"idempotency-key": key})


def _tokens(fresh: httpx.Client) -> int:
    count: int = fresh.get("/_ledger").json()["tokens_created"]
    return count


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("rate_429_global", "global-rate"),
        ("rate_429_endpoint", "endpoint-rate"),
        ("rate_429_concurrency", "global-concurrency"),
        ("lock_timeout", None),
    ],
)
def test_a_429_on_purpose_says_its_reason_and_does_nothing(fresh: httpx.Client, kind: str, reason: str | None) -> None:
    _script(fresh, kind)
    answer = _create(fresh)
    assert answer.status_code == 429
    assert answer.headers.get("stripe-rate-limited-reason") == reason
    assert answer.json()["error"]["code"] == ("rate_limit" if reason else "lock_timeout")
    assert _tokens(fresh) == 0


@pytest.mark.parametrize(
    ("kind", "status", "made"),
    [("error_500_before", 500, 0), ("error_500", 500, 1), ("error_503", 503, 0)],
)
def test_a_5xx_on_purpose_has_the_recorded_body(fresh: httpx.Client, kind: str, status: int, made: int) -> None:
    _script(fresh, kind)
    answer = _create(fresh)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, "api_error")
    assert answer.json()["error"]["message"].startswith("Error while communicating with one of our backends.  Sorry")
    assert _tokens(fresh) == made


@pytest.mark.parametrize(("kind", "made"), [("error_502_html", 0), ("error_502_html_after", 1)])
def test_a_502_is_html(fresh: httpx.Client, kind: str, made: int) -> None:
    _script(fresh, kind)
    answer = _create(fresh)
    assert (answer.status_code, answer.headers["content-type"]) == (502, "text/html")
    assert "<html>" in answer.text
    assert _tokens(fresh) == made


@pytest.mark.parametrize(("kind", "made"), [("reset_before", 0), ("reset_after", 1), ("reset_mid_body", 1)])
def test_a_reset_breaks_the_connection_and_a_replay_shows_what_happened(
    fresh: httpx.Client, kind: str, made: int
) -> None:
    _script(fresh, kind)
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        _create(fresh)
    assert _tokens(fresh) == made
    again = _create(fresh)
    assert again.status_code == 200
    assert again.headers.get("idempotent-replayed") == ("true" if made else None)
    assert _tokens(fresh) == 1


def test_a_slow_drip_comes_whole_but_late(fresh: httpx.Client) -> None:
    _script(fresh, "slow_drip")
    started = time.monotonic()
    assert _create(fresh).json()["object"] == "token"
    assert time.monotonic() - started > 0.5


@pytest.mark.parametrize("kind", ["truncated_json", "empty_200", "not_a_token_200"])
def test_a_200_that_is_no_token_hides_one_that_was_made(fresh: httpx.Client, kind: str) -> None:
    _script(fresh, kind)
    answer = _create(fresh)
    assert answer.status_code == 200
    if kind == "not_a_token_200":
        assert answer.json()["object"] != "token"
    else:
        with pytest.raises(ValueError):
            answer.json()
    assert _create(fresh).json()["object"] == "token"
    assert _tokens(fresh) == 1


@pytest.mark.parametrize(("kind", "made"), [("hang", 0), ("hang_after", 1)])
def test_a_hang_never_answers(fresh: httpx.Client, kind: str, made: int) -> None:
    _script(fresh, kind)
    with pytest.raises(httpx.ReadTimeout):
        fresh.post("/v1/tokens", data=CARD, timeout=0.2)
    assert _tokens(fresh) == made


def test_a_script_strikes_so_many_times_and_only_on_its_path(fresh: httpx.Client) -> None:
    _script(fresh, "error_503", times=2)
    assert fresh.post("/v1/customers").status_code == 200
    assert [_create(fresh).status_code for _ in range(3)] == [503, 503, 200]
    assert fresh.get("/_ledger").json()["faults"] == {"error_503": 2}


def test_a_script_can_strike_one_request_alone_by_how_its_idempotency_key_begins(fresh: httpx.Client) -> None:
    script = [{"kind": "error_500_before", "times": 9, "path": "/v1/tokens", "key": "poison:"}]
    fresh.post("/_faults", json={"script": script}).raise_for_status()
    assert [_create(fresh, key).status_code for key in ("poison:0", "good:0", "poison:1")] == [500, 200, 500]
    assert fresh.post("/v1/tokens", data=CARD).status_code == 200, "a call without a key"


def test_probabilities_are_set_and_cleared_while_running(fresh: httpx.Client) -> None:
    assert fresh.post("/_faults", json={"error_503": 1.0}).json() == {"error_503": 1.0, "script": []}
    assert _create(fresh).status_code == 503
    fresh.delete("/_faults")
    assert _create(fresh).status_code == 200


@pytest.mark.parametrize(
    "wish",
    [
        {"earthquake": 0.5},
        {"hang": 2},
        {"hang": "often"},
        {"script": [{"kind": "x"}]},
        {"script": [{"kind": "hang", "key": 1}]},
        {"script": {}},
        [],
    ],
)
def test_a_wish_that_cannot_be_read_is_400_and_changes_nothing(fresh: httpx.Client, wish: object) -> None:
    answer = fresh.post("/_faults", json=wish)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert fresh.get("/_faults").json() == {"script": []}


def test_the_same_seed_chooses_the_same_faults() -> None:
    def chosen(seed: int) -> list[str | None]:
        faults = Faults({"reset_after": 0.2, "error_500": 0.3}, seed)
        return [faults.choose("POST", "/v1/tokens") for _ in range(200)]

    assert chosen(1) == chosen(1) != chosen(2)
    assert 70 < sum(kind is not None for kind in chosen(1)) < 130


def test_probabilities_of_more_than_one_together_cannot_be_meant() -> None:
    with pytest.raises(UnreadableFaults):
        Faults(dict.fromkeys(list(KINDS)[:3], 0.5), seed=0)


def test_faults_and_seed_can_be_given_at_the_start() -> None:
    with EmulatorProcess("--fault", "error_503=1", "--seed", "7") as emulator:
        answer = httpx.post(f"{emulator.url}/v1/tokens", data=CARD, auth=("sk_test_alpha", ""))
        assert answer.status_code == 503


def test_a_script_can_name_the_calls_below_objects_that_have_no_id_yet(provider: Provider) -> None:
    account = provider.custom_account()
    provider.world.faults.set({"script": [{"kind": "error_503", "path": "/v1/accounts/:id/persons"}]})
    person = {"first_name": "Jenny", "last_name": "Rosen"}
    assert provider.post("/v1/accounts", {"type": "custom"}).status_code == 200
    assert provider.post(f"/v1/accounts/{account}/persons", person).status_code == 503
    assert provider.post(f"/v1/accounts/{account}/persons", person).status_code == 200
