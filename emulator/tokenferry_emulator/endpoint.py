"""One call from bytes to bytes: authentication, rate limits, idempotency, and then the handler."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

from tokenferry_emulator import latency, locks, parameters, routes, wire
from tokenferry_emulator.authentication import (
    KeyScope,
    Principal,
    authenticate,
    no_access,
    only_secret_keys,
    v1_accounts_refused,
)
from tokenferry_emulator.calls import ApiCall
from tokenferry_emulator.connected import owned_account
from tokenferry_emulator.errors import Refusal, backend_failure, invalid
from tokenferry_emulator.faults import KINDS
from tokenferry_emulator.form import Pairs, nest, pairs_of
from tokenferry_emulator.idempotency import StoredAnswer
from tokenferry_emulator.ids import new_request_id
from tokenferry_emulator.limits import rate_limited
from tokenferry_emulator.routes import Route
from tokenferry_emulator.wire import Headers, Reply
from tokenferry_emulator.world import EmulatorState, platform_account_id

DEFAULT_VERSION = "2026-10-28.endive"
_RATE_FAULTS = {
    "rate_429_global": "global-rate",
    "rate_429_endpoint": "endpoint-rate",
    "rate_429_concurrency": "global-concurrency",
}
_CREATE_ACCOUNT = "POST /v1/accounts"


@dataclass(slots=True)
class Request:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    text: str
    client_ip: str | None
    request_id: str = field(default_factory=new_request_id)
    echo: Headers = field(default_factory=list)
    """Headers to give back: version, account, key and original request."""

    def header(self, name: bytes) -> str | None:
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def version(self) -> str:
        return self.header(b"stripe-version") or DEFAULT_VERSION

    @property
    def idempotency_key(self) -> str | None:
        """The key, on a POST only: on a GET it has no effect."""
        return self.header(b"idempotency-key") if self.method == "POST" else None


async def answer(world: EmulatorState, request: Request) -> Reply:
    """Return the reply to one call below /v1. It names a fault that needs the connection."""
    route, ids = routes.find(request.method, request.path)
    pattern, key = route.pattern if route else "", request.idempotency_key or ""
    fault = world.faults.choose(request.method, request.path, pattern, key)
    ledger = world.ledger
    if fault is not None:
        ledger.faults[fault] += 1
    strikes = KINDS[fault] if fault is not None else ""
    ledger.arrived()
    arrived, status = world.clock(), 0
    try:
        if fault in ("reset_before", "hang"):
            return Reply(0, b"", fault=fault)
        if fault == "error_502_html":
            status = 502
            return wire.html()
        reply = await _answered(world, request, route, ids, fault)
        reply.fault = fault if strikes == "after" else None
        status = reply.status
        return reply
    finally:
        ledger.left(route.name if route else f"{request.method} (unknown)", status)
        if key:
            ledger.called(key, arrived, status, fault or "")


async def _answered(
    world: EmulatorState, request: Request, route: Route | None, ids: tuple[str, ...], fault: str | None
) -> Reply:
    try:
        if fault == "error_500_before":
            raise backend_failure(500)
        if fault == "error_503":
            raise backend_failure(503)
        caller = authenticate(request.header(b"authorization"), world.settings.keys, world.rejected)
        request.echo += [
            (b"request-id", request.request_id.encode("ascii")),
            (b"stripe-version", request.version.encode("latin-1")),
        ]
        if route is None:
            raise _unrecognized(request)
        if caller.publishable and route.name != "POST /v1/tokens":
            raise only_secret_keys()
        if route.name == _CREATE_ACCOUNT and not (world.settings.v1_accounts and caller.v1_accounts):
            raise v1_accounts_refused()
        scope = _scope(world, caller, request)
        _limited(world, scope, route, fault)
        world.limiter.enter(scope)
        try:
            return await _executed(world, request, route, ids, caller, scope, fault)
        finally:
            world.limiter.leave(scope)
    except Refusal as refusal:
        return _refused(request, refusal)


async def _executed(
    world: EmulatorState,
    request: Request,
    route: Route,
    ids: tuple[str, ...],
    caller: Principal,
    scope: KeyScope,
    fault: str | None,
) -> Reply:
    if fault == "lock_timeout":
        raise locks.lock_timeout()
    pairs = pairs_of(request.text)
    key = request.idempotency_key
    kept = None
    if key:
        kept = world.idempotency.begin(scope, key, request.path, pairs, request.request_id)
    if request.method == "POST":
        if key:
            request.echo.append((b"idempotency-key", key.encode("latin-1")))
        first = kept.first_request if kept else request.request_id
        request.echo.append((b"original-request", first.encode("ascii")))
    if kept is not None and kept.status:
        world.ledger.replayed += 1
        replayed = (b"idempotent-replayed", b"true")
        return Reply(kept.status, kept.body, [*request.echo, replayed, *_should_retry(request, kept.status)])
    try:
        reply, stored = await _handled(world, request, route, ids, caller, scope, pairs, fault)
    except BaseException:
        if kept is not None:
            world.idempotency.forget(scope, key or "")
        raise
    if kept is not None:
        _keep(world, scope, key or "", kept, reply, stored)
    return reply


async def _handled(
    world: EmulatorState,
    request: Request,
    route: Route,
    ids: tuple[str, ...],
    caller: Principal,
    scope: KeyScope,
    pairs: Pairs,
    fault: str | None,
) -> tuple[Reply, bool]:
    """The reply, and whether the idempotency layer keeps it."""
    call: ApiCall | None = None
    try:
        call = ApiCall(
            world=world,
            caller=caller,
            scope=scope,
            path=request.path,
            ids=ids,
            form=parameters.read(route.allowed, nest(pairs)),
            client_ip=request.client_ip,
            version=request.version,
            idempotency_key=request.idempotency_key,
            seconds=latency.seconds(world.settings, route.name, world.dice),
        )
        async with _locked(call, route):
            body = await route.handler(call)
        if fault == "error_500":
            raise backend_failure(500)
        return _accepted(request, body), True
    except Refusal as refusal:
        return _refused(request, refusal), refusal.stored
    finally:
        if call is not None:
            call.release()


def _locked(call: ApiCall, route: Route) -> contextlib.AbstractAsyncContextManager[None]:
    object_id = call.ids[0] if route.locks == "id" else call.form.get("customer") if route.locks else None
    if not object_id:
        return contextlib.nullcontext()
    return call.world.locks.held(object_id, call.world.settings.lock_timeout_ms / 1000.0)


def _keep(world: EmulatorState, scope: KeyScope, key: str, kept: StoredAnswer, reply: Reply, stored: bool) -> None:
    if stored:
        kept.status, kept.body = reply.status, reply.body
    else:
        world.idempotency.forget(scope, key)


def _scope(world: EmulatorState, caller: Principal, request: Request) -> KeyScope:
    """The caller's own scope, or that of the connected account it speaks for."""
    account = request.header(b"stripe-account")
    platform = caller.scope
    if not account or account == platform_account_id(platform):
        return platform
    if account in world.rejected or owned_account(world, platform, account) is None:
        raise no_access(caller, account)
    request.echo.append((b"stripe-account", account.encode("latin-1")))
    return platform._replace(connected=account)


def _limited(world: EmulatorState, scope: KeyScope, route: Route, fault: str | None) -> None:
    world.ledger.reached_the_limiter(route.name)
    reason = _RATE_FAULTS.get(fault or "")
    reason = reason or world.limiter.admit(scope, route.name, creates_account=route.name == _CREATE_ACCOUNT)
    if reason is not None:
        world.ledger.reasons[reason] += 1
        raise rate_limited(reason, live=scope.live)
    world.ledger.passed_the_limiter(route.name)


def _accepted(request: Request, body: dict[str, Any]) -> Reply:
    return Reply(200, wire.encoded(body), [*request.echo, *_should_retry(request, 200)])


def _refused(request: Request, refusal: Refusal) -> Reply:
    retry = _should_retry(request, refusal.status) if refusal.stored or refusal.status == 402 else []
    echo = request.echo
    if refusal.status in (401, 403):
        echo = [header for header in echo if header[0] != b"request-id"]
    return Reply(refusal.status, wire.encoded(refusal.body), [*echo, *refusal.headers, *retry])


def _should_retry(request: Request, status: int) -> Headers:
    """Return the header that says "false" for a final answer: a repeat would get the same one."""
    final = request.method == "POST" and status < 500
    return [(b"stripe-should-retry", b"false")] if final else []


def _unrecognized(request: Request) -> Refusal:
    return invalid(
        f"Unrecognized request URL ({request.method}: {request.path}). If you are trying to list objects, remove the "
        "trailing slash. If you are trying to retrieve an object, make sure you passed a valid (non-empty) identifier "
        "in your code. Please see https://stripe.com/docs or we can help at https://support.stripe.com/.",
        status=404,
    )
