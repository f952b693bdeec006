"""A whole service on this machine: the emulator of Stripe, a worker and an embedded broker, as child processes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tokenferry.broker import embedded
from tokenferry.configuration import Configuration, load
from tokenferry.errors import ProducerError
from tokenferry.producer import AsyncProducer, Producer

Popen = Callable[..., "subprocess.Popen[Any]"]

NEEDED: Final = ("tokenferry_worker", "tokenferry_emulator", "celery", "httpx", "starlette", "uvicorn")
SECRET_KEY: Final = "sk_test_local"  # noqa: S105  # it opens the emulator and nothing else
CONFIGURATION: Final = """\
[platforms.{platform}]
mode = "test"
base_url = "{stripe}"
secret_key = {{ env = "TOKENFERRY_TESTING_SECRET" }}
publishable_key = {{ env = "TOKENFERRY_TESTING_PUBLISHABLE" }}
[platforms.{platform}.limits]
global_per_second = 1000
by = "operation"
operation_per_second = 500
"""


class MissingExtra(ProducerError, ImportError):
    """A part of Tokenferry that this needs is not installed. The message says what to install."""


@dataclass(frozen=True)
class LocalService:
    """A running service. It ends with the `with` block of `local_service`."""

    folder: Path
    """Of its own; `tokenferry` commands work there, and everything in it is deleted at the end."""
    stripe_url: str
    """Address of the emulator."""

    @property
    def configuration_file(self) -> Path:
        """The `tokenferry.toml`, for `Producer(path)`, `Results(route, path)` or `TOKENFERRY` commands."""
        return self.folder / "tokenferry.toml"

    @property
    def configuration(self) -> Configuration:
        """The same, loaded."""
        return load(self.configuration_file)

    def producer(self) -> Producer:
        """Return a new producer. Close it."""
        return Producer(self.configuration_file)

    def async_producer(self) -> AsyncProducer:
        """Return a new producer for asyncio. Close it."""
        return AsyncProducer(self.configuration_file)

    def stripe(self, path: str) -> dict[str, Any]:
        """Return an object of the emulator: `stripe("/v1/customers/cus_1")`. Raises `LookupError` if there is none."""
        headers = {"authorization": f"Bearer {SECRET_KEY}"}
        try:
            with urlopen(Request(self.stripe_url + path, headers=headers), timeout=10) as answer:
                found: dict[str, Any] = json.load(answer)
        except HTTPError as error:
            raise LookupError(f"the emulator answers {error.code} for {path}") from None
        return found


def check_installed(packages: Sequence[str]) -> None:
    """Raise `MissingExtra` if one of *packages* is not installed. Imports none of them."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"local_service needs a worker and the emulator ({', '.join(missing)} missing): "
            "pip install 'tokenferry[worker,emulator]'"
        )


@contextmanager
def local_service(
    *,
    platform: str = "main",
    emulator: Sequence[str] = (),
    seconds: float = 60.0,
    popen: Popen = subprocess.Popen,
) -> Iterator[LocalService]:
    """Start an emulator of Stripe, a worker and an embedded broker in a temporary folder, and stop them at the end.

    It takes a few seconds, so use one for a whole test session. *platform*: its name in the configuration. *emulator*:
    more options for `tokenferry emulator`, such as `--fault error_503=0.1`. *seconds*: until all of it must be ready.
    *popen*: starts the child processes.

    Raises `MissingExtra`, and `ChildProcessError` with what a child has said if it does not start.
    """
    check_installed(NEEDED)
    with tempfile.TemporaryDirectory(prefix="tokenferry-testing-") as name, ExitStack() as stack:
        folder = Path(name)
        children = _Children(folder, popen, time.monotonic() + seconds)
        children.run("keys", "generate", "--out", "keys")
        line = stack.enter_context(children.started("emulator", "listening on ", "--port", "0", *emulator))
        service = LocalService(folder, line.split("listening on ")[1].split()[0])
        service.configuration_file.write_text(CONFIGURATION.format(platform=platform, stripe=service.stripe_url))
        stack.callback(embedded.stop, folder / ".tokenferry")
        stack.enter_context(children.started("worker", ": ready, reading "))
        yield service


@dataclass(frozen=True)
class _Children:
    """Programs of ours, in one folder."""

    folder: Path
    popen: Popen
    deadline: float

    @property
    def environment(self) -> Mapping[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TOKENFERRY_")}
        return {
            **clean,
            "TOKENFERRY_TESTING_SECRET": SECRET_KEY,
            "TOKENFERRY_TESTING_PUBLISHABLE": "pk_test_local",
        }

    def run(self, *arguments: str) -> None:
        """Run one command to its end."""
        log = self.folder / f"{arguments[0]}.log"
        with self._begun(log, arguments) as process:
            if process.wait(max(1.0, self.deadline - time.monotonic())) != 0:
                raise ChildProcessError(f"`tokenferry {' '.join(arguments)}` failed: {log.read_text()}")

    @contextmanager
    def started(self, command: str, ready: str, *options: str) -> Iterator[str]:
        """Start a command, wait until it has printed a line with *ready*, yield the line, and stop it at the end."""
        log = self.folder / f"{command}.log"
        with self._begun(log, (command, *options)) as process:
            try:
                yield self._line(process, log, ready)
            finally:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()

    def _begun(self, log: Path, arguments: Sequence[str]) -> subprocess.Popen[Any]:
        with log.open("wb") as output:
            return self.popen(
                [sys.executable, "-m", "tokenferry", *arguments],
                cwd=self.folder,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _line(self, process: subprocess.Popen[Any], log: Path, words: str) -> str:
        while time.monotonic() < self.deadline and process.poll() is None:
            if found := [line for line in log.read_text(errors="replace").splitlines() if words in line]:
                return found[0]
            time.sleep(0.02)
        raise ChildProcessError(f"{log.stem} did not start:\n{log.read_text(errors='replace')}")
