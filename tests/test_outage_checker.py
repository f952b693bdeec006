"""The checker of outages finds each way to fail, and an outage that was none, and accuses nobody of an honest one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from faults.facts import ATTEMPTS, Call, Facts, spend_key
from faults.judging import Crime
from faults.outage_judging import PROBE, SLACK, Figures, Outage, calls_left, judge_outage

from tokenferry import AttachResult, TokenResult
from tokenferry.contract.results import Failure

DOWN, BACK = 100.0, 160.0
GOOD = Call(170.0, 200)
AWAY = [Call(DOWN + 5.0 * at, 503, "error_503") for at in range(1, ATTEMPTS)]


def token(id_: str, code: str | None = None) -> TokenResult:
    return TokenResult(
        outcome_id=f"{id_}:token",
        request_id=id_,
        kind="card",
        platform="main",
        settled_at=1,
        token=None if code else f"tok_{id_}",
        failure=Failure(code=code, source="tokenferry") if code else None,
    )


def attach(id_: str) -> AttachResult:
    return AttachResult(
        outcome_id=f"{id_}:attach",
        request_id=id_,
        attach_id=id_,
        kind="card",
        platform="main",
        settled_at=1,
        to="customer.create",
        token=f"tok_{id_}",
        object_id=f"cus_{id_}",
    )


def facts(**changes: Any) -> Facts:
    """One request before the outage; one in it, answered when it was over; one that was sent meanwhile, and spent."""
    plain: dict[str, Any] = {
        "accepted": {"early": "token", "open": "token", "spent": "object"},
        "told": [token("early"), token("open"), attach("spent")],
        "tokens": {f"tokenferry:{id_}:0": [f"tok_{id_}"] for id_ in ("early", "open", "spent")},
        "uses": {"tok_spent": ["cus_spent"]},
        "calls": {
            "tokenferry:early:0": [Call(90.0, 200)],
            "tokenferry:open:0": [*AWAY, GOOD],
            "tokenferry:spent:0": [GOOD],
            spend_key("tok_spent"): [Call(171.0, 200)],
        },
        "on_the_way": ATTEMPTS,
    }
    return Facts(**plain | changes)


def outage(**changes: Any) -> Outage:
    plain: dict[str, Any] = {
        "down": DOWN,
        "back": BACK,
        "sent": 120.0,
        "told_at": {"early": 90.1, "open": 170.1, "spent": 171.1},
        "rate": 10.0,
        "read_timeout": 5.0,
        "calls_down": len(AWAY),
    }
    return Outage(**plain | changes)


def failed(id_: str, code: str = "attempts_exhausted") -> dict[str, Any]:
    """The open request was given up on, and kept."""
    return {"told": [token("early"), token(id_, code), attach("spent")], "dead": [id_]}


POISONED = facts(
    accepted={"early": "token", "bad": "token"},
    told=[token("early"), token("bad", "attempts_exhausted")],
    dead=["bad"],
    tokens={"tokenferry:early:0": ["tok_early"]},
    uses={},
    calls={
        "tokenferry:early:0": [Call(110.0, 200)],
        "tokenferry:bad:0": [Call(float(at), 500, "error_500_before") for at in range(101, 101 + ATTEMPTS)],
    },
    on_the_way=0,
)
POISON = outage(
    back=DOWN, told_at={"early": 110.1, "bad": 120.1}, calls_down=0, poisonous=frozenset({"bad"}), seen_down=True
)


def crimes(seen: Facts, done: Outage) -> list[Crime]:
    return [finding.crime for finding in judge_outage(seen, done)[0].findings]


def test_an_outage_after_which_everything_was_done_has_no_finding() -> None:
    verdict, figures = judge_outage(facts(), outage())
    assert verdict.findings == ()
    assert figures == Figures(
        rows=3,
        given_up=0,
        lost=0,
        doubled=0,
        settled=pytest.approx(11.1),
        bound=3 / 10.0 + PROBE + 5.0 + SLACK,
        calls_down=len(AWAY),
    )


def test_a_poisonous_row_that_fails_alone_has_no_finding() -> None:
    verdict, figures = judge_outage(POISONED, POISON)
    assert verdict.findings == ()
    assert (figures.given_up, figures.lost, figures.doubled) == (0, 0, 0)


@pytest.mark.parametrize("code", ["attempts_exhausted", "outcome_unknown", "deliveries_exhausted"])
def test_one_row_that_was_given_up_on_is_one_too_many_whatever_it_is_called(code: str) -> None:
    """A storm may cost a few; an outage none."""
    verdict, figures = judge_outage(facts(**failed("open", code)), outage())
    assert [(one.crime, one.who) for one in verdict.findings] == [("gave up", "open")]
    assert figures.given_up == 1


@pytest.mark.parametrize(
    ("crime", "changes", "number"),
    [
        pytest.param("lost", {"told": [token("early"), attach("spent")]}, "lost", id="never told"),
        pytest.param("lost", {**failed("open"), "dead": []}, "lost", id="given up, and not kept"),
        pytest.param(
            "spent twice", {"uses": {"tok_spent": ["cus_spent", "cus_b"]}}, "doubled", id="one token, used twice"
        ),
        pytest.param(
            "second token",
            {"tokens": {**facts().tokens, "tokenferry:open:1": ["tok_second"]}},
            "doubled",
            id="two tokens for one request",
        ),
        pytest.param("two outcomes", {"dead": ["open"]}, "doubled", id="a success, and a dead letter"),
        pytest.param(
            "left over", {"left": {"parked.main.0": 1}}, None, id="a request that still rests where it was parked"
        ),
        pytest.param("wrong outcome", {"accepted": {**facts().accepted, "open": "card_declined"}}, None, id="a lie"),
    ],
)
def test_what_must_not_happen_in_a_storm_must_not_happen_in_an_outage(
    crime: Crime, changes: dict[str, Any], number: str | None
) -> None:
    verdict, figures = judge_outage(facts(**changes), outage())
    assert verdict.of(crime)
    assert number is None or getattr(figures, number) == 1


def test_a_row_that_was_told_later_than_the_bound_is_late_and_one_in_time_is_not() -> None:
    bound = judge_outage(facts(), outage())[1].bound
    told = dict(outage().told_at)
    assert crimes(facts(), outage(told_at=told | {"open": BACK + bound - 0.1})) == []
    assert crimes(facts(), outage(told_at=told | {"open": BACK + bound + 0.1})) == ["late"]


def test_the_bound_begins_when_the_last_row_was_accepted_if_that_is_after_the_return() -> None:
    bound = judge_outage(facts(), outage())[1].bound
    assert judge_outage(facts(), outage(sent=BACK + 7.0))[1].bound == pytest.approx(bound + 7.0)


def test_as_long_as_one_was_never_told_it_is_not_settled() -> None:
    told = {"early": 90.1, "spent": 171.1}
    _, figures = judge_outage(facts(told=[token("early"), attach("spent")]), outage(told_at=told))
    assert figures.settled is None


@pytest.mark.parametrize(
    ("calls", "left"),
    [
        pytest.param({}, 3, id="nothing was answered: a token, and a token and its use"),
        pytest.param({"tokenferry:open:0": AWAY}, 3, id="calls that failed count for nothing"),
        pytest.param(
            {"tokenferry:spent:0": [Call(150.0, 200, "reset_after")]}, 3, id="nor does an answer that was lost"
        ),
        pytest.param({"tokenferry:spent:0": [Call(150.0, 429)]}, 3, id="nor a refusal for the rate"),
        pytest.param({"tokenferry:spent:0": [GOOD]}, 3, id="nor what was answered after the return"),
        pytest.param({"tokenferry:spent:0": [Call(99.0, 200)]}, 2, id="its token was there: the use is left"),
        pytest.param(
            {"tokenferry:spent:0": [Call(99.0, 200)], spend_key("tok_spent"): [Call(99.5, 200)]},
            1,
            id="used, and not yet told",
        ),
    ],
)
def test_the_bound_counts_each_call_that_was_left_once(calls: Mapping[str, Sequence[Call]], left: int) -> None:
    assert calls_left(facts(calls=calls), outage()) == left


@pytest.mark.parametrize(
    ("seen", "done"),
    [
        pytest.param(facts(), outage(seen_down=False), id="the harness itself was answered"),
        pytest.param(
            facts(calls={**facts().calls, "tokenferry:open:0": [Call(130.0, 200)]}),
            outage(),
            id="a worker was answered",
        ),
        pytest.param(facts(), outage(calls_down=0), id="nobody called it"),
        pytest.param(
            facts(), outage(told_at={"early": 165.0, "open": 170.1, "spent": 171.1}), id="it began before any work"
        ),
        pytest.param(
            facts(), outage(told_at={"early": 90.1, "open": 95.0, "spent": 99.0}), id="it began when all was done"
        ),
        pytest.param(
            facts(), outage(told_at={"early": 90.1, "open": 120.0, "spent": 130.0}), id="all was done while it lasted"
        ),
        pytest.param(facts(), outage(back=DOWN), id="it had no length, and no row was poisonous"),
        pytest.param(facts(), outage(back=DOWN, poisonous=frozenset({"bad"})), id="the poisonous row was not sent"),
    ],
)
def test_an_outage_that_was_none_proves_nothing(seen: Facts, done: Outage) -> None:
    assert crimes(seen, done) == ["no outage"]


def test_no_row_at_all_proves_nothing() -> None:
    nothing = Facts(accepted={}, told=[], tokens={}, uses={})
    assert set(crimes(nothing, outage(told_at={}))) == {"no outage"}


def test_a_call_that_left_before_the_outage_and_arrived_just_after_its_beginning_is_no_leak() -> None:
    calls = {**facts().calls, "tokenferry:early:0": [Call(DOWN + 0.2, 200)]}
    assert crimes(facts(calls=calls), outage()) == []


def test_rows_that_all_failed_before_the_return_are_given_up_on_and_the_outage_was_one() -> None:
    told = {"early": 90.1, "open": 120.0, "spent": 130.0}
    seen = facts(told=[token("early"), token("open", "attempts_exhausted"), attach("spent")], dead=["open"])
    assert crimes(seen, outage(told_at=told)) == ["gave up"]


@pytest.mark.parametrize(
    ("crime", "changes"),
    [
        pytest.param("wrong outcome", {"told": [token("early"), token("bad", "expired")]}, id="it ends otherwise"),
        pytest.param(
            "wrong outcome",
            {
                "told": [token("early"), token("bad")],
                "tokens": {"tokenferry:early:0": ["tok_early"], "tokenferry:bad:0": ["tok_bad"]},
                "dead": [],
            },
            id="it succeeds",
        ),
        pytest.param("lost", {"told": [token("early")], "dead": []}, id="it waits for ever, as if for an outage"),
        pytest.param(
            "gave up",
            {"calls": {**POISONED.calls, "tokenferry:bad:0": [Call(101.0, 500, "error_500_before")]}},
            id="it is given up on too early",
        ),
        pytest.param(
            "gave up",
            {
                "told": [token("early", "attempts_exhausted"), token("bad", "attempts_exhausted")],
                "dead": ["early", "bad"],
            },
            id="a good one fails with it",
        ),
    ],
)
def test_a_poisonous_row_that_does_not_fail_or_not_alone_is_found(crime: Crime, changes: dict[str, Any]) -> None:
    assert crime in crimes(replace(POISONED, **changes), POISON)
