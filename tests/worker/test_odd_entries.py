"""An entry of the store that nobody of us wrote is left out and counted. It does not stop the fleet."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from tokenferry_worker.circuits.breaker import CircuitBreaker
from tokenferry_worker.limits.backpressure import Slot
from tokenferry_worker.limits.pacing import Budget
from tokenferry_worker.on_redis.backpressure import RedisBackpressure
from tokenferry_worker.on_redis.circuits import RedisCircuits
from tokenferry_worker.on_redis.controls import Controls
from tokenferry_worker.on_redis.limiter import RedisLimiter
from tokenferry_worker.on_redis.store import Store

from .standins import watched

pytestmark = pytest.mark.anyio

BUDGET = Budget("main:global", 100.0, in_flight=5)
Write = Callable[[Redis, str], Awaitable[object]]
ODD: dict[str, Write] = {
    "a text": lambda client, key: client.set(key, "x"),
    "a list": lambda client, key: client.rpush(key, "x"),
    "a set": lambda client, key: client.sadd(key, "x"),
    "a hash without times": lambda client, key: client.hset(key, "status", "401"),
    "a hash of words": lambda client, key: client.hset(
        key, mapping=dict.fromkeys(("status", "opened", "probes", "next", "probing", "at", "cuts", "since"), "nan")
    ),
}


@pytest.fixture(params=ODD)
def write(request: pytest.FixtureRequest) -> Write:
    return ODD[request.param]


async def test_a_circuit_that_is_none_holds_nobody_and_the_others_are_seen(
    client: Redis, store: Store, write: Write
) -> None:
    circuits = RedisCircuits(store)
    await circuits.open("main", 401, "unauthorized", "req_1")
    await client.sadd(store.keys.open_circuits, "main/kind/card")
    await write(client, store.keys.circuit("main/kind/card"))
    snapshot = await circuits.snapshot()
    assert list(snapshot.open) == ["main"]
    assert snapshot.odd == 1
    assert await circuits.admit(["main/kind/card"]) == "closed"
    assert await circuits.open("main/kind/card", 402, "refused", "req_2"), "the right entry takes its place"
    assert (await circuits.snapshot()).odd == 0


@pytest.mark.parametrize("action", ["admit", "end_probe", "close", "force"])
async def test_no_question_about_an_odd_circuit_fails(client: Redis, store: Store, write: Write, action: str) -> None:
    circuits = RedisCircuits(store)
    await write(client, store.keys.circuit("main"))
    async with asyncio.timeout(5):
        match action:
            case "admit":
                assert await circuits.admit(["main"]) == "closed"
            case "end_probe":
                await circuits.end_probe("main", failed=True)
            case "close":
                assert await circuits.close("main") is None
            case "force":
                assert not await circuits.force("main")
    await client.delete(store.keys.circuit("main"))


async def test_odd_counts_of_parked_messages_are_left_out(client: Redis, store: Store) -> None:
    circuits = RedisCircuits(store)
    await client.hset(store.keys.parked, mapping={"main/kind/card": "many", "main/kind/pii": "3"})
    snapshot = await circuits.snapshot()
    assert snapshot.parked == {"main/kind/pii": 3}
    assert snapshot.odd == 1
    await circuits.count_parked("main/kind/card")
    assert (await circuits.snapshot()).parked["main/kind/card"] == 1


@pytest.mark.parametrize("name", ["open_circuits", "parked"])
async def test_a_whole_key_of_another_type_is_counted_and_written_anew(client: Redis, store: Store, name: str) -> None:
    circuits = RedisCircuits(store)
    await client.set(getattr(store.keys, name), "x")
    assert (await circuits.snapshot()).odd == 1
    await circuits.open("main", 401, "unauthorized", "req_1")
    await circuits.count_parked("main")
    snapshot = await circuits.snapshot()
    assert (list(snapshot.open), snapshot.parked, snapshot.odd) == (["main"], {"main": 1}, 0)


async def test_the_log_says_that_entries_were_left_out(
    client: Redis, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    await client.sadd(store.keys.open_circuits, "main")
    await client.set(store.keys.circuit("main"), "x")
    breaker = CircuitBreaker(RedisCircuits(store), look_every=0.01)
    with caplog.at_level(logging.ERROR):
        async with watched(breaker), asyncio.timeout(10):
            while "1 left out" not in caplog.text:
                await asyncio.sleep(0.01)
    await client.delete(store.keys.circuit("main"), store.keys.open_circuits)


async def test_a_budget_that_is_none_stops_no_call(client: Redis, store: Store, write: Write) -> None:
    limiter = RedisLimiter(store)
    key = store.keys.budget(BUDGET.name)
    for each in (key, f"{key}:calls", store.keys.line([BUDGET])):
        await client.delete(each)
        await write(client, each)
    async with asyncio.timeout(5):
        for _ in range(3):
            async with limiter.permit([BUDGET], "bulk"):
                pass
        await limiter.back_off(BUDGET, 0.01)
    await limiter.aclose()


async def test_odd_slots_and_an_odd_history_fail_nothing(client: Redis, store: Store, write: Write) -> None:
    slot, controls = Slot(BUDGET.name, 10), Controls(store)
    await write(client, store.keys.ahead(slot.name))
    assert await RedisBackpressure(store).acquire("req-1", [slot], lasts=10)
    await write(client, store.keys.changes)
    assert await controls.history(20) == []
    await controls.command("pause", BUDGET, who="me", why="a test", lasts=60)
    assert [change.what for change in await controls.history(20)] == ["paused"]


@pytest.mark.parametrize("line", ["x", "{}", "[]", json.dumps({"at": "nan", "who": 1}), '{"at": 1, "who": {}}'])
async def test_a_change_that_cannot_be_read_is_left_out(client: Redis, store: Store, line: str) -> None:
    controls = Controls(store)
    await controls.command("resume", BUDGET, who="me", why="a test")
    await client.lpush(store.keys.changes, line)
    assert [change.what for change in await controls.history(20)] == ["resumed"]
