"""When the store began: known to every process, noticed when it is lost, and accepted by an operator alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.asyncio import Redis

from tokenferry.broker import embedded
from tokenferry.contract.codes import Code
from tokenferry.contract.targets import Charge
from tokenferry.sealing import Signer
from tokenferry_worker.cancelling import cancel_and_wait
from tokenferry_worker.on_redis.birth import MARGIN_MS, StoreBirth
from tokenferry_worker.on_redis.journal import RedisJournal
from tokenferry_worker.on_redis.ledger import RedisLedger
from tokenferry_worker.on_redis.store import Store
from tokenferry_worker.outcomes import DeadLettered
from tokenferry_worker.provider.answers import Answer

from .attaching_story import Story, attacher_of, code_of, result_of
from .standins import MemoryJournal, MemoryLedger, ScriptedEndpoint, StoryClock

pytestmark = pytest.mark.anyio

QUICK = {"look_every": 0.02, "settle": 0.05}


@asynccontextmanager
async def running(store: Store) -> AsyncIterator[StoreBirth]:
    """A worker process that knows when the store began."""
    birth = StoreBirth(store, **QUICK)
    watching = asyncio.create_task(birth.watch())
    try:
        await asyncio.wait_for(birth.known(), 5)
        yield birth
    finally:
        await cancel_and_wait(watching)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(5):
        while not await holds():
            await asyncio.sleep(0.02)


async def born(client: Redis, store: Store) -> int:
    return int(await client.get(store.keys.born) or -1)


async def test_the_first_worker_writes_it_once_and_the_next_ones_keep_it(client: Redis, store: Store) -> None:
    async with running(store) as birth:
        first = await born(client, store)
        assert abs(first - time.time() * 1000) < 5_000
        assert abs(birth.now() - time.time()) < 1
        async with running(store):
            assert await born(client, store) == first
    assert await client.ttl(store.keys.born) == -1


@pytest.mark.parametrize("key", ["journal:request:req-1", "journal:attach:a-1", "token:tok_1"])
async def test_a_store_of_the_version_before_counts_as_old_so_nothing_is_refused(
    client: Redis, store: Store, prefix: str, key: str
) -> None:
    await client.hset(f"{prefix}:{key}", "deliveries", 1)  # type: ignore[misc]
    await client.expire(f"{prefix}:{key}", 60)
    async with running(store):
        assert await born(client, store) == 0


async def test_a_worker_that_starts_after_a_wipe_waits_for_the_running_ones_to_notice(
    client: Redis, store: Store, prefix: str
) -> None:
    async with running(store):
        await client.delete(store.keys.born)
        await client.hset(f"{prefix}:journal:request:req-1", "outcome", "{}")  # type: ignore[misc]
        await client.expire(f"{prefix}:journal:request:req-1", 60)
        async with running(store):
            assert await born(client, store) > 0


async def test_a_wipe_is_noticed_while_workers_run(client: Redis, store: Store, caplog: Any) -> None:
    async with running(store):
        first = await born(client, store)
        await asyncio.sleep(0.05)
        await client.flushdb()
        await until(lambda: _later(client, store, first))
        assert "tokenferry store accept" in caplog.text


async def _later(client: Redis, store: Store, than: int) -> bool:
    return await born(client, store) > than


async def test_a_delivery_learns_of_a_wipe_in_the_round_trip_that_it_makes_anyway(client: Redis, store: Store) -> None:
    journal = RedisJournal(store, "request", days=1)
    before = time.time() * 1000
    assert (await journal.begin("req-1")).born >= before - 1_000
    await client.set(store.keys.born, 7)
    assert (await journal.begin("req-1")).born == 7


async def test_a_backup_that_comes_back_while_workers_run_is_noticed(client: Redis, store: Store) -> None:
    async with running(store) as birth:
        alive = store.keys.alive(birth._process)
        await until(lambda: client.exists(alive))
        await client.set(store.keys.born, 1000)  # began long ago
        await client.set(alive, int(time.time() * 1000) - 2 * MARGIN_MS, px=60_000)  # as two minutes ago
        restored = time.time() * 1000 - 1_000
        await until(lambda: _later(client, store, int(restored)))


async def test_a_store_that_lost_its_last_second_goes_on(client: Redis, store: Store) -> None:
    async with running(store) as birth:
        alive = store.keys.alive(birth._process)
        await until(lambda: client.exists(alive))
        await client.set(store.keys.born, 1000)
        for _ in range(5):
            await client.set(alive, int(time.time() * 1000) - 2_000, px=60_000)
            await asyncio.sleep(0.03)
        assert await born(client, store) == 1000


async def test_what_an_operator_says_is_recorded_and_ends_with_the_next_wipe(client: Redis, store: Store) -> None:
    birth = StoreBirth(store)
    assert (await birth.look()).born == -1
    await birth.look("new")
    began = await birth.accept(who="ada@host", why="a new server")
    assert (await birth.look()).born == 0
    assert (await RedisJournal(store, "request", days=1).begin("req-1")).born == 0
    record = await client.hgetall(store.keys.accepted)  # type: ignore[misc]
    assert (record["born"], record["by"], record["why"]) == (str(began), "ada@host", "a new server")
    await birth.restored(who="ada@host", why="from the backup of Monday")
    assert (await birth.look()).born >= began


async def test_after_a_wipe_no_charge_is_made_twice_until_an_operator_accepts_the_store(
    key_folder: Any, client: Redis, store: Store
) -> None:
    """The same bytes again, from a capture or an old dead letter: the store cannot say that they were carried out."""
    endpoint, world = ScriptedEndpoint(*[Answer("charge", "ch_1", {"id": "ch_1"})] * 2), StoryClock(time.time())
    journal, ledger = RedisJournal(store, "attach", days=1), RedisLedger(store, "main", days=1)
    attacher, limiter = attacher_of(key_folder, endpoint, journal, ledger, world)
    signer = Signer.load(key_folder.worker)
    story = Story(attacher, endpoint, MemoryJournal(), MemoryLedger(), limiter, world, signer)
    now = int(time.time() * 1000)
    order: dict[str, Any] = {
        "target": Charge(amount=100, currency="usd"),
        "token_created_at": now - 1,
        "attach_before": now + 600_000,
    }
    await client.set(store.keys.born, 1000)
    assert result_of(await story.handle(**order)).ok
    await client.flushdb()
    outcome = await story.handle(**order)
    assert isinstance(outcome, DeadLettered)
    assert code_of(outcome) == Code.STORE_IS_YOUNGER
    assert len(endpoint.calls) == 1
    await StoreBirth(store).accept(who="ada@host", why="on purpose")
    assert result_of(await story.handle(attach_id="attach-2", **order)).ok


def test_the_embedded_server_writes_it_at_its_first_start_only(tmp_path: Path) -> None:
    def written(key: str) -> bytes | None:
        server = embedded.ensure(tmp_path / "data", born_key=key)
        with redis.Redis.from_url(server.redis_url) as client:
            found: bytes | None = client.get(key)
        embedded.stop(tmp_path / "data")
        return found

    assert abs(int(written("p:born") or 0) - time.time() * 1000) < 60_000
    assert written("q:born") is None, "the data are there: a worker decides"
