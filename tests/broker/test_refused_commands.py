"""Servers that refuse a command: taken from the user, renamed, or unknown to a proxy in between.

Either everything works all the same, or doctor and worker each say in one line what is refused, and nobody is restarted
for ever.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from broker.places import Server
from broker.test_redis_flavours import Flavour, HouseOn
from click.testing import CliRunner
from e2e import cargo
from e2e.house import until

from tokenferry.cli import main

CARD = json.dumps({"number": "4242424242424242", "exp_month": 12, "exp_year": 2040})
TAKEN = ("client|tracking", "evalsha", "script", "scan", "llen", "multi", "time", "hset", "ping")
"""Without these no worker works."""
SPARED = ("hello", "info", "eval", "keys", "config", "wait", "client|setname", "client|setinfo", "exists")
"""Hosted servers often refuse these, and nothing of ours needs them."""
RENAMED = ("client", "script", "evalsha")
IN_A_SCRIPT = ("ACL LOG", "a command that a script of ours runs")


class Refusing(HouseOn):
    """A house on a server with a user that lacks what a test takes from it."""

    def __init__(self, folder: Path, *settings: str) -> None:
        self.server = Server(folder / "server", "requirepass pw", *settings)
        url = f"unix://{{}}:pw@{self.server.socket}?db=0"
        (home := folder / "house").mkdir(mode=0o700)
        super().__init__(home, Flavour(url.format("limited"), redis.Redis.from_url(url.format("default"))))
        self.allow()

    def allow(self, *rights: str) -> None:
        """Let the user do everything, but for what *rights* take from it."""
        self.broker.client.flushdb()
        self.broker.client.script_flush()
        self.broker.client.execute_command(
            "ACL", "SETUSER", "limited", "reset", "on", ">pw", "~*", "&*", "+@all", *rights
        )

    def told(self, *command: str, given: str | None = None) -> str:
        options = [*command, "--config", str(self.folder / "tokenferry.toml")]
        return CliRunner().invoke(main, options, input=given, env=dict(self.environment)).output

    def complaints(self) -> list[str]:
        """What the doctor finds wrong with broker and store."""
        checks = json.loads(self.told("doctor", "--json"))["checks"]
        found = [check for check in checks if check["state"] != "ok" and check["name"].startswith(("broker", "store"))]
        return [f"{check['says']}; {check['do']}" for check in found]

    def close(self) -> None:
        super().close()
        self.server.kill()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Refusing]:
    house = Refusing(tmp_path_factory.mktemp("refusing"))
    yield house
    house.close()


def assert_told(house: Refusing, *words: str) -> None:
    """The doctor and a worker name what is refused, in one of these *words*; the worker is not restarted for it."""
    complaints = house.complaints()
    assert [line for line in complaints if any(word in line for word in words)], complaints
    worker = house.worker(ready=False)
    until(lambda: any(word in worker.said() for word in words), f"a line of the worker about {words[0]}")
    said = worker.said()
    worker.kill()
    assert "Traceback" not in said
    assert "Unrecoverable" not in said


@pytest.mark.parametrize("command", TAKEN)
def test_a_command_taken_from_the_user_is_named_by_doctor_and_worker(house: Refusing, command: str) -> None:
    house.allow()
    house.send(cargo.cards(1, "x"))  # what only a message needs is found with one
    house.broker.client.execute_command("ACL", "SETUSER", "limited", f"-{command}")
    assert_told(house, f"run {command.replace('|', ' ').upper()}", *IN_A_SCRIPT)


def test_a_producer_is_told_in_one_line_which_command_it_lacks(house: Refusing) -> None:
    house.allow("-lpush")
    said = house.told(
        "send", "--kind", "card", "--platform", "main", "--json-input", "-", "--reply-to", "x", given=CARD
    )
    assert "does not allow this user to run LPUSH" in said
    house.allow("-multi")
    said = house.told(
        "send", "--kind", "card", "--platform", "main", "--json-input", "-", "--reply-to", "x", given=CARD
    )
    assert "does not allow this user to run MULTI" in said


def test_what_nothing_of_ours_needs_may_be_refused(house: Refusing) -> None:
    house.allow(*(f"-{command}" for command in SPARED))
    with house.working():
        options = ["--kind", "card", "--platform", "main", "--json-input", "-", "--wait"]
        assert "tokenized tok_" in house.told("send", *options, given=CARD)


@pytest.mark.parametrize("command", RENAMED)
def test_a_command_that_the_server_does_not_know_is_named_as_well(tmp_path: Path, command: str) -> None:
    house = Refusing(tmp_path)
    house.server.kill()
    conf = house.server.folder / "conf"
    conf.write_text(f'{conf.read_text()}rename-command {command} ""\n')
    house.server.start()
    house.broker.client.execute_command("ACL", "SETUSER", "limited", "on", ">pw", "~*", "&*", "+@all")
    try:
        assert_told(house, f"the command {command.upper()}")
    finally:
        house.close()
