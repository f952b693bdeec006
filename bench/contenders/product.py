"""This product, or an older version of it. Run by the Python of that version, through its public API alone."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.contenders.arrivals import Arrivals
from bench.contenders.card import CARD
from bench.contenders.firms import firms
from tokenferry import AsyncProducer, AsyncResults, CardRequest, Order, Producer, Results, load

ROUTE = "bench"
PATIENCE = 120.0
"""Seconds without a result after which the rest is not waited for."""
CONFIG = Path("tokenferry.toml")


def orders(count: int) -> Iterator[Order]:
    """So many card requests, each made anew: what a producer checks is part of its cost."""
    for _ in range(count):
        yield Order(CardRequest(**CARD), reply_to=ROUTE)


def feed(count: int) -> None:
    """Send so many, each confirmed."""
    with Producer(CONFIG) as producer:
        assert sum(1 for _ in producer.send_many(orders(count))) == count


def results(count: int) -> Iterator[Any]:
    """So many good results."""
    with Results(ROUTE, CONFIG) as route:
        for number in range(count):
            result = route.take(timeout=PATIENCE)
            if result is None or not result.ok:
                raise SystemExit(f"result {number + 1} of {count}: {result and result.failure}")
            yield result


def attach(count: int) -> None:
    """Order the tokens of so many results to be spent on new customers."""
    from tokenferry.contract.targets import CustomerCreate

    with Producer(CONFIG) as producer:
        for result in results(count):
            producer.attach(result, CustomerCreate(email="ada@example.com"), reply_to=ROUTE)


def onboard(count: int) -> None:
    """Send so many whole accounts."""
    from tokenferry import onboarding_from  # a version that has none yet can still be measured otherwise

    with Producer(CONFIG) as producer:
        for document in firms(count):
            producer.onboard(onboarding_from(document), reply_to=ROUTE)


async def latency(rate: float, count: int, seed: int) -> str:
    """Random arrivals; a result is seen when the reader of the API hands it out."""
    arrivals = Arrivals()
    async with AsyncProducer(CONFIG) as producer, AsyncResults(ROUTE, CONFIG) as route:

        async def watch() -> None:
            async for result in route:
                arrivals.see(result.request_id, str(getattr(result, "token", None)))

        async def send() -> str:
            return await producer.send(CardRequest(**CARD), reply_to=ROUTE)

        watching = asyncio.create_task(watch())
        await arrivals.run(send, rate=rate, count=count, seed=seed)
        route.stop()
        await watching
    return arrivals.report()


def producer(count: int) -> float:
    """CPU seconds of checking, sealing, signing and publishing so many requests, each confirmed."""
    with Producer(load(CONFIG)) as producing:
        for _ in producing.send_many(orders(100)):
            pass
        began = time.process_time()
        assert sum(1 for _ in producing.send_many(orders(count))) == count
        return time.process_time() - began


def reader(count: int) -> float:
    """CPU seconds of reading, verifying and acknowledging so many results."""
    began = time.process_time()
    assert sum(1 for _ in results(count)) == count
    return time.process_time() - began


def main() -> None:
    """Do what the first argument says."""
    verb, count = sys.argv[1], int(sys.argv[2])
    match verb:
        case "feed":
            feed(count)
        case "attach":
            attach(count)
        case "onboard":
            onboard(count)
        case "collect":
            names = ("token", "object_id", "account")
            found = [[getattr(result, name, None) for name in names] for result in results(count)]
            print(len({next(filter(None, reversed(row))) for row in found}))
        case "latency":
            print(asyncio.run(latency(float(sys.argv[3]), count, int(sys.argv[4]))))
        case "producer":
            print(producer(count))
        case "reader":
            print(reader(count))


if __name__ == "__main__":
    main()
