"""What is sent to the endpoint, with which key, and what becomes of every way a call can fail."""

from __future__ import annotations

import asyncio
import gc
import json
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal, get_args
from urllib.parse import parse_qsl

import httpx
import pytest

from tokenferry.configuration import InvalidConfiguration, Platform
from tokenferry.contract.codes import Code
from tokenferry.contract.requests import CardRequest, Kind
from tokenferry_worker.errors import Blocked, Declined, Unavailable
from tokenferry_worker.provider.client import STRIPE_VERSION, ApiKeys, StripeClient
from tokenferry_worker.provider.exchanges import exchange_with
from tokenferry_worker.provider.over_httpx import HttpxExchange
from tokenferry_worker.provider.way import DIRECT

pytestmark = pytest.mark.anyio

CANARY = "canary0000000000"
FORM = CardRequest(number="4242 4242 4242 4242", exp_month="12", exp_year="2034", name="Zoë & Co").form()
TEST = Platform(mode="test", base_url="http://127.0.0.1:1")
LIVE = Platform(mode="live")


def keys_of(mode: str) -> ApiKeys:
    return ApiKeys(secret=f"sk_{mode}_{CANARY}", publishable=f"pk_{mode}_{CANARY}")


class Endpoint:
    """Answers every call with a token of the kind asked for, and keeps what it was sent."""

    def __init__(self, **changed: object) -> None:
        self.requests: list[httpx.Request] = []
        self.changed = changed

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        form = dict(parse_qsl(request.content.decode()))
        kind = next(iter(form), "").partition("[")[0]
        return httpx.Response(
            200, json={"id": "tok_1", "object": "token", "type": kind, **self.changed}, headers={"Request-Id": "req_1"}
        )


def client_of(
    platform: Platform, answer: Callable[[httpx.Request], httpx.Response], keys: ApiKeys | None = None
) -> StripeClient:
    exchange = HttpxExchange(
        platform.base_url,
        DIRECT,
        connections=4,
        read_timeout=5,
        connect_timeout=5,
        transport=httpx.MockTransport(answer),
    )
    return StripeClient(platform, keys or keys_of(platform.mode), exchange)


async def test_a_call_carries_version_key_idempotency_key_account_and_the_form_byte_for_byte() -> None:
    endpoint = Endpoint()
    answer = await client_of(TEST, endpoint).create_token(
        "card", FORM, idempotency_key="tokenferry:req-1:0", connected_account="acct_1"
    )
    (request,) = endpoint.requests
    assert (request.method, request.url.path) == ("POST", "/v1/tokens")
    assert request.content == FORM.encode("ascii")
    assert {name: request.headers[name] for name in ("stripe-version", "idempotency-key", "stripe-account")} == {
        "stripe-version": STRIPE_VERSION,
        "idempotency-key": "tokenferry:req-1:0",
        "stripe-account": "acct_1",
    }
    assert request.headers["authorization"] == f"Bearer sk_test_{CANARY}"
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert (answer.id, answer.request_id) == ("tok_1", "req_1")


async def test_without_a_connected_account_no_account_is_named() -> None:
    endpoint = Endpoint()
    await client_of(TEST, endpoint).create_token("card", FORM, idempotency_key="k")
    assert "stripe-account" not in endpoint.requests[0].headers


async def test_a_connected_account_cannot_smuggle_a_header() -> None:
    endpoint = Endpoint()
    await client_of(TEST, endpoint).post(
        "/v1/customers", "", idempotency_key="k", connected_account="acct\r\nX-Evil: 1"
    )
    assert "x-evil" not in endpoint.requests[0].headers
    assert endpoint.requests[0].headers["stripe-account"] == "acct%0D%0AX-Evil%3A%201"


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("platform", [TEST, LIVE], ids=["test", "live"])
async def test_only_live_account_and_person_tokens_are_made_with_the_publishable_key(
    platform: Platform, kind: Kind
) -> None:
    endpoint = Endpoint()
    await client_of(platform, endpoint).create_token(kind, f"{kind}[x]=1", idempotency_key="k")
    publishable = platform.live and kind in ("account", "person")
    prefix = "pk" if publishable else "sk"
    assert endpoint.requests[0].headers["authorization"] == f"Bearer {prefix}_{platform.mode}_{CANARY}"


async def test_a_consuming_call_always_uses_the_secret_key() -> None:
    endpoint = Endpoint()
    await client_of(LIVE, endpoint).post("/v1/accounts", "account_token=ct_1", idempotency_key="k")
    assert endpoint.requests[0].headers["authorization"] == f"Bearer sk_live_{CANARY}"


async def test_a_live_account_token_without_a_publishable_key_is_refused_before_any_call() -> None:
    endpoint = Endpoint()
    keys = ApiKeys(secret=f"sk_live_{CANARY}", publishable=None)
    with pytest.raises(Declined) as caught:
        await client_of(LIVE, endpoint, keys).create_token("account", "account[x]=1", idempotency_key="k")
    assert (caught.value.code, caught.value.ours, endpoint.requests) == (Code.PUBLISHABLE_KEY_MISSING, True, [])


@pytest.mark.parametrize("changed", [{"type": "bank_account"}, {"type": None}, {"object": "card"}])
async def test_a_200_that_is_not_a_token_of_this_kind_is_no_answer(changed: dict[str, object]) -> None:
    with pytest.raises(Unavailable) as caught:
        await client_of(TEST, Endpoint(**changed)).create_token("card", FORM, idempotency_key="k")
    assert caught.value.maybe_done


async def test_a_redirect_is_not_followed() -> None:
    def elsewhere(request: httpx.Request) -> httpx.Response:
        assert request.url.host == "127.0.0.1"
        return httpx.Response(307, headers={"Location": "https://example.com/v1/tokens"})

    with pytest.raises(Blocked):
        await client_of(TEST, elsewhere).create_token("card", FORM, idempotency_key="k")


def every_subclass(kind: type[Exception]) -> list[type[Exception]]:
    return [kind, *(deeper for below in kind.__subclasses__() for deeper in every_subclass(below))]


NEVER_SENT = {httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError}


@pytest.mark.parametrize("kind", sorted({*every_subclass(httpx.RequestError), RuntimeError, ValueError}, key=str))
async def test_whatever_a_transport_raises_becomes_unavailable_and_quotes_nothing(kind: type[Exception]) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise kind(f"4000000000000002 {request.content!r} {request.headers!r}")

    with pytest.raises(Unavailable) as caught:
        await client_of(TEST, fail).create_token("card", FORM, idempotency_key="k")
    assert caught.value.maybe_done is (kind not in NEVER_SENT)
    told = f"{caught.value} {caught.value!r} {''.join(traceback.format_exception(caught.value))}"
    assert kind.__name__ in told
    assert "4000000000000002" not in told
    assert CANARY not in told


Http = Literal["own", "httpx"]


@pytest.fixture(params=get_args(Http))
def http(request: pytest.FixtureRequest) -> Http:
    """Both HTTP clients. They must agree."""
    return request.param  # type: ignore[no-any-return]


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(serve: Serve, http: Http) -> AsyncIterator[StripeClient]:
    """A client of a real server on a port of its own, over one of the two HTTP clients."""

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    platform = Platform(mode="test", base_url=f"http://127.0.0.1:{port}")
    read_timeout = 0.3 if serve in (fall_silent, stall) else 30
    exchange = exchange_with(platform.base_url, http=http, connections=4, read_timeout=read_timeout, connect_timeout=30)
    client = StripeClient(platform, keys_of("test"), exchange)
    try:
        yield client
    finally:
        await client.aclose()
        server.close()


async def request_read(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_read(reader)


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_read(reader)
    writer.transport.abort()


async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_read(reader)
    writer.write(b"220 mail.example.com 4000000000000002 ready\r\n\r\n")
    await writer.drain()


async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_read(reader)
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"id": "tok_1", ')
    await writer.drain()


async def lie_about_encoding(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_read(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope")
    await writer.drain()


async def fall_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_read(reader)
    await reader.read()


async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await break_off(reader, writer)
    await reader.read()


@pytest.mark.parametrize("serve", [hang_up, reset, babble, break_off, lie_about_encoding, fall_silent, stall])
async def test_a_call_without_an_answer_leaves_no_connection_behind(serve: Serve, http: Http) -> None:
    left: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(context["message"]))
    async with served(serve, http) as client:
        for _ in range(6):  # more than there are connections
            with pytest.raises(Unavailable):
                await client.create_token("card", FORM, idempotency_key="k")
        gc.collect()
    assert left == []


@pytest.mark.parametrize("serve", [hang_up, reset, babble, break_off, lie_about_encoding, fall_silent, stall])
async def test_a_call_that_was_sent_and_not_answered_may_have_been_done(serve: Serve, http: Http) -> None:
    async with served(serve, http) as client:
        with pytest.raises(Unavailable) as caught:
            await client.create_token("card", FORM, idempotency_key="k")
        assert caught.value.maybe_done, caught.value
        assert not caught.value.reason.startswith("Connect"), "it was connected"
        assert "4000000000000002" not in f"{caught.value} {caught.value!r}"


async def test_a_refused_connection_was_never_sent(http: Http) -> None:
    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    platform = Platform(mode="test", base_url=f"http://127.0.0.1:{port}")
    exchange = exchange_with(platform.base_url, http=http, connections=1, read_timeout=1, connect_timeout=1)
    client = StripeClient(platform, keys_of("test"), exchange)
    with pytest.raises(Unavailable) as caught:
        await client.create_token("card", FORM, idempotency_key="k")
    assert caught.value.maybe_done is False
    with pytest.raises(Unavailable):
        await client.key_is_accepted()
    await client.aclose()


async def test_the_real_transport_sends_the_form_unchanged_and_reads_the_answer(http: Http) -> None:
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await request_read(reader))
        body = json.dumps({"id": "tok_1", "object": "token", "type": "card"}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nRequest-Id: req_7\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()

    async with served(answer, http) as client:
        got = await client.create_token("card", FORM, idempotency_key="tokenferry:req-1:0")
    assert (got.id, got.request_id) == ("tok_1", "req_7")
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert body == FORM.encode("ascii")
    assert b"idempotency-key: tokenferry:req-1:0" in head.lower()


NO_SUCH_TOKEN = {"error": {"type": "invalid_request_error", "message": "No such token: tok_preflight"}}
LIMITED = {"error": {"type": "invalid_request_error", "code": "rate_limit"}}
REFUSED = {"error": {"type": "invalid_request_error"}}


@pytest.mark.parametrize(
    ("status", "body", "accepted"),
    [
        (404, NO_SUCH_TOKEN, True),
        (429, LIMITED, True),
        (401, REFUSED, False),
        (403, REFUSED, False),
    ],
)
async def test_a_key_is_asked_about_before_the_first_request(status: int, body: Any, accepted: bool) -> None:
    client = client_of(TEST, lambda request: httpx.Response(status, json=body))
    assert await client.key_is_accepted() is accepted


@pytest.mark.parametrize(("status", "body"), [(500, {"error": {"type": "api_error"}}), (502, None)])
async def test_a_key_cannot_be_asked_about_while_stripe_fails(status: int, body: Any) -> None:
    with pytest.raises(Unavailable) as caught:
        await client_of(TEST, lambda request: httpx.Response(status, json=body)).key_is_accepted()
    assert caught.value.status == status


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(302),
        httpx.Response(404),
        httpx.Response(404, json={"detail": "Not Found"}),
        httpx.Response(404, json={"error": {"message": "Unrecognized request URL (GET: /v1/v1/tokens/tok_1)."}}),
        httpx.Response(404, json=REFUSED),
        httpx.Response(200, text="<html>Please sign in</html>"),
        httpx.Response(401, text="<html>Please sign in</html>"),
    ],
)
async def test_what_is_not_the_endpoint_says_nothing_of_the_key_and_is_told_apart(answer: httpx.Response) -> None:
    with pytest.raises(Blocked):
        await client_of(TEST, lambda request: answer).key_is_accepted()


@pytest.mark.parametrize("path", ["/v1/customers", "/v1/charges", "/v1/accounts"])
@pytest.mark.parametrize("body", [None, REFUSED, {"error": {"message": "Unrecognized request URL (POST: /v1)."}}])
async def test_a_404_of_a_path_that_names_no_object_means_that_no_endpoint_is_there(path: str, body: Any) -> None:
    client = client_of(TEST, lambda request: httpx.Response(404, json=body))
    with pytest.raises(Blocked, match="not_the_endpoint"):
        await client.post(path, "", idempotency_key="k")
    with pytest.raises(Blocked, match="not_the_endpoint"):
        await client.create_token("card", FORM, idempotency_key="k")


@pytest.mark.parametrize(
    ("path", "refusal"),
    [
        ("/v1/customers/cus_1/sources", {}),
        ("/v1/charges", {"code": "resource_missing", "param": "customer"}),
        ("/v1/charges", {"message": "No such customer: cus_1"}),
    ],
)
async def test_a_404_about_an_object_is_the_calls_own(path: str, refusal: dict[str, str]) -> None:
    body = {"error": {"type": "invalid_request_error", **refusal}}
    client = client_of(TEST, lambda request: httpx.Response(404, json=body))
    with pytest.raises(Declined) as caught:
        await client.post(path, "", idempotency_key="k")
    assert type(caught.value) is Declined


HTTPS = "https://api.stripe.com"


@pytest.mark.parametrize(
    ("mode", "secret", "publishable", "word"),
    [
        ("test", f"pk_test_{CANARY}", None, "looks like a publishable key"),
        ("test", None, f"sk_test_{CANARY}", "looks like a secret key"),
        ("test", CANARY, None, "not a key at all"),
        ("test", None, f"rk_test_{CANARY}", "looks like a secret key"),
        ("test", "", None, "not a key at all"),
        ("test", f"sk_test_{CANARY}é", None, "sk_ or rk_"),
        ("test", f"sk_test_{CANARY}\r\nX-Evil: 1", None, "sk_ or rk_"),
        ("test", f"sk_live_{CANARY}", None, "not a test key"),
        ("live", f"sk_test_{CANARY}", None, "not a live key"),
        ("live", f"rk_test_{CANARY}", None, "not a live key"),
        ("live", f"rkcs_test_{CANARY}", None, "not a live key"),
        ("live", f"sk_live_{CANARY}", f"pk_test_{CANARY}", "not a live key"),
    ],
)
async def test_keys_of_the_wrong_sort_or_mode_are_refused_and_never_quoted(
    mode: str, secret: str | None, publishable: str | None, word: str
) -> None:
    keys = ApiKeys(secret=secret, publishable=publishable)
    platform = Platform.model_validate({"mode": mode})
    with pytest.raises(InvalidConfiguration, match=word) as caught:
        keys.check("main", platform)
    assert "[platforms.main]" in str(caught.value)
    assert CANARY not in "".join(traceback.format_exception(caught.value)) + repr(keys) + str(keys)


@pytest.mark.parametrize("secret", [f"sk_test_{CANARY}", f"rk_test_{CANARY}", f"rkcs_test_{CANARY}"])
@pytest.mark.parametrize("base_url", [HTTPS, "http://127.0.0.1:8080", "http://localhost:8080", "http://[::1]:8080"])
async def test_right_keys_pass(secret: str, base_url: str) -> None:
    ApiKeys(secret, f"pk_test_{CANARY}").check("main", Platform(mode="test", base_url=base_url))
