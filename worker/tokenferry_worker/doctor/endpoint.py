"""Checks for each platform whether Stripe accepts its keys, and for which kinds of token, without creating a token.

Each kind is tried with a request that cannot succeed. Where the kind is allowed, Stripe answers what is wrong with the
request; else that it is not allowed. At most eight calls per platform, outside the budgets of the fleet.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Final

from tokenferry.addresses import host
from tokenferry.broker.error_text import explain, stripe
from tokenferry.configuration import Configuration, InvalidConfiguration, Platform
from tokenferry.contract.codes import Code
from tokenferry.contract.requests import Kind
from tokenferry_worker import wiring
from tokenferry_worker.doctor.deadline import SECONDS
from tokenferry_worker.doctor.verdicts import Check, clock, failed, ok, refused, warning
from tokenferry_worker.errors import Blocked, Declined, Unavailable
from tokenferry_worker.provider.answers import Greeting
from tokenferry_worker.provider.client import PUBLISHABLE_IN_LIVE, ApiKeys, StripeClient
from tokenferry_worker.provider.exchanges import exchange_with
from tokenferry_worker.provider.way import Way, way_to
from tokenferry_worker.wiring import Role

INCOMPLETE: Final[Mapping[Kind, str]] = {
    # The published test number with a wrong check digit.
    "card": "card[number]=4242+4242+4242+4241&card[exp_month]=12&card[exp_year]=2040",
    "bank_account": "bank_account[country]=US&bank_account[currency]=usd",
    "pii": "pii[id_number]=",
    "account": "account[business_type]=preflight",
    "person": "person[dob][day]=preflight",
    "cvc_update": "cvc_update[cvc]=",
}
"""A form of every kind that Stripe creates no token of."""
NO_ACCOUNT: Final = "business_type=preflight"
"""Asks for a connected account of a type that does not exist."""

RAW_CARDS = (
    "ask the provider for access to raw card data APIs (live and test mode are allowed separately); "
    "until then send no card requests to this platform"
)
V1_ACCOUNTS = (
    "ask Stripe's support to allow the Accounts v1 API for this platform; Accounts v2 (/v2/core/accounts) are not "
    "supported here. Cards, customers and payments work without"
)
KEY = "take the key from the provider's dashboard again, and make sure it is of the right account"
ELSEWHERE = "check base_url, and a proxy between here and there: something else than the endpoint answers"
PERMISSION = "give the key the permission to write tokens, or use another key"


async def examine(configuration: Configuration, name: str, platform: Platform, role: Role) -> list[Check]:
    """Run every check for one platform; the later ones only where the earlier ones passed."""
    try:
        keys = wiring.api_keys(configuration, name, platform)
    except InvalidConfiguration as error:
        found = refused("endpoint keys", name, error, f"correct [platforms.{name}]: no worker starts like this")
        return [found, *_without_publishable(name, platform, role)]
    try:
        way = way_to(configuration, platform)
    except InvalidConfiguration as error:
        return [refused("endpoint proxy", name, error, "correct it: no worker starts like this")]
    exchange = exchange_with(
        platform.base_url, http="httpx", way=way, connections=8, read_timeout=SECONDS, connect_timeout=SECONDS / 2
    )
    client = StripeClient(platform, keys, exchange)
    try:
        return [*_keys(name, platform, keys), *_way(name, way), *await ask(client, name, platform, role)]
    finally:
        await client.aclose()


async def ask(client: StripeClient, name: str, platform: Platform, role: Role) -> list[Check]:
    """Run the checks that call Stripe."""
    lacking = _without_publishable(name, platform, role)
    before = time.time()
    try:
        async with asyncio.timeout(SECONDS):
            greeting = await client.greet()
    except (Unavailable, TimeoutError) as error:
        failure = explain(error, stripe(name))
        says = f"{host(platform.base_url)} {failure.says}"
        return [failed("endpoint connection", name, says, f"{failure.do}; requests wait until then"), *lacking]
    found = [*_greeted(name, platform, greeting), *_clock(name, greeting, (before + time.time()) / 2)]
    if any(check.state == "failed" for check in found):
        return [*found, *lacking]
    kinds = [kind for kind in INCOMPLETE if role != "attach" and kind not in _unaskable(platform)]
    questions = [_kind(client, name, kind) for kind in kinds]
    if role != "tokenize":
        questions.append(_connect(client, name))
    return [*found, *await asyncio.gather(*questions), *lacking]


def _keys(name: str, platform: Platform, keys: ApiKeys) -> Iterator[Check]:
    both = "a secret and a publishable key" if keys.publishable else "a secret key"
    yield ok("endpoint keys", name, f"{both} of {platform.mode} mode")


def _way(name: str, way: Way) -> Iterator[Check]:
    """Say what somebody has set: a proxy, an exception from it, an authority."""
    if way.named_by:
        yield ok("endpoint proxy", name, way.says)
    if way.trust_named_by:
        yield ok("endpoint authority", name, f"only authorities of {way.trust_named_by} are trusted")


def _unaskable(platform: Platform) -> frozenset[Kind]:
    """Return the kinds that cannot be checked, because their key is missing."""
    return PUBLISHABLE_IN_LIVE if platform.live and platform.publishable_key is None else frozenset()


def _without_publishable(name: str, platform: Platform, role: Role) -> list[Check]:
    if role == "attach":
        return []
    do = f'write publishable_key = {{ env = "NAME" }} into [platforms.{name}]'
    says = "live account and person tokens need the publishable key, and none is configured"
    return [failed(f"endpoint {kind}", name, says, do) for kind in sorted(_unaskable(platform))]


def _greeted(name: str, platform: Platform, greeting: Greeting) -> Iterator[Check]:
    where = host(platform.base_url)
    match greeting.refusal:
        case Blocked(code=Code.CERTIFICATE_NOT_TRUSTED) as refusal:
            found = explain(refusal, stripe(name))
            yield failed("endpoint connection", name, f"{where} {found.says}", found.do)
        case Blocked(status=status, code=Code.NOT_THE_ENDPOINT):
            yield failed(
                "endpoint connection", name, f"{where} does not answer like Stripe ({status})", _other(name, platform)
            )
        case Blocked(status=status) if 300 <= status < 400:
            do = f"correct [platforms.{name}] base_url: the endpoint itself never redirects"
            yield failed("endpoint connection", name, f"{where} redirects elsewhere ({status})", do)
        case Blocked(status=status, code=code):
            yield ok("endpoint connection", name, f"{where} answers")
            yield failed("endpoint secret-key", name, f"is not accepted ({status} {code})", KEY)
        case Unavailable(status=status) if status == 429 or (status or 0) >= 500:
            yield ok("endpoint connection", name, f"{where} answers")
            says = f"unknown: the endpoint is not willing to answer now ({status})"
            yield warning("endpoint secret-key", name, says, "try again in a minute")
        case Unavailable(status=status):
            do = f"correct [platforms.{name}] base_url"
            yield failed("endpoint connection", name, f"{where} is no token endpoint (it answers {status})", do)
        case _:
            yield ok("endpoint connection", name, f"{where} answers in {greeting.seconds * 1000:.0f} ms")
            yield ok("endpoint secret-key", name, "is accepted")


def _other(name: str, platform: Platform) -> str:
    """Return what to do where something else than Stripe answers."""
    if platform.base_url.rstrip("/").endswith("/v1"):
        return f"[platforms.{name}] base_url ends in /v1; leave it out"
    return f"check [platforms.{name}] base_url, and a proxy between here and there: something else answers"


def _clock(name: str, greeting: Greeting, now: float) -> Iterator[Check]:
    try:
        # The header names the second that has begun: the real time is half a second later on average.
        theirs = parsedate_to_datetime(greeting.date or "").timestamp() + 0.5
    except ValueError:
        yield warning("endpoint clock", name, "unknown: the answer has no date")
        return
    yield clock("endpoint clock", name, theirs - now)


async def _kind(client: StripeClient, platform: str, kind: Kind) -> Check:
    name = f"endpoint {kind}"
    try:
        async with asyncio.timeout(SECONDS):
            await client.create_token(kind, INCOMPLETE[kind], idempotency_key=_key())
    except Blocked as error:
        if error.code == Code.RAW_CARD_DATA_REFUSED:
            return failed(name, platform, "the account may not send card numbers", RAW_CARDS)
        if error.code == Code.NOT_THE_ENDPOINT:
            return failed(name, platform, f"is not answered by the endpoint ({error.status})", ELSEWHERE)
        return failed(name, platform, f"not allowed for this key ({error.status} {error.code})", PERMISSION)
    except Declined as error:
        expected = error.error_type == "card_error" if kind == "card" else error.status in (400, 402)
        if expected:
            return ok(name, platform, "allowed")
        return _unknown(name, platform, f"{error.status} {error.code}")
    except (Unavailable, TimeoutError) as error:
        return _unknown(name, platform, _reason(error))
    says = "unknown: the endpoint made a token of a request that should have been refused"
    return warning(name, platform, says, "make sure that base_url is the endpoint and not a stand-in")


async def _connect(client: StripeClient, platform: str) -> Check:
    """Without Connect, Stripe refuses any account. With it, Stripe names the wrong parameter."""
    name = "endpoint connect"
    do = "sign the account up for Connect before accounts, persons or external accounts are asked for"
    try:
        async with asyncio.timeout(SECONDS):
            await client.post("/v1/accounts", NO_ACCOUNT, idempotency_key=_key())
    except Blocked as error:
        if error.code == Code.NOT_THE_ENDPOINT:
            return failed(name, platform, f"is not answered by the endpoint ({error.status})", ELSEWHERE)
        return warning(name, platform, f"this key may not make accounts ({error.status} {error.code})", do)
    except Declined as error:
        if error.code == Code.V1_ACCOUNTS_REFUSED:
            return warning(
                name, platform, "Stripe refuses v1 accounts to this platform, as to every new one", V1_ACCOUNTS
            )
        if error.param:
            return ok(name, platform, "connected accounts are allowed")
        return warning(name, platform, f"seems not to be enabled ({error.status} {error.code})", do)
    except (Unavailable, TimeoutError) as error:
        return _unknown(name, platform, _reason(error))
    says = "unknown: the endpoint answered a wrong request as if it were right"
    return warning(name, platform, says, "look at the newest connected account in the dashboard")


def _unknown(name: str, platform: str, reason: str) -> Check:
    return warning(name, platform, f"unknown: no answer to go by ({reason})", "try again in a minute")


def _reason(error: Unavailable | TimeoutError) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing within {SECONDS:g} s"
    return f"{error.status} {error.reason}" if error.status else error.reason


def _key() -> str:
    """Return a random idempotency key: Stripe would repeat the stored answer to one of last week."""
    return f"preflight-{secrets.token_hex(16)}"
