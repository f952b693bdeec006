"""What is still open is said again and again, by one process of the fleet, with how much waits for it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tokenferry.broker.embedded import Embedded
from tokenferry.broker.publishing import Outgoing, Publisher
from tokenferry.configuration import Configuration, load
from tokenferry.contract.queues import TOKENIZE_TASK, parked_queue
from tokenferry_worker.circuits.breaker import CircuitBreaker
from tokenferry_worker.circuits.reminders import Reminder

from .standins import MemoryCircuits, watched

pytestmark = pytest.mark.anyio

DATABASE = 5
PATH = "main/outage/customers"


@pytest.fixture
async def configuration(valkey: Embedded, tmp_path: Path) -> AsyncIterator[Configuration]:
    url = valkey.database(DATABASE).redis_url
    client = Redis.from_url(url)
    await client.flushdb()
    (tmp_path / "tokenferry.toml").write_text(f'[broker]\nurl = "{url}"\n[store]\nurl = "{url}"\n')
    yield load(tmp_path / "tokenferry.toml")
    await client.flushdb()
    await client.aclose()


def send(configuration: Configuration, queue: str, count: int) -> None:
    publisher = Publisher.to(configuration)
    for number in range(count):
        publisher.publish(Outgoing.task(queue, TOKENIZE_TASK, f"req-{number}", json.dumps({})))
    publisher.close()


async def until_said(reminder: Reminder, caplog: pytest.LogCaptureFixture, what: str) -> str:
    """Let it look until it has said something of *what*: the line."""
    async with asyncio.timeout(60):
        while True:
            for record in caplog.records:
                if what in record.getMessage():
                    return record.getMessage()
            await asyncio.sleep(0.01)
            await reminder.look()


async def test_a_line_says_since_when_what_is_wrong_how_many_wait_and_the_cure(
    configuration: Configuration, caplog: pytest.LogCaptureFixture
) -> None:
    book = MemoryCircuits(first=60.0)
    breaker = CircuitBreaker(book, look_every=0.01)
    await asyncio.to_thread(send, configuration, "tokenize.bulk.main", 3)
    await asyncio.to_thread(send, configuration, "attach.bulk.main", 2)
    await asyncio.to_thread(send, configuration, parked_queue(PATH), 4)
    await book.count_parked(PATH)
    await breaker.unanswered("main/outage", 503, "api.example answers nobody")
    await breaker.unanswered(PATH, 0, "api.example answers no call of customers")
    caplog.clear()
    async with watched(breaker):
        waiting = asyncio.create_task(breaker.enter(["main/outage"], may_park=False))
        while not breaker.snapshot.open:
            await asyncio.sleep(0.01)
        reminder = Reminder(configuration, book, breaker, every=0.05)
        platform = await until_said(reminder, caplog, "'main/outage'")
        path = await until_said(reminder, caplog, PATH)
        waiting.cancel()
    assert "is still open, since 20" in platform or "is still open, since 19" in platform
    assert "Stripe answers nobody (503)" in platform
    assert "5 requests wait in queues, and 1 in the hands of this process" in platform
    assert "status page" in platform
    assert "4 requests wait in queues, and 0 in the hands" in path


async def test_of_two_processes_one_says_it(configuration: Configuration, caplog: pytest.LogCaptureFixture) -> None:
    stands = MemoryCircuits(now=lambda: 0.0)  # the minute of the fleet does not pass
    await stands.open("main/outage", 503, "no_answer", "")
    fleet = []
    for _ in range(2):
        breaker = CircuitBreaker(stands)
        breaker.snapshot = await stands.snapshot()
        fleet.append(Reminder(configuration, stands, breaker, every=0.02))
    await until_said(fleet[0], caplog, "'main/outage'")
    for _ in range(20):
        await fleet[1].look()
        await asyncio.sleep(0.01)
    assert len(caplog.records) == 1


async def test_nothing_is_said_within_the_first_minute(
    configuration: Configuration, caplog: pytest.LogCaptureFixture
) -> None:
    book = MemoryCircuits()
    await book.open("main/outage", 503, "no_answer", "")
    breaker = CircuitBreaker(book)
    breaker.snapshot = await book.snapshot()
    reminder = Reminder(configuration, book, breaker)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await reminder.look()
    assert caplog.records == []
