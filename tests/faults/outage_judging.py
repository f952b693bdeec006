"""The checker of an outage: nobody may pay for it, and all must be done soon after it. Pure, as `judging` is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from faults.facts import OBJECT, Call, Facts, spend_key
from faults.judging import GIVEN_UP, Case, Finding, Verdict, cases_of, judge

PROBE: Final = 60.0
"""Seconds between two probes of an endpoint that is away, at most: so long its return may go unnoticed."""
SLACK: Final = 30.0
"""Seconds more, for a machine that is busy with other work."""
ON_ITS_WAY: Final = 1.0
"""Seconds after the outage began in which a call that had left before it may still arrive."""
SPENT: Final = frozenset({OBJECT, "card_declined"})
"""Wishes that need a second call, which spends the token."""


@dataclass(frozen=True)
class Outage:
    """What was done to the endpoint, and what was seen meanwhile. Times are Unix seconds."""

    down: float
    back: float
    """The same as `down` where there was no outage, but a poisonous row."""
    sent: float
    """When the last row was accepted: on a busy machine that may be after the return, and the bound begins then."""
    told_at: Mapping[str, float]
    """When the outcome of a request was first read, by request id."""
    rate: float
    """Calls per second that the workers may make."""
    read_timeout: float
    """Seconds."""
    calls_down: int
    """Calls that the workers began while the endpoint was away."""
    seen_down: bool = True
    """Whether the harness itself found the endpoint away, at the beginning and at the end."""
    poisonous: frozenset[str] = frozenset()
    """Requests that the endpoint answers with a 500 whenever it is asked. Each must fail, and alone."""


@dataclass(frozen=True)
class Figures:
    """One line of the table."""

    rows: int
    given_up: int
    """The poisonous ones aside."""
    lost: int
    doubled: int
    """Requests with two outcomes or two tokens, and tokens that were used twice."""
    settled: float | None
    """Seconds from the return until the last outcome was read, negative if it was before. None: some never were."""
    bound: float
    """Seconds it may take."""
    calls_down: int


def judge_outage(facts: Facts, outage: Outage) -> tuple[Verdict, Figures]:
    """Hold the promises of `judge`, and those of an outage."""
    general = judge(facts)
    cases, _ = cases_of(facts)
    known = {id_: cases.get(id_, Case(id_)) for id_ in facts.accepted}
    good = {id_: case for id_, case in known.items() if id_ not in outage.poisonous}
    given_up = list(_given_up(good))
    bound = calls_left(facts, outage) / outage.rate + PROBE + outage.read_timeout + SLACK
    bound += max(0.0, outage.sent - outage.back)
    findings = [
        # Of good rows none at all may be given up on, whatever the cause: that is said once for each, below.
        *(one for one in general.findings if one.crime != "gave up" or one.who in outage.poisonous),
        *given_up,
        *_of_the_poisonous(known, outage),
        *_late(facts, outage, bound),
        *(Finding("no outage", "the endpoint", why) for why in _not_met(facts, outage, good)),
    ]
    verdict = Verdict(tuple(findings), general.counts)
    twice = [one for one in findings if one.crime in ("spent twice", "second token", "two outcomes")]
    times = [outage.told_at.get(id_) for id_ in facts.accepted]
    last = max((at for at in times if at is not None), default=None)
    figures = Figures(
        rows=len(facts.accepted),
        given_up=len({one.who for one in given_up}),
        lost=len({one.who for one in verdict.of("lost")}),
        doubled=len({one.who for one in twice}),
        settled=None if last is None or None in times else last - outage.back,
        bound=bound,
        calls_down=outage.calls_down,
    )
    return verdict, figures


def calls_left(facts: Facts, outage: Outage) -> int:
    """Calls that the open requests still needed when the endpoint came back, each of them answered once."""
    cases, _ = cases_of(facts)
    left = 0
    for id_, wish in facts.accepted.items():
        if outage.told_at.get(id_, outage.back) < outage.back:
            continue
        case = cases.get(id_, Case(id_))
        left += not any(_answered(call) and call.at < outage.back for call in case.calls)
        if wish in SPENT:
            spends = [call for one in case.made for call in facts.calls.get(spend_key(one.token), ())]
            left += not any(_answered(call) and call.at < outage.back for call in spends)
    return left


def _answered(call: Call) -> bool:
    """Whether the caller could use the answer."""
    return not call.failed and call.status != 429


def _given_up(good: Mapping[str, Case]) -> Iterator[Finding]:
    for id_, case in good.items():
        codes = {result.failure.code for result in case.told if result.failure}
        for code in sorted(codes & GIVEN_UP):
            yield Finding("gave up", id_, f"{code}, though nothing was wrong with the request")


def _of_the_poisonous(known: Mapping[str, Case], outage: Outage) -> Iterator[Finding]:
    for id_ in sorted(outage.poisonous):
        if id_ not in known:
            yield Finding("no outage", id_, "the poisonous row was never sent")
            continue
        for result in known[id_].told:
            code = result.failure.code if result.failure else None
            if code != "attempts_exhausted":
                what = f"{code or 'succeeded'}, though the endpoint answered each of its calls with a 500"
                yield Finding("wrong outcome", id_, what)
                break


def _late(facts: Facts, outage: Outage, bound: float) -> Iterator[Finding]:
    """Requests that were told too late. Those never told are lost, which `judge` finds."""
    for id_ in facts.accepted:
        took = outage.told_at.get(id_, outage.back) - outage.back
        if took > bound:
            yield Finding("late", id_, f"told {took:.1f} s after the endpoint was back; allowed are {bound:.1f}")


def _not_met(facts: Facts, outage: Outage, good: Mapping[str, Case]) -> Iterator[str]:
    """Why nothing was proved: the outage was none, or met no work."""
    if not facts.accepted:
        yield "no row was sent"
    if outage.back == outage.down:
        if not outage.poisonous:
            yield "nothing was done to it"
        return
    if not outage.seen_down:
        yield "answered the harness while it was to be away"
    through = [
        call
        for calls in facts.calls.values()
        for call in calls
        if outage.down + ON_ITS_WAY < call.at < outage.back and _answered(call)
    ]
    if through:
        yield f"answered {len(through)} calls while it was to be away"
    if not outage.calls_down:
        yield "was not called while it was away"
    if not any(at < outage.down for at in outage.told_at.values()):
        yield "was away before any row was done, not in the middle"
    if all(outage.told_at.get(id_, outage.back) < outage.back and not case.given_up for id_, case in good.items()):
        yield "was away, and every row was done before its return"
