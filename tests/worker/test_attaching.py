"""One delivery of an attach order: one token, spent once, whatever happens in between."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from pydantic import ValidationError

from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.codes import Code
from tokenferry.contract.queues import ATTACH_TASK
from tokenferry.contract.results import Display
from tokenferry.contract.targets import (
    AccountCreate,
    CustomerCreate,
    CustomerSource,
    CustomerUpdate,
    ExternalAccount,
    PaymentMethod,
)
from tokenferry.sealing import Signer, sign_attach
from tokenferry_worker.errors import Blocked, Declined, Unavailable
from tokenferry_worker.on_redis.journal import RedisJournal
from tokenferry_worker.on_redis.ledger import RedisLedger
from tokenferry_worker.on_redis.store import Store
from tokenferry_worker.outcomes import DeadLettered, Parked, Quarantined
from tokenferry_worker.provider.answers import Answer
from tokenferry_worker.provider.attempts import LEAST_BACK_OFF
from tokenferry_worker.tokens.ledger import TokenScope

from .attaching_story import Killed, Story, Tell, attacher_of, begin, code_of, result_of
from .standins import (
    NOW,
    Holding,
    MemoryJournal,
    MemoryLedger,
    SpendingEndpoint,
    StoryClock,
    blocked,
    customer,
    declined,
    not_connected,
    payment_method,
    rate_limited,
    server_error,
    timed_out,
    watched,
)

pytestmark = pytest.mark.anyio

SCOPE = TokenScope("main", "test", "", "card")


@pytest.fixture
def tell(key_folder: Any) -> Tell:
    return partial(begin, key_folder)


async def test_a_token_is_spent_and_the_requester_learns_what_it_became(tell: Tell) -> None:
    story = tell(customer("cus_1"))
    result = result_of(await story.handle(connected_account="acct_1"))
    assert (result.ok, result.object_id, result.object_type, result.stored_id) == (True, "cus_1", "customer", "card_1")
    assert (result.token, result.to, result.attach_id) == ("tok_1", "customer_source", "attach-1")
    (call,) = story.endpoint.calls
    assert (call.where, call.form, call.account) == ("/v1/customers/cus_1/sources", "source=tok_1", "acct_1")
    sources = ("main:endpoint:customer_sources", "main:operation:POST /v1/customers/{id}/sources")
    assert story.limiter.permits == [(("main:global", *sources), "bulk")]
    assert story.state == "spent"


async def test_an_order_of_version_2_is_told_its_batch_its_display_and_the_call_at_stripe(tell: Tell) -> None:
    answer = replace(customer("cus_1"), request_id="req_Stripe1")
    story, shown = tell(answer), Display(last4="4242", brand="Visa")
    order = AttachRequest(**{**story.fields(), "version": 2, "batch": "june", "display": shown})
    result = result_of(await story.attacher.handle(sign_attach(order, story.signer).text()))
    assert (result.batch, result.display, result.endpoint_request_id) == ("june", shown, "req_Stripe1")
    again = result_of(await story.attacher.handle(sign_attach(order, story.signer).text()))
    assert again == result.model_copy(update={"endpoint_request_id": None})
    assert len(story.endpoint.calls) == 1


async def test_an_order_of_the_realtime_lane_asks_for_its_permits_as_realtime(tell: Tell) -> None:
    story = tell(*[timed_out()] * 4)
    await story.handle(lane="realtime")
    assert {lane for _, lane in story.limiter.permits} == {"realtime"}
    assert len(story.limiter.permits) > 4, "also to look"


async def test_an_order_of_the_bulk_lane_is_signed_as_it_was_before_there_were_lanes(tell: Tell) -> None:
    story = tell(customer())
    body = story.order()
    assert '"lane":"bulk"' in body
    assert result_of(await story.attacher.handle(body.replace('"lane":"bulk",', ""))).ok
    swapped = story.order(attach_id="attach-2").replace('"lane":"bulk"', '"lane":"realtime"')
    assert isinstance(await story.attacher.handle(swapped), Quarantined)


@pytest.mark.parametrize(
    ("object_type", "id_", "stored_id"), [("bank_account", "ba_new", "ba_new"), ("payment_method", "pm_1", None)]
)
async def test_the_stored_id_is_what_stripe_answers_and_never_the_id_inside_the_token(
    tell: Tell, object_type: str, id_: str, stored_id: str | None
) -> None:
    story = tell(Answer(object_type, id_, {}))
    result = result_of(await story.handle(display=Display(object_id="ba_of_token")))
    assert (result.object_id, result.stored_id) == (id_, stored_id)


@pytest.mark.parametrize("queue", ["attach.bulk.eu", "attach.realtime.main", "tokenize.bulk.main"])
async def test_an_order_in_another_queue_than_its_own_is_set_aside_and_its_token_stays_free(
    tell: Tell, queue: str
) -> None:
    story = tell(customer())
    assert await story.attacher.handle(story.order(), queue) == Quarantined("in another queue than its header says")
    assert story.endpoint.calls == []
    assert result_of(await story.attacher.handle(story.order(), "attach.bulk.main")).ok


async def test_creating_an_account_draws_on_a_budget_of_its_own(tell: Tell) -> None:
    story = tell(rate_limited("resource-specific"), Answer("account", "acct_9", {}))
    await story.handle(kind="account", token="ct_1", target=AccountCreate())
    assert story.limiter.permits[0][0] == ("main:global", "main:endpoint:accounts", "main:account_creation")
    assert story.limiter.pushed_back == [("main:account_creation", LEAST_BACK_OFF)]


async def test_delivered_twice_it_tells_the_same_outcome_and_spends_once(tell: Tell) -> None:
    story = tell(customer())
    assert result_of(await story.handle()) == result_of(await story.handle())
    assert len(story.endpoint.calls) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"token": "tok_2"},
        {"target": CustomerSource(customer="cus_2")},
        {"connected_account": "acct_1"},
        {"kind": "bank_account"},
    ],
)
async def test_an_attach_id_stands_for_one_order_and_another_one_under_it_is_told_so(
    tell: Tell, other: dict[str, Any]
) -> None:
    story = tell(customer("cus_1"))
    first = result_of(await story.handle())
    assert code_of(await story.handle(**other)) == Code.ATTACH_ID_REUSED
    second = result_of(await story.handle(**other))
    assert second.outcome_id != first.outcome_id
    assert second == result_of(await story.handle(**other))
    assert (result_of(await story.handle()), len(story.endpoint.calls)) == (first, 1)


async def test_another_order_for_a_spent_token_is_refused_before_any_call_and_told_who_won(tell: Tell) -> None:
    story = tell(customer())
    await story.handle()
    outcome = await story.handle(attach_id="attach-2")
    failure = result_of(outcome).failure
    assert failure is not None
    assert (failure.code, failure.spent_by) == (Code.TOKEN_SPENT, "attach-1")
    assert len(story.endpoint.calls) == 1


async def test_while_somebody_else_spends_it_one_waits_and_then_learns(tell: Tell) -> None:
    told = asyncio.Event()

    async def after_a_while() -> Answer:
        await told.wait()
        return customer()

    story = tell(after_a_while)
    first = asyncio.create_task(story.handle())
    while story.state != "leased":
        await asyncio.sleep(0)
    second = asyncio.create_task(story.handle(attach_id="attach-2"))
    while len(story.world.slept) < 3:
        await asyncio.sleep(0)
    assert not second.done()
    told.set()
    assert result_of(await first).ok
    assert code_of(await second) == Code.TOKEN_SPENT


async def test_a_token_whose_spender_gave_it_back_is_spent_by_the_one_who_waited(tell: Tell) -> None:
    story = tell(declined(400, "resource_missing"), customer())
    one, other = await asyncio.gather(story.handle(), story.handle(attach_id="attach-2"))
    assert code_of(one) == "resource_missing"
    assert result_of(other).ok
    assert story.ledger.holding("tok_1").by == "attach-2"


async def test_killed_between_call_and_record_the_next_delivery_repeats_the_key_or_knows_the_answer(
    tell: Tell,
) -> None:
    story = tell(customer(), customer())
    for moment in ("before close", "before record"):
        story.dies.at = moment
        with pytest.raises(Killed):
            await story.handle()
    assert story.state == "spent"
    result = result_of(await story.handle())
    assert (result.ok, result.object_id, result.stored_id) == (True, "cus_1", "card_1")
    assert len(set(story.endpoint.keys)) == 1
    assert len(story.endpoint.calls) == 2, "what the ledger knows is not asked again"


async def test_the_key_comes_from_token_and_target_not_from_the_message(tell: Tell) -> None:
    story = tell(*[declined(404, "resource_missing")] * 4)
    await story.handle()
    await story.handle(attach_id="attach-2")
    await story.handle(attach_id="attach-3", target=CustomerSource(customer="cus_2"))
    await story.handle(attach_id="attach-4", connected_account="acct_1")
    keys = story.endpoint.keys
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    assert all(len(key) <= 255 for key in keys)
    assert not any("tok_1" in key for key in keys)


@pytest.mark.parametrize("changed", [{"kind": "pii"}, {"kind": "person"}, {"kind": "cvc_update"}])
async def test_a_kind_that_cannot_be_spent_there_is_refused_before_any_call(
    tell: Tell, changed: dict[str, str]
) -> None:
    story = tell()
    assert code_of(await story.handle(**changed)) == Code.WRONG_KIND
    assert story.state == "absent"


async def test_an_option_that_must_be_said_and_is_not_is_told_as_such(tell: Tell) -> None:
    story = tell()
    assert code_of(await story.handle(target=CustomerUpdate(customer="cus_1"))) == Code.WRONG_OPTIONS
    assert story.state == "absent"


async def test_an_order_that_knows_no_age_does_not_make_a_token_younger_than_it_is(tell: Tell) -> None:
    story = tell()
    story.ledger.tokens["tok_1"] = Holding("available", scope=SCOPE, made_at=int((NOW - 601) * 1000))
    assert code_of(await story.handle()) == Code.TOKEN_EXPIRED


@pytest.mark.parametrize(
    ("belongs", "code"),
    [
        (TokenScope("other", "test", "", "card"), Code.TOKEN_OF_ANOTHER_PLATFORM),
        (TokenScope("main", "live", "", "card"), Code.TOKEN_OF_ANOTHER_MODE),
        (TokenScope("main", "test", "acct_1", "card"), Code.TOKEN_OF_ANOTHER_ACCOUNT),
        (TokenScope("main", "test", "", "bank_account"), Code.TOKEN_OF_ANOTHER_KIND),
    ],
)
async def test_a_token_that_belongs_elsewhere_is_refused_before_any_call(
    tell: Tell, belongs: TokenScope, code: Code
) -> None:
    story = tell()
    story.ledger.tokens["tok_1"] = Holding("available", scope=belongs)
    assert code_of(await story.handle()) == code
    assert (story.state, story.endpoint.calls) == ("available", [])


@pytest.mark.parametrize(
    ("part", "other"), [("platform", "other"), ("mode", "live"), ("account", "acct_1"), ("kind", "bank_account")]
)
async def test_no_attach_id_is_mistaken_for_the_part_of_the_scope_that_differs(
    tell: Tell, part: str, other: str
) -> None:
    story = tell()
    belongs = replace(SCOPE, **{part: other})  # type: ignore[arg-type]
    story.ledger.tokens["tok_1"] = Holding("available", scope=belongs)
    assert code_of(await story.handle(attach_id=part)) == f"token_of_another_{part}"
    assert (story.state, story.endpoint.calls) == ("available", [])


@pytest.mark.parametrize(("account", "ok"), [("acct_1", True), ("acct_2", False)])
async def test_an_accounts_own_token_goes_into_that_account_in_the_platforms_name_and_into_no_other(
    tell: Tell, account: str, ok: bool
) -> None:
    story = tell(Answer("card", "card_1", {}))
    story.ledger.tokens["tok_1"] = Holding("available", scope=TokenScope("main", "test", "acct_1", "card"))
    assert result_of(await story.handle(target=ExternalAccount(account=account))).ok == ok


@pytest.mark.parametrize("token", ["cus_1", "card_1", "_1", "7", "tok-1", "tok 1", ""])
async def test_what_is_no_token_id_is_refused_by_producer_and_worker(tell: Tell, token: str) -> None:
    story = tell()
    with pytest.raises(ValidationError):
        story.order(token=token)
    forged = story.order().replace("tok_1", token)
    assert isinstance(await story.attacher.handle(forged), Quarantined)


async def test_a_platform_nobody_knows_is_told(tell: Tell) -> None:
    assert code_of(await tell().handle(platform="elsewhere")) == Code.UNKNOWN_PLATFORM


async def test_an_order_of_nobody_is_quarantined(tell: Tell) -> None:
    story = tell()
    for body in ("", "{}", story.order().replace("tok_1", "tok_2")):
        assert isinstance(await story.attacher.handle(body), Quarantined)
    assert story.journal.entries == {}


async def test_an_order_that_killed_its_worker_too_often_is_taken_for_poison(tell: Tell) -> None:
    story = tell()
    story.journal.entry("attach-1").deliveries = 3
    assert code_of(await story.handle()) == Code.DELIVERIES_EXHAUSTED


async def test_an_outcome_that_a_newer_version_wrote_is_left_to_it_and_never_spoken_against(tell: Tell) -> None:
    story = tell()
    entry = story.journal.entry("attach-1")
    entry.outcome, entry.deliveries = '{"said": "in words of tomorrow"}', 2
    with pytest.raises(ValidationError):
        await story.handle()
    outcome = await story.handle()
    assert isinstance(outcome, DeadLettered)
    assert (outcome.code, outcome.settled.reply_to) == (Code.DELIVERIES_EXHAUSTED, None)
    assert entry.outcome == '{"said": "in words of tomorrow"}'
    assert story.endpoint.calls == []


async def test_a_token_that_waited_too_long_is_reported_and_never_tried(tell: Tell) -> None:
    story = tell()
    story.ledger.tokens["tok_1"] = Holding("available", scope=SCOPE)
    story.world.clock = NOW + 601
    assert code_of(await story.handle()) == Code.TOKEN_EXPIRED
    assert (story.endpoint.calls, story.state) == ([], "expired")
    assert code_of(await story.handle(attach_id="attach-2")) == Code.TOKEN_EXPIRED


async def test_a_token_too_old_but_perhaps_spent_already_is_asked_about_with_the_same_key(tell: Tell) -> None:
    story = tell(customer())
    await story.ledger.claim("tok_1", "attach-1", lease=120)  # a worker died in the middle of it
    story.world.clock = NOW + 601
    assert result_of(await story.handle()).ok
    assert story.state == "spent"


async def test_a_declined_card_burns_the_token(tell: Tell) -> None:
    story = tell(declined(402, "card_declined"))
    story.ledger.tokens["tok_1"] = Holding("available", scope=SCOPE)
    assert code_of(await story.handle()) == "card_declined"
    assert story.state == "burnt"
    assert code_of(await story.handle(attach_id="attach-2")) == Code.TOKEN_SPENT
    assert len(story.endpoint.calls) == 1


async def test_declined_after_the_store_was_wiped_says_not_that_no_other_order_had_spent_the_token(tell: Tell) -> None:
    story = tell(declined(402, "card_declined"))
    await story.handle()
    assert code_of(await story.handle(attach_id="attach-2")) == Code.TOKEN_IN_DOUBT


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "parameter_missing"), (400, "resource_missing"), (404, "resource_missing"), (400, "bank_account_exists")],
)
async def test_after_any_other_refusal_the_token_is_as_it_was(tell: Tell, status: int, code: str) -> None:
    story = tell(declined(status, code), customer())
    assert code_of(await story.handle()) == code
    assert story.state == "available"
    assert result_of(await story.handle(attach_id="attach-2", target=CustomerSource(customer="cus_2"))).ok


def already_used() -> Declined:
    return Declined(400, "token_already_used", "invalid_request_error")


async def test_a_token_used_by_nobody_knows_whom_is_told_in_the_endpoints_words_to_every_order(tell: Tell) -> None:
    story = tell(already_used(), already_used())
    assert code_of(await story.handle()) == "token_already_used"
    assert code_of(await story.handle(attach_id="attach-2")) == "token_already_used"
    assert (story.state, story.endpoint.looks) == ("unknown", [])


async def test_a_token_in_use_is_tried_again_with_the_same_key(tell: Tell) -> None:
    story = tell(Unavailable("token_in_use", 400, maybe_done=False), customer())
    assert result_of(await story.handle()).ok
    assert len(set(story.endpoint.keys)) == 1


async def test_a_stored_500_never_gets_a_new_key(tell: Tell) -> None:
    story = tell(*[server_error()] * 4)
    assert code_of(await story.handle()) == Code.OUTCOME_UNKNOWN
    assert len(set(story.endpoint.keys)) == 1


@pytest.mark.parametrize(
    ("script", "code", "state"),
    [
        ([not_connected()] * 4, Code.ATTEMPTS_EXHAUSTED, "available"),
        ([timed_out(), *[not_connected()] * 3], Code.OUTCOME_UNKNOWN, "unknown"),
        ([*[not_connected()] * 3, timed_out()], Code.OUTCOME_UNKNOWN, "unknown"),
    ],
)
async def test_given_up_on_it_says_unknown_exactly_when_a_call_may_have_had_its_effect(
    tell: Tell, script: list[Unavailable], code: str, state: str
) -> None:
    story = tell(*script)
    outcome = await story.handle()
    assert code_of(outcome) == code
    failure = result_of(outcome).failure
    assert failure is not None
    assert failure.attempts == 4
    assert story.state == state


async def test_given_up_on_after_a_death_in_the_middle_nobody_can_say_either(tell: Tell) -> None:
    story = tell(*[not_connected()] * 4)
    await story.ledger.claim("tok_1", "attach-1", lease=120)
    assert code_of(await story.handle()) == Code.OUTCOME_UNKNOWN


async def test_while_the_key_is_refused_the_order_waits(tell: Tell) -> None:
    story = tell(*[blocked()] * 3, customer())
    async with asyncio.timeout(30), watched(story.attacher.spender.caller.circuits):
        assert result_of(await story.handle()).ok


async def test_an_order_that_waited_for_a_circuit_until_its_token_is_too_old_says_so(tell: Tell) -> None:
    story = tell(*[blocked()] * 9)
    story.ledger.tokens["tok_1"] = Holding("available", scope=SCOPE)
    async with asyncio.timeout(30), watched(story.attacher.spender.caller.circuits):
        assert code_of(await story.handle(attach_before=int((NOW + 0.2) * 1000))) == Code.TOKEN_EXPIRED
    assert story.state == "expired"


@pytest.mark.parametrize(
    ("account", "scope"), [("acct_1", "main/account/acct_1"), (None, "main/endpoint/customer_sources")]
)
async def test_a_refused_account_or_endpoint_parks_the_order_with_its_token_free(
    tell: Tell, account: str | None, scope: str
) -> None:
    story = tell(blocked(403), customer())
    for _ in range(2):
        outcome = await story.handle(connected_account=account)
        assert outcome == Parked(scope, ATTACH_TASK, "attach-1")
    assert (story.state, len(story.endpoint.calls), story.journal.entry("attach-1").deliveries) == ("available", 1, 0)
    await story.attacher.spender.caller.circuits.on_success([scope])
    assert result_of(await story.handle(connected_account=account)).ok


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (blocked(403), ("tokenferry", Code.ACCOUNT_REFUSES)),
        (Blocked(403, "account_invalid", "invalid_request_error"), ("endpoint", "account_invalid")),
    ],
)
async def test_an_account_that_takes_no_external_accounts_is_told_and_holds_up_nobody(
    tell: Tell, refusal: Blocked, told: tuple[str, str]
) -> None:
    story = tell(refusal, customer("cus_1"), Answer("bank_account", "ba_2", {}))
    bank = {"kind": "bank_account", "token": "btok_1"}
    failure = result_of(await story.handle(**bank, target=ExternalAccount(account="acct_1"))).failure
    assert failure is not None
    assert (failure.source, failure.code, failure.status) == (*told, 403)
    assert story.ledger.holding("btok_1").state == "available"
    assert result_of(await story.handle(attach_id="attach-2", connected_account="acct_1")).ok
    other = {**bank, "attach_id": "attach-3", "target": ExternalAccount(account="acct_2")}
    assert result_of(await story.handle(**other)).object_id == "ba_2"


async def test_a_403_that_may_speak_for_either_account_or_key_is_kept_to_be_redriven(tell: Tell) -> None:
    story = tell(blocked(403))
    outcome = await story.handle(kind="bank_account", token="btok_1", target=ExternalAccount(account="acct_1"))
    assert isinstance(outcome, DeadLettered)


async def test_refused_by_the_account_after_a_call_whose_answer_was_lost_is_looked_into(tell: Tell) -> None:
    story = tell(timed_out(), blocked(403))
    outcome = await story.handle(kind="bank_account", target=ExternalAccount(account="acct_1"))
    assert (code_of(outcome), story.state) == (Code.OUTCOME_UNKNOWN, "unknown")


async def test_parked_after_a_call_that_may_have_spent_the_token_nobody_else_gets_it(tell: Tell) -> None:
    story = tell(timed_out(), blocked(403), customer())
    assert isinstance(await story.handle(), Parked)
    assert story.state == "unknown"
    await story.attacher.spender.caller.circuits.on_success(["main/endpoint/customer_sources"])
    assert result_of(await story.handle()).ok
    assert len(set(story.endpoint.keys)) == 1


WITH_CUSTOMER = PaymentMethod(customer="cus_1")


async def test_a_payment_method_is_made_and_then_attached_with_a_key_of_its_own(tell: Tell) -> None:
    story = tell(payment_method("pm_1"), payment_method("pm_1"))
    result = result_of(await story.handle(target=WITH_CUSTOMER))
    assert (result.ok, result.object_id, result.object_type) == (True, "pm_1", "payment_method")
    first, second = story.endpoint.calls
    assert (second.where, second.form) == ("/v1/payment_methods/pm_1/attach", "customer=cus_1")
    assert first.key.removesuffix(":spend") == second.key.removesuffix(":follow-up")


@pytest.mark.parametrize(
    ("trouble", "code"),
    [([declined(402, "card_declined")], "card_declined"), ([timed_out()] * 4, Code.OUTCOME_UNKNOWN)],
)
async def test_when_only_the_second_call_fails_the_object_of_the_first_is_not_forgotten(
    tell: Tell, trouble: list[Exception], code: str
) -> None:
    story = tell(payment_method("pm_1"), *trouble)
    outcome = await story.handle(target=WITH_CUSTOMER)
    result = result_of(outcome)
    assert (code_of(outcome), result.object_id, result.object_type) == (code, "pm_1", "payment_method")
    assert story.state == "spent"


async def test_killed_between_the_two_calls_the_next_delivery_makes_the_second(tell: Tell) -> None:
    async def die() -> Answer:
        raise Killed

    story = tell(payment_method("pm_1"), die, payment_method("pm_1"))
    with pytest.raises(Killed):
        await story.handle(target=WITH_CUSTOMER)
    assert result_of(await story.handle(target=WITH_CUSTOMER)).ok
    assert story.endpoint.keys[1] == story.endpoint.keys[2]


async def test_of_twenty_orders_for_one_token_exactly_one_spends_it(tell: Tell) -> None:
    story = tell(endpoint=SpendingEndpoint())
    outcomes = await asyncio.gather(*(story.handle(attach_id=f"attach-{n}") for n in range(20)))
    won = [result_of(outcome) for outcome in outcomes if result_of(outcome).ok]
    assert len(won) == 1
    assert len(story.endpoint.calls) == 1
    lost = [result_of(outcome).failure for outcome in outcomes if not result_of(outcome).ok]
    assert {(failure.code, failure.spent_by) for failure in lost if failure} == {(Code.TOKEN_SPENT, won[0].attach_id)}


async def test_of_twenty_orders_in_two_workers_on_one_store_exactly_one_spends_it(
    key_folder: Any, client: Any, prefix: str
) -> None:
    endpoint, signer = SpendingEndpoint(), Signer.load(key_folder.worker)
    workers = []
    for _ in range(2):
        store, world = Store(client, prefix), StoryClock()
        ledger, journal = RedisLedger(store, "main", days=1), RedisJournal(store, "attach", days=1)
        attacher, limiter = attacher_of(key_folder, endpoint, journal, ledger, world)
        workers.append(Story(attacher, endpoint, MemoryJournal(), MemoryLedger(), limiter, world, signer))
    outcomes = await asyncio.gather(
        *(workers[n % 2].handle(attach_id=f"attach-{n}", target=CustomerCreate()) for n in range(20))
    )
    assert [result_of(outcome).ok for outcome in outcomes].count(True) == 1
    assert len(endpoint.calls) == 1


async def test_an_order_that_was_given_up_on_is_kept_with_its_history_of_codes_and_times(tell: Tell) -> None:
    outcome = await tell(*[timed_out()] * 4).handle()
    assert isinstance(outcome, DeadLettered)
    assert outcome.code == Code.OUTCOME_UNKNOWN
    failure = outcome.settled.result.failure
    assert failure is not None
    assert [attempt.code for attempt in failure.history] == ["ReadTimeout"] * 4
    assert [attempt.at for attempt in failure.history] == sorted(attempt.at for attempt in failure.history)


async def test_when_the_endpoint_says_that_repeating_is_useless_it_is_not_repeated(tell: Tell) -> None:
    story = tell(Unavailable("api_error", 500, "req_1", final=True))
    result = result_of(await story.handle())
    assert result.failure is not None
    assert (result.failure.code, result.failure.attempts) == (Code.OUTCOME_UNKNOWN, 1)
