"""A real Valkey, keys, a configuration, and a stand-in for the workers that opens nothing and answers everything."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import forking
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from result_signing import write_result_key

from tokenferry.broker import embedded
from tokenferry.cli import main
from tokenferry.configuration import Configuration, load
from tokenferry.contract.envelope import Header
from tokenferry.contract.queues import tokenize_queues
from tokenferry.contract.results import AttachResult, Failure, TokenResult

from .taking import Taker

CANARY = "4000" + "0000" + "0000" + "0002"
"""A published test card number, which must never be seen outside the file it came from."""
_names = count()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data directory of an embedded server that lives as long as the test run."""
    directory = tmp_path_factory.mktemp("data")
    directory.chmod(0o700)
    with embedded.running(directory):
        yield directory


def write_keys(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    public = x25519.X25519PrivateKey.generate().public_key()
    (folder / "recipient.pem").write_bytes(
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    signing = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "producer.pem").write_bytes(signing)
    (folder / "producer.pem").chmod(0o600)
    write_result_key(folder)


@dataclass
class House:
    """One folder with everything an import needs, and ways to run one."""

    folder: Path
    platform: str

    @property
    def config(self) -> Path:
        return self.folder / "tokenferry.toml"

    @property
    def results(self) -> Path:
        return self.folder / "out.jsonl"

    @property
    def rejects(self) -> Path:
        return self.folder / "rejects.csv"

    def configuration(self) -> Configuration:
        return load(self.config)

    def file(self, content: str | bytes, name: str = "rows.csv") -> Path:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def arguments(self, file: Path | str, *more: str) -> list[str]:
        return [
            "import",
            str(file),
            "--results",
            str(self.results),
            "--rejects",
            str(self.rejects),
            "--config",
            str(self.config),
            *more,
        ]

    def run(self, file: Path | str, *more: str, input: bytes | None = None) -> Result:
        return CliRunner().invoke(main, self.arguments(file, *more), input=input)

    def start(self, *arguments: str, stdin: int | None = None) -> subprocess.Popen[str]:
        return forking.start(
            [sys.executable, "-m", "tokenferry.cli", *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
        )

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.results.read_text().splitlines()]

    def refused(self) -> list[list[str]]:
        return [line.split(",", 3) for line in self.rejects.read_text().splitlines()[1:]]


def write_configuration(house: House, broker: str) -> None:
    house.config.write_text(f"{broker}\n[platforms.{house.platform}]\nmode = 'test'\n")


@pytest.fixture
def offline(tmp_path: Path) -> House:
    """A house whose broker is down."""
    house = House(tmp_path, f"p{next(_names)}")
    write_keys(tmp_path / "keys")
    write_configuration(house, "[broker]\nurl = 'redis://127.0.0.1:1/0'\npublish_timeout = 1.0")
    return house


@pytest.fixture
def house(tmp_path: Path, server: Path) -> House:
    """A house with a broker, and no worker yet."""
    house = House(tmp_path, f"p{next(_names)}")
    write_keys(tmp_path / "keys")
    write_configuration(house, f"data = '{server}'")
    return house


@dataclass
class StandIn(Taker):
    """Takes envelopes off the tokenize queues and answers their headers; it has no key and opens nothing."""

    token_failure: Callable[[Header], str | None] = lambda header: None
    attach_failure: Callable[[Header], str | None] = lambda header: None
    pause: float = 0.0
    answers: int | None = None
    """How many requests it answers before it falls silent."""

    def queues(self) -> tuple[str, ...]:
        return tuple(tokenize_queues(self.platform))

    def answer(self, delivery: Any) -> None:
        header = Header.model_validate(self.argument(delivery)["header"])
        self.taken.append(header)
        if self.answers is not None and len(self.taken) > self.answers:
            return
        time.sleep(self.pause)
        for result in self.results(header):
            self.reply(header.reply_to or "nobody", result)
        delivery.ack()

    def results(self, header: Header) -> Iterator[TokenResult | AttachResult]:
        about: dict[str, Any] = {
            "request_id": header.request_id,
            "kind": header.kind,
            "platform": header.platform,
            "settled_at": 1,
        }
        code = self.token_failure(header)
        failure = Failure(code=code, source="endpoint", endpoint_request_id="req_1") if code else None
        token = None if code else f"tok_{len(self.taken)}"
        yield TokenResult(outcome_id=f"t-{header.request_id}", token=token, failure=failure, **about)
        if header.attach_digest and token:
            code = self.attach_failure(header)
            yield AttachResult(
                outcome_id=f"a-{header.request_id}",
                attach_id=header.request_id,
                to="customer_create",
                token=token,
                object_id=None if code else f"cus_{len(self.taken)}",
                failure=Failure(code=code, source="endpoint", decline_code="generic_decline") if code else None,
                **about,
            )


@pytest.fixture
def worker(house: House) -> Iterator[StandIn]:
    with StandIn(house.configuration(), house.platform) as stand_in:
        yield stand_in


def interrupt(process: subprocess.Popen[str], number: signal.Signals = signal.SIGINT) -> tuple[str, str]:
    process.send_signal(number)
    return process.communicate(timeout=90)
