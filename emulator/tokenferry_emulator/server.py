"""The real server: uvicorn on loopback, with a protocol that lets a fault reset the connection."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Generator

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tokenferry_emulator import wire

HOST = "127.0.0.1"


class ResettableProtocol(H11Protocol):
    """Puts its transport into the scope, where a reset fault finds it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        app = self.app

        async def with_transport(scope: wire.Scope, receive: wire.Receive, send: wire.Send) -> None:
            scope.setdefault("extensions", {})[wire.TRANSPORT] = transport
            await app(scope, receive, send)

        self.app = with_transport


class EmulatorServer(uvicorn.Server):
    """Ends by SIGTERM or SIGINT as a normal end: the process then exits with 0."""

    def __init__(self, config: uvicorn.Config, announcement: str) -> None:
        super().__init__(config)
        self._announcement = announcement

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._announcement, flush=True)

    def _stop(self) -> None:
        self.should_exit = True


def bind(port: int) -> socket.socket:
    """A listening socket on loopback; 0 takes a free port. Raises OSError if the port is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener


def serve(app: wire.App, listener: socket.socket) -> None:
    """Serve until a signal comes."""
    config = uvicorn.Config(
        app,
        http=ResettableProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=2048,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )
    port = listener.getsockname()[1]
    server = EmulatorServer(config, f"listening on http://{HOST}:{port}")
    server.run(sockets=[listener])
