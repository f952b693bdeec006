"""Files of accounts, good and bad: every document has an answer, and no value is ever repeated."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from tokenferry.bulk.window import Pending
from tokenferry.contract.results import Failure, OnboardingProgress, OnboardingResult, Requirements, StepResult
from tokenferry.inputs.rows import UnreadableFile
from tokenferry.onboarding.accounts import LATER, Accounts
from tokenferry.onboarding.documents import NumberedDocument, documents
from tokenferry.onboarding.summary import OnboardingSummary, progress

ACCOUNT = {"country": "US", "type": "custom"}


def read(content: str | bytes) -> list[NumberedDocument]:
    raw = content if isinstance(content, bytes) else content.encode()
    return list(documents(io.BufferedReader(io.BytesIO(raw))))


def good(reference: str) -> dict[str, Any]:
    return {"reference": reference, "account": ACCOUNT}


def lines(*values: Any) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def test_json_lines_and_an_array_are_read_alike() -> None:
    both = read(lines(good("a"), good("b"))), read(json.dumps([good("a"), good("b")], indent=2))
    for found in both:
        assert [(item.number, item.reference, item.problems) for item in found] == [(1, "a", ()), (2, "b", ())]
        assert all(item.document is not None and item.document.reference == item.reference for item in found)


def test_a_byte_order_mark_and_empty_lines_do_no_harm() -> None:
    content = b"\xef\xbb\xbf" + lines(good("a")).encode() + b"\n  \r\n" + lines(good("b")).encode()
    assert [(item.number, item.reference) for item in read(content)] == [(1, "a"), (4, "b")]


@pytest.mark.parametrize(
    ("line", "field", "reason"),
    [
        ("{broken", "document", "not a JSON object"),
        ("[1, 2]", "document", "not a JSON object"),
        ('{"account": {}, "account": {}}', "document", "twice"),
        (lines({"reference": "123456789012", "account": ACCOUNT}), "document.reference", "not 12 or more digits alone"),
        (lines({"account": ACCOUNT}), "document.reference", "is required"),
        (lines({"reference": "4242 4242", "account": ACCOUNT}), "document.reference", "is given, and cannot be used"),
        (lines({"reference": 7, "account": ACCOUNT}), "document.reference", "is given, and cannot be used"),
        (lines({"reference": "x"}), "document.account", "is required"),
        (lines({**good("x"), "secret": "Wilhelmina"}), "document.secret", "is not a known field"),
        (lines(good("a")), "document.reference", "was given before"),
    ],
)
def test_one_bad_document_is_named_and_the_rest_goes_on(line: str, field: str, reason: str) -> None:
    found = read(lines(good("a")) + line.rstrip("\n") + "\n" + lines(good("z")))
    assert [item.document is not None for item in found] == [True, False, True]
    (problem,) = found[1].problems
    assert problem.field == field
    assert reason in problem.reason
    assert found[1].number == 2
    assert "Wilhelmina" not in str(problem)
    assert "4242" not in f"{found[1]}"


@pytest.mark.parametrize("before", ["", "\n  \n"])
def test_the_first_document_may_be_the_bad_one(before: str) -> None:
    found = read(before + '{"reference": "a", "account": {"country": "US"}\n' + lines(good("z")))
    assert [(item.reference, item.document is not None) for item in found][1:] == [("z", True)]
    (problem,) = found[0].problems
    assert problem.reason == "the line is not a JSON object: it has a mistake, or its end is missing"


def test_an_object_may_span_several_lines() -> None:
    content = "\n".join(json.dumps(good(reference), indent=2) for reference in ("a", "b"))
    assert [(item.number, item.reference, item.problems) for item in read(content)] == [(1, "a", ()), (2, "b", ())]


@pytest.mark.parametrize("content", [b"[{", b'[{"reference": "b",', b'[{"reference": "]}'])
def test_an_array_that_is_cut_off_is_one_bad_document_at_its_end(content: bytes) -> None:
    (bad,) = read(content)
    assert [problem.reason for problem in bad.problems] == ["the file ends in the middle of an object"]
    whole = json.dumps([good("a")]).encode()[:-1] + b"," + content[1:]
    assert [item.document is not None for item in read(whole)] == [True, False]


@pytest.mark.parametrize("content", [b"reference,country\na,US\n", b"%PDF-1.4", b"\n7\n", b"\x00\x01", b"", b"\n\n"])
def test_a_file_of_something_else_is_refused_as_a_whole(content: bytes) -> None:
    with pytest.raises(UnreadableFile):
        read(content)


@pytest.mark.parametrize("content", [b"[]", b"[1]", b'["a", [{"b": 1}]]'])
def test_a_file_that_holds_no_document_gives_none(content: bytes) -> None:
    assert [item for item in read(content) if item.document is not None] == []


# -- the numbers


def result(request_id: str, **more: Any) -> OnboardingResult:
    fields = {"outcome_id": f"{request_id}:onboarding", "request_id": request_id, "platform": "main", "settled_at": 1}
    return OnboardingResult.model_validate({**fields, **more})


DONE = StepResult(step="account", status="done", object_id="acct_1")
FAILED = StepResult(
    step="person:jenny", status="failed", failure=Failure(code="invalid_dob", source="endpoint", param="person[dob]")
)


def test_every_outcome_is_written_once_and_counted() -> None:
    accounts, written = Accounts(), []
    for number, reference in enumerate(("a", "b", "c"), 1):
        accounts.enter(f"req-{reference}", Pending(number, reference), written.append)
    due = Requirements(currently_due=("external_account",))
    accounts.settle(result("req-a", complete=True, steps=[DONE], requirements=due), written.append)
    accounts.settle(result("req-b", steps=[DONE, FAILED], failure=FAILED.failure), written.append)
    assert [(line["key"], line["status"]) for line in written] == [("a", "complete"), ("b", "incomplete")]
    counts = accounts.counts
    assert (counts.complete, counts.incomplete, counts.steps_done, counts.steps_failed) == (1, 1, 2, 1)
    assert counts.still_due == 1
    assert dict(counts.failures_by_code) == {"person: invalid_dob (person[dob])": 1}
    assert "1 under way" in progress(accounts)
    ((request_id, left),) = accounts.close()
    assert (request_id, left.key, counts.unfinished) == ("req-c", "c", 1)


def test_a_second_outcome_gets_a_line_of_its_own_and_counts_in_place_of_the_first() -> None:
    """It was given up on, and redriven while the others were still under way."""
    accounts, written = Accounts(), []
    for number, reference in enumerate(("a", "b"), 1):
        accounts.enter(f"req-{reference}", Pending(number, reference), written.append)
    first = result("req-a", steps=[DONE, FAILED], failure=FAILED.failure)
    second = result("req-a", complete=True, steps=[DONE, DONE]).model_copy(update={"outcome_id": "req-a:onboarding:2"})
    for outcome in (first, first, second, second, result("req-z", complete=True, steps=[DONE])):
        accounts.settle(outcome, written.append)
    assert [(line["key"], line["status"]) for line in written] == [("a", "incomplete"), ("a", "complete")]
    counts = accounts.counts
    assert (counts.complete, counts.incomplete, counts.steps_done, counts.steps_failed) == (1, 0, 2, 0)
    assert dict(counts.failures_by_code) == {}
    assert counts.all_well


def test_accounts_with_an_outcome_are_not_remembered_for_ever() -> None:
    accounts, written = Accounts(), []
    for number in range(LATER + 1):
        accounts.enter(f"req-{number}", Pending(number, "a"), written.append)
        accounts.settle(result(f"req-{number}", steps=[FAILED]), written.append)
    for number in (0, 1):
        later = result(f"req-{number}", complete=True, steps=[DONE])
        accounts.settle(later.model_copy(update={"outcome_id": "another"}), written.append)
    assert [line["row"] for line in written[LATER + 1 :]] == [1]


def test_an_account_given_up_on_counts_with_its_own_failure_and_those_of_its_steps() -> None:
    accounts = Accounts()
    accounts.enter("req-a", Pending(1, "a"), lambda _: None)
    given_up = Failure(code="deliveries_exhausted", source="tokenferry")
    accounts.settle(result("req-a", steps=[DONE, FAILED], failure=given_up), lambda _: None)
    assert set(accounts.counts.failures_by_code) == {"deliveries_exhausted", "person: invalid_dob (person[dob])"}


def test_steps_of_accounts_under_way_count_until_their_outcome_does_and_only_those_that_are_done() -> None:
    said: list[str] = []
    accounts = Accounts()
    accounts.report = said.append
    accounts.enter("req-a", Pending(1, "seller-1"), print)
    word = OnboardingProgress(request_id="req-a", onboarding_id="a", step=DONE, taken=1, done=1, steps=3)
    failed = word.model_copy(update={"step": FAILED, "taken": 2})
    for each in (word, word, failed, word.model_copy(update={"request_id": "req-b", "done": 3})):
        accounts.progress(each)
    assert accounts.steps_done == 1
    accounts.progress(word.model_copy(update={"taken": 3, "done": 2}))
    assert accounts.steps_done == 2
    accounts.settle(result("req-a", steps=[DONE, FAILED, DONE], failure=FAILED.failure), lambda _: None)
    assert accounts.steps_done == 2
    assert said[0] == "seller-1: account done, 1 of 3 steps done"
    assert said[2] == "seller-1: person:jenny failed, 1 of 3 steps done"
    assert said[-1] == "seller-1: incomplete, invalid_dob"


def test_the_summary_says_what_is_where_and_how_to_go_on() -> None:
    accounts = Accounts()
    accounts.enter("req-a", Pending(1, "a"), print)
    accounts.close()
    summary = OnboardingSummary(
        accounts.counts, 1.0, Path("o.jsonl"), Path("r.csv"), "onboard-1", "interrupted", 7, False
    )
    said = summary.unfinished() or ""
    for part in ("interrupted", "1 account has no outcome", "o.jsonl", "tokenferry results onboard-1", "again"):
        assert part in said
    assert "documents after document 7 were not read" in said
    assert summary.exit_code == 1
