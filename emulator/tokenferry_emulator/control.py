"""What tests may ask and set: the ledger, faults, limits, keys, reset. No key is needed: the server is on loopback."""

from __future__ import annotations

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
COUNTED = ("operation", "resource")
"""What can be counted as one endpoint."""


def control_routes(world: EmulatorState) -> list[Route]:
    """The routes `/_ledger`, `/_faults`, `/_limits`, `/_keys`, `/_reset` and `/_health`."""
    return [*_ledger_routes(world), *_setting_routes(world)]


def _ledger_routes(world: EmulatorState) -> list[Route]:
    """What has happened, and what there is."""

    async def ledger(_: Request) -> Response:
        return JSONResponse(world.ledger.snapshot(world.locks.writers_peak))

    async def pages(_: Request) -> Response:
        return JSONResponse(world.ledger.pages())

    async def of_token(request: Request) -> Response:
        token = world.tokens.get(request.path_params["token"])
        if token is None:
            return _wrong("no such token", status=404)
        uses = world.ledger.uses.get(token.id, [])
        return JSONResponse(
            {"id": token.id, "kind": token.kind, "uses": uses, "spent": token.spent, "in_use": token.holder is not None}
        )

    async def of_key(request: Request) -> Response:
        key = request.path_params["key"]
        return JSONResponse({"key": key, "tokens": world.ledger.tokens_by_key.get(key, [])})

    return [
        Route("/_ledger", ledger),
        Route("/_ledger/pages", pages),
        Route("/_ledger/tokens/{token}", of_token),
        Route("/_ledger/keys/{key:path}", of_key),
    ]


def _setting_routes(world: EmulatorState) -> list[Route]:
    """What a test may change: each answers with what is set."""

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
            rates = await _json(request)
            if reason := _limits_refusal(rates):
                return _wrong(reason)
            world.limiter.set(replace(world.limiter.rates, **rates))
        return JSONResponse({name: getattr(world.limiter.rates, name) for name in _RATES})

    async def keys(request: Request) -> Response:
        if request.method == "POST":
            changes = await _json(request)
            reject, accept = changes.pop("reject", []), changes.pop("accept", [])
            if changes or not all(_is_list_of_text(names) for names in (reject, accept)):
                return _wrong('write {"reject": [...], "accept": [...]}, each a list of keys or accounts')
            world.rejected = (world.rejected | set(reject)) - set(accept)
        return JSONResponse({"rejected": sorted(world.rejected)})

    async def reset(_: Request) -> Response:
        world.reset()
        return JSONResponse({"reset": True})

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    return [
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


def _limits_refusal(rates: dict[str, Any]) -> str | None:
    """Why these limits cannot be set, or None."""
    if unknown := sorted(set(rates) - set(_RATES)):
        return f"unknown limit {unknown[0]}; known are {', '.join(_RATES)}"
    wrong = [name for name, value in rates.items() if not _is_limit(name, value)]
    if wrong[:1] == ["count_by"]:
        return f"count_by must be {' or '.join(COUNTED)}"
    return f"{wrong[0]} must be a number greater than 0, or null" if wrong else None


def _is_limit(name: str, value: object) -> bool:
    if name == "count_by":
        return value in COUNTED
    if name == "by_endpoint":
        return isinstance(value, dict) and all(_is_limit("", rate) for rate in value.values())
    if value is None:
        return name != "burst"
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _wrong(message: str, status: int = 400) -> Response:
    return JSONResponse({"error": message}, status_code=status)
