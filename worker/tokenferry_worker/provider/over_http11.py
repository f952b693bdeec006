"""Requests over HTTP/1.1 by our own client: a pool of kept connections, one timer for each call.

Why not a ready client: httpx with aiohttp's transport takes about ten times the CPU of this one for a call, and that
was the largest part of what a token cost (`docs/performance.md`). The parser is httptools, that of uvicorn and Node.

A call that fails says whether it may have been done. "Not sent" is said only before the first byte of a request is
handed to a connection. A kept connection that dies while its call is under way may have carried it.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from base64 import b64encode
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

import certifi

from tokenferry_worker.provider.exchange import Exchanged, NoAnswer, NotTrusted, ProxyAway, ProxyError
from tokenferry_worker.provider.link import OPENED, Link, Tunnel
from tokenferry_worker.provider.way import Way

KEPT: Final = 50.0
"""Seconds that a connection may rest before it is closed instead of used. Stripe closes them after about a minute."""


class Http11Exchange:
    """Sends requests to one base URL."""

    def __init__(
        self, base_url: str, way: Way, *, connections: int, read_timeout: float, connect_timeout: float
    ) -> None:
        """Time-outs in seconds. *read_timeout*: for a whole call. *connections*: calls in flight at once, at most."""
        parts = urlsplit(base_url)
        secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if secure else 80)
        self._path = parts.path
        self._way = way
        self._tls = _tls(way) if secure else None
        self._read_timeout, self._connect_timeout = read_timeout, connect_timeout
        self._places = asyncio.Semaphore(connections)
        self._idle: list[tuple[Link, float]] = []
        """Kept connections with the moment of their last use; the last one used is the next one."""
        self._busy: set[Link] = set()
        host = f"[{self._host}]" if ":" in self._host else self._host
        self._authority = f"{host}:{self._port}"
        usual = self._port == (443 if secure else 80)
        self._host_line = f"Host: {host if usual else self._authority}\r\n"

    async def send(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Exchanged:
        head = self._head(method, path, headers, len(body))
        if self._places.locked():
            await self._place()
        else:
            await self._places.acquire()
        try:
            link = self._kept() or await self._connected()
            self._busy.add(link)
            try:
                return await self._exchange(link, head + body, headers.get("Idempotency-Key"))
            finally:
                self._busy.discard(link)
                if link.reusable:
                    self._idle.append((link, time.monotonic()))
                else:
                    link.close()
        finally:
            self._places.release()

    async def aclose(self) -> None:
        for link in [*(link for link, _ in self._idle), *self._busy]:
            link.close()
        self._idle.clear()

    async def _exchange(self, link: Link, request: bytes, key: str | None) -> Exchanged:
        answer = link.exchange(request)
        timer = asyncio.get_running_loop().call_later(self._read_timeout, link.fail, "ReadTimeout")
        try:
            answered = await answer
        except asyncio.CancelledError:
            link.close()  # its answer would be taken for that of the next call
            raise
        finally:
            timer.cancel()
        echoed = answered.headers.get("idempotency-key")
        if key is not None and echoed is not None and echoed != key:
            link.close()  # the answer of another call: nothing on this connection can be believed
            raise NoAnswer("AnswerOfAnotherCall")
        return answered

    def _head(self, method: str, path: str, headers: Mapping[str, str], length: int) -> bytes:
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        text = f"{method} {self._path}{path} HTTP/1.1\r\n{self._host_line}{lines}Content-Length: {length}\r\n\r\n"
        if text.count("\n") != len(headers) + 4 or text.count("\r") != len(headers) + 4 or " " in path:
            raise NoAnswer("LocalProtocolError", maybe_done=False)
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError:
            raise NoAnswer("LocalProtocolError", maybe_done=False) from None

    async def _place(self) -> None:
        """Wait for the end of another call."""
        try:
            async with asyncio.timeout(self._read_timeout):
                await self._places.acquire()
        except TimeoutError:
            raise NoAnswer("PoolTimeout", maybe_done=False) from None

    def _kept(self) -> Link | None:
        """Return a connection that is still open and has not rested too long."""
        while self._idle:
            link, used = self._idle.pop()
            if link.reusable and time.monotonic() - used < KEPT:
                return link
            link.close()
        return None

    async def _connected(self) -> Link:
        try:
            async with asyncio.timeout(self._connect_timeout):
                return await (self._through_proxy() if self._way.proxy is not None else self._directly())
        except TimeoutError:
            raise NoAnswer("ConnectTimeout", maybe_done=False) from None
        except ssl.SSLCertVerificationError:
            raise NotTrusted from None
        except (OSError, ValueError):  # ssl.SSLError is an OSError; ValueError: a name that is none
            raise NoAnswer("ConnectError", maybe_done=False) from None

    async def _directly(self) -> Link:
        loop = asyncio.get_running_loop()
        _, link = await loop.create_connection(Link, self._host, self._port, ssl=self._tls)
        return link

    async def _through_proxy(self) -> Link:
        """Open a tunnel through the proxy, and TLS inside it."""
        loop, proxy = asyncio.get_running_loop(), urlsplit(self._way.proxy or "")
        secure = proxy.scheme == "https"
        port = proxy.port or (443 if secure else 80)
        tls = ssl.create_default_context() if secure else None
        try:
            transport, tunnel = await loop.create_connection(Tunnel, proxy.hostname or "", port, ssl=tls)
        except OSError:
            raise ProxyAway from None
        try:
            transport.write(_connect(self._authority, proxy.username, proxy.password))
            if (status := await tunnel.answered) != OPENED:
                raise ProxyError(status)
            link = Link()
            inside = await loop.start_tls(transport, link, self._tls or _tls(self._way), server_hostname=self._host)
        except BaseException:
            transport.abort()
            raise
        assert inside is not None
        link.connection_made(inside)
        return link


def _connect(authority: str, user: str | None, password: str | None) -> bytes:
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if user is not None:
        credentials = f"{unquote(user)}:{unquote(password or '')}".encode()
        lines.append(f"Proxy-Authorization: Basic {b64encode(credentials).decode('ascii')}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _tls(way: Way) -> ssl.SSLContext:
    """TLS that trusts the way's authorities. `SSLKEYLOGFILE` has no effect: it would write every session's keys."""
    context = way.trusts or ssl.create_default_context(cafile=certifi.where())
    context.keylog_filename = None  # type: ignore[assignment]  # None switches it off
    return context
