"""What has left the queues of the embedded server leaves its files, too."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from e2e.house import until
from redis import Redis

from tokenferry.broker.embedded import Embedded, running
from tokenferry.broker.file_rewriting import is_ours, rewrite_files
from tokenferry.configuration import Configuration
from tokenferry_worker.deliveries.file_rewriting import FileRewriter

from .standins import MemoryCircuits

pytestmark = pytest.mark.anyio
SECRET = b"sealed-verification-code"


def files_hold(folder: Path, secret: bytes) -> bool:
    return any(secret in file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_after_a_rewrite_nothing_that_was_removed_is_on_the_disk(tmp_path: Path) -> None:
    data = tmp_path / "data"
    configuration = Configuration.model_validate({"data": data, "platforms": {"main": {}}})
    with running(data) as server, Redis.from_url(server.redis_url) as client:
        client.rpush("tokenize.realtime.main", SECRET)
        client.lpop("tokenize.realtime.main")
        until(lambda: files_hold(data, SECRET), "the file")
        assert is_ours(configuration)
        rewrite_files(configuration)
        rewrite_files(configuration)  # one is under way
        until(lambda: not files_hold(data, SECRET), "the rewrite")


def test_the_files_of_another_server_are_its_operators(valkey: Embedded) -> None:
    assert not is_ours(Configuration.model_validate({"broker": {"url": valkey.redis_url}}))


async def test_it_is_rewritten_once_after_the_start_and_once_after_realtime_deliveries() -> None:
    taken, rewrites = [0], []
    rewriter = FileRewriter(
        MemoryCircuits(), lambda: taken[0], lambda: rewrites.append(taken[0]), after=0.05, every=0.01
    )
    running_ = asyncio.create_task(rewriter.run())
    try:
        async with asyncio.timeout(10):
            while not rewrites:
                await asyncio.sleep(0.01)
            taken[0] = 3
            while len(rewrites) < 2:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert rewrites == [0, 3]
    finally:
        running_.cancel()
