"""Celery with its default pool, and the official SDK: one process for each call in flight, and a result backend."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import time

import stripe
from celery import Celery
from redis.asyncio import Redis

from bench.contenders.arrivals import Arrivals
from bench.contenders.card import CARD
from bench.contenders.sealed import card_in, opened, sealed

BACKEND = os.environ["BENCH_RESULTS"]
app = Celery("bench", broker=os.environ["BENCH_SERVER"], backend=BACKEND)
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1)
client = stripe.StripeClient(
    os.environ["BENCH_KEY"], base_addresses={"api": os.environ["BENCH_ENDPOINT"]}, max_network_retries=2
)


@app.task(name="tokenize")
def tokenize(envelope: str) -> str:
    """Make one token of a sealed card."""
    return client.v1.tokens.create({"card": card_in(opened(base64.b64decode(envelope)))}).id


@app.task(name="tokenize_in_clear", ignore_result=True)
def tokenize_in_clear(card: dict[str, str]) -> str:
    """What is published where the producer's cost is measured. Nothing is sealed, and no worker runs it.

    Its result is ignored: to await one, Celery subscribes to it at every publish, which costs more.
    """
    return client.v1.tokens.create({"card": card}).id


def send() -> str:
    """Publish one sealed request: its id."""
    return str(tokenize.apply_async((base64.b64encode(sealed()).decode(),)).id)


def collect(count: int, seconds: float = 120.0) -> int:
    """Wait until *count* results are there: the number of different tokens in them."""
    store, deadline = app.backend.client, time.monotonic() + seconds
    while store.dbsize() < count:
        if time.monotonic() > deadline:
            raise SystemExit(f"{store.dbsize()} of {count} results came")
        time.sleep(0.1)
    results = [json.loads(text) for text in store.mget(list(store.scan_iter(count=1000)))]
    return len({result["result"] for result in results if result["status"] == "SUCCESS"})


async def latency(rate: float, count: int, seed: int) -> str:
    """Random arrivals; a result is seen when the backend announces it."""
    arrivals = Arrivals()

    async def watch() -> None:
        async with Redis.from_url(BACKEND) as store, store.pubsub() as channel:
            await channel.psubscribe("celery-task-meta-*")
            ready.set()
            async for message in channel.listen():
                if message["type"] == "pmessage":
                    result = json.loads(message["data"])
                    arrivals.see(result["task_id"], result["result"])

    async def one() -> str:
        return send()

    ready = asyncio.Event()
    watching = asyncio.create_task(watch())
    await ready.wait()
    await arrivals.run(one, rate=rate, count=count, seed=seed)
    watching.cancel()
    return arrivals.report()


def producer(count: int) -> float:
    """CPU seconds of a loop that publishes *count* cards in clear."""
    for _ in range(100):
        tokenize_in_clear.apply_async((CARD,))
    began = time.process_time()
    for _ in range(count):
        tokenize_in_clear.apply_async((CARD,))
    return time.process_time() - began


def main() -> None:
    """Do what the first argument says."""
    verb, count = sys.argv[1], int(sys.argv[2])
    match verb:
        case "feed":
            for _ in range(count):
                send()
        case "collect":
            print(collect(count))
        case "latency":
            print(asyncio.run(latency(float(sys.argv[3]), count, int(sys.argv[4]))))
        case "producer":
            print(producer(count))


if __name__ == "__main__":
    main()
