"""Answers as bytes: the usual headers, and the ways an answer can go wrong on the wire."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

Headers = list[tuple[bytes, bytes]]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

App = Callable[[Scope, Receive, Send], Awaitable[None]]

TRANSPORT = "tokenferry.transport"
"""Where the server puts the connection's transport, for resets."""

_USUAL: Headers = [
    (b"server", b"nginx"),
    (b"content-type", b"application/json"),
    (b"access-control-allow-credentials", b"true"),
    (b"access-control-allow-methods", b"GET, HEAD, PUT, PATCH, POST, DELETE"),
    (b"access-control-allow-origin", b"*"),
    (
        b"access-control-expose-headers",
        b"Request-Id, Stripe-Manage-Version, Stripe-Should-Retry, X-Stripe-External-Auth-Required",
    ),
    (b"access-control-max-age", b"300"),
    (b"cache-control", b"no-cache, no-store"),
    (b"vary", b"Origin"),
    (b"strict-transport-security", b"max-age=63072000; includeSubDomains; preload"),
]
_HTML = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n"
    b"<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)


@dataclass(slots=True)
class Reply:
    """One answer, and the fault that happens to it on its way."""

    status: int
    body: bytes
    headers: Headers = field(default_factory=list)
    fault: str | None = None


def encoded(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


def html() -> Reply:
    return Reply(502, _HTML, [(b"content-type", b"text/html")])


async def deliver(reply: Reply, scope: Scope, receive: Receive, send: Send, *, hang_seconds: float) -> None:
    """Send the answer, or fail in the way of its fault."""
    match reply.fault:
        case "reset_before" | "reset_after":
            await _reset(scope, receive)
        case "hang" | "hang_after":
            await _hang(receive, hang_seconds)
            await _reset(scope, receive)
        case "reset_mid_body":
            await _start(reply, send, len(reply.body))
            half = reply.body[: len(reply.body) // 2]
            await send({"type": "http.response.body", "body": half, "more_body": True})
            await asyncio.sleep(0.02)
            await _reset(scope, receive)
        case "slow_drip":
            await _start(reply, send, len(reply.body))
            step = max(1, len(reply.body) // 20)
            for at in range(0, len(reply.body), step):
                await send({"type": "http.response.body", "body": reply.body[at : at + step], "more_body": True})
                await asyncio.sleep(0.05)
            await send({"type": "http.response.body", "body": b""})
        case "truncated_json":
            await _whole(Reply(reply.status, reply.body[: len(reply.body) // 2], reply.headers), send)
        case "empty_200":
            await _whole(Reply(200, b"", reply.headers), send)
        case "not_a_token_200":
            await _whole(Reply(200, b'{"object": "list", "data": []}', reply.headers), send)
        case "error_502_html_after":
            await _whole(html(), send)
        case _:
            await _whole(reply, send)


async def _start(reply: Reply, send: Send, length: int) -> None:
    headers = reply.headers
    if headers and headers[0][0] == b"content-type":
        usual = [header for header in _USUAL if header[0] != b"content-type"]
    else:
        usual = _USUAL
    sized = (b"content-length", str(length).encode("ascii"))
    await send({"type": "http.response.start", "status": reply.status, "headers": [*usual, *headers, sized]})


async def _whole(reply: Reply, send: Send) -> None:
    await _start(reply, send, len(reply.body))
    await send({"type": "http.response.body", "body": reply.body})


async def _reset(scope: Scope, receive: Receive) -> None:
    """Abort the connection, so that the peer gets a RST, and wait until the server has noticed."""
    transport = (scope.get("extensions") or {}).get(TRANSPORT)
    if transport is None:
        raise ConnectionAbortedError("a reset fault needs the emulator's own server")
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    await _hang(receive, 1.0)


async def _hang(receive: Receive, seconds: float) -> None:
    """Send nothing until the caller is gone or the time is up."""
    try:
        async with asyncio.timeout(seconds):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return
