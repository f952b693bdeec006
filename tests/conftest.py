"""What tests of both halves share: one set of keys and one private Valkey for every test process."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[Any]) -> None:
    """Fork the processes of the run as well, from one that has imported the tests."""
    python = _OPEN.enter_context(forking.tests_imported(config.args))
    for spec in specs:
        spec.python = python


def pytest_unconfigure() -> None:
    _OPEN.close()


FOREIGN = {"redis", "rabbitmq", "own-rabbitmq"}
"""Parameters that ask for a server which is not ours."""
FOREIGN_FIXTURES = {"rabbit", "impatient", "replicated"}
SLOW = {
    "e2e",
    "test_compose.py",
    "test_deploy.py",
    "test_documentation.py",
    "test_examples.py",
    "test_resuming.py",
    "test_embedded.py",
}
"""Where tests wait for processes: they come first, or one of the last ones keeps everybody waiting."""


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Mark what needs a foreign server. Then, of what is left, let each test process begin with its share of slow ones.

    `--dist worksteal` gives each process one piece of the list at first.
    """
    for item in items:
        parameters = (
            map(str, item.callspec.params.values())
            if isinstance(item, pytest.Function) and hasattr(item, "callspec")
            else ()
        )
        if FOREIGN.intersection(parameters) or FOREIGN_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("foreign")
    yield
    files = {item.path for item in items}
    slow_files = {path for path in files if not SLOW.isdisjoint(path.parts)}
    slow = [item for item in items if item.path in slow_files]
    quick = [item for item in items if item.path not in slow_files]
    count = getattr(config, "workerinput", {}).get("workercount", 1)
    edges = [len(quick) * at // count for at in range(count + 1)]
    items[:] = [
        item
        for at, (begin, end) in enumerate(itertools.pairwise(edges))
        for item in (*slow[at::count], *quick[begin:end])
    ]


@pytest.fixture
def environment() -> Iterator[MutableMapping[str, str]]:
    """The environment of this process, which is afterwards as it was before."""
    before = dict(os.environ)
    yield os.environ
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def in_folder() -> Iterator[Callable[[Path], None]]:
    """Go into a folder, until the end of the test."""
    before = Path.cwd()
    yield os.chdir
    os.chdir(before)


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

    @property
    def result(self) -> Path:
        return self.path / "result.pem"

    @property
    def result_signers(self) -> Path:
        return self.path / "result-signers"

    @property
    def policy(self) -> Path:
        return self.path / "policy.toml"


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
