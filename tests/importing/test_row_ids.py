"""A row's key is its idempotency key: what its request id is derived from, and which keys are refused."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tokenferry.contract.names import is_id
from tokenferry.importing.checkpoint import Checkpoint, SameImport
from tokenferry.importing.row_ids import KeyedRow
from tokenferry.sealing import Signer

from .conftest import CANARY, House, StandIn

VECTORS = Path(__file__).parents[1] / "vectors" / "row_ids.json"
HEADER = "key,kind,number,exp_month,exp_year,attach.to,attach.email\n"
LIKE_A_CARD = "1000000000000000" + "0" + "8"
"""An id of 18 digits whose check digit happens to be right."""
NOT_LIKE_ONE = "100000000000000001"


def cards(*keys: str) -> str:
    return HEADER + "".join(f"{key},card,{CANARY},12,2044,customer_create,z@example.com\n" for key in keys)


def reasons(house: House) -> dict[str, str]:
    with house.rejects.open(newline="") as file:
        return {line["row"]: line["reason"] for line in csv.DictReader(file)}


@pytest.mark.parametrize("vector", json.loads(VECTORS.read_text()), ids=lambda vector: vector["of"]["key"])
def test_the_derivation_is_the_documented_one(vector: dict) -> None:  # type: ignore[type-arg]
    namespace = vector["of"].pop("namespace")
    found = KeyedRow(**vector["of"]).request_id(namespace)
    assert found == vector["request_id"]
    assert is_id(found)


def test_every_part_of_a_row_and_the_namespace_make_another_id() -> None:
    row = KeyedRow("main", "acct_1", "card", "customer_create", "7")
    others = [
        replace(row, platform="other"),
        replace(row, account=""),
        replace(row, kind="pii"),
        replace(row, target=""),
        replace(row, key="8"),
    ]
    ids = {row.request_id(""), row.request_id("2030-01"), *(other.request_id("") for other in others)}
    assert len(ids) == 7


def test_the_same_file_has_the_same_ids_in_every_import(house: House, worker: StandIn) -> None:
    file = house.file(cards("a", "b"))
    for more in ((), ("--force",), ("--force", "--namespace", "2030-01"), ("--force", "--again")):
        assert house.run(file, "--quiet", *more).exit_code == 0
    sent = [header.request_id for header in worker.taken]
    assert set(sent[:2]) == set(sent[2:4]), "the same rows"
    assert len(set(sent[2:])) == 6, "another namespace, and --again, are other rows"


def test_a_file_without_keys_is_another_import_each_time(house: House, worker: StandIn) -> None:
    file = house.file(f"kind,number,exp_month,exp_year\ncard,{CANARY},12,2044\n")
    for _ in range(2):
        assert house.run(file, "--quiet", "--force").exit_code == 0
    one, other = (header.request_id for header in worker.taken)
    assert one != other
    assert one.startswith("req-")


def test_a_key_that_could_be_a_card_number_is_refused_and_the_prefix_is_the_cure(house: House, worker: StandIn) -> None:
    file = house.file(cards(LIKE_A_CARD, NOT_LIKE_ONE, "seller-3"))
    tried = house.run(file, "--dry-run", "--quiet")
    assert "1  key: could be a card number; if your ids are like that: --key-prefix seller-" in tried.output
    assert house.run(file, "--quiet", "--force").exit_code == 1
    assert list(reasons(house)) == ["2"]
    assert "--key-prefix" in reasons(house)["2"]
    first = {header.request_id for header in worker.taken}

    assert house.run(file, "--quiet", "--force", "--key-prefix", "seller-").exit_code == 0
    shown = {line["key"]: line["request_id"] for line in house.lines()}
    assert list(shown) == [f"seller-{LIKE_A_CARD}", f"seller-{NOT_LIKE_ONE}", "seller-seller-3"]
    assert first < set(shown.values()), "the prefix changes no id, so the rows of the first import are the same"


@pytest.mark.parametrize("more", [(), ("--key-prefix", "seller-")])
def test_where_most_keys_could_be_card_numbers_the_column_is_no_key(offline: House, more: tuple[str, ...]) -> None:
    file = offline.file(cards(CANARY, LIKE_A_CARD, "seller-3"))
    for way in ((), ("--dry-run",)):
        done = offline.run(file, "--quiet", *way, *more)
        assert done.exit_code == 2
        assert "2 of its first 3 values could be card numbers, so it is no key" in done.stderr
        assert CANARY not in done.output


def test_rows_that_move_money_need_a_namespace(house: House, worker: StandIn) -> None:
    file = house.file(
        "key,kind,number,exp_month,exp_year,attach.to,attach.amount,attach.currency\n"
        f"a,card,{CANARY},12,2044,charge,100,usd\n"
    )
    assert house.run(file, "--quiet").exit_code == 1
    assert "--namespace" in reasons(house)["2"]
    assert not worker.taken
    assert house.run(file, "--quiet", "--force", "--namespace", "2030-01").exit_code == 0
    assert len(worker.taken) == 1


def test_an_import_that_the_version_before_began_goes_on_with_its_ids(tmp_path: Path) -> None:
    same = SameImport(io.BytesIO(b"rows"), Signer("k1", lambda _: b"signature"), {})
    row = KeyedRow("main", "", "card", "customer_create", "seller-7")
    begun = Checkpoint.of(tmp_path / "out.jsonl", same, resume=False, force=False, namespace="2030-01")
    assert begun.request_id(2, row) == row.request_id("2030-01")
    begun.close()
    resumed = Checkpoint.of(tmp_path / "out.jsonl", same, resume=True, force=False)
    assert (resumed.request_id(2, row), resumed.began) == (row.request_id("2030-01"), begun.began)
    resumed.close()

    assert begun.path is not None
    head = json.loads(begun.path.read_text())
    del head["namespace"], head["began"]
    begun.path.write_text(json.dumps({**head, "format": 1}) + "\n")
    old = Checkpoint.of(tmp_path / "out.jsonl", same, resume=True, force=False)
    assert (old.request_id(2, row), old.row(f"{old.name}-2")) == (f"{old.name}-2", 2)
    old.close()
