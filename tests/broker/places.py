"""Where tests put messages: brokers shared by many tests, and private servers with settings of their own."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from e2e.brokers import REDIS, OnRedis, RabbitMQ, needs
from e2e.house import until

from tokenferry.broker.embedded import server_program

KINDS = ("valkey", "redis", "rabbitmq")
ABOVE = ("valkey", "rabbitmq")
"""For what stands above the transport, which is the same on Valkey and Redis."""


class OneRedis(OnRedis):
    """A Redis or Valkey that others use as well: every test has queues of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = redis.Redis.from_url(url)


Place = OneRedis | RabbitMQ


@contextlib.contextmanager
def place(request: pytest.FixtureRequest, folders: pytest.TempPathFactory, *, database: int) -> Iterator[Place]:
    """The broker of the kind that *request* asks for; *database* of the shared Redis is the module's own."""
    match request.param:
        case "valkey":
            yield OneRedis(request.getfixturevalue("valkey").redis_url)
        case "redis":
            needs(REDIS, "Redis")
            yield OneRedis("redis://{}:{}/{}".format(*REDIS, database))
        case _:
            rabbitmq = RabbitMQ(folders.mktemp("rabbitmq"))
            yield rabbitmq
            rabbitmq.close()


class Server:
    """A private server in a folder of its own. Its data outlives it, so it can be killed and started again."""

    def __init__(self, folder: Path, *settings: str, program: Path | None = None, sentinel: bool = False) -> None:
        """*settings*: lines of its configuration file; without a port among them it has its Unix socket alone."""
        self.folder = folder
        self.socket = folder / "s"
        folder.mkdir(mode=0o700, exist_ok=True)
        lines = [
            f'unixsocket "{self.socket}"',
            f'dir "{folder}"',
            f'logfile "{folder}/log"',
            "appendonly yes",
            "appendfsync no",  # whatever was confirmed is written before: a kill loses none of it
            'save ""',
        ]
        if not any(line.startswith("port ") for line in settings):
            lines.append("port 0")
        (folder / "conf").write_text("\n".join([*lines, *settings, ""]))
        self.command = [str(program or server_program()), str(folder / "conf"), *(["--sentinel"] if sentinel else [])]
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
        until(self._answers, f"the server in {self.folder}", 60.0)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def said(self) -> str:
        log = self.folder / "log"
        return log.read_text() if log.exists() else ""

    def _answers(self) -> bool:
        """Whether it serves, be it that it wants a password."""
        assert self.process is not None
        assert self.process.poll() is None, self.said()
        try:
            with redis.Redis(unix_socket_path=str(self.socket)) as client:
                client.ping()
        except (redis.AuthenticationError, redis.ResponseError):
            return True
        except redis.ConnectionError:
            return False
        return True


def redis_program() -> Path:
    """The redis-server of this machine, which unlike the embedded Valkey speaks TLS and is a Sentinel too."""
    found = shutil.which("redis-server")
    if found is None:
        needs(("127.0.0.1", 0), "redis-server in PATH")
    assert found is not None
    return Path(found)
