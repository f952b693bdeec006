"""Even pacing: the arithmetic, and the waiting room in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenferry.contract.names import Lane
from tokenferry_worker.limits.pacing import Budget, Gate, PermitReply, take

BUDGET = Budget("b", per_second=25, burst=2)


rates = st.sampled_from([0.5, 1.0, 5.0, 25.0, 30.0, 100.0])
budgets_ = st.lists(st.builds(Budget, st.just("b"), rates, st.integers(1, 10)), min_size=1, max_size=3)
gaps_ = st.lists(
    st.tuples(st.floats(0, 2) | st.just(0.0), st.sampled_from(["realtime", "bulk"])), min_size=1, max_size=60
)
WHOLE = 1e-6
"""Seconds: less than this is rounding."""


def made(budgets: Sequence[Budget], asked: Sequence[tuple[float, Lane]], *, waits: bool) -> list[float]:
    """When calls are made, asked for after these gaps; who *waits* asks again exactly when told."""
    now, arrivals, calls = 1000.0, [0.0] * len(budgets), []
    for gap, lane in asked:
        now += gap
        arrivals, wait = take(arrivals, budgets, lane, now=now)
        while wait and waits:
            now += wait
            arrivals, wait = take(arrivals, budgets, lane, now=now)
        if not wait:
            calls.append(now)
    return calls


@given(budgets=budgets_, asked=gaps_, waits=st.booleans())
def test_no_second_ever_sees_more_calls_than_any_budget_allows(
    budgets: list[Budget], asked: list[tuple[float, Lane]], waits: bool
) -> None:
    calls = made(budgets, asked, waits=waits)
    for budget in budgets:
        for first in calls:
            assert sum(first <= call < first + 1.0 - WHOLE for call in calls) <= budget.per_second + budget.burst


@given(budgets=budgets_, calls=st.integers(1, 200), lane=st.sampled_from(["realtime", "bulk"]))
def test_who_always_waits_loses_no_capacity(budgets: list[Budget], calls: int, lane: Lane) -> None:
    last = made(budgets, [(0.0, lane)] * calls, waits=True)[-1]
    at_once = [max(1, budget.burst - (lane == "bulk")) for budget in budgets]
    expected = max(0.0, *((calls - n) * budget.interval for n, budget in zip(at_once, budgets, strict=True)))
    assert last - 1000.0 == pytest.approx(expected, abs=1e-5)


@given(budgets=budgets_, asked=gaps_)
def test_a_call_is_taken_from_every_budget_or_from_none(budgets: list[Budget], asked: list[tuple[float, Lane]]) -> None:
    now, arrivals = 1000.0, [0.0] * len(budgets)
    for gap, lane in asked:
        now += gap
        after, wait = take(arrivals, budgets, lane, now=now)
        if wait:
            assert after == arrivals
        else:
            assert all(new >= old + 0.99 * b.interval for new, old, b in zip(after, arrivals, budgets, strict=True))
        arrivals = after


@given(rate=rates, burst=st.integers(2, 10))
def test_when_bulk_has_taken_all_it_gets_a_realtime_request_still_finds_a_place(rate: float, burst: int) -> None:
    budget = Budget("b", rate, burst)
    arrivals, wait = [0.0], 0.0
    while not wait:
        arrivals, wait = take(arrivals, [budget], "bulk", now=1000.0)
    assert take(arrivals, [budget], "realtime", now=1000.0)[1] == pytest.approx(0.0, abs=1e-9)


class CountingLimiter:
    """Grants every question, when it may; counts them, and says how long until the next is worth asking."""

    def __init__(self, ask_again: float = 0.0, refusals: int = 0) -> None:
        self.ask_again = ask_again
        self.refusals = refusals
        self.granted = 0
        self.open = 0
        self.most_open = 0
        self.asked: list[tuple[Lane, bool]] = []
        self.go = asyncio.Event()
        self.go.set()

    async def ask(self, budgets: Sequence[Budget], lane: Lane, more: bool) -> PermitReply:
        self.asked.append((lane, more))
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        await self.go.wait()
        self.open -= 1
        if self.refusals:
            self.refusals -= 1
            return PermitReply(False, self.ask_again or 0.001)
        self.granted += 1
        return PermitReply(True, self.ask_again)


pytestmark = pytest.mark.anyio


async def settled() -> None:
    """Let everything that can run now run."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_realtime_goes_before_bulk_and_within_a_lane_who_came_first() -> None:
    limiter, served = CountingLimiter(), []
    limiter.go.clear()
    gate = Gate([BUDGET], limiter.ask)

    async def ask(name: str) -> None:
        await gate.permit("realtime" if name.startswith("r") else "bulk")
        served.append(name)

    asking = []
    for name in ["b1", "b2", "r1", "b3", "r2"]:
        asking.append(asyncio.create_task(ask(name)))
        await settled()
    limiter.go.set()
    await asyncio.gather(*asking)
    assert served == ["r1", "r2", "b1", "b2", "b3"]


async def test_a_realtime_request_gets_the_call_that_was_asked_for_bulk() -> None:
    limiter, served = CountingLimiter(), []
    limiter.go.clear()
    gate = Gate([BUDGET], limiter.ask)

    async def ask(name: str) -> None:
        await gate.permit("realtime" if name.startswith("r") else "bulk")
        served.append(name)

    bulk = asyncio.create_task(ask("b1"))
    await settled()
    realtime = asyncio.create_task(ask("r1"))
    await settled()
    limiter.go.set()
    await asyncio.gather(bulk, realtime)
    assert served == ["r1", "b1"]
    assert limiter.granted == 2


async def test_a_realtime_request_does_not_wait_for_the_turn_bulk_was_given() -> None:
    limiter = CountingLimiter(ask_again=3600.0, refusals=1)
    gate = Gate([BUDGET], limiter.ask)
    bulk = asyncio.create_task(gate.permit("bulk"))
    await settled()
    await asyncio.wait_for(gate.permit("realtime"), 30)
    assert not bulk.done()
    bulk.cancel()
    gate._serving.cancel()  # type: ignore[union-attr]
    assert limiter.asked[:2] == [("bulk", False), ("realtime", True)]


async def test_who_is_refused_asks_again_until_granted() -> None:
    limiter = CountingLimiter(refusals=5)
    await asyncio.wait_for(Gate([BUDGET], limiter.ask).permit("bulk"), 30)
    assert (limiter.granted, len(limiter.asked)) == (1, 6)


async def test_the_limiter_is_told_whether_somebody_waits_behind() -> None:
    limiter = CountingLimiter()
    gate = Gate([BUDGET], limiter.ask)
    await asyncio.gather(*(gate.permit("bulk") for _ in range(3)))
    assert [more for _, more in limiter.asked] == [True, True, False]


async def test_one_process_never_has_more_than_one_question_open() -> None:
    limiter = CountingLimiter()
    gate = Gate([BUDGET], limiter.ask)
    await asyncio.gather(*(gate.permit("bulk") for _ in range(50)))
    assert (limiter.most_open, limiter.granted) == (1, 50)


async def test_a_cancelled_waiter_costs_no_call() -> None:
    limiter = CountingLimiter()
    limiter.go.clear()
    gate = Gate([BUDGET], limiter.ask)
    waiting = [asyncio.create_task(gate.permit("bulk")) for _ in range(10)]
    await settled()
    for task in waiting[::2]:
        task.cancel()
    await settled()
    limiter.go.set()
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [isinstance(end, asyncio.CancelledError) for end in ended] == [True, False] * 5
    assert limiter.granted == 5


class Seats:
    """Counts the calls under way that a limiter grants, and what is given back."""

    def __init__(self, limiter: CountingLimiter) -> None:
        self.limiter = limiter
        self.taken: set[str] = set()

    async def ask(self, budgets: Sequence[Budget], lane: Lane, more: bool) -> PermitReply:
        reply = await self.limiter.ask(budgets, lane, more)
        if not reply.granted:
            return reply
        call = f"call-{self.limiter.granted}"
        self.taken.add(call)
        return PermitReply(True, reply.ask_again, call)

    def give_back(self, _budgets: Sequence[Budget], call: str) -> None:
        self.taken.remove(call)


async def test_a_call_that_is_granted_when_nobody_waits_any_more_is_given_back() -> None:
    limiter = CountingLimiter()
    limiter.go.clear()
    seats = Seats(limiter)
    gate = Gate([BUDGET], seats.ask, seats.give_back)
    gone = asyncio.create_task(gate.permit("bulk"))
    await settled()
    gone.cancel()
    limiter.go.set()
    await settled()
    assert (limiter.granted, seats.taken) == (1, set())


@pytest.mark.parametrize("somebody_waits", [True, False])
async def test_a_call_granted_in_the_turn_of_the_cancellation_goes_to_the_next_one_or_back(
    somebody_waits: bool,
) -> None:
    limiter = CountingLimiter(ask_again=3600.0)
    seats = Seats(limiter)
    gate = Gate([BUDGET], seats.ask, seats.give_back)
    gone = asyncio.create_task(gate.permit("bulk"))
    others = [asyncio.create_task(gate.permit("bulk"))] if somebody_waits else []
    while not limiter.granted:
        await asyncio.sleep(0)
    assert not gone.done(), "it learns of its call in the next turn"
    gone.cancel()
    ended = await asyncio.wait_for(asyncio.gather(gone, *others, return_exceptions=True), 30)
    assert isinstance(ended[0], asyncio.CancelledError)
    assert seats.taken == set(ended[1:])
    gate._serving.cancel()  # type: ignore[union-attr]


async def test_a_gate_is_idle_only_when_nobody_waits_and_no_rest_has_to_be_kept() -> None:
    limiter = CountingLimiter()
    limiter.go.clear()
    gate = Gate([BUDGET], limiter.ask)
    assert gate.idle
    waiting = asyncio.create_task(gate.permit("bulk"))
    await settled()
    assert not gate.idle
    limiter.ask_again = 0.1
    limiter.go.set()
    await waiting
    assert not gate.idle, "the next question is to be asked a moment later"
    assert gate._serving is not None
    await asyncio.wait_for(gate._serving, 30)
    assert gate.idle


async def test_after_everybody_left_the_gate_serves_the_next_one() -> None:
    limiter = CountingLimiter()
    limiter.go.clear()
    gate = Gate([BUDGET], limiter.ask)
    gone = asyncio.create_task(gate.permit("bulk"))
    await settled()
    gone.cancel()
    limiter.go.set()
    await settled()
    await asyncio.wait_for(gate.permit("bulk"), 30)


async def test_an_error_reaches_everybody_who_waits_and_the_gate_recovers() -> None:
    class Broken(Exception):
        pass

    limiter = CountingLimiter()
    broken = True

    async def ask_or_fail(budgets: Sequence[Budget], lane: Lane, more: bool) -> PermitReply:
        await limiter.go.wait()
        if broken:
            raise Broken
        return await limiter.ask(budgets, lane, more)

    limiter.go.clear()
    gate = Gate([BUDGET], ask_or_fail)
    waiting = [asyncio.create_task(gate.permit("bulk")) for _ in range(5)]
    await settled()
    limiter.go.set()
    assert [type(end) for end in await asyncio.gather(*waiting, return_exceptions=True)] == [Broken] * 5
    broken = False
    await asyncio.wait_for(gate.permit("realtime"), 30)
