"""Results that contenders without a result queue of their own put into a list: one JSON object each."""

from __future__ import annotations

import json
import time

import redis
from redis.asyncio import Redis

from bench.contenders.arrivals import Arrivals

RESULTS = "results"


def result(request: str, token: str) -> str:
    """One result."""
    return json.dumps({"id": request, "token": token})


def collect(url: str, count: int, seconds: float = 120.0) -> int:
    """Wait until *count* results are there: the number of different tokens in them."""
    client, deadline = redis.Redis.from_url(url), time.monotonic() + seconds
    while client.llen(RESULTS) < count:
        if time.monotonic() > deadline:
            raise SystemExit(f"{client.llen(RESULTS)} of {count} results came")
        time.sleep(0.1)
    return len({json.loads(line)["token"] for line in client.lrange(RESULTS, 0, -1)})


async def watch(url: str, arrivals: Arrivals) -> None:
    """Note every result when it comes, for ever."""
    async with Redis.from_url(url) as client:
        while True:
            if taken := await client.blpop([RESULTS], timeout=1):
                read = json.loads(taken[1])
                arrivals.see(read["id"], read["token"])
