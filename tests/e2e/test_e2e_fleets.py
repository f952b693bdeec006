"""Two fleets on one broker, each with keys of its own: with prefixes they never meet, without they say so."""

from __future__ import annotations

import json
import re
from pathlib import Path

from click.testing import CliRunner
from conftest import generated
from e2e import cargo
from e2e.house import House, until

from tokenferry import Producer, Results
from tokenferry.cli import main
from tokenferry.contract.queues import DEAD_LETTERS, QUARANTINE
from tokenferry_worker.dead_letters.record import DeadLetter

SENT = 12


def fleet(house: House, name: str, *, prefix: str | None) -> Path:
    """The configuration of a fleet with new keys, its own part of the store, and *prefix* on the broker."""
    path = house.configure(f"{name}.toml")
    generated(house.folder / f"{name}-keys")
    files = {
        "recipient": "recipient.pem",
        "producer_signing_key": "producer.pem",
        "identities": "identities",
        "worker_signing_key": "worker.pem",
        "signers": "signers",
        "result_signing_key": "result.pem",
        "result_signers": "result-signers",
        "policy": "policy.toml",
    }
    keys = "".join(f'{setting} = "{name}-keys/{file}"\n' for setting, file in files.items())
    text = (
        path.read_text()
        .replace("[keys]\n", f"[keys]\n{keys}")
        .replace("[store]\n", f'[store]\nprefix = "{name}-store"\n')
    )
    if prefix is not None:
        text = text.replace("[broker]\n", f'[broker]\nprefix = "{prefix}"\n')
    path.write_text(text)
    return path


def outcomes(config: Path, route: str, count: int) -> set[str]:
    """The requests that have a token, once *count* results were read."""
    with Results(route, config) as results:
        found = [result for _ in range(count) if (result := results.take(60.0)) is not None]
        assert results.refused == {}
    assert [result.failure for result in found] == [None] * count
    return {result.request_id for result in found}


def told(house: House, config: str, *command: str, given: str | None = None) -> str:
    """What a command prints, errors included. *given*: its standard input."""
    options = [*command, "--config", str(house.folder / config)]
    return CliRunner().invoke(main, options, input=given, env=dict(house.environment)).output


def set_aside(said: str) -> int:
    """How many messages the lines of a worker's log say were moved to the quarantine: one line may count many."""
    return sum(map(int, re.findall(r"(\d+) messages are not ours or not readable .*; moved to quarantine", said)))


def test_two_fleets_with_prefixes_never_meet(house: House) -> None:
    """The same platform, the same route, the same broker: each gets its own outcomes, and nothing is set aside."""
    fleets = [fleet(house, name, prefix=prefix) for name, prefix in (("blue", "blue"), ("green", "{green}"))]
    with house.working(config="blue.toml") as blue, house.working(config="green.toml") as green:
        sent = []
        for config in fleets:
            with Producer(config) as producer:
                sent.append(set(producer.send_many(cargo.cards(SENT, "shop"))))
        for config, ids in zip(fleets, sent, strict=True):
            assert outcomes(config, "shop", SENT) == ids
    for prefix in ("", "blue:", "{green}:"):
        assert house.broker.take(f"{prefix}{QUARANTINE}") == []
        assert house.broker.take(f"{prefix}{DEAD_LETTERS}") == []
    assert "quarantine" not in blue.said() + green.said()


def test_messages_of_another_fleet_are_kept_sealed_and_named_by_log_and_doctor(house: House) -> None:
    fleet(house, "here", prefix=None)
    config = fleet(house, "there", prefix=None)
    with Producer(config) as producer:
        sent = list(producer.send_many(cargo.cards(SENT, "shop")))
    with house.working(config="here.toml") as worker:
        house.until_all_is_done()
        until(lambda: set_aside(worker.said()) == SENT, "all of them set aside")
        card = json.dumps({"number": "4242424242424242", "exp_month": 12, "exp_year": 2040})
        options = ["--kind", "card", "--json-input", "-", "--lane", "bulk", "--platform", "main", "--wait"]
        said = told(house, "there.toml", "send", *options, "--timeout", "2", given=card)
        assert "its queue is empty, so a worker has taken it" in said.lower()
        assert "set [broker] prefix for each" in said
        checks = json.loads(told(house, "here.toml", "doctor", "--json"))["checks"]
        (stranger,) = [check for check in checks if check["name"] == "broker strangers"]
    sent += [line for line in said.splitlines() if line.startswith("req-")]
    kept = [DeadLetter.read(body.decode()) for body in house.broker.take(QUARANTINE)]
    assert {one.id for one in kept if one.sealed is not None} == set(sent)
    (signer,) = {one.header.producer_id for one in kept if one.header is not None}
    assert f"of signer '{signer}': if another fleet uses this broker, set [broker] prefix" in worker.said()
    assert stranger["says"] == f"{SENT + 1} messages of signer '{signer}', which this fleet does not know"
    assert "[broker] prefix" in stranger["do"]
