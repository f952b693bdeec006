"""taskiq on a Redis stream, and aiohttp: the leanest that one would write with libraries alone."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from uuid import uuid4

import aiohttp
from redis.asyncio import Redis
from taskiq import TaskiqEvents, TaskiqState
from taskiq_redis import RedisStreamBroker

from bench.contenders.arrivals import Arrivals
from bench.contenders.listed import RESULTS, collect, result, watch
from bench.contenders.sealed import opened, sealed

SERVER = os.environ["BENCH_SERVER"]
URL = f"{os.environ['BENCH_ENDPOINT']}/v1/tokens"
HEADERS = {
    "Authorization": f"Bearer {os.environ['BENCH_KEY']}",
    "Content-Type": "application/x-www-form-urlencoded",
}
MOST = 1000
"""Connections to Redis: the default of 100 is too few for 500 tasks at the same time."""
broker = RedisStreamBroker(SERVER, max_connection_pool_size=MOST)


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def open_clients(state: TaskiqState) -> None:
    """One HTTP session and one Redis client for all tasks."""
    state.http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=HEADERS)
    state.redis = Redis.from_url(SERVER, max_connections=MOST)


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def close_clients(state: TaskiqState) -> None:
    """Close them."""
    await state.http.close()
    await state.redis.aclose()


@broker.task(task_name="tokenize")
async def tokenize(request: str, envelope: str) -> None:
    """Make one token of a sealed card, and publish its id."""
    form = opened(base64.b64decode(envelope))
    headers = {"Idempotency-Key": request}
    async with broker.state.http.post(URL, data=form.encode(), headers=headers) as response:
        response.raise_for_status()
        token = (await response.json())["id"]
    await broker.state.redis.rpush(RESULTS, result(request, token))


async def send() -> str:
    """Publish one sealed request: its id."""
    request = uuid4().hex
    await tokenize.kiq(request, base64.b64encode(sealed()).decode())
    return request


async def publishing(verb: str, count: int, *numbers: str) -> None:
    """`feed`, or `latency` with a rate and a seed."""
    await broker.startup()  # makes the consumer group, so that the worker sees what was there before it
    if verb == "feed":
        for _ in range(count):
            await send()
    else:
        arrivals = Arrivals()
        watching = asyncio.create_task(watch(SERVER, arrivals))
        await arrivals.run(send, rate=float(numbers[0]), count=count, seed=int(numbers[1]))
        watching.cancel()
        print(arrivals.report())
    await broker.shutdown()


def main() -> None:
    """Do what the first argument says."""
    verb, count = sys.argv[1], int(sys.argv[2])
    if verb == "collect":
        print(collect(SERVER, count))
    else:
        asyncio.run(publishing(verb, count, *sys.argv[3:]))


if __name__ == "__main__":
    main()
