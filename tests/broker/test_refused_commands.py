"""Servers that refuse a command: renamed, taken from the user, or unknown to a proxy in between."""

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
from e2e.house import House, Worker, until

from tokenferry import Producer, PublishError, Results
from tokenferry.cli import main
from tokenferry.configuration import load

CARD = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2040}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("refusing")
    server = Server(folder / "server", "requirepass pw")
    (home := folder / "house").mkdir(mode=0o700)
    url = f"unix://{{}}:pw@{server.socket}?db=0"
    house = HouseOn(home, Flavour(url.format("limited"), redis.Redis.from_url(url.format("default"))))
    yield house
    house.close()
    server.kill()


@pytest.mark.parametrize(
    "command",
    [
        "hello",
        "client",
        "client|tracking",
        "info",
        "scan",
        "time",
        "evalsha",
        "script",
        "exists",
        "del",
        "multi",
        "lpush",
        "llen",
        "eval",
        "keys",
        "config",
        "wait",
        "select",
        "ping",
        "hset",
        "zadd",
        "rpop",
        "hget",
        "set",
        "get",
        "sadd",
        "smembers",
        "expire",
        "pexpire",
    ],
)
def test_x(house: House, command: str) -> None:
    admin = house.broker.client
    admin.flushdb()
    admin.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">pw", "~*", "&*", "+@all", f"-{command}")
    config = ["--config", str(house.folder / "tokenferry.toml")]
    env = dict(house.environment)
    doc = CliRunner().invoke(main, ["doctor", *config, "--json"], env=env)
    print(
        "DOCTOR",
        doc.exit_code,
        [
            (c["name"], c["state"], c["says"])
            for c in json.loads(doc.output)["checks"]
            if c["state"] != "ok" and "endpoint" not in c["name"]
        ]
        if doc.output.startswith("{")
        else doc.output,
    )
    w = house.worker(ready=False)
    import time

    t = time.time()
    while time.time() - t < 8 and not w.is_ready(1) and w.process.poll() is None:
        time.sleep(0.05)
    print("WORKER", w.is_ready(1), w.process.poll())
    s = CliRunner().invoke(
        main,
        ["send", "--kind", "card", "--platform", "main", "--json-input", "-", "--wait", "--timeout", "5", *config],
        env=env,
        input=json.dumps(CARD),
    )
    print("SEND", s.exit_code, s.output, s.exception)
    print("SAID", "\n".join(l[:260] for l in w.said().splitlines()[:60]))
    if w.process.poll() is None:
        w.kill()
