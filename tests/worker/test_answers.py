"""Reading answers: real ones as recorded, and everything that comes instead of one."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenferry_worker.errors import Blocked, Declined, TokenferryError, Unavailable
from tokenferry_worker.provider.answers import RAW_CARD_REFUSAL, V2_ACCOUNTS, Answer, read
from tokenferry_worker.tokens.results import display

RECORDED = sorted((Path(__file__).parents[1] / "recorded").glob("*.json"))
STATUS = {"any-api-error-backend": 500, "payment-method-create-validation-error-phone-unverified": 400}
"""Where the recording lacks a status, the documented one of its error type."""
CANARY = "4000000000000002 says the provider"


def exchange(path: Path) -> tuple[int, dict[str, str], dict[str, Any]]:
    response = json.loads(path.read_text())["response"]
    headers = {name.lower(): value for name, value in (response["headers"] or {}).items()}
    return response["status"] or STATUS[path.stem], headers, response["body"]


def trouble(status: int, body: bytes | dict[str, Any], **headers: str) -> TokenferryError:
    """What `read` raises. Nothing of a message text is ever in it, wherever one looks."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(TokenferryError) as caught:
        read(status, {name.replace("_", "-"): value for name, value in headers.items()}, content)
    told = "".join([*traceback.format_exception(caught.value), str(caught.value), repr(caught.value)])
    assert CANARY not in told
    return caught.value


def error(code: str | None = None, type_: str = "invalid_request_error", **more: Any) -> dict[str, Any]:
    named = {"code": code} if code else {}
    return {"error": {"type": type_, "message": CANARY, **named, **more}}


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_every_recorded_exchange_is_understood(path: Path) -> None:
    status, headers, body = exchange(path)
    if status == 200:
        answer = read(status, headers, json.dumps(body).encode())
        assert (answer.id, answer.object) == (body["id"], body["object"])
        assert answer.request_id == headers.get("request-id")
        assert answer.id in repr(answer)
        assert answer.body.get("client_ip") is None or str(answer.body["client_ip"]) not in repr(answer)
        return
    caught = trouble(status, body, **headers)
    refusal = body["error"]
    if status >= 500:
        assert isinstance(caught, Unavailable)
        assert caught.maybe_done
    else:
        elsewhere = path.stem == "customer-create-404-unrecognized-url"
        assert type(caught) is (Blocked if status in (401, 403) or elsewhere else Declined)
        assert isinstance(caught, Declined)
        assert caught.status == status
        assert caught.param == (refusal.get("param") or None) or isinstance(caught, Blocked)
        assert caught.ours is ("code" not in refusal)
        ours = "not_the_endpoint" if elsewhere else "unauthorized" if status == 401 else "refused"
        assert caught.code == refusal.get("code", ours)
        assert refusal["message"] not in f"{caught} {caught!r}"


@pytest.mark.parametrize("path", [path for path in RECORDED if path.name.startswith("token-")], ids=lambda p: p.stem)
def test_of_a_recorded_token_only_what_may_be_shown_is_displayed(path: Path) -> None:
    status, headers, body = exchange(path)
    if status != 200:
        return
    shown = display(read(status, headers, json.dumps(body).encode()))
    inside = body.get(body["type"])
    if inside is None:
        assert shown is None
        return
    assert shown is not None
    assert (shown.object_id, shown.last4, shown.country) == (inside["id"], inside["last4"], inside["country"])
    assert (shown.brand, shown.bank_name) == (inside.get("brand"), inside.get("bank_name"))
    assert (shown.exp_month, shown.exp_year) == (inside.get("exp_month"), inside.get("exp_year"))
    assert "Jim Smith" not in shown.model_dump_json()


PAGE = b"<html><body>" + CANARY.encode() + b"</body></html>"


@pytest.mark.parametrize("body", [PAGE, b"\n<!DOCTYPE html>\n" + PAGE, b'<?xml version="1.0"?>' + PAGE])
class TestAPageForPeople:
    @pytest.mark.parametrize("status", [200, 201, 400, 401, 402, 403, 404, 405, 407, 409, 424, 451])
    def test_blocks_because_something_else_than_the_endpoint_answers(self, body: bytes, status: int) -> None:
        caught = trouble(status, body)
        assert isinstance(caught, Blocked)
        assert (caught.code, caught.ours, caught.maybe_done) == ("not_the_endpoint", True, status != 404)

    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
    def test_may_be_of_an_edge_that_cannot_reach_the_endpoint(self, body: bytes, status: int) -> None:
        caught = trouble(status, body)
        assert isinstance(caught, Unavailable)
        assert caught.silent


def test_a_page_is_known_by_its_type_too() -> None:
    assert isinstance(trouble(200, b"Please sign in", content_type="text/html; charset=utf-8"), Blocked)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"error": {"type": "invalid_request_error", "message": "' + CANARY.encode(),
        b'["' + CANARY.encode() + b'"]',
        b'"' + CANARY.encode() + b'"',
        b"\xff\xfe\x00",
        b"[" * 200_000,
        json.dumps({"error": CANARY}).encode(),
        json.dumps({"error": [CANARY]}).encode(),
        b"{}",
    ],
)
class TestABodyThatIsNotTheEndpoints:
    @pytest.mark.parametrize("status", [200, 201, 400, 402, 404, 409, 424, 500, 502, 503, 504])
    def test_says_nothing_about_the_call_whatever_its_status(self, body: bytes, status: int) -> None:
        caught = trouble(status, body)
        assert isinstance(caught, Unavailable)
        assert caught.maybe_done
        assert caught.status == status
        assert caught.silent

    @pytest.mark.parametrize("status", [301, 302, 307, 401, 403])
    def test_blocks_where_the_status_alone_says_that_key_or_url_are_wrong(self, body: bytes, status: int) -> None:
        assert type(trouble(status, body)) is Blocked

    def test_of_a_429_was_not_executed(self, body: bytes) -> None:
        caught = trouble(429, body, stripe_rate_limited_reason="endpoint-rate")
        assert isinstance(caught, Unavailable)
        assert (caught.maybe_done, caught.rate_limited) == (False, "endpoint-rate")


@pytest.mark.parametrize(
    "body",
    [
        error("card_declined", "card_error"),
        {"object": "token"},
        {"object": "token", "id": None},
        {"object": "token", "id": ""},
        {"object": "token", "id": 7},
        {"object": "token", "id": "tok_1/../../customers"},
        {"object": "token", "id": "4000000000000002"},
        {"object": "token", "id": "t" * 256},
        {"object": ["token"], "id": "tok_1"},
    ],
)
def test_a_200_without_a_usable_object_is_no_answer_and_may_have_taken_effect(body: dict[str, Any]) -> None:
    caught = trouble(200, body, request_id="req_1")
    assert isinstance(caught, Unavailable)
    assert (caught.maybe_done, caught.request_id) == (True, "req_1")


def test_unknown_keys_and_types_in_a_200_are_ignored() -> None:
    body = {"object": "token", "id": "tok_1", "type": "card", "card": {"last4": 4242, "brand": ["Visa"]}, "new": [{}]}
    answer = read(200, {"idempotent-replayed": "true"}, json.dumps(body).encode())
    assert answer.replayed
    shown = display(answer)
    assert shown is not None
    assert shown.model_dump(exclude_none=True) == {}


def test_last4_is_never_longer_than_four_digits() -> None:
    body = {"object": "token", "id": "tok_1", "type": "card", "card": {"last4": "4242424242424242"}}
    shown = display(Answer("token", "tok_1", body))
    assert shown is not None
    assert shown.last4 == "4242"


@pytest.mark.parametrize(
    ("headers", "code", "reason"),
    [
        ({"stripe_rate_limited_reason": "global-rate"}, "rate_limit", "global-rate"),
        ({"stripe_rate_limited_reason": "endpoint-concurrency"}, "rate_limit", "endpoint-concurrency"),
        ({"stripe_rate_limited_reason": "endpoint-rate"}, None, "endpoint-rate"),
        ({}, "rate_limit", "global-rate"),
        ({}, None, None),
        ({}, "lock_timeout", None),
        ({"stripe_should_retry": "true"}, "lock_timeout", None),
    ],
)
def test_a_429_names_its_budget_or_is_a_lock_and_was_never_executed(
    headers: dict[str, str], code: str | None, reason: str | None
) -> None:
    caught = trouble(429, error(code), **headers)
    assert isinstance(caught, Unavailable)
    assert (caught.rate_limited, caught.maybe_done, caught.status) == (reason, False, 429)
    assert not caught.silent, "the endpoint has answered"


@pytest.mark.parametrize(
    "rest",
    [
        " To continue processing use Stripe.js, the Stripe mobile bindings, or Stripe Elements.",
        " We suggest you use test tokens that map to the test card you are using.",
    ],
)
def test_the_raw_card_refusal_blocks_and_is_never_called_a_declined_card(rest: str) -> None:
    body = {"error": {"type": "invalid_request_error", "message": RAW_CARD_REFUSAL + rest}}
    caught = trouble(402, body)
    assert type(caught) is Blocked
    assert (caught.code, caught.ours, caught.status) == ("raw_card_data_refused", True, 402)
    assert "unsafe" not in f"{caught} {caught!r}"


@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_platform_without_v1_accounts_is_told_so_by_a_code_of_ours(status: int) -> None:
    caught = trouble(status, error(message=f"Use POST {V2_ACCOUNTS} instead. {CANARY}"))
    assert type(caught) is Declined
    assert (caught.code, caught.ours) == ("v1_accounts_refused", True)
    named = trouble(400, error("account_token_required_for_v2_account", message=f"Use {V2_ACCOUNTS}"))
    assert (named.code, named.ours) == ("account_token_required_for_v2_account", False)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("code", [None, "api_key_expired", "account_invalid"])
def test_a_refused_key_blocks(status: int, code: str | None) -> None:
    caught = trouble(status, error(code))
    assert type(caught) is Blocked
    assert (caught.code, caught.ours) == (code or "unauthorized", code is None)


@pytest.mark.parametrize(
    ("status", "code", "maybe_done"),
    [
        (400, "token_in_use", False),
        (409, "idempotency_key_in_use", True),
        (424, None, True),
        (500, None, True),
        (503, None, True),
    ],
)
def test_what_may_be_repeated_says_whether_it_may_have_been_done(
    status: int, code: str | None, maybe_done: bool
) -> None:
    caught = trouble(status, error(code, "api_error"), request_id="req_9")
    assert isinstance(caught, Unavailable)
    assert (caught.maybe_done, caught.rate_limited, caught.request_id) == (maybe_done, None, "req_9")
    assert caught.silent is (status >= 500)


def test_a_stored_500_is_no_sign_of_an_outage_and_will_be_repeated_for_ever() -> None:
    caught = trouble(500, error(None, "api_error"), idempotent_replayed="true")
    assert isinstance(caught, Unavailable)
    assert (caught.replayed, caught.final, caught.maybe_done, caught.silent) == (True, True, True, False)


def test_a_decline_keeps_code_param_and_decline_code_and_nothing_else() -> None:
    caught = trouble(402, error("card_declined", "card_error", param="number", decline_code="lost_card", charge="ch_1"))
    assert caught == Declined(402, "card_declined", "card_error", "number", "lost_card", None)


def test_a_key_used_with_other_parameters_is_named() -> None:
    caught = trouble(400, error(None, "idempotency_error"))
    assert isinstance(caught, Declined)
    assert (caught.code, caught.ours) == ("idempotency_error", True)


@pytest.mark.parametrize(
    ("body", "header", "limit"),
    [
        (error("rate_limit"), None, "global-rate"),
        (error("rate_limit"), "endpoint-rate", "endpoint-rate"),
        (error(None), "endpoint-rate", "endpoint-rate"),
        (error(None), None, None),
        (error("lock_timeout"), "endpoint-rate", None),
        (b"<html>", "endpoint-concurrency", "endpoint-concurrency"),
        (b"<html>", None, None),
    ],
)
def test_the_table_decides_which_429_is_a_rate_limit(body: bytes, header: str | None, limit: str | None) -> None:
    headers = {} if header is None else {"stripe_rate_limited_reason": header}
    caught = trouble(429, body, **headers)
    assert isinstance(caught, Unavailable)
    assert (caught.rate_limited, caught.maybe_done) == (limit, False)


@pytest.mark.parametrize(("status", "maybe_done"), [(400, False), (409, True), (424, True), (429, False), (503, True)])
def test_what_was_refused_before_it_was_executed_has_had_no_effect(status: int, maybe_done: bool) -> None:
    """Of a 409 the first call with the same key is still under way."""
    caught = trouble(status, error("token_in_use"))
    assert isinstance(caught, Unavailable)
    assert caught.maybe_done is maybe_done


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("-1", 0.0),
        ("99999", 300.0),
        ("inf", 300.0),
        ("nan", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_believed_within_reason(text: str, seconds: float | None) -> None:
    caught = trouble(503, error(None, "api_error"), retry_after=text)
    assert isinstance(caught, Unavailable)
    assert caught.retry_after == seconds


@pytest.mark.parametrize(
    "echoed",
    [
        "c" * 1000,
        "number=4000056655665556",
        "Jane Doe",
        "\x1b[2J",
        "4000 0566 5566 5556",
        "4000056655665556",
        "000123456",
    ],
)
def test_a_word_of_the_endpoint_that_may_be_a_value_is_not_repeated(echoed: str) -> None:
    """Something before the endpoint may repeat what it was sent, in the place of a code."""
    caught = trouble(400, error(echoed, param=echoed, decline_code=echoed), request_id=f"{echoed} 4000056655665556")
    assert isinstance(caught, Declined)
    for word in (caught.code, caught.param, caught.decline_code, caught.request_id):
        assert word in ("unreadable", "...")


@pytest.mark.parametrize("word", ["card[number]", "incorrect_number", "persons.0.dob", "items[12]", "3ds-required"])
def test_a_word_of_the_endpoint_is_repeated_as_it_is(word: str) -> None:
    caught = trouble(400, error(word, param=word))
    assert isinstance(caught, Declined)
    assert (caught.code, caught.param) == (word, word)


@given(status=st.integers(100, 599), body=st.binary(max_size=200))
def test_no_bytes_at_all_make_it_raise_anything_else(status: int, body: bytes) -> None:
    try:
        read(status, {}, body)
    except TokenferryError:
        pass


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["type", "code", "param", "decline_code", "message"])


@given(status=st.integers(200, 599), refusal=st.dictionaries(FIELDS, JSON), header=st.text(max_size=20))
def test_no_error_object_at_all_makes_it_raise_anything_else(status: int, refusal: dict[str, Any], header: str) -> None:
    headers = {"retry-after": header, "request-id": header, "stripe-rate-limited-reason": header}
    try:
        read(status, headers, json.dumps({"error": refusal}).encode())
    except TokenferryError:
        pass


def test_the_endpoints_own_word_about_repeating_goes_before_the_table() -> None:
    repeated = trouble(400, error("anything"), stripe_should_retry="true")
    assert isinstance(repeated, Unavailable)
    assert (repeated.final, repeated.maybe_done) == (False, False)
    ended = trouble(500, error(None, "api_error"), stripe_should_retry="false")
    assert isinstance(ended, Unavailable)
    assert (ended.final, ended.maybe_done) == (True, True)
    assert isinstance(trouble(402, error("card_declined", "card_error"), stripe_should_retry="false"), Declined)
