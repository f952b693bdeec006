"""`tokenferry config check`: what would be used, without a secret and without a connection."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tokenferry.cli import main

CANARY = "hunter2-canary"

CONFIGURATION = f"""
[broker]
url = "rediss://worker:{CANARY}%23@127.0.0.1:1/0"
publish_timeout = 4.0
[outbox]
path = "outbox.db"
[platforms.main]
mode = "live"
secret_key = {{ env = "THE_KEY" }}
publishable_key = {{ file = "key.txt" }}
"""


@pytest.fixture(autouse=True)
def _nothing_in_the_environment(environment: dict[str, str]) -> None:
    for name in ("TOKENFERRY_BROKER__URL", "TOKENFERRY_STORE__URL", "TOKENFERRY_DATA"):
        environment.pop(name, None)
    environment["THE_KEY"] = f"sk_live_{CANARY}"


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., Result]:
    def call(content: str, *options: str) -> Result:
        path = tmp_path / "tokenferry.toml"
        path.write_text(content)
        return CliRunner().invoke(main, ["config", "check", "--config", str(path), *options])

    return call


def test_every_setting_is_shown_with_its_value_and_no_secret(check: Callable[..., Result], tmp_path: Path) -> None:
    done = check(CONFIGURATION)
    assert (done.exit_code, done.stderr) == (0, "")
    shown = dict(line.split(" = ", 1) for line in done.stdout.splitlines())
    assert shown["file"] == str(tmp_path / "tokenferry.toml")
    assert shown["broker.url"] == "rediss://worker:***@127.0.0.1:1/0"
    assert shown["broker.publish_timeout"] == "4.0"
    assert shown["store.url"] == "embedded"
    assert shown["outbox.path"] == str(tmp_path / "outbox.db")
    assert shown["platforms.main.secret_key"] == "env THE_KEY"
    assert shown["platforms.main.publishable_key"] == f"file {tmp_path / 'key.txt'}"
    assert shown["platforms.main.limits.global_per_second"] == "100.0"
    assert CANARY not in done.output


def test_nothing_is_started_for_it(check: Callable[..., Result], tmp_path: Path) -> None:
    assert check("[platforms.main]\n").exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"tokenferry.toml"}


def test_a_program_reads_the_same_as_json(check: Callable[..., Result]) -> None:
    done = check(CONFIGURATION.replace("%23@127.0.0.1:1/0", "@127.0.0.1:1/0?ssl_cert_reqs=none"), "--json")
    report = json.loads(done.stdout)
    assert (done.exit_code, report["ok"]) == (0, True)
    assert report["settings"]["broker"]["url"] == "rediss://worker:***@127.0.0.1:1/0?ssl_cert_reqs=none"
    assert report["settings"]["worker"]["concurrency"] == 100
    (warning,) = report["warnings"]
    assert warning.startswith("[broker] url: the server's certificate is not checked")


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_what_cannot_be_used_ends_with_2_and_says_why(check: Callable[..., Result], options: tuple[str, ...]) -> None:
    done = check(f'[broker]\nurl = "redis://user:{CANARY}#ss@127.0.0.1:1/0"\n', *options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "[broker] url: has a # in it; in a user name or password write" in done.stderr
    assert done.stderr.count("\n") == 1
    assert CANARY not in done.output


def test_the_environment_is_shown_where_it_overrides_the_file(
    check: Callable[..., Result], environment: dict[str, str]
) -> None:
    environment["TOKENFERRY_BROKER__URL"] = f"amqps://guest:{CANARY}@mq.example/v"
    done = check(CONFIGURATION)
    assert "broker.url = amqps://guest:***@mq.example/v" in done.stdout
    assert CANARY not in done.output


def test_without_a_platform_it_is_a_warning(check: Callable[..., Result]) -> None:
    done = check("")
    assert done.exit_code == 0
    assert "no platform is configured: add [platforms.NAME]" in done.stderr
