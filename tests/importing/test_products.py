"""The end product: a table of ids with every row of the file, and a manifest that proves the files."""

from __future__ import annotations

import csv
import hashlib
import json
import stat

import pytest

from tokenferry.importing.row_ids import KeyedRow
from tokenferry.shown import cell

from .conftest import CANARY, House, StandIn

HEADER = "key,kind,number,exp_month,exp_year,attach.to,attach.email\n"
ROWS = (
    f"seller-1,card,{CANARY},12,2044,customer_create,z@example.com\n"
    f"=cmd(),card,{CANARY},12,2044,,\n"
    f'"bad, one",card,{CANARY[:-1]}3,13,2044,,\n'
    f"seller-4,card,{CANARY},12,2044,customer_create,z@example.com\n"
)


@pytest.fixture
def arguments(house: House) -> tuple[str, ...]:
    out = house.folder
    return ("--quiet", "--json", "--ids-out", str(out / "ids.csv"), "--manifest", str(out / "manifest.json"))


def table(house: House) -> list[list[str]]:
    with (house.folder / "ids.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_every_row_of_the_file_is_in_the_table_once(house: House, arguments: tuple[str, ...]) -> None:
    fourth = KeyedRow(house.platform, "", "card", "customer_create", "seller-4").request_id("")
    with StandIn(house.configuration(), house.platform, attach_failure=lambda header: "card_declined") as worker:
        worker.attach_failure = lambda header: "card_declined" if header.request_id == fourth else None
        done = house.run(house.file(HEADER + ROWS), *arguments, "--ids-columns", "status,row,code")

    assert done.exit_code == 1, done.output
    head, *rows = table(house)
    assert head == ["source_id", "stripe_id", "status", "row", "code"]
    by_row = {row[3]: row for row in rows}
    assert len(rows) == len(by_row) == 4
    assert by_row["2"][:1] + by_row["2"][2:] == ["seller-1", "attached", "2", ""]
    assert by_row["2"][1].startswith("cus_")
    assert by_row["3"][0] == "'=cmd()"
    assert by_row["3"][1].startswith("tok_")
    assert by_row["4"] == ["bad, one", "", "rejected", "4", ""]
    assert by_row["5"][2:] == ["declined", "5", "card_declined"]
    assert stat.S_IMODE((house.folder / "ids.csv").stat().st_mode) == 0o600
    assert CANARY not in (house.folder / "ids.csv").read_text()


def test_the_manifest_names_each_output_with_its_digest_and_its_counts_add_up(
    house: House, arguments: tuple[str, ...], worker: StandIn
) -> None:
    file = house.file(HEADER + ROWS)
    summary = json.loads(house.run(file, *arguments).stdout)
    manifest = json.loads((house.folder / "manifest.json").read_text())

    assert manifest["complete"] is True
    assert manifest["outcomes"] == summary["outcomes"]
    assert sum(manifest["outcomes"].values()) == manifest["rows"] == 4
    assert set(manifest["outputs"]) == {"results", "rejects", "ids"}
    for output in manifest["outputs"].values():
        content = (house.folder / output["file"]).read_bytes()
        assert (output["bytes"], output["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert (manifest["outputs"]["results"]["lines"], manifest["outputs"]["ids"]["lines"]) == (3, 4)
    assert manifest["input"]["file"] == file.name
    digests = {hashlib.new(name, file.read_bytes()).hexdigest() for name in ("md5", "sha1", "sha256", "blake2b")}
    assert manifest["input"]["keyed_hash"] not in digests


def test_an_import_that_was_stopped_is_not_complete_and_its_next_run_writes_both_again(
    house: House, arguments: tuple[str, ...]
) -> None:
    file = house.file(HEADER + ROWS)
    with StandIn(house.configuration(), house.platform, answers=1):
        house.run(file, *arguments, "--ids-columns", "status", "--timeout", "1")
    assert sorted(row[2] for row in table(house)[1:]) == ["attached", "pending", "pending", "rejected"]
    assert json.loads((house.folder / "manifest.json").read_text())["complete"] is False

    with StandIn(house.configuration(), house.platform):
        house.run(file, *arguments, "--ids-columns", "status", "--resume")
    assert sorted(row[2] for row in table(house)[1:]) == ["attached", "attached", "rejected", "tokenized"]
    assert json.loads((house.folder / "manifest.json").read_text())["complete"] is True


def test_what_cannot_be_written_is_said_before_anything_is_sent(house: House) -> None:
    file = house.file(HEADER + ROWS)
    for more, says in (
        (("--ids-out", str(file)), "must be different files"),
        (("--ids-columns", "row"), "--ids-columns needs --ids-out"),
        (("--ids-out", "x.csv", "--ids-columns", "pan"), "no such column"),
        (("--manifest", str(house.folder / "none" / "m.json")), "its folder does not exist"),
    ):
        done = house.run(file, *more)
        assert done.exit_code == 2
        assert says in done.output
    assert not house.results.exists()


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\tx", "\rx"])
def test_a_cell_that_begins_like_a_formula_is_text(text: str) -> None:
    assert cell(text).startswith("'" + text[:1].strip())
