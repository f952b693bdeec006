"""Rows without a key are attached a second time by a second import: not without being told to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tokenferry.importing.repeats import Attached, attached_in

from .conftest import CANARY, House, StandIn

HEADER = "key,kind,number,exp_month,exp_year,attach.to,attach.email\n"


def cards(count: int, *, attach: str) -> str:
    return HEADER + "".join(f"card-{n},card,{CANARY},12,2044,{attach}\n" for n in range(1, count + 1))


def without_keys(count: int) -> str:
    return HEADER.removeprefix("key,") + f"card,{CANARY},12,2044,customer_create,z@example.com\n" * count


def test_force_does_not_attach_rows_without_keys_again_unless_told_so(house: House, worker: StandIn) -> None:
    file = house.file(without_keys(3))
    assert house.run(file, "--quiet").exit_code == 0
    before = house.results.read_bytes()

    refused = house.run(file, "--quiet", "--force")
    assert (refused.exit_code, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert f"{house.results}: 3 rows of it are attached already" in refused.stderr
    for way in ("--resume", "--results", "--again"):
        assert way in refused.stderr
    assert house.results.read_bytes() == before
    assert len(worker.taken) == 3, "nothing was sent"

    assert house.run(file, "--quiet", "--force", "--again").exit_code == 0
    assert len(worker.taken) == 6


def test_force_overwrites_the_results_of_rows_with_keys_which_nobody_attaches_twice(
    house: House, worker: StandIn
) -> None:
    file = house.file(cards(3, attach="customer_create,z@example.com"))
    for _ in range(2):
        assert house.run(file, "--quiet", "--force").exit_code == 0
    assert len({header.request_id for header in worker.taken}) == 3
    refused = house.run(house.file(without_keys(3), "other.csv"), "--quiet", "--force")
    assert (refused.exit_code, len(worker.taken)) == (2, 6), "rows without keys would be other rows"


def test_force_overwrites_a_results_file_without_attached_rows(house: House, worker: StandIn) -> None:
    file = house.file(cards(2, attach=","))
    for _ in range(2):
        assert house.run(file, "--quiet", "--force").exit_code == 0
    assert len(worker.taken) == 4


def test_a_results_file_that_cannot_be_read_is_not_overwritten_unless_told_so(house: House, worker: StandIn) -> None:
    file = house.file(cards(1, attach=","))
    house.results.write_text("precious\n")
    refused = house.run(file, "--quiet", "--force")
    assert refused.exit_code == 2
    assert "1 of its lines cannot be read, so nobody knows whether they are attached" in refused.stderr
    assert "--again" in refused.stderr
    assert house.results.read_text() == "precious\n"
    assert house.run(file, "--quiet", "--force", "--again").exit_code == 0


def test_again_begins_another_import_so_it_does_not_resume_one(offline: House) -> None:
    done = offline.run(offline.file(cards(1, attach=",")), "--again", "--resume")
    assert done.exit_code == 2
    assert "--again begins another import" in done.stderr


def row(status: str, **more: Any) -> str:
    told = {"row": 2, "status": status, "token": "tok_1", "object_id": None, "failure": None, **more}
    return json.dumps(told) + "\n"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", Attached()),
        (row("tokenized"), Attached()),
        (row("failed", failure={"code": "card_declined"}), Attached()),
        (row("unfinished", token=None), Attached()),
        (row("attached", object_id="cus_1") * 2, Attached(certain=2)),
        (row("failed", object_id="cus_1", failure={"code": "outcome_unknown"}), Attached(certain=1)),
        (row("failed", failure={"code": "token_spent", "spent_on": "cus_1"}), Attached(certain=1)),
        (row("unfinished"), Attached(perhaps=1)),
        (row("failed", failure={"code": "outcome_unknown"}), Attached(perhaps=1)),
        (row("failed", failure={"code": "token_in_doubt"}), Attached(perhaps=1)),
        (row("tokenized")[:-20], Attached(unreadable=1)),
        ("[]\n1\n{}\n" + row("failed", failure="x") + row("failed", failure={"code": []}), Attached(unreadable=5)),
    ],
)
def test_what_a_results_file_says_about_attached_rows(tmp_path: Path, content: str, found: Attached) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(content)
    assert attached_in(path) == found
    assert bool(found) == (found != Attached())


def test_a_results_file_that_is_not_there_or_is_no_file_says_nothing(tmp_path: Path) -> None:
    assert not attached_in(tmp_path / "none.jsonl")
    assert not attached_in(Path(os.devnull))
