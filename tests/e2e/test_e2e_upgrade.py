"""The version before and this one together under load: an upgrade, version 2, and the way back by one version.

`make upgrade BASE=COMMIT` names the version before. It is checked out into a worktree, which is gone at the end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from e2e.house import House, Program, Worker, until

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.campaign,
    pytest.mark.parametrize("house", ["embedded", "rabbitmq"], indirect=True),
]

BASE = os.environ.get("BASE") or "85601d5"
"""The version before: the last commit whose queues, store and results this one must work with."""
ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("either_version.py")
SENT = 120
"""Requests of one producer."""
PER_SECOND = 60
ROWS = 40
"""Rows of one import, every other with something to attach to."""
SELLERS = 4


@dataclass(frozen=True)
class Version:
    """This version, or one in a folder of its own."""

    house: House
    name: str
    tree: Path | None = None

    def start(self, *command: str, name: str, kind: type[Program] = Program) -> Any:
        environment = {"PYTHONDONTWRITEBYTECODE": "1"}
        if self.tree is not None:
            environment["PYTHONPATH"] = ":".join(str(self.tree / part) for part in ("producers", "worker", "emulator"))
        return self.house.start([sys.executable, *command], f"{self.name}-{name}", kind, environment, real=True)

    def worker(self, config: str) -> Worker:
        options = ["--role", "all", "--processes", "1", "--config", str(self.house.folder / config)]
        worker = self.start("-m", "tokenferry.cli", "worker", *options, name="worker", kind=Worker)
        assert isinstance(worker, Worker)
        until(lambda: worker.is_ready(1) or worker.process.poll() is not None, "a ready worker", 90.0)
        assert worker.process.poll() is None, worker.said()
        return worker

    def producer(self, config: str, *routes: str, count: int = SENT) -> Program:
        path = str(self.house.folder / config)
        program = self.start(str(PROGRAM), "send", path, str(count), str(PER_SECOND), *routes, name="producer")
        assert isinstance(program, Program)
        return program

    def reader(self, config: str, count: int, *routes: str) -> Program:
        path = str(self.house.folder / config)
        program = self.start(str(PROGRAM), "read", path, str(count), *routes, name="reader")
        assert isinstance(program, Program)
        return program

    def bulk(self, command: str, source: Path, out: str, *options: str) -> Bulk:
        folder = self.house.folder
        results, rejects = folder / f"{out}.jsonl", folder / f"{out}-rejects"
        files = ["--results", str(results), "--rejects", str(rejects), "--platform", "main", "--quiet", "--force"]
        config = ["--config", str(folder / "mixed.toml")]
        words = ["-m", "tokenferry.cli", command, str(source), *files, *options, *config]
        return Bulk(self.start(*words, name=command), results)


@dataclass(frozen=True)
class Bulk:
    """A run of `import` or `onboard`."""

    program: Program
    results: Path

    def lines(self) -> list[dict[str, Any]]:
        ended(self.program)
        return [json.loads(line) for line in self.results.read_text().splitlines()]


def ended(program: Program) -> None:
    until(lambda: program.process.poll() is not None, f"the end of {program.log.name}", 120.0)
    assert program.process.poll() == 0, program.said()


def ids_of(producer: Program) -> list[str]:
    ended(producer)
    return [line for line in producer.said().split() if line.startswith("req-")]


def results_of(reader: Program) -> list[dict[str, Any]]:
    ended(reader)
    return [json.loads(line) for line in reader.said().splitlines() if line.startswith("{")]


def rows(folder: Path) -> Path:
    path = folder / "upgrade.csv"
    lines = [f"4242424242424242,12,2044,{'' if at % 2 else 'customer_create'}" for at in range(ROWS)]
    path.write_text("\n".join(["number,exp_month,exp_year,attach.to", *lines]) + "\n")
    return path


def sellers(folder: Path, first: int) -> Path:
    path = folder / f"sellers-{first}.jsonl"
    bank = {"country": "US", "currency": "usd", "account_number": "000123456789", "routing_number": "110000000"}
    documents = [
        {
            "reference": f"seller-{first + at}",
            "account": {"country": "US", "type": "custom", "capabilities": {"transfers": {"requested": True}}},
            "external_accounts": [{"bank_account": bank}],
        }
        for at in range(SELLERS)
    ]
    path.write_text("".join(json.dumps(each) + "\n" for each in documents))
    return path


@pytest.fixture(scope="session")
def base_tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The version before, checked out. Without git, or without that commit, the campaign fails."""
    tree = tmp_path_factory.mktemp("base") / "tree"
    subprocess.run(["git", "worktree", "add", "--detach", "--quiet", str(tree), BASE], cwd=ROOT, check=True)
    path = ":".join(str(tree / part) for part in ("producers", "worker", "emulator"))
    which = "import tokenferry, tokenferry_worker; print(tokenferry.__file__, tokenferry_worker.__file__)"
    clean = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run([sys.executable, "-c", which], env=clean, capture_output=True, text=True, check=True)
    assert all(Path(each).is_relative_to(tree) for each in ran.stdout.split()), ran.stdout
    yield tree
    subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


def configured(house: House) -> None:
    """Both versions read the first file. The second one writes envelopes of version 2."""
    for name, envelope in (("mixed.toml", 1), ("second.toml", 2)):
        path = house.configure(name)
        # With a lease this long, only a killed worker is a reason to deliver anything again.
        text = path.read_text().replace("lease_seconds = 2.0", "lease_seconds = 10.0")
        path.write_text(f"{text}[producer]\nenvelope = {envelope}\n")


def nothing_is_wrong(house: House, *, tokens: int, attached: int, accounts: int) -> None:
    house.until_all_is_done()
    book = house.ledger()
    assert book["tokens_by_idempotency_key"]["max"] == 1
    assert book["uses"]["tokens_used_more_than_once"] == []
    assert book["objects"]["customer"] == attached
    assert book["objects"].get("account", 0) == accounts
    assert book["tokens_created"] >= tokens
    assert house.broker.take("dead-letters") == []
    assert house.broker.take("quarantine") == []


def told_once(readers: list[Program], producers: list[Program]) -> int:
    """Each request has one outcome, a good one. Returns how many there are."""
    sent = [request_id for producer in producers for request_id in ids_of(producer)]
    told = [result for reader in readers for result in results_of(reader)]
    assert sorted(result["request_id"] for result in told) == sorted(sent)
    assert all(result["ok"] for result in told)
    return len(sent)


def test_old_and_new_work_together_through_an_upgrade_and_back(house: House, base_tree: Path) -> None:
    configured(house)
    old, new = Version(house, "old", base_tree), Version(house, "new")
    csv, folder = rows(house.folder), house.folder
    first = house.route().name
    routes = {name: f"{name}-{first}" for name in ("old-old", "old-new", "new-old", "new-new", "second", "back")}

    # The upgrade: old and new of everything at once, and the old worker is killed in the middle.
    old_worker = old.worker("mixed.toml")
    readers = [
        old.reader("mixed.toml", SENT, routes["old-old"], routes["new-old"]),
        new.reader("mixed.toml", SENT, routes["old-new"], routes["new-new"]),
    ]
    producers = [old.producer("mixed.toml", routes["old-old"], routes["old-new"])]
    imports = [old.bulk("import", csv, "old-import", "--kind", "card")]
    until(lambda: house.ledger()["tokens_created"] > 0, "work of the old worker")
    new_worker = new.worker("mixed.toml")
    producers.append(new.producer("mixed.toml", routes["new-old"], routes["new-new"]))
    imports.append(new.bulk("import", csv, "new-import", "--kind", "card"))
    same = sellers(folder, 0)
    onboardings = [version.bulk("onboard", same, f"{version.name}-onboard") for version in (old, new)]
    before = house.ledger()["tokens_created"]
    until(lambda: house.ledger()["tokens_created"] >= before + 40, "work of both workers")
    old_worker.kill()
    sent = told_once(readers, producers)
    for run in imports:
        assert [line["status"] for line in run.lines()].count("attached") == ROWS // 2
    accounts = [{line["key"]: line["account"] for line in run.lines()} for run in onboardings]
    assert accounts[0] == accounts[1], "both versions were told of the same accounts"
    nothing_is_wrong(house, tokens=sent + 2 * ROWS, attached=sent // 4 + ROWS, accounts=SELLERS)

    # Every worker is new: producers may write version 2.
    second = new.reader("second.toml", SENT, routes["second"])
    sent += told_once([second], [new.producer("second.toml", routes["second"])])
    nothing_is_wrong(house, tokens=sent, attached=sent // 4 + ROWS, accounts=SELLERS)

    # Back by one version: no message of version 2 waits, so old workers may take over.
    old_worker = old.worker("mixed.toml")
    reader = old.reader("mixed.toml", SENT, routes["back"])
    producer = old.producer("mixed.toml", routes["back"])
    back = old.bulk("import", csv, "import-back", "--kind", "card")
    again = old.bulk("onboard", same, "onboard-back")
    more = old.bulk("onboard", sellers(folder, 100), "onboard-more")
    until(lambda: len(producer.said().split()) > SENT // 3, "load during the way back")
    assert new_worker.stop() == 0, new_worker.said()
    sent += told_once([reader], [producer])
    assert [line["status"] for line in back.lines()].count("attached") == ROWS // 2
    assert {line["key"]: line["account"] for line in again.lines()} == accounts[0]
    assert all(line["status"] == "complete" for line in more.lines())
    nothing_is_wrong(house, tokens=sent, attached=sent // 4 + ROWS + ROWS // 2, accounts=2 * SELLERS)
    assert old_worker.stop() == 0, old_worker.said()
