"""`tokenferry init` leads to a first token, and overwrites nothing."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tokenferry import load
from tokenferry.cli import main
from tokenferry_worker.keys.policy import Policy


def init(folder: Path, *options: str, input: str | None = None) -> Result:
    return CliRunner().invoke(main, ["init", "--folder", str(folder), *options], input=input)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_writes_a_configuration_keys_and_samples_that_only_their_owner_can_use(tmp_path: Path) -> None:
    done = init(tmp_path / "shop", "--yes")
    assert done.exit_code == 0, done.output
    assert "tokenferry import cards.csv --results results.jsonl" in done.stdout
    folder = tmp_path / "shop"
    configuration = load(folder / "tokenferry.toml")
    assert list(configuration.platforms) == ["main"]
    assert configuration.platforms["main"].base_url is not None
    assert configuration.platforms["main"].limits.by == "operation"
    for private in ("producer.pem", "worker.pem", "result.pem", "stripe-secret-key", "policy.toml"):
        assert mode(folder / "keys" / private) == 0o600
    assert mode(folder / "keys" / "identities") == 0o700
    assert len(Policy.read(folder / "keys" / "policy.toml").signers) == 2
    checked = CliRunner().invoke(
        main, ["import", str(folder / "cards.csv"), "--dry-run", "--config", f"{folder}/tokenferry.toml"]
    )
    assert "4 rows read, 3 can be sent, 1 rejected" in checked.stdout


def test_a_second_time_it_changes_nothing(tmp_path: Path) -> None:
    init(tmp_path, "--yes")
    before = everything(tmp_path)
    done = init(tmp_path, "--yes", "--platform", "other", "--stripe", "live")
    assert (done.exit_code, everything(tmp_path)) == (0, before)
    assert "kept  tokenferry.toml" in done.stdout
    (tmp_path / "cards.csv").unlink()
    told = json.loads(init(tmp_path, "--json").stdout)
    assert told["written"] == ["cards.csv"]
    assert everything(tmp_path) == before


def test_it_asks_where_a_person_sits(tmp_path: Path) -> None:
    """Not in a pipe: click's runner is one, so nothing is asked here and the defaults are taken."""
    assert init(tmp_path, input="live\nshop\n").exit_code == 0
    assert list(load(tmp_path / "tokenferry.toml").platforms) == ["main"]


@pytest.mark.parametrize(
    ("options", "broker", "store", "rights"),
    [
        (("--broker", "redis://127.0.0.1:6379/1"), "redis://127.0.0.1:6379/1", "redis://127.0.0.1:6379/1", 0o644),
        (("--broker", "rediss://u:pw@r.example:6379/0"), *["rediss://u:pw@r.example:6379/0"] * 2, 0o600),
        (("--broker", "amqp://r.example//"), "amqp://r.example//", "embedded", 0o644),
    ],
    ids=["redis", "password", "rabbitmq"],
)
def test_a_broker_is_written_and_a_password_is_for_the_owner_alone(
    options: tuple[str, ...], broker: str, store: str, rights: int, tmp_path: Path
) -> None:
    done = init(tmp_path, "--yes", "--stripe", "test", "--platform", "shop", *options)
    assert done.exit_code == 0, done.output
    assert "pw" not in done.output
    configuration = load(tmp_path / "tokenferry.toml")
    assert (configuration.broker.url, configuration.store.url) == (broker, store)
    assert mode(tmp_path / "tokenferry.toml") == rights
    assert "export STRIPE_SECRET_KEY" in done.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--broker", "http://u:secretword@x"), "--broker: "),
        (("--platform", "Main Shop"), "a name looks like main-eu"),
        (("--stripe", "prod"), "is not one of"),
    ],
)
def test_wrong_answers_are_told_before_anything_is_written(options: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = init(tmp_path / "shop", "--yes", *options)
    assert done.exit_code == 2
    assert says in done.stderr
    assert "secretword" not in done.output
    assert not (tmp_path / "shop").exists()


def test_keys_that_are_generated_again_are_called_a_rotation(tmp_path: Path) -> None:
    init(tmp_path, "--yes")
    again = ["keys", "generate", "--out", str(tmp_path / "keys"), "--producer", str(tmp_path / "p")]
    said = CliRunner().invoke(main, again).stdout
    assert "this is a rotation" in said
    assert str(tmp_path / "p") in said
