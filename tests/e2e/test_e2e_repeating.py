"""A file of rows with keys is imported again and again, killed in between and corrected: each row is attached once."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from e2e import cargo
from e2e.house import House, Program, until

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.parametrize("house", ["embedded", pytest.param("rabbitmq", marks=pytest.mark.foreign)], indirect=True),
]

GOOD, OTHER = cargo.CARDS[0], cargo.CARDS[1]


class Sellers:
    """A file of sellers, and the imports of it."""

    def __init__(self, house: House, folder: Path) -> None:
        self.house = house
        self.numbers: dict[str, str] = {}
        self._file, self._results, self._rejects = (folder / name for name in ("rows.csv", "out.jsonl", "rejects.csv"))
        producing = house.configure("repeating.toml")
        producing.write_text(producing.read_text() + "[producer]\nenvelope = 2\n")
        self._options = ["--platform", "main", "--config", str(producing), "--max-failures", "0", "--json", "--quiet"]

    def start(self, *more: str) -> Program:
        with self._file.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["key", "kind", "number", "exp_month", "exp_year", "attach.to", "attach.email"])
            for key, number in self.numbers.items():
                rows.writerow([key, "card", number, 12, 2044, "customer_create", "z@example.com"])
        outputs = ["--results", str(self._results), "--rejects", str(self._rejects)]
        command = [sys.executable, "-m", "tokenferry.cli", "import", str(self._file), *outputs, *self._options, *more]
        return self.house.start(command, "import")

    def kill(self, *more: str, after: int) -> None:
        """Kill an import when so many rows have their outcome."""
        program = self.start(*more)
        until(lambda: self._results.exists() and len(self._results.read_bytes().splitlines()) >= after, "outcomes")
        program.process.kill()
        program.process.wait(30)

    def finish(self, *more: str) -> dict[str, Any]:
        """Import to the end. Return the summary."""
        program = self.start(*more)
        until(lambda: program.process.poll() is not None, "the end of the import", 300.0)
        assert program.process.poll() in (0, 1), program.said()
        summary: dict[str, Any] = json.loads(program.said()[program.said().index("{") :])
        assert summary["rows"] == len(self.numbers), program.said()
        assert summary["rows"] == summary["attached"] + summary["failed"], "the counts add up"
        assert Counter(line["key"] for line in self.lines()) == Counter(dict.fromkeys(self.numbers, 1))
        return summary

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._results.read_text().splitlines()]

    def objects(self) -> dict[str, str]:
        """The object of each attached row by key."""
        return {line["key"]: line["object_id"] for line in self.lines() if line["status"] == "attached"}


@pytest.fixture
def sellers(house: House, tmp_path: Path) -> Sellers:
    return Sellers(house, tmp_path)


def story(sellers: Sellers, count: int) -> None:
    house, part = sellers.house, count // 10
    sellers.numbers = {f"seller-{n}": GOOD for n in range(count)}
    declined = [f"seller-{n}" for n in range(part)]
    changed = [f"seller-{n}" for n in range(part, 2 * part)]
    removed = [f"seller-{n}" for n in range(2 * part, 3 * part)]
    added = [f"seller-{n}" for n in range(count, count + part)]
    sellers.numbers |= dict.fromkeys(declined, cargo.DECLINED_BY_CUSTOMERS)
    with house.working(processes=2):
        sellers.kill(after=part)
        sellers.kill("--resume", after=3 * part)
        first = sellers.finish("--force")
        assert (first["attached"], first["failed"]) == (count - part, part)
        assert first["rows_done_before"] >= part
        objects = sellers.objects()

        again = sellers.finish("--force")
        assert (again["attached"], again["failed"], again["rows_done_before"]) == (count - part, part, count)
        assert sellers.objects() == objects, "the same outcomes"

        for key in removed:
            del sellers.numbers[key]
        sellers.numbers |= dict.fromkeys(declined, GOOD) | dict.fromkeys(changed, OTHER) | dict.fromkeys(added, GOOD)
        for before in (count - 3 * part, count - part):
            corrected = sellers.finish("--force")
            assert (corrected["attached"], corrected["failed"]) == (count - part, part)
            assert corrected["failures_by_code"] == {"request_id_reused": part}
            assert corrected["rows_done_before"] == before
            refused = {line["key"]: line["reason"] for line in sellers.lines() if line["status"] == "failed"}
            assert set(refused) == set(changed)
            assert all("was done before with other content" in reason for reason in refused.values())
    everything = objects | sellers.objects()
    assert set(everything) == {*sellers.numbers, *removed}
    assert len(set(everything.values())) == len(everything) == count + part
    uses = house.ledger()["uses"]
    assert (uses["total"], uses["max_per_token"]) == (count + part, 1), "one use for each row that was ever attached"


def test_five_imports_of_a_file_attach_each_row_once(sellers: Sellers) -> None:
    story(sellers, 40)


@pytest.mark.campaign
@pytest.mark.any_broker
def test_five_imports_of_a_thousand_rows_attach_each_row_once(sellers: Sellers) -> None:
    story(sellers, 1000)
