"""What a worker that cannot work says before it starts: one line, exit code 2, and never a secret."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import forking
import pytest
from e2e.brokers import RabbitMQ
from e2e.house import House, until


@pytest.fixture(scope="module")
def template(house_on: Callable[[str], House]) -> House:
    return house_on("embedded")


def start(house: House, folder: Path, toml: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
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


def spoil(case: str, house: House, folder: Path, toml: str) -> tuple[str, dict[str, str], str]:
    """The configuration, what the environment adds, and a part of the line to expect."""
    keys = own_keys(house, folder)
    identity = next((keys / "identities").glob("*.pem"))
    http = 'base_url = "http://'
    match case:
        case "key the endpoint does not accept":
            return toml, {"TF_SECRET": "sk_test_invalid"}, "Stripe does not accept this key"
        case "key not set":
            return toml, {"TF_SECRET": ""}, "TF_SECRET is not set"
        case "publishable key for a secret one":
            return toml, {"TF_SECRET": "pk_test_alpha"}, "secret_key must begin with sk_ or rk_"
        case "live key in test mode":
            return toml, {"TF_SECRET": "sk_live_alpha"}, "is not a test key"
        case "private key open to others":
            identity.chmod(0o644)
            return toml, {}, f"chmod 600 {identity}"
        case "no private key":
            identity.unlink()
            return toml, {}, "holds no private key"
        case "no signing key":
            (keys / "worker.pem").unlink()
            return toml, {}, "worker.pem: the signing key cannot be read"
        case "no signers":
            for path in (keys / "signers").iterdir():
                path.unlink()
            return toml, {}, "holds no public key"
        case "plain http to another machine":
            return toml.replace(house.endpoint, "http://192.0.2.1"), {}, "plain http to another machine"
        case "version in the endpoint's address":
            return toml.replace(house.endpoint, f"{house.endpoint}/v1"), {}, "leave /v1 out"
        case "live mode over http":
            live = toml.replace("[platforms.main]\n", '[platforms.main]\nmode = "live"\n')
            live_keys = {"TF_SECRET": "sk_live_alpha", "TF_PUB": "pk_live_alpha"}
            return live, live_keys, "plain http with live keys"
        case "unknown setting":
            return toml.replace(http, f'speed = "sk_test_alpha"\n{http}', 1), {}, "speed: unknown setting"
        case "not TOML":
            return toml + "\n[[", {}, "is not TOML"
        case "no platform":
            return toml[: toml.index("[platforms")], {}, "no platform is configured"
        case _:
            raise AssertionError(case)


@pytest.mark.parametrize(
    "case",
    [
        "key the endpoint does not accept",
        "key not set",
        "publishable key for a secret one",
        "live key in test mode",
        "private key open to others",
        "no private key",
        "no signing key",
        "no signers",
        "plain http to another machine",
        "version in the endpoint's address",
        "live mode over http",
        "unknown setting",
        "not TOML",
        "no platform",
    ],
)
def test_a_worker_that_cannot_work_says_why_in_one_line_and_exits_with_2(
    template: House, tmp_path: Path, case: str
) -> None:
    toml, environment, expected = spoil(case, template, tmp_path, (template.folder / "tokenferry.toml").read_text())
    ended = start(template, tmp_path, toml, environment)
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
        until(lambda: worker.said().count(REFUSED) >= 2, "two refusals")
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
