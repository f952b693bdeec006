"""The checker of the fault campaign: it finds each crime, and accuses nobody of an honest storm."""

from __future__ import annotations

from typing import Any

import pytest
from faults.facts import ATTEMPTS, DELIVERIES, ON_THE_WAY, Call, Facts, spend_key
from faults.judging import Crime, judge

from tokenferry import AttachResult, TokenResult
from tokenferry.contract.results import Failure


def failure(code: str | None) -> Failure | None:
    ours = code in ("attempts_exhausted", "deliveries_exhausted", "outcome_unknown", "expired")
    return Failure(code=code, source="tokenferry" if ours else "endpoint") if code else None


def token(id_: str = "a", *, made: str | None = "tok_a", code: str | None = None, at: int = 1) -> TokenResult:
    why = failure(code)
    return TokenResult(
        outcome_id=f"{id_}:token",
        request_id=id_,
        kind="card",
        platform="main",
        settled_at=at,
        token=None if code else made,
        failure=why,
    )


def attach(
    id_: str = "a", *, spent: str = "tok_a", made: str | None = "cus_a", code: str | None = None
) -> AttachResult:
    why = failure(code)
    return AttachResult(
        outcome_id=f"{id_}:attach",
        request_id=id_,
        attach_id=id_,
        kind="card",
        platform="main",
        settled_at=1,
        to="customer.create",
        token=spent,
        object_id=None if code else made,
        failure=why,
    )


def facts(**changes: Any) -> Facts:
    """One request that became one token, told once."""
    plain: dict[str, Any] = {
        "accepted": {"a": "token"},
        "told": [token()],
        "tokens": {"tokenferry:a:0": ["tok_a"]},
        "uses": {},
        "calls": {"tokenferry:a:0": [Call(1.0, 200)]},
    }
    return Facts(**plain | changes)


def failed(count: int = ATTEMPTS, status: int = 503) -> list[Call]:
    """So many calls that came to nothing, each in another way."""
    return [Call(float(at), *((200, "reset_after"), (0, "reset_before"), (status, ""))[at % 3]) for at in range(count)]


def crimes(**changes: Any) -> list[Crime]:
    return [finding.crime for finding in judge(facts(**changes)).findings]


SPENT: dict[str, Any] = {"accepted": {"a": "object"}, "told": [attach()], "uses": {"tok_a": ["cus_a"]}}
AFTER_500: dict[str, Any] = {
    "tokens": {"tokenferry:a:0": ["tok_0"], "tokenferry:a:1": ["tok_a"]},
    "calls": {"tokenferry:a:0": [Call(1.0, 500), Call(2.0, 500), Call(3.0, 500)], "tokenferry:a:1": [Call(4.0, 200)]},
}
GIVEN_UP: dict[str, Any] = {
    "told": [token(code="attempts_exhausted")],
    "dead": ["a"],
    "calls": {"tokenferry:a:0": failed(3), "tokenferry:a:1": failed(ATTEMPTS - 3)},
}
POISON: dict[str, Any] = {"told": [token(code="deliveries_exhausted")], "dead": ["a"]}
UNKNOWN: dict[str, Any] = SPENT | {
    "told": [attach(code="outcome_unknown")],
    "dead": ["a"],
    "calls": {spend_key("tok_a"): [Call(float(at), 500, "error_500") for at in range(ATTEMPTS)]},
}
REFUSED: dict[str, Any] = {
    "accepted": {"a": "account_number_invalid"},
    "told": [token(code="account_number_invalid")],
    "tokens": {},
    "calls": {"tokenferry:a:0": [Call(1.0, 400)]},
}
REFUSED_SPEND: dict[str, Any] = {
    "accepted": {"a": "card_declined"},
    "told": [attach(code="card_declined")],
    "calls": {spend_key("tok_a"): [Call(1.0, 402)]},
}
MANY: tuple[str, ...] = tuple(f"r{at}" for at in range(100))


@pytest.mark.parametrize(
    "honest",
    [
        pytest.param({}, id="a token"),
        pytest.param(SPENT, id="an object"),
        pytest.param({"told": [token(), token(at=2)]}, id="told twice, the time of day aside the same"),
        pytest.param(AFTER_500, id="a second token after a 500 that hides the first"),
        pytest.param(REFUSED, id="a refusal"),
        pytest.param(REFUSED_SPEND, id="a refusal to spend it"),
        pytest.param(UNKNOWN, id="an object nobody could learn of"),
        pytest.param(
            UNKNOWN | {"calls": {spend_key("tok_a"): [Call(1.0, 500, "error_500"), Call(2.0, 500)]}},
            id="an object hidden by a stored 500, looked into at its first repetition",
        ),
        pytest.param(GIVEN_UP, id="given up after as many failures as are allowed, and kept"),
        pytest.param(
            GIVEN_UP | {"calls": {"tokenferry:a:0": failed(ATTEMPTS - ON_THE_WAY)}, "on_the_way": ON_THE_WAY},
            id="given up, and some of the attempts were lost on the way",
        ),
        pytest.param(GIVEN_UP | {"told": [GIVEN_UP["told"][0]] * 2, "dead": ["a", "a"]}, id="kept and told twice"),
        pytest.param(GIVEN_UP | {"dead": ["a", "a"], "deaths": 1}, id="kept twice, by a death before it was told"),
        pytest.param(POISON | {"deaths": DELIVERIES // 2}, id="handed over again and again, by as many deaths"),
        pytest.param({"uncertain": {"b": "token"}}, id="a request that died with its producer"),
        pytest.param({"accepted": {}, "uncertain": {"a": "token"}}, id="one that survived its producer"),
    ],
)
def test_honest_facts_have_no_finding(honest: dict[str, Any]) -> None:
    assert judge(facts(**honest)).findings == ()


@pytest.mark.parametrize(
    ("crime", "changes"),
    [
        pytest.param("lost", {"told": []}, id="accepted and never heard of again"),
        pytest.param("lost", {"told": [], "dead": ["a"]}, id="kept as a dead letter, and nobody told"),
        pytest.param("lost", GIVEN_UP | {"dead": []}, id="given up, and not kept"),
        pytest.param(
            "lost", {"accepted": {}, "uncertain": {"a": "token"}, "told": []}, id="a dead producer's, and made a token"
        ),
        pytest.param(
            "lost",
            {"accepted": {}, "uncertain": {"a": "token"}, "told": [], "tokens": {}},
            id="a dead producer's, and called for",
        ),
        pytest.param("two outcomes", GIVEN_UP | {"told": [token(), *GIVEN_UP["told"]]}, id="yes and no"),
        pytest.param("two outcomes", {"dead": ["a"]}, id="a success, and a dead letter"),
        pytest.param("two outcomes", REFUSED | {"dead": ["a"]}, id="a refusal, and a dead letter"),
        pytest.param("kept twice", GIVEN_UP | {"dead": ["a", "a"]}, id="two dead letters, told once, nobody died"),
        pytest.param(
            "gave up", GIVEN_UP | {"calls": {"tokenferry:a:0": [Call(1.0, 200)]}}, id="given up, though it was answered"
        ),
        pytest.param("gave up", GIVEN_UP | {"calls": {}, "tokens": {}}, id="given up, and never called"),
        pytest.param(
            "gave up",
            GIVEN_UP | {"calls": {"tokenferry:a:0": failed(ATTEMPTS - 1)}},
            id="given up one attempt too early",
        ),
        pytest.param(
            "gave up",
            GIVEN_UP | {"calls": {"tokenferry:a:0": [Call(float(at), 429, "rate_429_global") for at in range(9)]}},
            id="given up for the rate alone",
        ),
        pytest.param(
            "gave up", UNKNOWN | {"calls": {spend_key("tok_a"): [Call(1.0, 200)]}}, id="unknown, though it was answered"
        ),
        pytest.param(
            "gave up",
            UNKNOWN | {"calls": {"tokenferry:a:0": failed()}},
            id="unknown what it became, for failures of another call",
        ),
        pytest.param(
            "gave up",
            UNKNOWN | {"calls": {spend_key("tok_a"): [Call(1.0, 500, "error_500")]}},
            id="unknown, though its stored 500 was not heard again",
        ),
        pytest.param("gave up", POISON, id="taken for poison, and nobody died"),
        pytest.param("gave up", POISON | {"deaths": DELIVERIES // 2 - 1}, id="taken for poison after too few deaths"),
        pytest.param(
            "gave up",
            {
                "accepted": dict.fromkeys(MANY, "token"),
                "told": [
                    *(token(id_, code="attempts_exhausted") for id_ in MANY[:4]),
                    *(token(id_, made=f"tok_{id_}") for id_ in MANY[4:]),
                ],
                "dead": MANY[:4],
                "tokens": {f"tokenferry:{id_}:0": [f"tok_{id_}"] for id_ in MANY},
                "calls": {f"tokenferry:{id_}:0": failed() for id_ in MANY},
            },
            id="too many given up on, each with a cause",
        ),
        pytest.param(
            "two outcomes", AFTER_500 | {"told": [token(made="tok_0"), token()]}, id="one token, then another"
        ),
        pytest.param("wrong outcome", {"told": [token(made="tok_b")]}, id="a token of somebody else"),
        pytest.param("wrong outcome", {"told": [token(code="expired")]}, id="a failure that nothing caused"),
        pytest.param("wrong outcome", {"accepted": {"a": "card_declined"}}, id="a success that cannot be"),
        pytest.param(
            "wrong outcome", REFUSED | {"told": [token(code="expired")]}, id="another failure than the refusal"
        ),
        pytest.param("wrong outcome", REFUSED | {"told": [token(code="card_declined")]}, id="another refusal"),
        pytest.param("wrong outcome", REFUSED | {"calls": {}}, id="a refusal that nobody spoke"),
        pytest.param(
            "wrong outcome",
            REFUSED | {"tokens": {"tokenferry:a:0": ["tok_a"]}},
            id="a refusal, though a token was made",
        ),
        pytest.param("wrong outcome", SPENT | {"told": [token()]}, id="a token where an object was wanted"),
        pytest.param("wrong outcome", SPENT | {"uses": {}}, id="an object that was never made"),
        pytest.param("wrong outcome", {"uses": {"tok_a": ["cus_a"]}}, id="an object nobody wanted"),
        pytest.param(
            "wrong outcome",
            UNKNOWN | {"told": [attach(code="attempts_exhausted")]},
            id="failed, though made",
        ),
        pytest.param("spent twice", UNKNOWN | {"uses": {"tok_a": ["cus_a", "cus_b"]}}, id="two objects of one token"),
        pytest.param("stray use", {"uses": {"tok_x": ["cus_x"]}}, id="an object of a token that nobody asked for"),
        pytest.param("second token", {"tokens": {"tokenferry:a:0": ["tok_a", "tok_b"]}}, id="two tokens under one key"),
        pytest.param("second token", AFTER_500 | {"calls": {}}, id="a second token without a 500"),
        pytest.param("stray token", {"tokens": {"tokenferry:a:0": ["tok_a"], "random": ["tok_b"]}}, id="a foreign key"),
        pytest.param(
            "stray token",
            {"tokens": {"tokenferry:a:0": ["tok_a"], "tokenferry:b:0": ["tok_b"]}},
            id="a token of a request nobody sent",
        ),
        pytest.param("unasked", {"told": [token(), token("b", code="expired")]}, id="an outcome nobody asked for"),
        pytest.param("unasked", {"dead": ["b"]}, id="a dead letter nobody sent"),
        pytest.param(
            "unasked",
            {"calls": {"tokenferry:a:0": [Call(1.0, 200)], "tokenferry:b:0": [Call(1.0, 503)]}},
            id="a call for a request nobody sent",
        ),
        pytest.param("left over", {"left": {"quarantine": 1, "attach.bulk.main": 0}}, id="a message that remains"),
    ],
)
def test_each_crime_is_found(crime: Crime, changes: dict[str, Any]) -> None:
    found = crimes(**changes)
    assert crime in found
    assert set(found) == {crime}


def test_the_counts_say_how_much_was_looked_at() -> None:
    counts = judge(facts(**AFTER_500 | {"told": [token(), token()]})).counts
    assert (counts["accepted"], counts["outcomes"], counts["told again"]) == (1, 1, 1)
    assert (counts["tokens"], counts["orphaned tokens, each beside a 500"]) == (2, 1)
    assert counts["requests called for more than once"] == 1


def test_every_token_its_requester_never_learnt_of_is_counted_as_an_orphan() -> None:
    given_up = judge(facts(**GIVEN_UP | {"dead": ["a", "a"], "deaths": 1})).counts
    assert given_up["orphaned tokens of requests given up on"] == 1
    assert (given_up["given up on"], given_up["dead letters"], given_up["dead letters, kept again"]) == (1, 2, 1)
    unknown = judge(facts(**UNKNOWN)).counts  # which names its token
    assert (unknown["given up on"], unknown["orphaned tokens of requests given up on"]) == (1, 0)
