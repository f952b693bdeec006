"""What a worker that cannot work says before it starts: one line, exit code 2, and never a secret."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import forking
import pytest
from e2e.brokers import RabbitMQ
from e2e.house import House, until


@pytest.fixture(scope="module")
def template(house_on: Callable[[str], House]) -> House:
    return house_on("embedded")


def start(house: House, folder: Path, toml: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Start a worker and wait for its end."""
    (folder / "tokenferry.toml").write_text(toml)
    command = [sys.executable, "-m", "tokenferry.cli", "worker"]
    return forking.run(command, cwd=folder, env={**house.environment, **environment})


def own_keys(house: House, folder: Path) -> Path:
    """A copy of the house's keys, to be spoilt."""
    for path in sorted((house.folder / "keys").rglob("*")):
        copy = folder / "keys" / path.relative_to(house.folder / "keys")
        if path.is_dir():
            copy.mkdir(parents=True, mode=0o700)
        else:
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(path.read_bytes())
            copy.chmod(path.stat().st_mode)
    return folder / "keys"


@dataclass(frozen=True)
class Spoilt:
    """What keeps a worker from working, and a part of the line it says."""

    expected: str
    environment: Mapping[str, str] = field(default_factory=dict)
    """What the environment adds."""
    toml: Callable[[str], str] = lambda toml: toml
    """The configuration, made of one that is in order."""
    keys: Callable[[Path], object] = lambda keys: None
    """Spoils a folder of keys."""


def open_to_others(keys: Path) -> None:
    identity_of(keys).chmod(0o644)


def identity_of(keys: Path) -> Path:
    return next((keys / "identities").glob("*.pem"))


def without_signers(keys: Path) -> None:
    for path in (keys / "signers").iterdir():
        path.unlink()


def address(change: Callable[[str], str]) -> Callable[[str], str]:
    """Change the address of every platform."""
    return lambda toml: re.sub(r'(?<=base_url = ")[^"]+', lambda found: change(found[0]), toml)


SPOILT = {
    "key the endpoint does not accept": Spoilt(
        "Stripe does not accept this key", environment={"TF_SECRET": "sk_test_invalid"}
    ),
    "key not set": Spoilt("TF_SECRET is not set", environment={"TF_SECRET": ""}),
    "publishable key for a secret one": Spoilt(
        "secret_key must begin with sk_ or rk_", environment={"TF_SECRET": "pk_test_alpha"}
    ),
    "live key in test mode": Spoilt("is not a test key", environment={"TF_SECRET": "sk_live_alpha"}),
    "private key open to others": Spoilt("chmod 600 {identity}", keys=open_to_others),
    "no private key": Spoilt("holds no private key", keys=lambda keys: identity_of(keys).unlink()),
    "no signing key": Spoilt(
        "worker.pem: the signing key cannot be read", keys=lambda keys: (keys / "worker.pem").unlink()
    ),
    "no signers": Spoilt("holds no public key", keys=without_signers),
    "plain http to another machine": Spoilt(
        "plain http to another machine", toml=address(lambda _: "http://192.0.2.1")
    ),
    "version in the endpoint's address": Spoilt("leave /v1 out", toml=address(lambda url: f"{url}/v1")),
    "live mode over http": Spoilt(
        "plain http with live keys",
        environment={"TF_SECRET": "sk_live_alpha", "TF_PUB": "pk_live_alpha"},
        toml=lambda toml: toml.replace("[platforms.main]\n", '[platforms.main]\nmode = "live"\n'),
    ),
    "unknown setting": Spoilt(
        "speed: unknown setting",
        toml=lambda toml: toml.replace("base_url =", 'speed = "sk_test_alpha"\nbase_url =', 1),
    ),
    "not TOML": Spoilt("is not TOML", toml=lambda toml: toml + "\n[["),
    "no platform": Spoilt("no platform is configured", toml=lambda toml: toml[: toml.index("[platforms")]),
}


@pytest.mark.parametrize("case", SPOILT.values(), ids=SPOILT)
def test_a_worker_that_cannot_work_says_why_in_one_line_and_exits_with_2(
    template: House, tmp_path: Path, case: Spoilt
) -> None:
    keys = own_keys(template, tmp_path)
    expected = case.expected.format(identity=identity_of(keys))
    case.keys(keys)
    toml = case.toml((template.folder / "tokenferry.toml").read_text())
    ended = start(template, tmp_path, toml, case.environment)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 2, said
    assert expected in said
    assert len(said.strip().splitlines()) == 1
    assert "Traceback" not in said
    for secret in ("sk_test_", "sk_live_", "pk_test_", "pk_live_", "PRIVATE KEY"):
        assert secret not in said
    assert not list(tmp_path.glob("data/valkey*")), "no server was started for it"


REFUSED = "does not let this user into the virtual host"


@pytest.mark.parametrize("house", ["rabbitmq"], indirect=True)
def test_a_worker_whom_rabbitmq_refuses_says_so_in_one_line_and_goes_on_once_it_is_let_in(house: House) -> None:
    assert isinstance(house.broker, RabbitMQ)
    vhost = house.broker.vhost
    house.broker.control("clear_permissions", "-p", vhost, "guest")
    try:
        worker = house.worker(ready=False)
        until(lambda: REFUSED in worker.said(), "the refusal")  # it is said once a minute, and tried more often
        process = worker.children()
    finally:
        house.broker.control("set_permissions", "-p", vhost, "guest", ".*", ".*", ".*")
    until(lambda: worker.is_ready(1), "a ready worker")
    assert worker.children() == process
    assert worker.stop() == 0
    refusals = [line for line in worker.said().splitlines() if REFUSED in line]
    assert "`rabbitmqctl set_permissions` there, or correct [broker] url" in refusals[0]
    assert "Traceback" not in worker.said()
    assert "guest:guest" not in worker.said()


@pytest.mark.parametrize("house", ["rabbitmq"], indirect=True)
def test_a_worker_whom_rabbitmq_refuses_stops_when_it_is_told_to(house: House) -> None:
    config = house.configure("refused.toml", broker=house.broker.url.replace("guest:guest", "guest:not-it"))
    worker = house.worker(config=config.name, ready=False)
    until(lambda: "refuses the user name or password" in worker.said(), "a refusal")
    assert worker.stop() == 0
    assert "not-it" not in worker.said()
