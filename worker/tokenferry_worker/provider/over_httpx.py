"""Requests through httpx: for tools, the doctor, and `[worker] http = "httpx"`. The only module that imports httpx.

httpx's own connection pool costs 14.8 CPU seconds per 1,000 calls at 200 connections against 0.24 for aiohttp's
(measured, `docs/performance.md`), so the API is httpx and the transport is aiohttp.
"""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress

import httpx
from httpx_aiohttp import AiohttpTransport

from tokenferry_worker.provider.exchange import MOST_BODY, Exchanged, NoAnswer, NotTrusted
from tokenferry_worker.provider.way import Way


class HttpxExchange:
    """Sends requests to *base_url*."""

    def __init__(
        self,
        base_url: str,
        way: Way,
        *,
        connections: int,
        read_timeout: float,
        connect_timeout: float,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Time-outs in seconds. *connections*: calls that may be in flight at once."""
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=50.0)
        # The transport is called directly. Redirects, cookies, authentication and event hooks of `AsyncClient` are not
        # needed, and cost more than the call itself.
        # The way has read the environment: the transport does not read it once more.
        self._transport = transport or AiohttpTransport(
            verify=way.trusts or True,
            trust_env=False,
            limits=limits,
            proxy=None if way.proxy is None else _proxy(way.proxy),
        )
        self._base_url = base_url
        time_outs = {"connect": connect_timeout, "read": read_timeout, "write": read_timeout, "pool": read_timeout}
        self._extensions = {"timeout": time_outs}

    async def send(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Exchanged:
        url, extensions = self._base_url + path, self._extensions
        sent = {**headers, "Accept-Encoding": "identity"}
        try:
            request = httpx.Request(method, url, headers=sent, content=body, extensions=extensions)
            response = await self._transport.handle_async_request(request)
            answered = await _read(response)
        except NoAnswer:
            raise
        except Exception as error:
            # Only the type: the text of some errors holds the URL or bytes of the answer. Not only httpx's errors: some
            # of its transport's pass through it unchanged (for an answer that is not HTTP).
            raise _without_answer(error) from None
        names = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers.raw}
        return Exchanged(response.status_code, names, answered)

    async def aclose(self) -> None:
        await self._transport.aclose()


async def _read(response: httpx.Response) -> bytes:
    """Read the body as it came, within its bound. Half an answer would keep its connection, so it is closed."""
    try:
        if response.status_code < 200:
            raise NoAnswer("RemoteProtocolError")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise NoAnswer("DecodingError")
        parts, size = [], 0
        assert isinstance(response.stream, httpx.AsyncByteStream)
        async for part in response.stream:
            size += len(part)
            if size > MOST_BODY:
                raise NoAnswer("AnswerTooLong")
            parts.append(part)
        return b"".join(parts)
    finally:
        with suppress(Exception):
            await response.aclose()


def _proxy(url: str) -> httpx.Proxy:
    """Return the proxy with user and password in a header: aiohttp has deprecated its own parameter for them."""
    proxy = httpx.Proxy(url)
    if proxy.auth is None:
        return proxy
    credentials = b64encode(":".join(proxy.auth).encode()).decode("ascii")
    return httpx.Proxy(proxy.url, headers={"Proxy-Authorization": f"Basic {credentials}"})


def _without_answer(error: Exception) -> NoAnswer:
    """Return the error of a call without an answer. The reason is httpx's name for it.

    The call may have left this machine. The aiohttp transport reports a connection that was lost after sending as
    `ConnectTimeout` too. The cause tells the two apart.
    """
    causes = _causes(error)
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return NotTrusted()
    if isinstance(error, httpx.ProxyError):
        # The proxy refused to open a tunnel, so nothing has reached Stripe.
        return NoAnswer(type(error).__name__, maybe_done=False)
    if not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)):
        return NoAnswer(type(error).__name__)
    names = {kind.__name__ for kind in type(error.__cause__).__mro__}
    if error.__cause__ is None or names & {"ClientConnectorError", "ConnectionTimeoutError"}:
        return NoAnswer(type(error).__name__, maybe_done=False)
    return NoAnswer(httpx.ReadError.__name__)


def _causes(error: BaseException) -> list[BaseException]:
    """The error, and what it was raised from or wraps."""
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in found and len(found) < 10:
        found.append(current)
        wrapped = getattr(current, "certificate_error", None) or getattr(current, "os_error", None)
        current = current.__cause__ or current.__context__ or (wrapped if isinstance(wrapped, BaseException) else None)
    return found
