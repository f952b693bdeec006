"""The wall clock decides about deadlines of requests and nothing else: a jump of it loses and doubles nothing."""

from __future__ import annotations

import pytest

from tokenferry.contract.codes import Code
from tokenferry_worker.provider.answers import Answer

from .standins import NOW, Step, timed_out, token
from .test_tokenizing import Story, Tell, failure_of, settled, tell

__all__ = ["tell"]

pytestmark = pytest.mark.anyio

HOUR = 3600.0


def jumps(story: Story, seconds: float) -> Step:
    """A call during which the clock jumps, and which nobody answers."""

    async def call() -> Answer:
        story.clock.clock += seconds
        raise timed_out()

    return call


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
async def test_a_request_whose_deadline_is_far_is_done_once_whatever_the_clock_does(tell: Tell, seconds: float) -> None:
    story = tell()
    story.endpoint.script += [jumps(story, seconds), jumps(story, -seconds), token("tok_1")]
    first = settled(await story.handle())
    assert first.token == "tok_1"
    assert len(set(story.endpoint.keys)) == 1  # the same call again, not another one
    assert settled(await story.handle()) == first  # a redelivery hears the same
    assert len(story.endpoint.calls) == 3


async def test_a_deadline_that_a_jump_forward_has_passed_is_told_as_expired_and_that_is_final(tell: Tell) -> None:
    story = tell()
    body = story.sealed(expires_at=int((NOW + HOUR / 2) * 1000))
    story.endpoint.script += [jumps(story, HOUR)]
    outcome = await story.handle(body)
    assert failure_of(outcome).code == Code.EXPIRED
    story.clock.clock -= HOUR  # and back again: no second opinion
    assert failure_of(await story.handle(body)) == failure_of(outcome)
    assert len(story.endpoint.calls) == 1


async def test_a_jump_back_lets_a_request_live_longer_by_as_much(tell: Tell) -> None:
    story = tell()
    story.endpoint.script += [jumps(story, -HOUR), token("tok_1")]
    story.clock.clock = NOW + HOUR - 1
    assert settled(await story.handle(story.sealed(expires_at=int((NOW + HOUR) * 1000)))).token == "tok_1"
