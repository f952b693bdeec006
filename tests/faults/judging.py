"""The checker: what was asked and what was seen, judged. Pure: no clock, no network, no mercy."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal

from faults.facts import ATTEMPTS, DELIVERIES, OBJECT, TOKEN, Call, Facts, Wish, spend_key

from tokenferry import AttachResult, TokenResult

Crime = Literal[
    "lost",
    "two outcomes",
    "wrong outcome",
    "gave up",
    "kept twice",
    "spent twice",
    "second token",
    "stray token",
    "stray use",
    "unasked",
    "left over",
    "two starts",
    "late",
    "no outage",
]
"""`two starts` is found by the measurement that looks for it (`parts.long_call`), `late` and `no outage` by
`outage_judging.judge_outage`; the rest by `judge`."""

IN_DOUBT: Final = frozenset({"outcome_unknown", "deliveries_exhausted"})
"""Say of themselves that nobody knows: neither a success nor a failure, and kept for somebody to look at."""
GIVEN_UP: Final = frozenset({"attempts_exhausted", *IN_DOUBT})
"""Failures of ours that a storm may cause. Each must have its cause in the endpoint's book, and be kept."""
FEW: Final = 0.01
"""Share of the requests that may be given up on, and two more: in most storms it is one or two of a thousand."""
STORED: Final = "error_500"
"""The fault that the endpoint keeps under the key of the call, and repeats."""
TOKEN_KEY: Final = re.compile(r"tokenferry:(?P<request>[^:]+):(?P<epoch>\d+)")


@dataclass(frozen=True)
class Finding:
    """One thing that must never happen, and did."""

    crime: Crime
    who: str
    what: str

    def __str__(self) -> str:
        return f"{self.crime}: {self.who}: {self.what}"


@dataclass(frozen=True)
class Verdict:
    """The findings, and the counts that say how much was looked at."""

    findings: tuple[Finding, ...]
    counts: Mapping[str, int]

    def of(self, crime: Crime) -> list[Finding]:
        """The findings of one kind."""
        return [finding for finding in self.findings if finding.crime == crime]


@dataclass(frozen=True)
class Made:
    """One token the endpoint made for a request."""

    epoch: int
    token: str


@dataclass
class Case:
    """Everything that is known of one request."""

    id: str
    made: list[Made] = field(default_factory=list)
    """Oldest generation of the key first."""
    calls: list[Call] = field(default_factory=list)
    """For a token, under any generation."""
    told: list[TokenResult | AttachResult] = field(default_factory=list)
    dead: int = 0
    """Dead letters."""

    @property
    def existed(self) -> bool:
        """Whether anybody has ever had it in hand."""
        return bool(self.made or self.calls or self.told or self.dead)

    @property
    def code(self) -> str | None:
        """Of the failure it was told first, if it was one."""
        why = self.told[0].failure if self.told else None
        return why.code if why else None

    @property
    def given_up(self) -> bool:
        """Whether that was a word of ours."""
        return self.code in GIVEN_UP

    @property
    def orphans(self) -> int:
        """Tokens beyond the one that the requester learnt of."""
        return len(self.made) - any(result.token for result in self.told) if self.made and self.told else 0


def judge(facts: Facts) -> Verdict:
    """Hold every fact against every promise."""
    asked = {**facts.uncertain, **facts.accepted}
    cases, strays = cases_of(facts)
    of_requests = {one.token for case in cases.values() for one in case.made}
    findings = [
        *(Finding("left over", queue, f"{count} messages remain") for queue, count in facts.left.items() if count),
        *(Finding("stray token", token, f"made for no request (key {key})") for key, token in strays),
        *(
            Finding("stray use", token, f"became {', '.join(objects)}, and belongs to no request")
            for token, objects in facts.uses.items()
            if token not in of_requests
        ),
        *(
            Finding("spent twice", token, f"became {', '.join(objects)}")
            for token, objects in facts.uses.items()
            if len(objects) > 1
        ),
    ]
    for id_, case in cases.items():
        if id_ in asked:
            findings += _of_case(case, asked[id_], facts)
        else:
            findings += _unasked(case)
    findings += [Finding("lost", id_, "no outcome and no dead letter") for id_ in facts.accepted if id_ not in cases]
    known = [case for id_, case in cases.items() if id_ in asked]
    given_up = sum(case.given_up for case in known)
    if given_up > 2 + FEW * len(facts.accepted):
        findings.append(Finding("gave up", "the fleet", f"on {given_up} of {len(facts.accepted)}: more than a few"))
    return Verdict(tuple(findings), _counts(facts, known, given_up))


def cases_of(facts: Facts) -> tuple[dict[str, Case], list[tuple[str, str]]]:
    """What is known by request; and the tokens whose key belongs to no request."""
    cases: dict[str, Case] = {}
    strays = []

    def case(id_: str) -> Case:
        return cases.setdefault(id_, Case(id_))

    for key, tokens in facts.tokens.items():
        if match := TOKEN_KEY.fullmatch(key):
            case(match["request"]).made += [Made(int(match["epoch"]), token) for token in tokens]
        else:
            strays += [(key, token) for token in tokens]
    for key, calls in facts.calls.items():
        if match := TOKEN_KEY.fullmatch(key):
            case(match["request"]).calls += calls
    for result in facts.told:
        case(result.request_id).told.append(result)
    for id_ in facts.dead:
        case(id_).dead += 1
    for one in cases.values():
        one.made.sort(key=lambda made: made.epoch)
    return cases, strays


def _counts(facts: Facts, known: Sequence[Case], given_up: int) -> dict[str, int]:
    codes = Counter(f"failed: {case.code}" for case in known if case.code)
    unnamed = sum(case.given_up and case.told[0].token is None and bool(case.made) for case in known)
    return {
        "accepted": len(facts.accepted),
        "uncertain": len(facts.uncertain),
        "uncertain that existed": sum(case.id in facts.uncertain for case in known),
        "outcomes": sum(bool(case.told) for case in known),
        "told again": len(facts.told) - len({result.outcome_id for result in facts.told}),
        "tokens": sum(map(len, facts.tokens.values())),
        "requests called for more than once": sum(len(case.calls) > 1 for case in known),
        "orphaned tokens, each beside a 500": sum(case.orphans for case in known) - unnamed,
        "orphaned tokens of requests given up on": unnamed,
        "uses": sum(map(len, facts.uses.values())),
        "given up on": given_up,
        "dead letters": len(facts.dead),
        "dead letters, kept again": sum(case.dead - 1 for case in known if case.dead),
        **dict(sorted(codes.items())),
    }


def _unasked(case: Case) -> Iterator[Finding]:
    if case.told or case.dead:
        what = "an outcome" if case.told else "a dead letter"
        yield Finding("unasked", case.id, f"{what} of a request nobody sent")
    elif case.calls and not case.made:
        yield Finding("unasked", case.id, "a call for a request nobody sent")
    if case.made:
        yield Finding("stray token", case.made[0].token, f"made for {case.id}, which nobody sent")


def _of_case(case: Case, wish: Wish, facts: Facts) -> Iterator[Finding]:
    yield from _of_outcome(case, wish, facts) if case.told else _untold(case)
    yield from (
        Finding("second token", case.id, f"{one.token}, though {why}") for one, why in _unjustified(case, facts)
    )


def _untold(case: Case) -> Iterator[Finding]:
    """Accepted or not: a request that somebody had in hand is a promise."""
    where = "a dead letter, and nobody was told" if case.dead else "no outcome and no dead letter"
    begun = f" after {len(case.calls)} calls and {len(case.made)} tokens" if case.calls or case.made else ""
    yield Finding("lost", case.id, where + begun)


def _unjustified(case: Case, facts: Facts) -> Iterator[tuple[Made, str]]:
    """Tokens beyond the first that no 500 explains: the endpoint keeps a 500 for ever, so only a new key gets past."""
    for before, one in pairwise(case.made):
        if one.epoch == before.epoch:
            yield one, f"the same key had made {before.token}"
        elif not any(call.status == 500 for call in facts.calls.get(f"tokenferry:{case.id}:{before.epoch}", ())):
            yield one, f"{before.token} was usable: its key was never answered with a 500"


def _of_outcome(case: Case, wish: Wish, facts: Facts) -> Iterator[Finding]:
    meanings = {_meaning(result): result for result in case.told}
    if len(meanings) > 1:
        yield Finding("two outcomes", case.id, " and ".join(sorted(map(str, meanings))))
    if case.dead and not any(result.failure and result.failure.code in GIVEN_UP for result in case.told):
        yield Finding("two outcomes", case.id, f"{case.code or 'a success'}, and a dead letter")
    # Published before the outcome is told, and both again by each delivery that comes again; a death may come between.
    if case.dead > len(case.told) + facts.deaths:
        yield Finding("kept twice", case.id, f"{case.dead} dead letters, told {len(case.told)} times")
    for result in meanings.values():
        yield from (Finding("wrong outcome", case.id, what) for what in _lies(case, wish, result, facts))
        if result.failure is not None and result.failure.code in GIVEN_UP:
            yield from (Finding("gave up", case.id, why) for why in _without_cause(case, result, facts))
            if not case.dead:
                yield Finding("lost", case.id, f"{result.failure.code}, and no dead letter is kept")


def _meaning(result: TokenResult | AttachResult) -> tuple[str | None, ...]:
    """What an outcome says: a store that was wiped may say it again with another time of day."""
    made = result.object_id if isinstance(result, AttachResult) else None
    return result.type, result.token, made, result.failure.code if result.failure else None


def _lies(case: Case, wish: Wish, result: TokenResult | AttachResult, facts: Facts) -> Iterator[str]:
    """What *result* says that the endpoint's own book does not bear out, and the other way round."""
    tokens = [one.token for one in case.made]
    became = [object_id for token in tokens for object_id in facts.uses.get(token, ())]
    if result.token is not None and result.token not in tokens:
        yield f"names {result.token}, which was not made for it"
    if result.failure is None:
        yield from _false_success(wish, result, became)
    else:
        yield from _false_failure(case, wish, result, facts, became)


def _false_success(wish: Wish, result: TokenResult | AttachResult, became: list[str]) -> Iterator[str]:
    """What a success says that is not so. *became*: the objects that the endpoint made of the tokens."""
    if wish not in (TOKEN, OBJECT):
        yield f"succeeded, though the endpoint must refuse it: {wish}"
    if isinstance(result, AttachResult):
        if [result.object_id] != became:
            yield f"says it became {result.object_id}; the endpoint knows {', '.join(became) or 'nothing'}"
    elif wish == OBJECT:
        yield "ends with a token, though it was to be spent"
    elif became:
        yield f"was not to be spent and became {', '.join(became)}"


def _false_failure(
    case: Case, wish: Wish, result: TokenResult | AttachResult, facts: Facts, became: list[str]
) -> Iterator[str]:
    """What a failure says that is not so. *became*: the objects that the endpoint made of the tokens."""
    why = result.failure
    assert why is not None
    if became and why.code not in IN_DOUBT:
        yield f"says {why.code}; the endpoint made {', '.join(became)}"
    if why.code in GIVEN_UP:
        return
    if wish in (TOKEN, OBJECT):
        yield f"says {why.code}; nothing was wrong with the request"
    elif (why.code, why.source) != (wish, "endpoint"):
        yield f"says {why.code} ({why.source}); the endpoint must refuse it: {wish}"
    elif not any(call.refused for call in _calls_of(case, result, facts)):
        yield f"says {why.code}; the endpoint has refused nothing"
    if case.made and result.token is None:
        yield f"says {why.code}; the endpoint made {', '.join(one.token for one in case.made)}"


def _without_cause(case: Case, result: TokenResult | AttachResult, facts: Facts) -> Iterator[str]:
    """Why there was no reason to give it up."""
    assert result.failure is not None
    code = result.failure.code
    if code == "deliveries_exhausted":
        most = 2 * (1 + facts.deaths)  # of a message that was published twice
        if most <= DELIVERIES:
            yield f"{code}; {facts.deaths} deaths explain {most} deliveries, of {DELIVERIES} that are allowed"
        return
    calls = _calls_of(case, result, facts)
    # A stored 500 would be repeated for ever: a spend is looked into at its first repetition.
    repeats = isinstance(result, AttachResult) and any(call.fault == STORED for call in calls)
    attempts, failed = 2 if repeats else ATTEMPTS, sum(call.failed for call in calls)
    if failed + facts.on_the_way < attempts:
        yield f"{code}; of {attempts} attempts the endpoint has seen {failed} fail"


def _calls_of(case: Case, result: TokenResult | AttachResult, facts: Facts) -> Sequence[Call]:
    """The calls that *result* speaks of: those that were to make the token, or those that were to spend it."""
    if isinstance(result, TokenResult):
        return case.calls
    return facts.calls.get(spend_key(result.token), ()) if result.token else ()
