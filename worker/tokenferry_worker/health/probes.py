"""The probes /live and /ready, and /metrics, over HTTP.

Always on a Unix socket in the data folder, and on a TCP port where one is set.

The probes answer 200 or 503, with the whole `Health` as JSON. /metrics answers in Prometheus' text format. Neither
holds a secret: everybody who may connect may read it.
"""

from __future__ import annotations

import http.client
import secrets
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from tokenferry.broker.embedded.socket_paths import short_path
from tokenferry_worker.health.judging import Health
from tokenferry_worker.metrics.text import CONTENT_TYPE

FOLDER: Final = "workers"
"""In the data folder: one socket per worker that runs on this machine."""
PATIENCE: Final = 5.0
"""Seconds for one request or one response."""


Metrics = Callable[[], str]
"""Returns the page of /metrics."""


def no_metrics() -> str:
    """Return an empty page."""
    return ""


@contextmanager
def on_port(address: str, health: Callable[[], Health], metrics: Metrics = no_metrics) -> Iterator[int]:
    """Answer on *address* (`HOST:PORT`, port 0: any) for the length of a `with` block, which gets the port.

    Raises OSError where the address cannot be listened on.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    kind = type("TcpProbes", (_Probes,), {"address_family": socket.AF_INET6 if ":" in host else socket.AF_INET})
    with _serving(kind((host, int(port)), _handler(health, metrics))) as server:
        yield int(server.server_address[1])


@contextmanager
def on_socket(data: Path, health: Callable[[], Health], metrics: Metrics = no_metrics) -> Iterator[Path]:
    """Answer on a new socket below *data* for the length of a `with` block.

    Raises OSError where no socket can be made.
    """
    folder = data / FOLDER
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    for path in folder.iterdir():
        if path.suffix == ".sock" and not _answers(path):
            path.unlink(missing_ok=True)  # left by a worker that was killed
    name = secrets.token_hex(6)
    hidden, path = folder / f"{name}.new", folder / f"{name}.sock"
    server = _UnixProbes(str(short_path(hidden)), _handler(health, metrics))  # type: ignore[arg-type]
    try:
        hidden.rename(path)  # only now, when it already answers, can others find it
        with _serving(server):
            yield path
    finally:
        hidden.unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def ask(data: Path) -> list[Health]:
    """Return the health of every worker on this machine that uses this data folder and answers."""
    try:
        sockets = sorted((data / FOLDER).glob("*.sock"))
    except OSError:
        return []
    return [health for path in sockets if (health := _ask(path)) is not None]


def _ask(path: Path) -> Health | None:
    connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
    try:
        connection.sock = _connected(path)
        connection.request("GET", "/ready")
        return Health.model_validate_json(connection.getresponse().read())
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _answers(path: Path) -> bool:
    try:
        _connected(path).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        pass  # busy, or about to end: not ours to remove
    return True


def _connected(path: Path) -> socket.socket:
    address = str(short_path(path))
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(PATIENCE)
    try:
        connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


class _Probes(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # HTTPServer's own asks the name service for our host name, and may wait long for the answer.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: the client hung up."""


class _UnixProbes(_Probes):
    address_family = socket.AF_UNIX
    allow_reuse_address = False


@contextmanager
def _serving(server: HTTPServer) -> Iterator[HTTPServer]:
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="tokenferry-probes", daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def _handler(health: Callable[[], Health], metrics: Metrics) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE
        protocol_version = "HTTP/1.0"
        server_version = "tokenferry"
        sys_version = ""

        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, CONTENT_TYPE, metrics())
                return
            state = health()
            good = {"/live": state.live, "/ready": state.ready}.get(self.path)
            if good is None:
                self.send_error(404, "there is /live, /ready and /metrics")
                return
            self._answer(200 if good else 503, "application/json", state.model_dump_json())

        def _answer(self, status: int, kind: str, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing: probes come every few seconds."""

    return Handler
