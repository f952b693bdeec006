"""The store of the worker's tests: a real Valkey."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
from celery.worker import state
from redis.asyncio import Redis

from tokenferry.broker.embedded import Embedded
from tokenferry_worker.on_redis.store import Store

DATABASE = 7
"""Of the private Valkey, so that a scan of all of it meets only keys of ours."""


@pytest.fixture
def no_signal_yet() -> Iterator[None]:
    """Celery notes in two globals that it should stop. Here, and for the next test, it should not."""
    state.should_stop = state.should_terminate = None
    yield
    state.should_stop = state.should_terminate = None


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client(valkey: Embedded) -> AsyncIterator[Redis]:
    """An empty database. Whatever a test leaves there carries the prefix and will pass away by itself."""
    client = Redis.from_url(valkey.database(DATABASE).redis_url, decode_responses=True, protocol=2)
    await client.flushdb()
    yield client
    left = {key: await client.pttl(key) async for key in client.scan_iter("*")}
    await client.aclose()
    assert [key for key in left if not key.startswith("test-")] == []
    kept = (":born", ":accepted", ":state-since")  # when the store began is never forgotten
    assert {
        key: ttl for key, ttl in left.items() if ttl == -1 and not key.endswith(kept)
    } == {}  # others: gone meanwhile


@pytest.fixture
def prefix() -> str:
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture
def store(client: Redis, prefix: str) -> Store:
    return Store(client, prefix)
