"""What a run says of notices: each reason once when it begins, once when it is over, and nothing that is stale."""

from __future__ import annotations

import pytest

from tokenferry.bulk.waiting import STALE, Waiting, WaitingReasons
from tokenferry.contract.notices import Notice

OUTAGE = Notice(platform="main", reason="circuit_open", code="no_answer", scope="main/outage", since=2_000)
PAUSED = Notice(platform="main", reason="paused", code="operator", scope="main:global", since=1_000, until=90_000)


class Seconds:
    """A clock that moves when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def said() -> list[str]:
    return []


def over(notice: Notice) -> Notice:
    return notice.model_copy(update={"over": True})


def test_a_reason_is_said_when_it_begins_and_when_it_is_over_and_not_between(said: list[str]) -> None:
    reasons = WaitingReasons(said.append)
    for notice in (OUTAGE, OUTAGE, PAUSED, over(OUTAGE), over(OUTAGE)):
        reasons.take(notice)
    assert [line.partition(", since ")[0] for line in said] == [
        "waiting: the workers make no call of main/outage (no_answer)",
        "waiting: an operator has paused main:global",
        "over: the workers make no call of main/outage (no_answer)",
    ]
    assert ", until " in said[1]
    assert reasons.current == (Waiting("paused", "main:global", 1_000, 90_000, "operator"),)


def test_reasons_in_force_come_oldest_first(said: list[str]) -> None:
    reasons = WaitingReasons(said.append)
    reasons.take(OUTAGE)
    reasons.take(PAUSED)
    assert [each.reason for each in reasons.current] == ["paused", "circuit_open"]


def test_a_reason_that_no_worker_repeats_counts_no_longer_and_is_said_again_when_it_comes_back(said: list[str]) -> None:
    clock = Seconds()
    reasons = WaitingReasons(said.append, clock=clock)
    reasons.take(OUTAGE)
    clock.now = STALE - 1
    assert len(reasons.current) == 1
    clock.now = STALE + 1
    assert reasons.current == ()
    reasons.take(OUTAGE)
    assert len(said) == 2
