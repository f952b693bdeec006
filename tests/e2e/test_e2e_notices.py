"""Whoever waits is told why, on the route of the results: by real workers, to an import and to a program."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from e2e import cargo
from e2e.house import House, until

from tokenferry import Order, Producer, Results
from tokenferry.contract.notices import Notice
from tokenferry_worker.commands.limits import limits

pytestmark = pytest.mark.parametrize("house", ["embedded", "rabbitmq"], indirect=True)


def second(house: House, **changed: Any) -> Path:
    """A configuration that writes version 2."""
    path = house.configure("second.toml", **changed)
    path.write_text(path.read_text() + "[producer]\nenvelope = 2\n")
    return path


def operate(house: House, *words: str) -> None:
    done = CliRunner().invoke(limits, [*words, "--config", str(house.folder / "tokenferry.toml")])
    assert done.exit_code == 0, done.output


def test_an_import_says_that_an_operator_has_paused_the_budget_and_then_goes_on(house: House) -> None:
    config, folder = second(house), house.folder
    (folder / "rows.csv").write_text("number,exp_month,exp_year\n" + "4242424242424242,12,2044\n" * 5)
    results, rejects = folder / "notices.jsonl", folder / "notices-rejects"
    with house.working():
        operate(house, "pause", "main:global", "--why", "a test")
        files = ["--results", str(results), "--rejects", str(rejects), "--force"]
        options = ["--kind", "card", "--platform", "main", "--config", str(config)]
        command = [sys.executable, "-m", "tokenferry.cli", "import", str(folder / "rows.csv"), *files, *options]
        program = house.start(command, "import")
        until(lambda: "waiting: an operator has paused main:global, since " in program.said(), "the reason", 30.0)
        assert results.read_text() == ""
        operate(house, "resume", "main:global", "--why", "a test")
        until(lambda: program.process.poll() is not None, "the end of the import", 30.0)
        assert program.process.poll() == 0, program.said()
        assert program.said().count("waiting: an operator has paused") == 1
        assert program.said().count("over: an operator has paused") == 1
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["status"] for line in lines] == ["tokenized"] * 5
    route = program.said().partition("results come to route ")[2].split()[0]
    assert house.broker.take(f"results.{route}") == [], "no notice made the route of a finished import again"


def test_a_program_is_told_of_an_open_circuit_and_a_request_of_version_1_is_not(house: House) -> None:
    """Nobody listens where the workers call, so an outage is found."""
    away = house.configure("away.toml", endpoint="http://127.0.0.1:1")
    config, new, old = second(house), house.route(), house.route()
    told: list[Notice] = []
    with house.working(config=away.name), Results(new.name, config, on_notice=told.append) as results:
        reading = threading.Thread(target=lambda: list(results))
        reading.start()
        try:
            with Producer(config) as producer:
                list(producer.send_many(Order(cargo.card(), platform="main", reply_to=new.name) for _ in range(8)))
            house.send(cargo.cards(8, old.name))
            until(lambda: told, "a notice", 60.0)
        finally:
            results.stop()
            reading.join()
    assert {(notice.reason, notice.scope, notice.over) for notice in told} == {("circuit_open", "main/outage", False)}
    assert not results.refused
    assert old.look_at_all() == []
