"""Several deliveries of one order in hand at once: one effect, one outcome, a true one, and an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis

from tokenferry.contract.codes import Code
from tokenferry.contract.results import Display
from tokenferry.contract.targets import CustomerCreate
from tokenferry.sealing import Signer
from tokenferry_worker.errors import Unavailable
from tokenferry_worker.on_redis.journal import RedisJournal
from tokenferry_worker.on_redis.ledger import RedisLedger
from tokenferry_worker.on_redis.store import Store
from tokenferry_worker.provider.answers import Answer

from .attaching_story import Story, attacher_of, code_of, result_of
from .standins import (
    MemoryJournal,
    MemoryLedger,
    ScriptedEndpoint,
    ShownEndpoint,
    StoryClock,
    customer,
    declined,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    store = Store(FakeAsyncRedis(decode_responses=True), "test-twins")
    yield store
    await store.aclose()


def story_in(store: Store, key_folder: Any, endpoint: ScriptedEndpoint) -> Story:
    """An attach worker on the real scripts."""
    ledger, journal, world = RedisLedger(store, "main", days=1), RedisJournal(store, "attach", days=1), StoryClock()
    attacher, limiter = attacher_of(key_folder, endpoint, journal, ledger, world)
    return Story(attacher, endpoint, MemoryJournal(), MemoryLedger(), limiter, world, Signer.load(key_folder.worker))


class Gate:
    """A step of the endpoint's that waits until it is let through."""

    def __init__(self, answer: Answer | Exception) -> None:
        self.answer = answer
        self.reached, self.open = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> Answer:
        self.reached.set()
        await self.open.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def test_a_refusal_of_the_older_delivery_does_not_overrule_the_newer_one_that_spends(
    store: Store, key_folder: Any
) -> None:
    refused, spent = Gate(declined(404, "resource_missing")), Gate(customer("cus_1"))
    story = story_in(store, key_folder, ScriptedEndpoint(refused, spent))
    order = {"target": CustomerCreate()}
    older = asyncio.create_task(story.handle(**order))
    await refused.reached.wait()
    newer = asyncio.create_task(story.handle(**order))
    await spent.reached.wait()
    refused.open.set()
    while not story.world.slept:
        await asyncio.sleep(0)
    spent.open.set()
    assert result_of(await older) == result_of(await newer)
    assert result_of(await older).ok
    assert len(story.endpoint.calls) == 2


async def test_what_the_older_delivery_has_spent_the_newer_tells_too_however_its_own_call_ends(
    store: Store, key_folder: Any
) -> None:
    spent, lost = Gate(customer("cus_1")), Gate(Unavailable("api_error", 500, "req_1", final=True))
    story = story_in(store, key_folder, ShownEndpoint(spent, lost))
    order = {"target": CustomerCreate()}
    older = asyncio.create_task(story.handle(**order))
    await spent.reached.wait()
    newer = asyncio.create_task(story.handle(**order))
    await lost.reached.wait()
    spent.open.set()
    assert result_of(await older).object_id == "cus_1"
    lost.open.set()
    assert result_of(await newer) == result_of(await older)


async def test_a_delivery_taken_for_dead_makes_no_further_call(store: Store, key_folder: Any) -> None:
    """It waits for its permit when another delivery of the order comes, which is refused and says so."""
    story = story_in(store, key_folder, ScriptedEndpoint(declined(404, "resource_missing")))
    permit, asked, first = asyncio.Event(), asyncio.Event(), story.limiter.permit

    @asynccontextmanager
    async def slow(*given: Any) -> AsyncIterator[None]:
        if not asked.is_set():
            asked.set()
            await permit.wait()
        async with first(*given):
            yield

    story.limiter.permit = slow  # type: ignore[method-assign]
    order = {"target": CustomerCreate()}
    older = asyncio.create_task(story.handle(**order))
    await asked.wait()
    newer = await story.handle(**order)
    permit.set()
    assert code_of(newer) == "resource_missing"
    assert result_of(await older) == result_of(newer)
    assert len(story.endpoint.calls) == 1


@pytest.mark.parametrize("twins", [1, 2, 3])
async def test_however_many_deliveries_of_one_order_are_in_hand_they_come_to_an_end(
    store: Store, key_folder: Any, twins: int
) -> None:
    """A stored 500, and a token that stays unused: each delivery looks, and would like to leave the token unspent."""

    class Failing(ShownEndpoint):
        async def post(self, path: str, form: str, **named: Any) -> Answer:
            self.script = [Unavailable("api_error", 500, "req_1", final=True)]
            return await super().post(path, form, **named)

    endpoint = Failing()
    endpoint.shown["/v1/tokens/tok_1"] = Answer("token", "tok_1", {"used": False})
    story = story_in(store, key_folder, endpoint)
    order = {"target": CustomerCreate(), "display": Display(object_id="card_1")}
    async with asyncio.timeout(30):
        outcomes = await asyncio.gather(*(story.handle(**order) for _ in range(twins)))
    assert {code_of(outcome) for outcome in outcomes} == {Code.ATTEMPTS_EXHAUSTED}
    assert len({result_of(outcome).model_dump_json() for outcome in outcomes}) == 1
    assert len(endpoint.calls) <= twins
