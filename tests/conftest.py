"""What tests of both halves share: one set of keys and one private Valkey for every test process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import forking
import pytest
from click.testing import CliRunner

from tokenferry.broker.embedded import Embedded, EmbeddedServerUnavailable, running
from tokenferry_worker.commands.keys import keys

_OPEN = ExitStack()
"""What lives as long as the test run."""


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # one fork server for all processes of a run
        _OPEN.enter_context(forking.server())


def pytest_unconfigure() -> None:
    _OPEN.close()


@dataclass(frozen=True)
class KeyFolder:
    """What `tokenferry keys generate` wrote: who holds which file is the whole security of the house."""

    path: Path

    @property
    def recipient(self) -> Path:
        return self.path / "recipient.pem"

    @property
    def identities(self) -> Path:
        return self.path / "identities"

    @property
    def producer(self) -> Path:
        return self.path / "producer.pem"

    @property
    def worker(self) -> Path:
        return self.path / "worker.pem"

    @property
    def signers(self) -> Path:
        return self.path / "signers"


def generated(path: Path, *options: str) -> KeyFolder:
    answer = CliRunner().invoke(keys, ["generate", "--out", str(path), *options])
    assert answer.exit_code == 0, answer.output
    return KeyFolder(path)


@pytest.fixture(scope="session")
def key_folder(tmp_path_factory: pytest.TempPathFactory) -> KeyFolder:
    """Keys of the default suite."""
    return generated(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def quantum_key_folder(tmp_path_factory: pytest.TempPathFactory) -> KeyFolder:
    """Keys of the post-quantum suite."""
    return generated(tmp_path_factory.mktemp("quantum-keys"), "--post-quantum")


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """A Valkey of this test process alone, gone with it."""
    try:
        with running(tmp_path_factory.mktemp("valkey")) as server:
            yield server
    except EmbeddedServerUnavailable as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
