"""The rate of the fleet, as Lua on the server's clock, held against the arithmetic it must equal."""

from __future__ import annotations

import asyncio
import random
import time
from itertools import pairwise

import pytest
from redis.asyncio import Redis

from tokenferry.contract.names import LANES
from tokenferry_worker.on_redis.limiter import MICROSECONDS, RedisLimiter, numbers
from tokenferry_worker.on_redis.store import Script, Store
from tokenferry_worker.pacing import Budget, take

pytestmark = pytest.mark.anyio


def on_a_clock_of_ours(script: Script) -> Script:
    """The same script, told the time in its last two arguments instead of asking the server."""
    told = script.source.replace("redis.call('TIME')", "{ARGV[#ARGV - 1], ARGV[#ARGV]}")
    assert told != script.source
    script.source = told
    return script


@pytest.mark.parametrize("seed", range(5))
async def test_the_script_takes_exactly_what_the_arithmetic_takes(client: Redis, store: Store, seed: int) -> None:
    dice = random.Random(seed)
    permit = on_a_clock_of_ours(Script("permit"))
    compared = 0
    for schedule in range(12):
        budgets = [
            Budget(f"{schedule}-{n}", dice.choice([0.5, 5, 25, 30, 100, 333]), dice.randint(1, 5))
            for n in range(dice.randint(1, 3))
        ]
        keys = [store.key("budget", budget.name) for budget in budgets]
        now = dice.randint(1_000, 2_000) * MICROSECONDS
        for _ in range(15):
            now += dice.choice([0, 0, 1, dice.randint(0, 20_000), dice.randint(0, 3_000_000)])
            lane, more = dice.choice(LANES), dice.choice([0, 1])
            before = [int(arrival or 0) / MICROSECONDS for arrival in await client.mget(keys)]
            rates = [x for budget in budgets for x in numbers(budget, lane)]
            clock = [now // MICROSECONDS, now % MICROSECONDS]
            line = store.key("line", str(schedule))
            granted, again = await store.run(permit, [line, *keys], [more, lane, *rates, *clock])
            after = [int(arrival or 0) / MICROSECONDS for arrival in await client.mget(keys)]
            expected, wait = take(before, budgets, lane, now=now / MICROSECONDS)
            if granted != (wait == 0.0):
                # Only where the moment falls on the microsecond: intervals are rounded up, so as to be late, not early.
                assert max(wait, 0 if granted else int(again) / MICROSECONDS) <= 10e-6
                continue
            compared += 1
            assert after == pytest.approx(expected, abs=3e-6)
            if not granted:
                assert int(again) / MICROSECONDS >= wait - 3e-6
                if lane == "realtime":
                    assert int(again) / MICROSECONDS == pytest.approx(wait, abs=10e-6)
    assert compared > 150


async def waits(limiter: RedisLimiter, budgets: list[Budget]) -> float:
    """How long a realtime request would wait now; where it would not, it takes the call."""
    word = await limiter.ask(budgets, "realtime", False)
    assert word.granted == (word.ask_again == 0.0)
    return word.ask_again


async def test_the_server_keeps_the_time_and_books_nothing_ahead(client: Redis, store: Store) -> None:
    limiter = RedisLimiter(store)
    budget = Budget("main:global", per_second=10, burst=1)
    assert await waits(limiter, [budget]) == 0.0
    told = [await waits(limiter, [budget]) for _ in range(3)]
    assert 0 < told[-1] <= told[0] <= 0.1
    seconds, micros = await client.time()
    arrival = int(await client.get(store.key("budget", budget.name))) / MICROSECONDS
    assert arrival - (int(seconds) + int(micros) / MICROSECONDS) <= 0.1


async def test_everybody_who_is_refused_gets_a_turn_of_its_own(store: Store) -> None:
    limiter = RedisLimiter(store)
    budget = Budget("main:global", per_second=2, burst=1)
    assert (await limiter.ask([budget], "bulk", False)).granted
    words = [await limiter.ask([budget], "bulk", False) for _ in range(4)]
    assert not any(word.granted for word in words)
    turns = [word.ask_again for word in words]
    assert 0.4 < turns[0] <= 0.5
    assert [round(later - earlier, 1) for earlier, later in pairwise(turns)] == [0.5, 0.5, 0.5]


async def test_realtime_does_not_stand_in_line(store: Store) -> None:
    limiter = RedisLimiter(store)
    budget = Budget("main:global", per_second=2, burst=2)
    while (await limiter.ask([budget], "bulk", True)).granted:
        pass
    assert (await limiter.ask([budget], "realtime", False)).granted


async def test_two_workers_together_keep_one_budget(client: Redis, prefix: str) -> None:
    fleet = [RedisLimiter(Store(client, prefix)) for _ in range(2)]
    budget = Budget("main:endpoint:tokens", per_second=100, burst=2)
    began, made = time.monotonic(), []

    async def call(limiter: RedisLimiter) -> None:
        await limiter.permit([budget], "bulk")
        made.append(time.monotonic() - began)

    await asyncio.gather(*(call(limiter) for limiter in fleet for _ in range(15)))
    assert len(made) == 30
    # Never early: call n may be made when n minus the burst intervals have passed.
    early = [n for n, at in enumerate(sorted(made)) if at < (n + 1 - budget.burst) * budget.interval - 0.002]
    assert early == []
    assert max(made) < 2.0


async def test_the_tightest_of_several_budgets_decides_and_nothing_is_taken_by_halves(store: Store) -> None:
    limiter = RedisLimiter(store)
    wide, tight = Budget("wide", per_second=10, burst=1), Budget("tight", per_second=1, burst=1)
    assert await waits(limiter, [wide, tight]) == 0.0
    assert 0.9 < await waits(limiter, [wide, tight]) <= 1.0
    # Only the one call that was made counts against the wide budget, not the one that was refused.
    assert await waits(limiter, [wide]) <= 0.1


async def test_after_a_push_back_nobody_calls_for_that_long(store: Store) -> None:
    limiter = RedisLimiter(store)
    budget = Budget("main:global", per_second=100, burst=5)
    await limiter.push_back(budget, 0.5)
    assert 0.4 < await waits(limiter, [budget]) <= 0.5


async def test_a_hundred_refusals_at_once_are_one_piece_of_news(store: Store) -> None:
    limiter = RedisLimiter(store)
    budget = Budget("main:global", per_second=100, burst=5)
    await asyncio.gather(*(limiter.push_back(budget, 0.5) for _ in range(100)))
    assert 0.3 < await waits(limiter, [budget]) <= 0.5


async def test_a_push_back_never_brings_a_call_forward(store: Store) -> None:
    limiter = RedisLimiter(store)
    budget = Budget("slow", per_second=1, burst=1)
    await waits(limiter, [budget])
    await limiter.push_back(budget, 0.1)
    assert 0.5 < await waits(limiter, [budget]) <= 1.0


async def test_a_push_back_is_heard_by_the_whole_fleet(client: Redis, prefix: str) -> None:
    one, other = RedisLimiter(Store(client, prefix)), RedisLimiter(Store(client, prefix))
    budget = Budget("main:global", per_second=100, burst=2)
    await one.push_back(budget, 0.15)
    began = time.monotonic()
    await other.permit([budget], "realtime")
    assert time.monotonic() - began >= 0.14
