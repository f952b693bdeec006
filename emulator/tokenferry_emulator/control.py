"""What a test may ask and set: the ledger, faults, limits, reset. No key is needed; the server listens on loopback."""

import json
import math
from collections.abc import Awaitable, Callable
from dataclasses import fields, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tokenferry_emulator.faults import UnreadableFaults
from tokenferry_emulator.settings import Rates
from tokenferry_emulator.world import EmulatorState

_RATES = tuple(field.name for field in fields(Rates))


def control_routes(world: EmulatorState) -> list[Route]:
    """The routes ``/_ledger``, ``/_faults``, ``/_limits``, ``/_keys``, ``/_reset`` and ``/_health``."""

    async def ledger(_: Request) -> Response:
        return JSONResponse(world.ledger.snapshot(world.locks.writers_peak))

    async def ledger_pages(_: Request) -> Response:
        return JSONResponse(world.ledger.pages())

    async def ledger_of_token(request: Request) -> Response:
        token = world.tokens.get(request.path_params["token"])
        if token is None:
            return _wrong("no such token", status=404)
        uses = world.ledger.uses.get(token.id, [])
        return JSONResponse(
            {"id": token.id, "kind": token.kind, "uses": uses, "spent": token.spent, "in_use": token.holder is not None}
        )

    async def ledger_of_key(request: Request) -> Response:
        key = request.path_params["key"]
        return JSONResponse({"key": key, "tokens": world.ledger.tokens_by_key.get(key, [])})

    async def faults(request: Request) -> Response:
        if request.method == "DELETE":
            world.faults.clear()
        elif request.method == "POST":
            try:
                world.faults.set(await _json(request))
            except UnreadableFaults as error:
                return _wrong(str(error))
        return JSONResponse(world.faults.snapshot())

    async def limits(request: Request) -> Response:
        if request.method == "POST":
            wish = await _json(request)
            unknown = sorted(set(wish) - set(_RATES))
            if unknown:
                return _wrong(f"unknown limit {unknown[0]}; known are {', '.join(_RATES)}")
            if wrong := [name for name, value in wish.items() if not _is_limit(name, value)]:
                return _wrong(f"{wrong[0]} must be a number greater than 0, or null")
            world.limiter.set(replace(world.limiter.rates, **wish))
        return JSONResponse({name: getattr(world.limiter.rates, name) for name in _RATES})

    async def keys(request: Request) -> Response:
        if request.method == "POST":
            wish = await _json(request)
            reject, accept = wish.pop("reject", []), wish.pop("accept", [])
            if wish or not all(_is_words(words) for words in (reject, accept)):
                return _wrong('write {"reject": [...], "accept": [...]}, each a list of keys or accounts')
            world.rejected = (world.rejected | set(reject)) - set(accept)
        return JSONResponse({"rejected": sorted(world.rejected)})

    async def reset(_: Request) -> Response:
        world.reset()
        return JSONResponse({"reset": True})

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    return [
        Route("/_ledger", ledger),
        Route("/_ledger/pages", ledger_pages),
        Route("/_ledger/tokens/{token}", ledger_of_token),
        Route("/_ledger/keys/{key:path}", ledger_of_key),
        Route("/_faults", _readable(faults), methods=["GET", "POST", "DELETE"]),
        Route("/_limits", _readable(limits), methods=["GET", "POST"]),
        Route("/_keys", _readable(keys), methods=["GET", "POST"]),
        Route("/_reset", reset, methods=["POST"]),
        Route("/_health", health),
    ]


class _Unreadable(ValueError):
    """The body of a control call is not a JSON object."""


async def _json(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except ValueError:
        raise _Unreadable from None
    if not isinstance(body, dict):
        raise _Unreadable
    return body


def _readable(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def guarded(request: Request) -> Response:
        try:
            return await handler(request)
        except _Unreadable:
            return _wrong("the body must be a JSON object")

    return guarded


def _is_limit(name: str, value: object) -> bool:
    if name == "by_endpoint":
        return isinstance(value, dict) and all(_is_limit("", rate) for rate in value.values())
    if value is None:
        return name != "burst"
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _is_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _wrong(message: str, status: int = 400) -> Response:
    return JSONResponse({"error": message}, status_code=status)
