"""A RabbitMQ node of a house's own: one that may be stopped and killed, as the machine's must not be."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path

import amqp
import pytest
from e2e.brokers import Embedded, RabbitMQ
from e2e.erlang import Node

SERVERS = (Path("/usr/lib/rabbitmq/bin"), Path("/opt/rabbitmq/sbin"))
"""Where distributions keep the server itself; the command on the search path changes the user first."""


class OwnRabbitMQ(RabbitMQ):
    """A node with its own name, ports, cookie and folder; the store is an embedded Valkey beside it."""

    def __init__(self, data: Path, *settings: str, erlang: str = "") -> None:
        """*settings*: lines of its configuration. *erlang*: arguments for what has no such line."""
        folder = next((folder for folder in SERVERS if (folder / "rabbitmq-server").exists()), None)
        if folder is None:
            if os.environ.get("CI") == "true":
                pytest.fail("no RabbitMQ is installed")
            pytest.skip("no RabbitMQ is installed")
        self._programs = folder
        self.folder = data.with_name("rabbitmq")
        self.folder.mkdir(mode=0o700)
        self.node = Node(f"house{secrets.token_hex(4)}@localhost", secrets.token_hex(16))
        port, distribution = _free_ports(2)
        self.address = ("127.0.0.1", port)
        (self.folder / "plugins").write_text("[].")
        (self.folder / "rabbit.conf").write_text("\n".join([f"listeners.tcp.1 = 127.0.0.1:{port}", *settings, ""]))
        self._environment = {
            **os.environ,
            "HOME": str(self.folder),
            "RABBITMQ_NODENAME": self.node.name,
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbit"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"+S 1:1 -setcookie {self.node.cookie} {erlang}",
        }
        self.vhost = "/"
        self.url = f"amqp://guest:guest@127.0.0.1:{port}//"
        self._node: subprocess.Popen[bytes] | None = None
        self.start()
        self._store = Embedded(data)

    def start(self, seconds: float = 90.0) -> None:
        """Start the node on what it had written, and wait until it takes connections."""
        (self.folder / "pid").unlink(missing_ok=True)
        with (self.folder / "said").open("ab") as said:
            self._node = subprocess.Popen(
                [str(self._programs / "rabbitmq-server")],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        deadline = time.monotonic() + seconds
        while not self._answers():
            assert time.monotonic() < deadline, (
                f"{self.node.name} does not answer: {(self.folder / 'said').read_text()}"
            )
            assert self._node.poll() is None, (self.folder / "said").read_text()
            time.sleep(0.1)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the node by a signal."""
        assert self._node is not None
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((self.folder / "pid").read_text()), number)
        try:
            self._node.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self._node.pid, signal.SIGKILL)
            self._node.wait(30)

    def close(self) -> None:
        """End the node; its folder goes with the house."""
        self.stop(signal.SIGKILL)
        self._store.close()

    def _answers(self) -> bool:
        try:
            with self.channel():
                return True
        except (OSError, amqp.AMQPError):
            return False


def _free_ports(count: int) -> list[int]:
    """Ports below those that the kernel gives away by itself: a node opens them seconds later, and after each stop."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(15_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.append(port)
    return ports
