"""The one connection to the store: sent together, asked again, never forgotten."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from e2e.brokers import kill_synced
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from tokenferry.broker import embedded
from tokenferry.broker.embedded import EmbeddedServerUnavailable
from tokenferry_worker.on_redis.journal import RedisJournal
from tokenferry_worker.on_redis.store import TOGETHER, Script, Store, now_at

from .conftest import DATABASE

pytestmark = pytest.mark.anyio


class CountingRedis(Redis):
    """Counts how often it sends scripts, and how many together."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.sizes: list[int] = []

    def pipeline(self, *args: Any, **options: Any) -> Any:
        pipeline = super().pipeline(*args, **options)
        execute = pipeline.execute

        async def counted(**how: Any) -> Any:
            self.sizes.append(len(pipeline))
            return await execute(**how)

        pipeline.execute = counted  # type: ignore[method-assign]
        return pipeline


@pytest.fixture
async def counting(client: Redis, valkey: embedded.Embedded) -> AsyncIterator[CountingRedis]:
    counting = CountingRedis.from_url(valkey.database(DATABASE).redis_url, decode_responses=True, protocol=2)
    yield counting
    await counting.aclose()


async def test_what_is_asked_during_a_round_trip_goes_together_with_the_next(
    counting: CountingRedis, prefix: str
) -> None:
    journal = RedisJournal(Store(counting, prefix), "request", days=1)
    begun = await asyncio.gather(*(journal.begin(f"req-{n}") for n in range(300)))
    assert [each.deliveries for each in begun] == [1] * 300
    assert sum(counting.sizes) == 300
    assert len(counting.sizes) <= 2


async def test_one_round_trip_carries_a_bounded_number_of_scripts(counting: CountingRedis, prefix: str) -> None:
    journal = RedisJournal(Store(counting, prefix), "request", days=1)
    await asyncio.gather(*(journal.begin("req-1") for _ in range(TOGETHER + 100)))
    assert max(counting.sizes) <= TOGETHER
    assert (await journal.begin("req-1")).deliveries == TOGETHER + 101


async def test_every_caller_gets_its_own_answer(store: Store) -> None:
    journal = RedisJournal(store, "request", days=1)
    await asyncio.gather(*(journal.record(f"req-{n}", f"outcome {n}") for n in range(200)))
    known = await asyncio.gather(*(journal.begin(f"req-{n}") for n in range(200)))
    assert [each.outcome for each in known] == [f"outcome {n}" for n in range(200)]


async def test_a_server_that_forgot_its_scripts_is_told_them_again(client: Redis, store: Store) -> None:
    journal = RedisJournal(store, "request", days=1)
    await journal.begin("req-1")
    await client.script_flush()
    begun = await asyncio.gather(*(journal.begin("req-1") for _ in range(20)))
    assert sorted(each.deliveries for each in begun) == list(range(2, 22))


async def test_its_clock_is_the_servers_and_not_ours(valkey: embedded.Embedded) -> None:
    class LongAgo(Store):
        """A store whose server has another time."""

        async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
            assert (script.name, keys, args) == ("clock", [], [])
            return ["5", "250000"]

    really, store = time.time(), Store.at(valkey.redis_url, "test-clock")
    assert abs(await store.now() - really) < 60
    await store.aclose()
    other = LongAgo.at(valkey.redis_url, "test-clock")
    assert await other.now() == 5.25
    await other.aclose()
    assert abs(now_at(valkey.redis_url, "tokenferry", local=lambda: 0.0) - really) < 60
    assert now_at("redis://127.0.0.1:1", "tokenferry", local=lambda: 0.0) == 0.0, (
        "nobody is held up where the store is away"
    )


async def test_a_cancelled_caller_disturbs_nobody(store: Store) -> None:
    journal = RedisJournal(store, "request", days=1)
    asking = [asyncio.create_task(journal.record(f"req-{n}", f"outcome {n}")) for n in range(50)]
    await asyncio.sleep(0)
    for task in asking[::2]:
        task.cancel()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert answers[1::2] == [f"outcome {n}" for n in range(1, 50, 2)]
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::2])


async def test_a_script_that_fails_is_waited_for_and_said_and_holds_up_no_other(
    client: Redis, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A missing right, or a key of another shape: no request is to blame, so none may be given up on for it."""
    journal = RedisJournal(store, "request", days=1)
    await client.set(store.keys.journal("request", "x"), "no hash", px=60_000)
    begun = [asyncio.create_task(journal.begin("x")) for _ in range(2)]
    async with asyncio.timeout(30):
        while "refuses the script 'begin'" not in caplog.text:
            await asyncio.sleep(0.01)
        assert (await journal.begin("y")).deliveries == 1
        await client.delete(store.keys.journal("request", "x"))
        assert sorted(each.deliveries for each in await asyncio.gather(*begun)) == [1, 2]
    assert caplog.text.count("refuses the script") == 1
    assert not store.away


async def test_a_command_is_told_what_the_store_says_instead(client: Redis, prefix: str) -> None:
    broken = Script("record")
    store = Store(client, prefix, patient=False)
    journal = RedisJournal(store, "request", days=1)
    with pytest.raises(ResponseError):
        await store.run(broken, [store.keys.journal("request", "x")], ["outcome", "no number"])
    assert (await journal.begin("y")).deliveries == 1
    await journal.record("x", "outcome")  # with a lifetime this time: the broken call left none


async def test_an_error_nobody_foresaw_reaches_the_caller_instead_of_hanging_it(
    client: Redis, valkey: embedded.Embedded, prefix: str
) -> None:
    class Surprise(Exception):
        pass

    class SurprisingRedis(Redis):
        """Fails at its first pipeline, in a way of its own."""

        surprises = 1

        def pipeline(self, *args: Any, **options: Any) -> Any:
            if self.surprises:
                self.surprises -= 1
                raise Surprise
            return super().pipeline(*args, **options)

    store = Store(
        SurprisingRedis.from_url(valkey.database(DATABASE).redis_url, decode_responses=True, protocol=2), prefix
    )
    journal = RedisJournal(store, "request", days=1)
    with pytest.raises(Surprise):
        await asyncio.wait_for(journal.begin("req-1"), 30)
    assert (await journal.begin("req-1")).deliveries == 1
    await store.aclose()


def own_server(folder: Path) -> embedded.Embedded:
    """One that may be hurt."""
    try:
        return embedded.ensure(folder, owner=True)
    except EmbeddedServerUnavailable as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("setting", ["maxmemory", "min-replicas-to-write"], ids=["full", "without its replica"])
async def test_while_the_store_refuses_to_write_everybody_waits_and_then_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, setting: str
) -> None:
    server = own_server(tmp_path / "valkey")
    store, operator = Store.at(server.redis_url, "test-refused"), Redis.from_url(server.redis_url)
    try:
        journal = RedisJournal(store, "request", days=1)
        await operator.config_set(setting, 1)
        asking = [asyncio.create_task(journal.begin("req-1")) for _ in range(20)]
        async with asyncio.timeout(30):
            while "away" not in caplog.text:
                await asyncio.sleep(0.01)
        assert not any(task.done() for task in asking)
        await operator.config_set(setting, 0)
        begun = await asyncio.wait_for(asyncio.gather(*asking), 30)
        assert sorted(each.deliveries for each in begun) == list(range(1, 21))
    finally:
        await store.aclose()
        await operator.aclose()
        embedded.stop(tmp_path / "valkey")


async def test_a_short_absence_is_waited_for_also_by_who_could_do_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = own_server(tmp_path / "valkey")
    store = Store.at(server.redis_url, "test-short", patience=60.0)
    hasty, clock = Store.at(server.redis_url, "test-short", patience=0.5), Script("clock")
    try:
        assert await hasty.run_unless_away(clock, [], []) is not None
        kill_synced(server.pid, server.redis_url)
        first = asyncio.create_task(store.run_unless_away(clock, [], []))
        async with asyncio.timeout(30):
            while "away" not in caplog.text:
                await asyncio.sleep(0.01)
        second = asyncio.create_task(store.run_unless_away(clock, [], []))
        await asyncio.sleep(0)  # it has begun
        assert await hasty.run_unless_away(clock, [], []) is None, "long enough"
        assert await asyncio.to_thread(embedded.ensure, tmp_path / "valkey", owner=True)
        assert None not in await asyncio.wait_for(asyncio.gather(first, second), 30)
    finally:
        await store.aclose()
        await hasty.aclose()
        embedded.stop(tmp_path / "valkey")


async def test_while_the_store_is_away_everybody_waits_and_then_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = own_server(tmp_path / "valkey")
    store = Store.at(server.redis_url, "test-away")
    try:
        journal = RedisJournal(store, "request", days=1)
        await journal.record("req-1", "kept")
        kill_synced(server.pid, server.redis_url)
        asking = [asyncio.create_task(journal.begin("req-1")) for _ in range(20)]
        late = asyncio.create_task(journal.begin("req-2"))
        async with asyncio.timeout(30):
            while "away" not in caplog.text:
                await asyncio.sleep(0.01)
        assert not any(task.done() for task in asking)
        late.cancel()
        assert embedded.ensure(tmp_path / "valkey", owner=True).redis_url == server.redis_url
        begun = await asyncio.wait_for(asyncio.gather(*asking), 30)
        assert {each.outcome for each in begun} == {"kept"}
        assert sorted(each.deliveries for each in begun) == list(range(1, 21))
        assert "store: back" in caplog.text
        assert server.password not in caplog.text
    finally:
        await store.aclose()
        embedded.stop(tmp_path / "valkey")
