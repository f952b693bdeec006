"""A proxy that opens tunnels (CONNECT), and an endpoint with TLS behind it, on the loop of a test."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

NO_SUCH_TOKEN = b'{"error": {"type": "invalid_request_error", "code": "resource_missing", "param": "id"}}'


@dataclass
class Proxy:
    """What a proxy was asked for, and how it answers."""

    leads_to: Mapping[str, int]
    """Port on this machine by `HOST:PORT`, as a client asks for it: no name has to be known to DNS."""
    credentials: str | None = None
    """`USER:PASSWORD` that it wants."""
    refuses: int | None = None
    """The status with which it refuses every tunnel."""
    port: int = 0
    asked_for: list[str] = field(default_factory=list)
    """`HOST:PORT` of every tunnel that was asked for."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, target, _ = head.split(" ", 2)
            self.asked_for.append(f"{method} {target}")
            status = self._status(head, target)
            writer.write(f"HTTP/1.1 {status} Answer\r\n\r\n".encode())
            await writer.drain()
            if status == 200:
                await self._connect(target, reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _status(self, head: str, target: str) -> int:
        if self.credentials is not None:
            wanted = "Basic " + base64.b64encode(self.credentials.encode()).decode()
            if f"proxy-authorization: {wanted}".lower() not in head.lower():
                return 407
        return self.refuses or (200 if target in self.leads_to else 502)

    async def _connect(self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.leads_to[target])
        await asyncio.gather(_pump(reader, back), _pump(there, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def proxy(
    leads_to: Mapping[str, int],
    *,
    credentials: str | None = None,
    refuses: int | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[Proxy]:
    """A proxy that listens."""
    there = Proxy(leads_to, credentials, refuses)
    server = await asyncio.start_server(there.serve, host, 0)
    there.port = server.sockets[0].getsockname()[1]
    try:
        yield there
    finally:
        server.close()


@asynccontextmanager
async def endpoint(context: ssl.SSLContext | None, *, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """An endpoint that knows no token and answers so, as Stripe does; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                head = b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                writer.write(head % len(NO_SUCH_TOKEN) + NO_SUCH_TOKEN)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, host, 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
