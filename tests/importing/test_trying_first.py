"""Before anything is sent: what is in the file, what is wrong with it, how long it takes. Then a few rows first."""

from __future__ import annotations

import gzip
import json

import pytest

from tokenferry.importing.run import SAME_FAILURES

from .conftest import CANARY, House, StandIn

HEADER = "key,kind,number,exp_month,exp_year,name,country,currency,account_number,routing_number,attach.to\n"
CARD = "card-{n},card,4242424242424242,12,2040,Zelda Example,,,,,customer_create\n"
BANK = "bank-{n},bank_account,,,,,US,usd,000123456789,110000000,\n"


def mixed() -> str:
    wrong = "bad-{n},card," + CANARY[:-1] + "9,12,2040,,,,,,\n"
    rows = [CARD] * 30 + [BANK] * 8 + [wrong] * 5 + ["uk,bank_account,,,,,UK,gbp,00012345,108800,\n"]
    return HEADER + "".join(row.format(n=n) for n, row in enumerate(rows))


def test_a_dry_run_says_what_is_in_the_file_and_what_is_wrong_with_it(offline: House) -> None:
    done = offline.run(offline.file(mixed()), "--dry-run")

    assert done.exit_code == 1
    said = done.stdout
    assert "44 rows read, 38 can be sent, 6 rejected; nothing was sent" in said
    assert "kinds: 30 card, 8 bank_account" in said
    assert "countries: 8 US" in said
    assert "targets: 30 customer_create" in said
    assert (
        "        5  card.number: does not pass the Luhn check; a digit is wrong or missing (line 40, 41, 42, ...)"
        in said
    )
    assert "bank_account.country: is not an ISO 3166 country code; write GB (line 45)" in said
    assert "calls to Stripe: 30 to customers; 38 to tokens" in said
    assert "time needed: at least 3 s, at 25 calls per second" in said


def test_the_first_row_is_shown_as_it_is_understood_without_its_values(offline: House) -> None:
    done = offline.run(offline.file(mixed()), "--dry-run")

    shown = done.stdout.partition("the first row, as it was understood:\n")[2]
    assert "  kind = card" in shown
    assert "  number = ...4242 (16 characters)" in shown
    assert "  exp_year = 2040" in shown
    assert "  name = (13 characters)" in shown
    assert "  attach.to = customer_create" in shown
    assert "Zelda" not in done.output
    assert "4242424242424242" not in done.output


def test_a_program_reads_the_same_from_json(offline: House) -> None:
    done = offline.run(offline.file(mixed()), "--dry-run", "--json", "--quiet")

    preview = json.loads(done.stdout)["preview"]
    assert preview["kinds"] == {"card": 30, "bank_account": 8}
    assert preview["rejections"][0] == {
        "field": "card.number",
        "reason": "does not pass the Luhn check; a digit is wrong or missing",
        "count": 5,
        "lines": [40, 41, 42],
    }
    calls = {each["budget"]: each["calls"] for each in preview["calls"]}
    assert calls == {"tokens": 38, "customers": 30, "all together": 68}
    assert preview["seconds_needed"] == pytest.approx(68 / 25, abs=0.1)


def test_a_dry_run_shows_how_far_it_is(offline: House) -> None:
    done = offline.run(offline.file(mixed()), "--dry-run")
    assert "44 rows checked | 6 rejected" in done.stderr
    assert "100%" in done.stderr


def test_a_debit_card_for_payouts_needs_a_currency(offline: House) -> None:
    header = "key,kind,number,exp_month,exp_year,attach.to,attach.account\n"
    row = "a,card,4000056655665556,12,2040,external_account,acct_1ABCDEFGHIJKLMNO\n"
    done = offline.run(offline.file(header + row), "--dry-run")
    assert "card.currency: is required for external_account" in done.stdout


def test_the_first_rows_are_sent_first_and_the_rest_later(house: House, worker: StandIn) -> None:
    file = house.file(HEADER + "".join(CARD.format(n=n) for n in range(30)))

    first = house.run(file, "--limit", "10", "--json", "--quiet")
    assert first.exit_code == 0, first.output
    assert [line["key"] for line in house.lines()] == [line["key"] for line in house.lines() if line["row"] <= 11]
    assert json.loads(first.stdout)["rows_left_out"] is True

    rest = house.run(file, "--resume", "--json", "--quiet")
    assert rest.exit_code == 0, rest.output
    summary = json.loads(rest.stdout)
    assert (summary["rows"], summary["attached"], summary["rows_of_earlier_runs"]) == (30, 30, 10)
    assert len(house.lines()) == 30


@pytest.mark.parametrize("packed", [False, True])
def test_a_sample_comes_from_all_over_the_file(house: House, worker: StandIn, packed: bool) -> None:
    content = (HEADER + "".join(CARD.format(n=n) for n in range(100))).encode()
    file = house.file(gzip.compress(content) if packed else content)

    done = house.run(file, "--sample", "4", "--quiet")

    assert done.exit_code == 0, done.output
    assert sorted(line["key"] for line in house.lines()) == ["card-12", "card-37", "card-62", "card-87"]
    assert "rows were left out" in done.stdout


def test_a_limit_larger_than_the_file_leaves_nothing_out(house: House, worker: StandIn) -> None:
    done = house.run(house.file(HEADER + CARD.format(n=1)), "--limit", "10", "--json", "--quiet")
    assert json.loads(done.stdout)["rows_left_out"] is False


def test_an_import_whose_first_outcomes_are_all_the_same_failure_stops(house: House) -> None:
    file = house.file(HEADER + "".join(CARD.format(n=n) for n in range(400)))
    with StandIn(house.configuration(), house.platform, lambda header: "no_luck"):
        done = house.run(file, "--quiet", "--window", "20")

    assert done.exit_code == 1
    assert int(done.stderr.partition("the first ")[2].partition(" rows all failed with no_luck")[0]) >= SAME_FAILURES
    assert "--max-failures 0 goes on all the same" in done.stderr
    assert len(house.lines()) < 150


def test_other_failures_do_not_stop_it(house: House) -> None:
    file = house.file(HEADER + "".join(CARD.format(n=n) for n in range(120)))
    answers = iter(range(1000))
    with StandIn(house.configuration(), house.platform, lambda header: f"no_luck_{next(answers) % 2}"):
        done = house.run(file, "--json", "--quiet")
    assert json.loads(done.stdout)["failed"] == 120


@pytest.mark.parametrize(("allowed", "all_sent"), [("10", False), ("0", True)])
def test_the_user_says_how_many_failures_are_too_many(house: House, allowed: str, all_sent: bool) -> None:
    file = house.file(HEADER + "".join(CARD.format(n=n) for n in range(120)))
    with StandIn(house.configuration(), house.platform, lambda header: "no_luck"):
        done = house.run(file, "--max-failures", allowed, "--window", "5", "--quiet")
    assert (len(house.lines()) == 120) is all_sent
    assert ("rows failed (--max-failures 10)" in done.stderr) is not all_sent
    assert "no_luck" in done.stdout
