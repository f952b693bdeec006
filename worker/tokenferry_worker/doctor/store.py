"""Checks the store: does it run our scripts, how far away is it, and is its clock right?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final, cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from tokenferry.addresses import masked
from tokenferry.broker import cluster, connecting
from tokenferry.broker.error_text import STORE, explain
from tokenferry.configuration import Configuration
from tokenferry_worker.doctor import servers
from tokenferry_worker.doctor.verdicts import Check, clock, failed, ok, unreachable, warning
from tokenferry_worker.on_redis.keys import StoreKeys
from tokenferry_worker.on_redis.store import Script

CURE = "start it, or correct [store] url in the configuration"
FAR: Final = 0.025
"""Seconds. Every call to Stripe first asks the store for a permit, some twice: a share of 1/25 s."""
ROUNDS: Final = 5
LIVES_MS: Final = 5_000
"""The key of the trial script expires by itself, should nobody remove it."""


def examine(configuration: Configuration) -> Iterator[Check]:
    """Check the store, and leave no key behind."""
    where = masked(configuration.store.url)
    client = cluster.client(
        connecting.store_url(configuration),
        configuration.store.prefix,
        decode_responses=True,
        socket_timeout=5.0,
        socket_connect_timeout=5.0,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        try:
            seconds, ahead = _round_trip(client)
        except (RedisError, OSError) as error:
            yield unreachable("store connection", where, error, STORE)
            return
        yield ok("store connection", where, "answers")
        yield from servers.certificate("store", where, configuration.store.url)
        told = servers.facts(client)
        yield from servers.version("store", where, told, prefix=configuration.store.prefix)
        yield from servers.eviction("store", where, told)
        yield servers.scripts("store", where, client, STORE)
        yield _script(client, where, configuration.store.prefix)
        yield from _names(client, where, configuration.store.prefix)
        says = f"{seconds * 1000:.1f} ms"
        if seconds > FAR:
            yield warning(
                "store round-trip", where, f"{says}: every permit waits for it", "move it nearer to the workers"
            )
        else:
            yield ok("store round-trip", where, says)
        yield clock("store clock", where, ahead)
    finally:
        client.close()


def _round_trip(client: Redis) -> tuple[float, float]:
    """Return the seconds of the shortest of a few round trips, and how far the server's clock is ahead of ours."""
    found = []
    for _ in range(ROUNDS):
        before, asked = time.time(), time.perf_counter()
        whole, millionths = client.time()
        seconds = time.perf_counter() - asked
        found.append((seconds, whole + millionths / 1e6 - before - seconds / 2))
    return min(found)


def _names(client: Redis, where: str, prefix: str) -> Iterator[Check]:
    """Check that a worker may look through the names of keys, where nobody has noted yet when the store began."""
    try:
        if not client.exists(StoreKeys(prefix).born):
            client.scan(count=1)
    except RedisError as error:
        failure = explain(error, STORE)
        says = f"{failure.says}: no worker can tell a new store from one that lost its data"
        yield warning("store names", where, says, failure.do)


def _script(client: Redis, where: str, prefix: str) -> Check:
    """Run the ledger's claim for a token that does not exist: it reads the clock and writes, as all scripts do."""
    name, key = "store script", StoreKeys(prefix).trial()
    claim = client.register_script(Script("claim").source)
    try:
        answer = claim(keys=[key], args=["doctor", LIVES_MS, LIVES_MS])
        client.delete(key)
    except RedisError as error:
        failure = explain(error, STORE)
        return failed(name, where, f"Lua: {failure.says}", failure.do)
    if list(cast("list[object]", answer))[:1] != ["granted"]:
        return failed(name, where, "Lua: a script gave a wrong answer", "use Redis 6.2 or newer, or Valkey")
    return ok(name, where, "Lua scripts run and write")
