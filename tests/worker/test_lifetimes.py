"""How long a token may wait, and what becomes of the order whose token waited too long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tokenferry.contract.attach import SignedAttach
from tokenferry.contract.codes import Code
from tokenferry.contract.envelope import Header
from tokenferry.contract.requests import CardRequest, PiiRequest, TokenRequest
from tokenferry.contract.results import TokenResult
from tokenferry.contract.targets import Charge, Target, digest
from tokenferry.sealing import Recipient, Signer, seal
from tokenferry_worker.outcomes import DeadLettered, Outcome, Quarantined, Retokenize
from tokenferry_worker.provider.answers import Answer
from tokenferry_worker.tokens.ledger import Granted, TokenScope

from .attaching_story import TARGET, Killed, Story, Tell, begin, code_of, result_of
from .standins import NOW, Holding, customer, not_connected, timed_out

pytestmark = pytest.mark.anyio

CARD = CardRequest(number="4242424242424242", exp_month="12", exp_year="2034")


SCOPE = TokenScope("main", "test", "", "card")


@pytest.fixture
def tell(key_folder: Any) -> Tell:
    return partial(begin, key_folder)


@pytest.fixture
def sealed(key_folder: Any) -> Any:
    """Seals a request as its producer did."""
    to, producer = Recipient.load(key_folder.recipient), Signer.load(key_folder.producer)

    def seal_one(request: TokenRequest = CARD, target: Target = TARGET, **changed: Any) -> str:
        fields: dict[str, Any] = {
            "suite": to.suite,
            "key_id": to.key_id,
            "request_id": "req-1",
            "kind": request.kind,
            "platform": "main",
            "lane": "bulk",
            "attach_digest": digest(target),
            "issued_at": int(NOW * 1000),
            "expires_at": int((NOW + 86_400) * 1000),
            "producer_id": producer.signer_id,
        }
        header = Header(**{**fields, **changed})
        return seal(request, header, to=to, signer=producer, attach=target).model_dump_json()  # type: ignore[arg-type]

    return seal_one


def late(story: Story) -> Story:
    """The token was made in the pipeline, and its order comes when it is too old."""
    made = TokenResult(
        outcome_id="req-1:token", request_id="req-1", kind="card", platform="main", settled_at=1, token="tok_1"
    )
    story.journal.requests.entry("req-1").outcome = made.model_dump_json(exclude_none=True)
    story.ledger.tokens["tok_1"] = Holding("available", scope=SCOPE)
    story.world.clock = NOW + 601
    return story


async def order(story: Story, body: str | None, **changed: Any) -> Outcome:
    return await story.handle(**{"attach_id": "req-1", "sealed": body, **changed})


async def test_a_token_too_old_is_made_anew_from_the_request_as_it_was_sealed(tell: Tell, sealed: Any) -> None:
    story, body = late(tell()), sealed()
    assert await order(story, body) == Retokenize(body, "main", "bulk", "req-1")
    assert (story.state, story.endpoint.calls) == ("expired", [])
    entry = story.journal.requests.entry("req-1")
    assert (entry.outcome, entry.epoch) == (None, 1)


async def test_delivered_again_at_any_point_it_sends_the_same_request_back(tell: Tell, sealed: Any) -> None:
    story, body = late(tell()), sealed()
    first = await order(story, body)
    assert await order(story, body) == first
    assert story.journal.requests.entry("req-1").epoch == 1


@pytest.mark.parametrize("moment", ["after close", "after retokenize"])
async def test_killed_on_the_way_the_next_delivery_goes_on(tell: Tell, sealed: Any, moment: str) -> None:
    story, body = late(tell()), sealed()
    story.dies.at = moment
    with pytest.raises(Killed):
        await order(story, body)
    assert isinstance(await order(story, body), Retokenize)
    assert story.journal.requests.entry("req-1").epoch == 1


async def test_the_new_token_is_spent_and_a_late_twin_of_the_first_order_says_the_same(tell: Tell, sealed: Any) -> None:
    story, body = late(tell(customer())), sealed()
    await order(story, body)
    fresh = {"token": "tok_2", "attach_before": int((NOW + 1200) * 1000)}
    result = result_of(await order(story, body, **fresh))
    assert (result.ok, result.token, story.state) == (True, "tok_2", "expired")
    assert result_of(await order(story, body)) == result
    assert len(story.endpoint.calls) == 1


@pytest.mark.parametrize(
    ("request_", "target", "changed", "why"),
    [
        (CARD, TARGET, {"expires_at": int((NOW + 600) * 1000)}, "the request has expired too"),
        (CARD, TARGET, {"request_id": "req-2"}, "it is of another request"),
        (CARD, TARGET, {"platform": "other"}, "it is of another platform"),
        (PiiRequest(id_number="000000000"), TARGET, {}, "it is of another kind"),
    ],
)
async def test_where_there_is_nothing_to_make_it_of_the_requester_is_told(
    tell: Tell, sealed: Any, request_: TokenRequest, target: Target, changed: dict[str, Any], why: str
) -> None:
    story = late(tell())
    assert code_of(await order(story, sealed(request_, target, **changed))) == Code.TOKEN_EXPIRED, why
    assert story.journal.requests.entry("req-1").outcome is not None


@pytest.mark.parametrize("body", [None, "", "{}", "4242424242424242"])
async def test_an_order_without_its_request_or_with_rubbish_is_told_as_expired(tell: Tell, body: str | None) -> None:
    assert code_of(await order(late(tell()), body)) == Code.TOKEN_EXPIRED


async def test_an_order_of_a_service_that_names_somebody_elses_request_makes_nothing_anew(
    tell: Tell, sealed: Any
) -> None:
    story = late(tell())
    assert code_of(await order(story, sealed(), attach_id="attach-1")) == Code.TOKEN_EXPIRED
    assert story.journal.requests.entry("req-1").outcome is not None


async def test_a_token_that_may_have_been_tried_is_never_made_anew(tell: Tell, sealed: Any) -> None:
    story = late(tell(timed_out(), customer()))
    await story.ledger.claim("tok_1", "req-1", lease=120)  # a worker died in the middle of it
    assert result_of(await order(story, sealed())).ok
    assert story.journal.requests.entry("req-1").epoch == 0


async def test_where_the_store_was_wiped_a_token_too_old_is_tried_under_its_key_and_never_made_twice(
    tell: Tell, sealed: Any
) -> None:
    """It may have been spent before: to make another one would be a second card on the customer."""
    story = late(tell(customer()))
    story.ledger.tokens.clear()
    assert result_of(await order(story, sealed())).ok


async def test_a_token_that_gets_too_old_while_nothing_reaches_the_endpoint_is_made_anew(
    tell: Tell, sealed: Any
) -> None:
    story = late(tell(not_connected(), not_connected()))
    story.world.clock = NOW + 599
    assert isinstance(await order(story, sealed()), Retokenize)
    assert story.world.now() == pytest.approx(NOW + 600)
    assert story.state == "expired"


async def test_a_token_that_gets_too_old_waiting_for_a_permit_is_made_anew(tell: Tell, sealed: Any) -> None:
    story = late(tell())
    story.limiter.shut = True
    story.world.clock = NOW + 599.95
    assert isinstance(await order(story, sealed()), Retokenize)


async def test_a_token_that_gets_too_old_waiting_for_its_turn_to_write_is_made_anew(tell: Tell, sealed: Any) -> None:
    story = late(tell())
    story.world.clock = NOW
    async with story.ledger.writing("cus_1", lease=1):
        waiting = asyncio.create_task(order(story, sealed()))
        while not story.ledger.holds:
            await asyncio.sleep(0)
        story.world.clock = NOW + 601
    assert isinstance(await waiting, Retokenize)


async def test_an_old_order_without_the_field_is_signed_as_it_always_was(tell: Tell) -> None:
    """Its signature was made over a spelling that knew nothing of `sealed`."""
    story = tell(customer())
    body = story.order()
    plain = SignedAttach.model_validate_json(body).request
    assert b"sealed" not in plain.canonical()
    without = body.replace('"sealed":null,', "").replace(',"sealed":null', "")
    assert "sealed" not in without
    assert result_of(await story.attacher.handle(without)).ok


async def test_what_is_sealed_is_part_of_what_is_signed(tell: Tell, sealed: Any) -> None:
    story = tell()
    ours, theirs = sealed(), sealed()
    escaped = [json.dumps(each)[1:-1] for each in (ours, theirs)]
    swapped = story.order(sealed=ours).replace(*escaped)
    assert swapped != story.order(sealed=ours)
    assert isinstance(await story.attacher.handle(swapped), Quarantined)


# -- a claim is kept


async def test_the_claim_is_kept_for_as_long_as_the_order_is_in_hand_whatever_it_waits_for(tell: Tell) -> None:
    answered = asyncio.Event()

    async def after_a_while() -> Answer:
        await answered.wait()
        return customer()

    story = tell(after_a_while)
    task = asyncio.create_task(story.handle())
    while not story.endpoint.calls:
        await asyncio.sleep(0)
    assert len(story.ledger.holds) == 1
    answered.set()
    assert result_of(await task).ok
    assert story.ledger.holds == []


async def test_a_lost_claim_stops_the_next_call_until_the_ledger_was_asked_again(tell: Tell) -> None:
    """The store was wiped, and another order has spent the token meanwhile."""
    story = tell(timed_out(), customer())

    async def wiped(_: float) -> None:
        story.ledger.tokens.clear()
        claim = await story.ledger.claim("tok_1", "attach-2", lease=120)
        assert isinstance(claim, Granted)
        await story.ledger.close("tok_1", claim, "spent")

    story.world.sleep = wiped  # type: ignore[method-assign]
    failure = result_of(await story.handle()).failure
    assert failure is not None
    assert (failure.code, failure.spent_by) == (Code.TOKEN_SPENT, "attach-2")
    assert len(story.endpoint.calls) == 1


async def test_a_claim_lost_and_found_again_goes_on_with_the_same_key(tell: Tell) -> None:
    story = tell(timed_out(), customer())

    async def wiped(_: float) -> None:
        story.ledger.tokens.clear()

    story.world.sleep = wiped  # type: ignore[method-assign]
    assert result_of(await story.handle()).ok
    assert len(set(story.endpoint.keys)) == 1
    assert story.state == "spent"


async def test_a_delivery_that_froze_does_not_call_expired_what_its_successor_has_in_hand(tell: Tell) -> None:
    story = tell(customer())
    story.ledger.tokens["tok_1"] = Holding("available", scope=SCOPE)
    sleeping = asyncio.Event()

    async def freeze(token: str, claim: Any, state: str, *more: Any, **named: Any) -> bool:
        if state == "expired":
            sleeping.set()
            await story.ledger.claim("tok_1", "attach-1", lease=5)  # the successor has begun, and dies
        return await really(token, claim, state, *more, **named)

    really = story.ledger.close
    story.ledger.close = freeze  # type: ignore[method-assign,assignment]
    story.world.clock = NOW + 601
    assert result_of(await story.handle()).ok
    assert sleeping.is_set()


async def called_off(story: Story, begun: Callable[[], bool]) -> None:
    """An order in hand is called off, as a stopping worker does, once *begun*."""
    in_hand = asyncio.create_task(story.handle())
    async with asyncio.timeout(30):
        while not begun():
            await asyncio.sleep(0)
    in_hand.cancel()
    with pytest.raises(asyncio.CancelledError):
        await in_hand


async def test_an_order_that_was_called_off_while_it_waited_can_still_be_too_late(tell: Tell) -> None:
    """However often workers are restarted: it has called nothing."""
    story = tell(customer())
    story.ledger.tokens["tok_1"] = Holding("available", scope=SCOPE)
    story.limiter.shut = True
    for _ in range(2):
        await called_off(story, lambda: story.state == "leased")
        assert story.state == "available"
    story.limiter.shut = False
    story.world.clock = NOW + 601
    assert code_of(await story.handle()) == Code.TOKEN_EXPIRED
    assert story.endpoint.calls == []


async def test_an_order_that_was_called_off_in_its_call_is_asked_about_however_late(tell: Tell) -> None:
    story = tell(customer())
    answering = story.endpoint.post

    async def post(*_: Any, **__: Any) -> Any:
        story.endpoint.calls.append("post")
        await asyncio.Event().wait()

    story.endpoint.post = post
    await called_off(story, lambda: story.endpoint.calls == ["post"])
    assert story.state == "leased"
    story.endpoint.post = answering
    story.world.clock = NOW + 601
    assert result_of(await story.handle()).object_id == "cus_1"


@pytest.mark.parametrize(
    "changed",
    [
        {"token_created_at": int((NOW + 301) * 1000), "attach_before": int((NOW + 900) * 1000)},
        {"attach_before": int((NOW + 6 * 86_400 + 1) * 1000)},
        {"attach_before": 4_102_444_800_000},
    ],
)
async def test_an_order_from_the_future_or_of_a_long_life_is_refused_before_anything_begins(
    tell: Tell, changed: dict[str, Any]
) -> None:
    story = tell()
    outcome = await story.handle(**changed)
    assert isinstance(outcome, DeadLettered)
    assert code_of(outcome) == Code.INVALID_LIFETIME
    assert (story.endpoint.calls, story.journal.entries) == ([], {})


async def test_an_order_that_moves_money_and_is_older_than_the_store_calls_nothing(tell: Tell) -> None:
    story = tell(customer())
    story.journal.born = int(NOW * 1000) + 1
    outcome = await story.handle(target=Charge(amount=100, currency="usd"))
    assert isinstance(outcome, DeadLettered)
    assert outcome.code == Code.STORE_IS_YOUNGER
    assert story.endpoint.calls == []
    assert result_of(await story.handle(attach_id="attach-2")).ok, "what moves no money goes on"
