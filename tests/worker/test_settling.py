"""Every outcome becomes the right messages, and nothing is acknowledged before all of them are confirmed."""

from __future__ import annotations

import asyncio
import json

import pytest

from tokenferry.broker.publishing import BrokerFull, BrokerUnavailable, PublishTimeout
from tokenferry.contract.attach import AttachRequest, SignedAttach
from tokenferry.contract.queues import ATTACH_TASK, TOKENIZE_TASK
from tokenferry.contract.results import Failure, TokenResult, parse_result
from tokenferry.contract.targets import CustomerSource
from tokenferry_worker.deliveries.settling import Settler
from tokenferry_worker.keys.result_signing import ResultSigner
from tokenferry_worker.outcomes import (
    DeadLettered,
    Dropped,
    HandedOn,
    Outcome,
    Parked,
    Quarantined,
    Retokenize,
    Settled,
)

from .standins import NOW, FlakyPublisher, MemoryCircuits, quarantine_of, stores_clock

pytestmark = pytest.mark.anyio

BODY = '{"header": {"lane": "bulk"}, "sealed": "as it came"}'
RESULT = TokenResult(
    outcome_id="req-1:token",
    request_id="req-1",
    kind="card",
    platform="main",
    settled_at=1,
    failure=Failure(code="attempts_exhausted", source="tokenferry"),
)
TOLD = Settled(RESULT, "importer")
ORDER = SignedAttach.model_construct(
    request=AttachRequest(
        attach_id="attach-1",
        request_id="req-1",
        token="tok_1",
        kind="card",
        platform="main",
        target=CustomerSource(customer="cus_1"),
        token_created_at=1,
        attach_before=2,
        signer_id="k1",
    ),
    signature=b"signature",
)


def settler(publisher: FlakyPublisher) -> Settler:
    return Settler(publisher, MemoryCircuits(), stores_clock, ResultSigner(None), quarantine_of(publisher))


def in_the_realtime_lane(order: SignedAttach) -> SignedAttach:
    return order.model_copy(update={"request": order.request.model_copy(update={"lane": "realtime"})})


@pytest.mark.parametrize(
    ("outcome", "queues"),
    [
        (TOLD, ["results.importer"]),
        (Settled(RESULT, None), []),
        (HandedOn(ORDER), ["attach.bulk.main"]),
        (HandedOn(in_the_realtime_lane(ORDER)), ["attach.realtime.main"]),
        (Retokenize("sealed", "main", "bulk", "req-1"), ["tokenize.bulk.main"]),
        (DeadLettered(TOLD, "attempts_exhausted"), ["dead-letters", "results.importer"]),
        (DeadLettered(Settled(RESULT, None), "attempts_exhausted"), ["dead-letters"]),
        (Dropped(TOLD), ["results.importer"]),
        (Quarantined("not an envelope"), ["quarantine"]),
        (Parked("main/kind/card", TOKENIZE_TASK, "req-1"), ["parked.main.bcff8e96"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Outcome) else "",
)
async def test_every_outcome_tells_whom_it_concerns_and_nobody_else(outcome: Outcome, queues: list[str]) -> None:
    publisher = FlakyPublisher()
    await settler(publisher).settle(outcome, BODY)
    assert [message.queue for message in publisher.published] == queues


async def test_a_result_reads_back_as_it_was() -> None:
    publisher = FlakyPublisher()
    await settler(publisher).settle(TOLD, BODY)
    assert parse_result(publisher.published[0].body) == RESULT


async def test_a_recorded_result_is_published_as_the_journal_has_it() -> None:
    """Nothing is written anew: the journal's text may be of another version, or of another delivery."""
    publisher, recorded = FlakyPublisher(), '{"type": "token", "as": "the journal has it"}'
    await settler(publisher).settle(Settled(RESULT, "importer", recorded), BODY)
    await settler(publisher).settle(DeadLettered(Settled(RESULT, "importer", recorded), "attempts_exhausted"), BODY)
    assert [message.body for message in publisher.published if message.queue == "results.importer"] == [recorded] * 2


async def test_an_order_travels_as_a_task_whose_one_argument_is_the_signed_order() -> None:
    publisher = FlakyPublisher()
    await settler(publisher).settle(HandedOn(ORDER), BODY)
    (message,) = publisher.published
    assert (message.headers["task"], message.headers["id"]) == (ATTACH_TASK, "attach-1")
    ((argument,), kwargs, _embed) = json.loads(message.body)
    assert (json.loads(argument)["request"]["token"], kwargs) == ("tok_1", {})


async def test_a_request_that_begins_anew_goes_back_under_its_own_id_as_it_was_sealed() -> None:
    publisher = FlakyPublisher(refusals=[BrokerUnavailable("away", maybe_sent=False)])
    await settler(publisher).settle(Retokenize("as sealed", "main", "bulk", "req-1"), BODY)
    (message,) = publisher.published
    assert (message.headers["task"], message.headers["id"]) == (TOKENIZE_TASK, "req-1")
    assert json.loads(message.body)[0] == ["as sealed"]


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [(DeadLettered(TOLD, "attempts_exhausted"), "attempts_exhausted"), (Quarantined("not ours"), "not ours")],
)
@pytest.mark.parametrize("body", [ORDER.text(), BODY], ids=["ours", "readable"])
async def test_what_is_set_aside_has_its_reason_and_the_stores_time_and_is_kept_where_it_is_ours(
    outcome: Outcome, reason: str, body: str
) -> None:
    publisher = FlakyPublisher()
    await settler(publisher).settle(outcome, body)
    kept = json.loads(publisher.published[0].body)
    assert (kept["reason"], kept["at"]) == (reason, int(NOW * 1000))
    assert kept["message"] == (body if body != BODY else "")


async def test_a_dropped_request_leaves_no_trace_of_its_body() -> None:
    publisher = FlakyPublisher()
    await settler(publisher).settle(Dropped(TOLD), BODY)
    assert not any("as it came" in message.body for message in publisher.published)


@pytest.mark.parametrize(
    "refusals",
    [
        [BrokerUnavailable("away", maybe_sent=False)],
        [PublishTimeout("silent", maybe_sent=True)],
        [BrokerFull("full", maybe_sent=False), BrokerUnavailable("away", maybe_sent=False)],
    ],
)
async def test_it_returns_only_when_the_broker_has_confirmed(refusals: list[Exception]) -> None:
    publisher = FlakyPublisher(refusals=list(refusals))
    await settler(publisher).settle(DeadLettered(TOLD, "attempts_exhausted"), BODY)
    assert [message.queue for message in publisher.published] == ["dead-letters", "results.importer"]
    assert publisher.tried == len(refusals) + 2


async def test_called_off_while_the_broker_is_away_it_ends() -> None:
    publisher = FlakyPublisher(refusals=[BrokerUnavailable("away", maybe_sent=False)] * 1000)
    task = asyncio.create_task(settler(publisher).settle(TOLD, BODY))
    while not publisher.tried:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert publisher.published == []
