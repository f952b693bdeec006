"""Tests empty nobody's database but their own."""

from __future__ import annotations

import pytest
import redis
from e2e.brokers import OURS, SharedRedis, may_be_emptied

from tokenferry.broker.embedded import Embedded

DATABASE = 15


def test_only_an_empty_or_a_marked_database_may_be_emptied(valkey: Embedded) -> None:
    with redis.Redis.from_url(valkey.database(DATABASE).redis_url) as client:
        client.flushdb()
        assert may_be_emptied(client)
        client.set("somebody's", "data")
        assert not may_be_emptied(client)
        client.set(OURS, "left behind by a run that was killed")
        assert may_be_emptied(client)
        client.flushdb()


@pytest.mark.foreign
def test_one_that_is_in_use_is_marked_however_often_it_is_emptied() -> None:
    shared = SharedRedis()
    try:
        shared.client.set("a test's", "data")
        shared.empty()
        keys = shared.client.keys("*")
        assert OURS.encode() in keys
        assert b"a test's" not in keys
    finally:
        shared.close()
