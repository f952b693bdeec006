"""A finished import is repeated without harm: failed rows are sent again, late outcomes reach the results file.

The rows have no key, so each attempt has a request id of its own.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from tokenferry.contract.envelope import Header
from tokenferry.contract.results import AttachResult, Failure, TokenResult
from tokenferry.importing.checkpoint import Checkpoint, path_of

from .conftest import CANARY, House, StandIn

HEADER = "kind,number,exp_month,exp_year,attach.to,attach.email\n"
ATTACH = "customer_create,z@example.com"


def cards(count: int, *, attach: str = ATTACH) -> str:
    return HEADER + "".join(f"card,{CANARY},12,2044,{attach}\n" for _ in range(count))


def row_of(header: Header) -> int:
    """The line of the file that a request is made of: the third part of its id."""
    return int(header.request_id.split("-")[2])


def statuses(house: House) -> dict[str, str]:
    lines = house.lines()
    assert len({line["key"] for line in lines}) == len(lines), "one line per row"
    return {line["key"]: line["status"] for line in lines}


def summary_of(done: Any) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(done.stdout)
    assert sum(summary["outcomes"].values()) == summary["rows"]
    return summary


def given_up(header: Header, *, code: str = "attempts_exhausted", source: Any = "tokenferry") -> TokenResult:
    failure = Failure(code=code, source=source)
    about: dict[str, Any] = {"kind": "card", "platform": header.platform, "settled_at": 1, "failure": failure}
    return TokenResult(outcome_id=f"t-{header.request_id}", request_id=header.request_id, **about)


class Exhausted(StandIn):
    """Gives the second row up on our side, and declines the third one."""

    def results(self, header: Header) -> Any:
        match row_of(header):
            case 3:
                yield given_up(header)
            case 4:
                yield given_up(header, code="card_declined", source="endpoint")
            case _:
                yield from super().results(header)


@pytest.fixture
def partly(house: House) -> House:
    """A house in which an import of four rows is finished: two attached, one failed (a dead letter), one declined."""
    with Exhausted(house.configuration(), house.platform):
        done = house.run(house.file(cards(4)), "--quiet", "--json")
    outcomes = {"attached": 2, "tokenized": 0, "declined": 1, "failed": 1, "rejected": 0, "pending": 0}
    assert summary_of(done)["outcomes"] == outcomes
    return house


def test_declined_rows_are_sent_again_as_new_requests_and_dead_letters_are_not(partly: House) -> None:
    file = partly.folder / "rows.csv"
    with StandIn(partly.configuration(), partly.platform) as worker:
        done = partly.run(file, "--json", "--retry-failed")
    assert summary_of(done)["outcomes"]["attached"] == 3
    assert "1 failed row goes out again, as new requests" in done.stderr
    assert "dead-letters redrive" in done.stderr
    assert [row_of(header) for header in worker.taken] == [4]
    assert worker.taken[0].request_id.endswith("-4-2")
    assert statuses(partly) == {"row-2": "attached", "row-3": "failed", "row-4": "attached", "row-5": "attached"}

    again = partly.run(file, "--quiet", "--retry-failed")
    assert again.exit_code == 1
    assert "this import is finished: nothing was sent" in again.stdout
    assert "1 failed row is not sent again" in again.stdout


def test_a_row_that_is_declined_again_can_be_sent_a_third_time(partly: House) -> None:
    file = partly.folder / "rows.csv"
    seen = []
    for answer in ("card_declined", "card_declined", None):
        with StandIn(partly.configuration(), partly.platform, lambda header, code=answer: code) as worker:
            partly.run(file, "--quiet", "--retry-failed")
        seen += [header.request_id.split("-", 2)[2] for header in worker.taken]
    assert seen == ["4-2", "4-3", "4-4"]
    assert statuses(partly)["row-4"] == "attached"


def test_a_retry_that_is_killed_goes_on_with_the_same_ids(partly: House) -> None:
    file = partly.folder / "rows.csv"
    with StandIn(partly.configuration(), partly.platform, answers=0) as silent:
        partly.run(file, "--quiet", "--retry-failed", "--timeout", "0.5")
    assert statuses(partly)["row-4"] == "pending"
    with StandIn(partly.configuration(), partly.platform) as worker:
        done = partly.run(file, "--quiet", "--json", "--resume")
    assert summary_of(done)["outcomes"]["attached"] == 3
    assert {header.request_id for header in worker.taken} <= {header.request_id for header in silent.taken}


@pytest.mark.parametrize("failure", [("outcome_unknown", {}), ("token_spent", {"spent_on": "cus_7"})])
def test_a_row_whose_call_may_have_had_an_effect_is_never_sent_again(
    house: House, failure: tuple[str, dict[str, str]]
) -> None:
    code, more = failure

    class Doubtful(StandIn):
        def results(self, header: Header) -> Any:
            failed = Failure(code=code, source="tokenferry", **more)  # type: ignore[arg-type]
            about: dict[str, Any] = {"kind": "card", "platform": header.platform, "settled_at": 1, "token": "tok_1"}
            yield AttachResult(
                outcome_id=f"a-{header.request_id}",
                request_id=header.request_id,
                attach_id=header.request_id,
                to="customer_create",
                failure=failed,
                **about,
            )

    file = house.file(cards(2))
    with Doubtful(house.configuration(), house.platform) as worker:
        house.run(file, "--quiet")
        done = house.run(file, "--quiet", "--retry-failed")
        assert len(worker.taken) == 2
    assert done.exit_code == 1
    assert set(statuses(house).values()) == {"failed"}


def test_what_was_redriven_reaches_the_results_file(partly: House) -> None:
    failed = next(line for line in partly.lines() if line["status"] == "failed")
    redriven(partly, failed)
    file = partly.folder / "rows.csv"
    done = partly.run(file, "--quiet", "--json", "--refresh")
    assert done.exit_code == 0, done.output
    assert summary_of(done)["rows_updated"] == 1
    assert summary_of(done)["outcomes"]["attached"] == 3
    line = next(line for line in partly.lines() if line["key"] == failed["key"])
    assert (line["status"], line["token"], line["object_id"], line["failure"]) == ("attached", "tok_9", "cus_9", None)
    assert partly.run(file, "--quiet", "--refresh").stdout.startswith("this import is finished")


def test_the_next_run_finds_late_outcomes_too(partly: House) -> None:
    redriven(partly, next(line for line in partly.lines() if line["status"] == "failed"))
    done = partly.run(partly.folder / "rows.csv", "--quiet", "--resume")
    assert done.exit_code == 0
    assert "1 row got a late outcome" in done.stdout
    assert Counter(statuses(partly).values()) == {"attached": 3, "declined": 1}


def redriven(house: House, line: dict[str, Any]) -> None:
    """Publish what a worker says after a redrive: another outcome of the same request."""
    answers = StandIn(house.configuration(), house.platform)
    about: dict[str, Any] = {"kind": "card", "platform": house.platform, "settled_at": 2, "token": "tok_9"}
    result = AttachResult(
        outcome_id=f"t-{line['request_id']}:2",
        request_id=line["request_id"],
        attach_id=line["request_id"],
        to="customer_create",
        object_id="cus_9",
        **about,
    )
    answers.reply(route_of(house), result)


def route_of(house: House) -> str:
    return str(json.loads(path_of(house.results).read_text().splitlines()[0])["route"])


def test_lines_that_are_gone_from_a_finished_import_are_not_sent_again(partly: House) -> None:
    partly.results.write_text("".join(partly.results.read_text().splitlines(keepends=True)[1:]))
    done = partly.run(partly.folder / "rows.csv", "--quiet", "--resume")
    assert done.exit_code == 2
    assert "1 of its 4 lines are gone" in done.stderr


def test_without_an_earlier_import_there_is_nothing_to_repeat(house: House) -> None:
    file = house.file(cards(1))
    for option in ("--retry-failed", "--refresh"):
        done = house.run(file, "--quiet", option)
        assert (done.exit_code, done.stdout) == (2, "")
    assert not house.results.exists()
    assert not path_of(house.results).exists()


def test_a_plain_second_import_names_the_ways_to_repeat(partly: House) -> None:
    done = partly.run(partly.folder / "rows.csv", "--quiet")
    assert done.exit_code == 2
    for way in ("this import is finished", "--retry-failed", "--refresh", "--force"):
        assert way in done.stderr


def test_a_checkpoint_of_the_version_before_is_understood(house: House) -> None:
    """It has accepted rows only, and was deleted when the import was finished."""
    file = house.file(cards(3, attach=","))
    with StandIn(house.configuration(), house.platform, answers=1):
        house.run(file, "--quiet", "--timeout", "1.5")
    lines = path_of(house.results).read_text().splitlines()
    assert lines[1:] == ["2", "3", "4"]
    old = house.results.read_text().replace('"pending"', '"unfinished"')
    house.results.write_text(old)
    with StandIn(house.configuration(), house.platform):
        assert house.run(file, "--quiet", "--resume").exit_code == 0
    assert set(statuses(house).values()) == {"tokenized"}


def test_a_damaged_line_of_a_checkpoint_is_left_out(tmp_path: Any) -> None:
    path = tmp_path / "out.jsonl.resume"
    head = {"format": 1, "name": "req-abc", "route": "import-abc", "options": {}, "fingerprint": "0"}
    lines = ["7", "99999999999999999999", "retry 9", "late {}", "finished []", "retry 8 3", "nonsense 1"]
    path.write_text(json.dumps(head) + "\n" + "\n".join(lines) + "\n12")
    checkpoint = Checkpoint.existing(tmp_path / "out.jsonl")
    assert list(checkpoint.accepted) == [7]
    assert (checkpoint.request_id(8), checkpoint.request_id(9)) == ("req-abc-8-3", "req-abc-9")
    assert (checkpoint.row("req-abc-8-3"), checkpoint.row("req-abc-8"), checkpoint.finished) == (8, None, None)
    checkpoint.accept(13)
    checkpoint.close()
    assert path.read_text().endswith("nonsense 1\n13\n")
