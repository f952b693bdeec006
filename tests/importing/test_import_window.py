"""What became of which row, counted and written down."""

from __future__ import annotations

from typing import Any

import pytest

from tokenferry.bulk.outputs import Outputs, UnusableOutput, masked, shown_key
from tokenferry.bulk.window import Closed
from tokenferry.contract.requests import Problem
from tokenferry.contract.results import AttachResult, Display, Failure, TokenResult
from tokenferry.importing.import_window import ImportCounts, ImportWindow, PendingRow
from tokenferry.importing.meter import Meter
from tokenferry.importing.row_checks import Examiner
from tokenferry.importing.summary import ImportSummary
from tokenferry.inputs.orders import RowDefaults
from tokenferry.inputs.rows import BrokenRow, Row

ABOUT: dict[str, Any] = {"request_id": "req-1", "kind": "card", "platform": "main", "settled_at": 1}
TOKEN = TokenResult(
    outcome_id="t", token="tok_1", created=1_700_000_000, display=Display(last4="4242", brand="Visa"), **ABOUT
)
NO_TOKEN = TokenResult(outcome_id="t", failure=Failure(code="expired", source="tokenferry"), **ABOUT)
ATTACHED = AttachResult(
    outcome_id="a", attach_id="a-1", to="customer_create", token="tok_1", object_id="cus_1", **ABOUT
)
DECLINED = AttachResult(
    outcome_id="a",
    attach_id="a-1",
    to="customer_create",
    token="tok_1",
    failure=Failure(code="card_declined", source="endpoint", decline_code="lost_card"),
    **ABOUT,
)


def entered(*, attaches: bool = False) -> tuple[ImportWindow, list[dict[str, Any]]]:
    window, lines = ImportWindow(), []
    window.enter("req-1", PendingRow(2, "row key", "card", attaches=attaches), lines.append)
    return window, lines


def test_a_token_is_the_last_word_unless_it_is_to_be_attached() -> None:
    window, lines = entered()
    window.settle(TOKEN, lines.append)
    assert (len(window), lines[0]["status"], lines[0]["token"]) == (0, "tokenized", "tok_1")
    assert lines[0]["created"] == TOKEN.created

    window, lines = entered(attaches=True)
    window.settle(TOKEN, lines.append)
    assert (len(window), lines, window.counts.tokenized) == (1, [], 1)
    window.settle(ATTACHED, lines.append)
    assert lines[0]["status"] == "attached"
    assert (lines[0]["object_id"], lines[0]["display"]) == ("cus_1", {"last4": "4242", "brand": "Visa"})
    assert (window.counts.tokenized, window.counts.attached, window.tokens_open, window.attaches_open) == (1, 1, 0, 0)


def test_no_token_means_no_attach_is_waited_for() -> None:
    window, lines = entered(attaches=True)
    window.settle(NO_TOKEN, lines.append)
    assert (lines[0]["status"], lines[0]["failure"]["code"], len(window)) == ("failed", "expired", 0)


def test_an_attach_result_may_overtake_its_token() -> None:
    window, lines = entered(attaches=True)
    window.settle(DECLINED, lines.append)
    window.settle(TOKEN, lines.append)
    assert [line["status"] for line in lines] == ["declined"]
    assert (window.counts.tokenized, window.counts.failed) == (1, 1)


def test_a_result_that_was_kept_for_a_row_that_never_came_is_passed_on() -> None:
    window, lines = ImportWindow(), []
    late: list[Any] = []
    window.early, window.late = lambda request_id: True, late.append
    other = TOKEN.model_copy(update={"request_id": "req-2"})
    for result in (TOKEN, other):
        window.settle(result, lines.append)
    window.enter("req-1", PendingRow(2, "row key", "card", attaches=False), lines.append)
    assert ([line["request_id"] for line in lines], late) == (["req-1"], [])
    assert window.close() == []
    window.pass_on_early()
    assert late == [other]


def test_the_same_outcome_twice_counts_once() -> None:
    window, lines = entered()
    window.settle(TOKEN, lines.append)
    window.settle(TOKEN, lines.append)
    assert (len(lines), window.counts.tokenized, window.counts.settled) == (1, 1, 1)


def test_a_result_that_cannot_be_written_has_not_happened() -> None:
    window, lines = entered()

    def full(line: dict[str, Any]) -> None:
        raise OSError

    with pytest.raises(OSError):
        window.settle(TOKEN, full)
    assert (len(window), window.counts.tokenized) == (1, 0)
    window.settle(TOKEN, lines.append)
    assert len(lines) == 1


def test_a_closed_ledger_takes_no_result_so_that_it_stays_on_its_route() -> None:
    window, lines = entered()
    assert [row.key for _, row in window.close()] == ["row key"]
    with pytest.raises(Closed):
        window.settle(TOKEN, lines.append)


def test_the_rate_is_that_of_the_last_ten_seconds() -> None:
    now = [0.0]
    window = ImportWindow(clock=lambda: now[0])
    for number in range(100):
        now[0] = number * 0.1
        window.enter("req-1", PendingRow(1, "a", "card", attaches=False), print)
        window.settle(TOKEN, lambda line: None)
    assert window.rates() == (pytest.approx(10, rel=0.05), 0)
    now[0] = 30.0
    assert window.rates() == (0, 0)


class Half:
    """Something that has read half of 100 bytes."""

    bytes_read = 50


def test_progress_begins_with_percent_time_left_and_rate_and_its_outcomes_add_up() -> None:
    now = [0.0]
    window = ImportWindow(clock=lambda: now[0])
    for number in range(100):
        now[0] += 0.1
        about = {**ABOUT, "request_id": f"req-{number}"}
        window.enter(f"req-{number}", PendingRow(number, "k", "card", attaches=True), print)
        if number < 80:
            outcome = ATTACHED if number % 2 else DECLINED
            window.settle(outcome.model_copy(update=about), lambda line: None)
    window.counts.rows = 104
    window.counts.rejected = 4
    line = Meter(window, Half(), 100).line()
    assert line == (
        "40% | 15 s left | 8.0 tokens/s, 8.0 attaches/s | 40 attached | 40 declined | 4 rejected | 20 pending | "
        "104 read of about 208"
    )
    assert 40 + 40 + 4 + 20 == 104
    assert "time left unknown" in Meter(window, Half(), None).line()


def test_when_nothing_moves_the_line_says_since_when_and_why() -> None:
    now = [0.0]
    window = ImportWindow(clock=lambda: now[0])
    window.enter("req-1", PendingRow(2, "k", "card", attaches=False), print)
    now[0] = 12.0
    line = Meter(window, Half(), 100, lambda: ["an operator has paused main:global"]).line()
    assert line.startswith("0% | no result for 12 s: an operator has paused main:global | 1 pending")
    window.guess = "is a worker running?"
    assert "no result for 12 s: is a worker running?" in Meter(window, Half(), 100).line()
    window.settle(TOKEN, lambda line: None)
    assert "no result" not in Meter(window, Half(), 100).line()


@pytest.mark.parametrize(
    ("counts", "reason", "code"),
    [
        (ImportCounts(rows=1, tokenized=1), None, 0),
        (ImportCounts(rows=1, rejected=1), None, 1),
        (ImportCounts(rows=1, failed=1), None, 1),
        (ImportCounts(rows=1, unfinished=1), None, 1),
        (ImportCounts(rows=1, tokenized=1), "interrupted", 1),
    ],
)
def test_only_a_file_whose_every_row_succeeded_ends_with_0(counts: ImportCounts, reason: str | None, code: int) -> None:
    assert ImportSummary(counts, 1.0, None, None, "import-1", reason, budget_per_second=25.0).exit_code == code


def test_the_summary_says_what_is_unfinished_and_how_to_go_on(tmp_path: Any) -> None:
    counts = ImportCounts(rows=9, sealed=9, tokenized=7, unfinished=2)
    summary = ImportSummary(
        counts, 1.0, tmp_path / "out.jsonl", None, "import-1", "interrupted", 10, False, budget_per_second=25.0
    )
    said = summary.unfinished()
    assert said is not None
    assert "2 rows have no result yet" in said
    assert "tokenferry results import-1" in said
    assert "after row 10" in said
    assert summary.as_json()["route"] == "import-1"


def test_reasons_are_counted() -> None:
    counts = ImportCounts(rows=2, rejected=2)
    examiner = Examiner(RowDefaults(frozenset({"main"})), Outputs(None, None), counts)
    examiner.reject(BrokenRow(2, "a", "card.number", ""), [Problem("card.number", "is short")])
    examiner.reject(BrokenRow(3, "b", "", ""), [Problem("card.number", "is short"), Problem("kind", "is odd")])
    summary = ImportSummary(counts, 1.0, None, None, "import-1", budget_per_second=25.0)
    assert summary.as_json()["refusals_by_reason"] == {"card.number: is short": 2, "kind: is odd": 1}
    assert "        2  card.number: is short" in summary.lines()


def test_a_second_row_with_the_same_key_is_refused_even_if_the_first_one_was() -> None:
    counts = ImportCounts()
    examiner = Examiner(RowDefaults(frozenset({"main"})), Outputs(None, None), counts)
    assert examiner.order(Row(2, "a", {"kind": "pii"})) is None
    assert examiner.order(Row(3, "a", {"kind": "pii", "id_number": "1"})) is None
    assert examiner.order(BrokenRow(4, "a", "row", "is broken")) is None
    assert counts.rejections_by_reason["key: is the key of an earlier row"] == 1


@pytest.mark.parametrize("key", ["4242424242424242", "4242 4242 4242 4242", "c-4242-4242-4242-4242"])
def test_a_key_that_can_be_a_card_number_is_never_shown(key: str) -> None:
    assert masked(key).endswith("...4242")
    assert shown_key(key).endswith("...4242")


def test_when_one_output_cannot_be_opened_none_is_left_behind(tmp_path: Any) -> None:
    with pytest.raises(UnusableOutput):
        Outputs(tmp_path / "out.jsonl", tmp_path / "none" / "rejects.csv")
    with pytest.raises(UnusableOutput):
        Outputs(tmp_path / "same", tmp_path / "same")
    assert list(tmp_path.iterdir()) == []
