"""The one connection to the store: sent together, asked again, never forgotten."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from tokenferry.broker import embedded
from tokenferry.broker.embedded import EmbeddedServerUnavailable
from tokenferry_worker.on_redis.journal import RedisJournal
from tokenferry_worker.on_redis.store import TOGETHER, Script, Store

pytestmark = pytest.mark.anyio


class RoundTrips:
    """Counts how often the client sends scripts, and how many together."""

    def __init__(self, client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        make: Callable[..., Any] = client.pipeline

        def pipeline(**options: Any) -> Any:
            line = make(**options)
            execute = line.execute

            async def counted(**how: Any) -> Any:
                self.sizes.append(len(line))
                return await execute(**how)

            line.execute = counted
            return line

        monkeypatch.setattr(client, "pipeline", pipeline)


async def test_what_is_asked_during_a_round_trip_goes_together_with_the_next(
    client: Redis, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    trips = RoundTrips(client, monkeypatch)
    journal = RedisJournal(store, "request", days=1)
    begun = await asyncio.gather(*(journal.begin(f"req-{n}") for n in range(300)))
    assert [each.deliveries for each in begun] == [1] * 300
    assert sum(trips.sizes) == 300
    assert len(trips.sizes) <= 2


async def test_one_round_trip_carries_a_bounded_number_of_scripts(
    client: Redis, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    trips = RoundTrips(client, monkeypatch)
    journal = RedisJournal(store, "request", days=1)
    await asyncio.gather(*(journal.begin("req-1") for _ in range(TOGETHER + 100)))
    assert max(trips.sizes) <= TOGETHER
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


async def test_a_cancelled_caller_disturbs_nobody(store: Store) -> None:
    journal = RedisJournal(store, "request", days=1)
    asking = [asyncio.create_task(journal.record(f"req-{n}", f"outcome {n}")) for n in range(50)]
    await asyncio.sleep(0)
    for task in asking[::2]:
        task.cancel()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert answers[1::2] == [f"outcome {n}" for n in range(1, 50, 2)]
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::2])


async def test_a_broken_script_fails_its_caller_and_no_other(store: Store) -> None:
    broken = Script("record")
    journal = RedisJournal(store, "request", days=1)
    with pytest.raises(ResponseError):
        await store.run(broken, [store.key("journal", "request", "x")], ["outcome", "no number"])
    assert (await journal.begin("y")).deliveries == 1
    await journal.record("x", "outcome")  # with a lifetime this time: the broken call left none


async def test_an_error_nobody_foresaw_reaches_the_caller_instead_of_hanging_it(
    client: Redis, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Surprise(Exception):
        pass

    def pipeline(**options: Any) -> Any:
        raise Surprise

    journal = RedisJournal(store, "request", days=1)
    with monkeypatch.context() as patched:
        patched.setattr(client, "pipeline", pipeline)
        with pytest.raises(Surprise):
            await asyncio.wait_for(journal.begin("req-1"), 5)
    assert (await journal.begin("req-1")).deliveries == 1


async def test_while_the_store_is_away_everybody_waits_and_then_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        server = embedded.ensure(tmp_path / "valkey", owner=True)
    except EmbeddedServerUnavailable as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    store = Store.at(server.redis_url, "test-away")
    try:
        journal = RedisJournal(store, "request", days=1)
        await journal.record("req-1", "kept")
        os.kill(server.pid, signal.SIGKILL)
        asking = [asyncio.create_task(journal.begin("req-1")) for _ in range(20)]
        late = asyncio.create_task(journal.begin("req-2"))
        async with asyncio.timeout(10):
            while "away" not in caplog.text:
                await asyncio.sleep(0.01)
        assert not any(task.done() for task in asking)
        late.cancel()
        assert embedded.ensure(tmp_path / "valkey", owner=True).redis_url == server.redis_url
        begun = await asyncio.wait_for(asyncio.gather(*asking), 10)
        assert {each.outcome for each in begun} == {"kept"}
        assert sorted(each.deliveries for each in begun) == list(range(1, 21))
        assert "store: back" in caplog.text
        assert server.password not in caplog.text
    finally:
        await store.aclose()
        embedded.stop(tmp_path / "valkey")
