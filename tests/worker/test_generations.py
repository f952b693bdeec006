"""A later generation begins an id again, only where the recorded outcome has left nothing behind. In the real store."""

from __future__ import annotations

from typing import Any

import pytest

from tokenferry.contract.codes import FAILURES, Code
from tokenferry.contract.results import AttachResult, Failure, OnboardingResult, StepResult, TokenResult
from tokenferry_worker.errors import Reused
from tokenferry_worker.on_redis.journal import RedisJournal
from tokenferry_worker.on_redis.ledger import RedisLedger
from tokenferry_worker.on_redis.store import Store
from tokenferry_worker.tokens.generations import LEFT_NOTHING, left_nothing
from tokenferry_worker.tokens.journal import About
from tokenferry_worker.tokens.ledger import Superseded, TokenScope

pytestmark = pytest.mark.anyio

SCOPE = TokenScope("main", "test", "", "card")
DECLINED = Failure(code="card_declined", source="endpoint", status=402)
ONE, TWO = About("k1.aa", 1), About("k1.bb", 2)


def result(failure: Failure | None = DECLINED, **fields: Any) -> str:
    made = TokenResult(
        outcome_id="req-1:token",
        request_id="req-1",
        kind="card",
        platform="main",
        settled_at=1,
        token=None if failure else "tok_1",
        failure=failure,
        **fields,
    )
    return made.model_dump_json(exclude_none=True)


def spent(failure: Failure | None = DECLINED, object_id: str | None = None) -> str:
    made = AttachResult(
        outcome_id="req-1:attach",
        request_id="req-1",
        attach_id="req-1",
        kind="card",
        platform="main",
        settled_at=1,
        to="charge",
        failure=failure,
        object_id=object_id,
    )
    return made.model_dump_json(exclude_none=True)


@pytest.fixture
def journal(store: Store) -> RedisJournal:
    return RedisJournal(store, "request", days=1)


@pytest.fixture
def orders(store: Store) -> RedisJournal:
    return RedisJournal(store, "attach", days=1)


async def refused(journal: RedisJournal, generation: int, of: str = "this") -> str:
    """What the requester is told of a generation that does not begin."""
    with pytest.raises(Reused) as caught:
        await journal.begin("req-1", of, generation=generation)
    return caught.value.param


async def test_after_a_refusal_the_next_generation_begins_with_other_content(journal: RedisJournal) -> None:
    await journal.begin("req-1", "this")
    await journal.record("req-1", result(), about=ONE)
    assert await refused(journal, 3) == "generation=2"
    assert await refused(journal, 1, "that") == "generation=2"
    begun = await journal.begin("req-1", "that", generation=2)
    assert (begun.deliveries, begun.epoch, begun.outcome, begun.content) == (1, 0, None, "")
    told = await journal.record("req-1", result(None), about=TWO)
    assert '"req-1:token:2"' in told, "an outcome id that no reader has seen"
    assert await refused(journal, 1) == "generation=2", "it is the recorded one"
    assert (await journal.begin("req-1", "that", generation=2)).content == TWO.content


async def test_nothing_begins_again_while_the_first_one_is_under_way_or_has_made_something(
    journal: RedisJournal,
) -> None:
    await journal.begin("req-1", "this")
    assert await refused(journal, 2) == "none"
    await journal.record("req-1", result(None), about=ONE)
    assert await refused(journal, 2) == "none"


@pytest.mark.parametrize(
    ("order", "may"),
    [
        (None, "none"),
        (spent(None, "cus_1"), "none"),
        (spent(DECLINED, "cus_1"), "none"),
        (spent(Failure(code="token_already_used", source="endpoint", status=400)), "none"),
        (spent(Failure(code=Code.OUTCOME_UNKNOWN, source="tokenferry")), "none"),
        (spent(), "generation=2"),
        (spent(Failure(code=Code.TOKEN_EXPIRED, source="tokenferry")), "generation=2"),
    ],
)
async def test_of_a_token_that_was_made_for_a_plan_its_order_decides(
    journal: RedisJournal, orders: RedisJournal, order: str | None, may: str
) -> None:
    await journal.begin("req-1", "this")
    await journal.record_token("req-1", result(None), "tok_1", SCOPE, at=1, about=ONE)
    if order is not None:
        await orders.begin("req-1", "order")
        await orders.record("req-1", order)
    assert await refused(journal, 3) == may


async def test_a_late_delivery_of_an_earlier_generation_writes_nothing(
    journal: RedisJournal, orders: RedisJournal, store: Store
) -> None:
    ledger = RedisLedger(store, "main", days=1)
    for each, failed in ((journal, result()), (orders, spent())):
        await each.begin("req-1", "this")
        await each.record("req-1", failed, about=ONE)
        await each.begin("req-1", "that", generation=2)
    with pytest.raises(Reused):
        await journal.record("req-1", result(None), about=ONE)
    with pytest.raises(Reused):
        await journal.record_token("req-1", result(None), "tok_late", SCOPE, at=1, about=ONE)
    claim = await ledger.claim("tok_1", "req-1", lease=9, journaled=True, generation=1)
    assert claim == Superseded()
    assert (await journal.begin("req-1", "that", generation=2)).outcome is None
    assert not await store._client.exists(store.keys.token("tok_late"), store.keys.token("tok_1"))


async def test_an_outcome_about_other_content_is_not_handed_out(journal: RedisJournal) -> None:
    await journal.begin("req-1", "this")
    first = await journal.record("req-1", result(None), about=ONE)
    with pytest.raises(Reused):
        await journal.record("req-1", result(None), about=About("k1.bb"))
    for same in ("", "k1.aa", "k2.cc"):  # nobody marked it, or under another key
        assert await journal.record("req-1", result(None), about=About(same)) == first


async def test_a_redrive_of_an_earlier_generation_leaves_the_later_one_alone(journal: RedisJournal) -> None:
    ours = result(Failure(code=Code.UNKNOWN_PLATFORM, source="tokenferry"))
    await journal.begin("req-1", "this")
    await journal.record("req-1", ours)
    await journal.begin("req-1", "that", generation=2)
    await journal.record("req-1", ours, about=TWO)
    assert await journal.reopen("req-1", told=1, generation=1) == "done"
    assert (await journal.begin("req-1", "that", generation=2)).outcome is not None
    assert await journal.reopen("req-1", told=2, generation=2) == "open"
    assert (await journal.begin("req-1", "that", generation=2)).outcome is None


async def test_of_an_id_that_the_store_does_not_know_every_generation_begins(journal: RedisJournal) -> None:
    assert (await journal.begin("req-1", "this", generation=4)).deliveries == 1
    assert await refused(journal, 1) == "generation=4"
    await journal.reopen("req-2", told=1, generation=3)
    assert (await journal.begin("req-2", "this", generation=3)).deliveries == 1


async def test_only_what_surely_made_nothing_is_named() -> None:
    doubtful = {failure.code for failure in FAILURES if failure.effect != "none"}
    assert not LEFT_NOTHING & doubtful
    kept_out = {Code.STORE_IS_YOUNGER, Code.ATTEMPTS_EXHAUSTED, Code.DELIVERIES_EXHAUSTED, Code.WRONG_SCOPE}
    assert not LEFT_NOTHING & kept_out
    assert not left_nothing("unreadable")


@pytest.mark.parametrize(
    ("status", "nothing"), [("failed", True), ("not_begun", True), ("done", False), ("unknown", False)]
)
async def test_an_account_counts_by_every_step(status: Any, nothing: bool) -> None:
    step = StepResult(step="account", status=status, failure=DECLINED if status == "failed" else None)
    made = OnboardingResult(
        outcome_id="req-1:onboarding",
        request_id="req-1",
        platform="main",
        steps=(step,),
        failure=DECLINED,
        settled_at=1,
    )
    assert left_nothing(made.model_dump_json(exclude_none=True)) is nothing
