"""The ASGI app: paths below /v1 answer like Stripe, the others are for tests."""

from __future__ import annotations

from starlette.applications import Starlette

from tokenferry_emulator import wire
from tokenferry_emulator.control import control_routes
from tokenferry_emulator.endpoint import Request, answer
from tokenferry_emulator.world import EmulatorState


def create_app(world: EmulatorState | None = None) -> wire.App:
    """Return an app over *world*, or over a new one with default settings."""
    world = world or EmulatorState()
    control = Starlette(routes=control_routes(world))

    async def app(scope: wire.Scope, receive: wire.Receive, send: wire.Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/_"):
            await control(scope, receive, send)
            return
        body = await _body(receive)
        if body is None:
            return
        query = scope["query_string"]
        client = scope.get("client")
        request = Request(
            method=scope["method"],
            path=scope["path"],
            headers=dict(scope["headers"]),
            text=b"&".join(part for part in (query, body) if part).decode("latin-1"),
            client_ip=client[0] if client else None,
        )
        reply = await answer(world, request)
        await wire.deliver(reply, scope, receive, send, hang_seconds=world.settings.hang_seconds)

    return app


async def _body(receive: wire.Receive) -> bytes | None:
    """Return the whole body; None if the caller went away before its end."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)
