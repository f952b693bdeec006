"""The attempts of one call, cancelled at any moment."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from redis.asyncio import Redis

from tokenferry.configuration import LimitSettings, Platform
from tokenferry_worker.circuits.breaker import CircuitBreaker
from tokenferry_worker.circuits.scopes import CallScope
from tokenferry_worker.clock import SystemClock
from tokenferry_worker.limits.budgets import Budgets
from tokenferry_worker.on_redis.limiter import RedisLimiter
from tokenferry_worker.on_redis.store import Store
from tokenferry_worker.provider.answers import Answer
from tokenferry_worker.provider.attempts import Attempts, Caller, CallPlan, TooLate
from tokenferry_worker.provider.platforms import PlatformContext

from .standins import MemoryCircuits, ScriptedEndpoint

pytestmark = pytest.mark.anyio

LIMITS = LimitSettings(global_per_second=50_000, endpoint_per_second=50_000, burst=100, in_flight={"tokens": 1})
DESK = PlatformContext("main", ScriptedEndpoint(), Budgets("main", Platform(limits=LIMITS)), live=False)


@pytest.mark.parametrize("seed", range(4))
async def test_a_delivery_that_is_called_off_or_too_late_leaves_no_call_under_way(
    client: Redis, store: Store, seed: int
) -> None:
    dice, world = random.Random(seed), SystemClock()
    limiter, circuits = RedisLimiter(store), CircuitBreaker(MemoryCircuits())
    budgets = DESK.budgets.tokens()

    async def call() -> Answer:
        for _ in range(dice.randint(0, 5)):
            await asyncio.sleep(0)
        return Answer("token", "tok_1", {})

    async def deliver() -> Answer:
        until = world.now() + dice.choice([0.0005, 0.002, 60.0])
        scope = CallScope("main", "tokens", "card")
        plan = CallPlan(DESK, scope, "bulk", budgets, until=until, may_park=False)
        return await Attempts(Caller(limiter, circuits, world, attempts=3), plan).run(call)

    ended: list[Any] = []
    async with asyncio.timeout(90):
        for _ in range(40):
            deliveries = [asyncio.create_task(deliver()) for _ in range(dice.randint(1, 3))]
            for each in deliveries:
                if dice.random() < 0.5:
                    await asyncio.sleep(dice.choice([0.0, 0.0005, 0.001, 0.003]))
                    each.cancel()
            # The one seat: were it lost, the next ones would wait for it for two minutes.
            ended += await asyncio.gather(*deliveries, return_exceptions=True)
        await limiter.aclose()
    assert await client.zcard(store.keys.budget("main:endpoint:tokens:calls")) == 0
    assert {type(end) for end in ended} <= {Answer, asyncio.CancelledError, TooLate}
    await store.aclose()
