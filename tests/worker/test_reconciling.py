"""What became of a call whose answer was lost is found out by repeating it and by looking, and never guessed."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tokenferry.contract.codes import Code
from tokenferry.contract.results import Display
from tokenferry.contract.targets import (
    AccountUpdate,
    Charge,
    CustomerCreate,
    CustomerSource,
    CustomerUpdate,
    ExternalAccount,
    PaymentIntentConfirm,
)
from tokenferry_worker.errors import Declined, Unavailable
from tokenferry_worker.limits.pacing import Budget
from tokenferry_worker.outcomes import DeadLettered, Parked
from tokenferry_worker.provider.answers import Answer
from tokenferry_worker.tokens.reconciling import QUIET

from .attaching_story import TARGET, Story, Tell, begin, code_of, result_of
from .standins import NOW, blocked, customer, declined, not_connected, rate_limited, server_error, timed_out

pytestmark = pytest.mark.anyio

INSIDE = Display(object_id="card_1")
TOKEN = "/v1/tokens/tok_1"
SOURCE = "/v1/customers/cus_1/sources/card_1"
NOT_THERE = Declined(404, "resource_missing", "invalid_request_error", "id")
LOST = [server_error()] * 4
"""A stored 500: it repeats itself under its key for ever, whatever the first call did."""


@pytest.fixture
def tell(key_folder: Any) -> Tell:
    return partial(begin, key_folder)


def a_token(*, used: bool) -> Answer:
    return Answer("token", "tok_1", {"id": "tok_1", "object": "token", "used": used})


def card() -> Answer:
    return Answer("card", "card_1", {"id": "card_1", "object": "card"})


def intent(status: str) -> Answer:
    return Answer("payment_intent", "pi_1", {"id": "pi_1", "object": "payment_intent", "status": status})


def looked(story: Story) -> list[str]:
    return [look.where for look in story.endpoint.looks]


@pytest.mark.parametrize(
    ("target", "path", "became"),
    [
        (TARGET, SOURCE, ("card_1", "card", "card_1")),
        (CustomerUpdate(customer="cus_1", may_collect_open_invoices=True), SOURCE, ("cus_1", "customer", "card_1")),
        (
            ExternalAccount(account="acct_1"),
            "/v1/accounts/acct_1/external_accounts/card_1",
            ("card_1", "card", "card_1"),
        ),
        (
            AccountUpdate(account="acct_1", replace_default=True),
            "/v1/accounts/acct_1/external_accounts/card_1",
            ("acct_1", "account", "card_1"),
        ),
    ],
)
async def test_where_the_target_holds_the_very_card_of_the_token_the_call_had_its_effect(
    tell: Tell, target: Any, path: str, became: tuple[str, str, str]
) -> None:
    story = tell(*LOST)
    story.endpoint.shown[path] = card()
    result = result_of(await story.handle(target=target, display=INSIDE))
    assert result.ok
    assert (result.object_id, result.object_type, result.stored_id) == became
    assert (story.state, looked(story)) == ("spent", [path])
    again = result_of(await story.handle(target=target, display=INSIDE, attach_id="attach-2")).failure
    assert again is not None
    assert (again.code, again.spent_by, again.spent_on) == (Code.TOKEN_SPENT, "attach-1", became[0])


async def test_an_unused_token_and_a_target_without_it_prove_that_nothing_happened_once_no_call_can_be_under_way(
    tell: Tell,
) -> None:
    story = tell(*[timed_out()] * 4)
    story.endpoint.shown |= {SOURCE: NOT_THERE, TOKEN: a_token(used=False)}
    outcome = await story.handle(display=INSIDE)
    assert (code_of(outcome), story.state) == (Code.ATTEMPTS_EXHAUSTED, "available")
    assert isinstance(outcome, DeadLettered)
    assert QUIET in story.world.slept
    assert looked(story) == [SOURCE, TOKEN] * 2


async def test_a_call_that_had_its_effect_after_the_first_look_is_seen_by_the_second(tell: Tell) -> None:
    story = tell(*[timed_out()] * 4)
    story.endpoint.shown |= {SOURCE: NOT_THERE, TOKEN: a_token(used=False)}
    sleep = story.world.sleep

    async def and_then(seconds: float) -> None:
        await sleep(seconds)
        if seconds == QUIET:
            story.endpoint.shown[SOURCE] = card()

    story.world.sleep = and_then  # type: ignore[method-assign]
    assert result_of(await story.handle(display=INSIDE)).object_id == "card_1"


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        ({SOURCE: NOT_THERE, TOKEN: a_token(used=True)}, "used, and not there: by whom, and on what?"),
        ({SOURCE: timed_out(), TOKEN: a_token(used=False)}, "the target did not answer"),
        ({SOURCE: NOT_THERE, TOKEN: NOT_THERE}, "the token is gone"),
        ({SOURCE: NOT_THERE, TOKEN: Answer("token", "tok_9", {"used": False})}, "another token was shown"),
        ({SOURCE: NOT_THERE, TOKEN: Answer("token", "tok_1", {"used": "no"})}, "that is no flag"),
        ({SOURCE: blocked(403), TOKEN: blocked(403)}, "the key may not look"),
        ({}, "nothing answers"),
    ],
)
async def test_what_looking_does_not_prove_is_told_as_unknown(tell: Tell, shown: dict[str, Any], why: str) -> None:
    story = tell(*LOST)
    story.endpoint.shown |= shown
    outcome = await story.handle(display=INSIDE)
    assert (code_of(outcome), story.state) == (Code.OUTCOME_UNKNOWN, "unknown"), why
    assert isinstance(outcome, DeadLettered)


async def test_a_key_that_may_not_look_opens_no_circuit(tell: Tell) -> None:
    story = tell(*LOST, customer())
    story.endpoint.shown |= {SOURCE: blocked(403), TOKEN: blocked(401)}
    assert code_of(await story.handle(display=INSIDE)) == Code.OUTCOME_UNKNOWN
    assert result_of(await story.handle(attach_id="attach-2", token="tok_2")).ok


@pytest.mark.parametrize(
    ("target", "code"),
    [(CustomerCreate(), Code.ATTEMPTS_EXHAUSTED), (Charge(amount=100, currency="usd"), Code.OUTCOME_UNKNOWN)],
)
async def test_where_only_the_token_can_be_looked_at_its_flag_is_believed_unless_money_moves(
    tell: Tell, target: Any, code: Code
) -> None:
    story = tell(*LOST)
    story.endpoint.shown[TOKEN] = a_token(used=False)
    assert code_of(await story.handle(target=target, display=INSIDE)) == code


@pytest.mark.parametrize("target", [CustomerCreate(), Charge(amount=100, currency="usd")])
async def test_that_a_token_was_used_says_not_that_the_call_succeeded(tell: Tell, target: Any) -> None:
    story = tell(*LOST)
    story.endpoint.shown[TOKEN] = a_token(used=True)
    assert code_of(await story.handle(target=target, display=INSIDE)) == Code.OUTCOME_UNKNOWN


@pytest.mark.parametrize(
    ("status", "used", "code"),
    [
        ("succeeded", True, None),
        ("requires_capture", True, None),
        ("succeeded", False, Code.ATTEMPTS_EXHAUSTED),
        ("requires_payment_method", False, Code.ATTEMPTS_EXHAUSTED),
        ("requires_payment_method", True, Code.OUTCOME_UNKNOWN),
    ],
)
async def test_an_intent_was_confirmed_by_us_where_it_is_confirmed_and_the_token_is_used(
    tell: Tell, status: str, used: bool, code: Code | None
) -> None:
    story = tell(*LOST)
    story.endpoint.shown |= {"/v1/payment_intents/pi_1": intent(status), TOKEN: a_token(used=used)}
    outcome = await story.handle(target=PaymentIntentConfirm(payment_intent="pi_1"))
    if code is None:
        assert (result_of(outcome).object_id, story.state) == ("pi_1", "spent")
    else:
        assert code_of(outcome) == code


@pytest.mark.parametrize("code", ["token_already_used", "idempotency_error"])
@pytest.mark.parametrize(("shown", "ok"), [(card(), True), (NOT_THERE, False)])
async def test_used_after_a_call_of_ours_whose_answer_was_lost_is_looked_into(
    tell: Tell, code: str, shown: Any, ok: bool
) -> None:
    story = tell(timed_out(), Declined(400, code, "invalid_request_error"))
    story.endpoint.shown |= {SOURCE: shown, TOKEN: a_token(used=True)}
    outcome = await story.handle(display=INSIDE)
    if ok:
        assert (result_of(outcome).object_id, story.state) == ("card_1", "spent")
    else:
        assert (code_of(outcome), story.state) == (Code.OUTCOME_UNKNOWN, "unknown")


async def test_used_in_the_life_of_a_worker_that_died_is_looked_into(tell: Tell) -> None:
    story = tell(Declined(400, "token_already_used", "invalid_request_error"))
    await story.ledger.claim("tok_1", "attach-1", lease=120)
    story.endpoint.shown[SOURCE] = card()
    assert result_of(await story.handle(display=INSIDE)).object_id == "card_1"


@pytest.mark.parametrize("calls", [[], [not_connected()], [rate_limited("global-rate")]])
async def test_used_before_any_call_of_ours_is_the_endpoints_refusal(tell: Tell, calls: list[Any]) -> None:
    story = tell(*calls, Declined(400, "token_already_used", "invalid_request_error"))
    story.endpoint.shown[SOURCE] = card()
    assert code_of(await story.handle(display=INSIDE)) == "token_already_used"
    assert looked(story) == []


async def test_a_token_in_use_to_the_end_is_looked_into(tell: Tell) -> None:
    story = tell(*[Unavailable("token_in_use", 400, maybe_done=False)] * 4)
    story.endpoint.shown[SOURCE] = card()
    assert result_of(await story.handle(display=INSIDE)).object_id == "card_1"


async def test_looking_draws_on_the_budgets_of_what_it_looks_at_and_obeys_a_429(tell: Tell) -> None:
    story = tell(*LOST)
    story.endpoint.shown |= {SOURCE: rate_limited("endpoint-rate"), TOKEN: a_token(used=True)}
    push_back = story.limiter.back_off

    async def for_the_fourth_time_in_vain(budget: Budget, seconds: float) -> None:
        await push_back(budget, seconds)
        if len(story.limiter.pushed_back) == 4 * 2:  # of the operation, and of its resource
            story.endpoint.shown[SOURCE] = NOT_THERE

    story.limiter.back_off = for_the_fourth_time_in_vain  # type: ignore[method-assign]
    await story.handle(display=INSIDE)
    spent, opinion, looks = [
        [budgets for budgets, _ in story.limiter.permits[part]] for part in (slice(4), slice(4, 5), slice(5, None))
    ]
    sources, creating, reading, token = (
        "main:endpoint:customer_sources",
        "main:operation:POST /v1/customers/{id}/sources",
        "main:operation:GET /v1/customers/{id}/sources/{id}",
        ("main:global", "main:endpoint:tokens", "main:operation:GET /v1/tokens/{id}"),
    )
    assert spent == [("main:global", sources, creating)] * 4
    assert opinion == [token]
    assert looks == [("main:global", sources, reading)] * 5 + [token]
    assert {name for name, _ in story.limiter.pushed_back} == {sources, reading}
    assert story.limiter.under_way == 0


async def test_an_order_whose_outcome_is_unknown_finds_out_when_it_comes_again_and_nobody_else_gets_the_token(
    tell: Tell,
) -> None:
    story = tell(*LOST, *LOST)
    assert code_of(await story.handle(display=INSIDE)) == Code.OUTCOME_UNKNOWN
    other = result_of(await story.handle(attach_id="attach-2", target=CustomerSource(customer="cus_2"))).failure
    assert other is not None
    assert (other.code, other.spent_by) == (Code.TOKEN_IN_DOUBT, "attach-1")
    assert len(story.endpoint.calls) == 4
    story.journal.entries.clear()  # redriven
    story.endpoint.shown[SOURCE] = card()
    assert result_of(await story.handle(display=INSIDE)).object_id == "card_1"
    assert len(set(story.endpoint.keys)) == 1


# -- too old, and the ledger cannot say whether it was tried

CHARGE = Charge(amount=100, currency="usd")


def late(story: Story) -> Story:
    story.world.clock = NOW + 601
    return story


async def test_killed_in_the_call_and_the_store_wiped_a_late_order_is_looked_into_before_it_is_called_expired(
    tell: Tell,
) -> None:
    story = late(tell())
    story.endpoint.shown[SOURCE] = card()
    assert result_of(await story.handle(display=INSIDE)).object_id == "card_1"
    assert (story.state, story.endpoint.calls) == ("spent", [])


async def test_a_late_order_for_a_token_made_elsewhere_expires_once_it_is_proven_unused(tell: Tell) -> None:
    story = late(tell())
    story.endpoint.shown |= {SOURCE: NOT_THERE, TOKEN: a_token(used=False)}
    assert code_of(await story.handle(display=INSIDE)) == Code.TOKEN_EXPIRED
    assert (story.state, story.endpoint.calls) == ("expired", [])


@pytest.mark.parametrize("shown", [a_token(used=False), timed_out()])
async def test_where_money_moves_no_late_call_is_made_and_none_is_called_expired(tell: Tell, shown: Any) -> None:
    story = late(tell())
    story.endpoint.shown[TOKEN] = shown
    outcome = await story.handle(target=CHARGE)
    assert (code_of(outcome), story.state, story.endpoint.calls) == (Code.OUTCOME_UNKNOWN, "unknown", [])
    assert isinstance(outcome, DeadLettered)


async def test_a_late_order_for_a_token_that_was_used_repeats_its_key_which_can_spend_nothing_any_more(
    tell: Tell,
) -> None:
    story = late(tell(Answer("charge", "ch_1", {})))
    story.endpoint.shown[TOKEN] = a_token(used=True)
    assert result_of(await story.handle(target=CHARGE)).object_id == "ch_1"


async def test_left_available_by_another_order_after_a_wipe_it_is_looked_into_all_the_same(tell: Tell) -> None:
    story = tell(declined(404, "resource_missing"))
    await story.handle(attach_id="attach-2", target=CHARGE)
    assert code_of(await late(story).handle(target=CHARGE)) == Code.OUTCOME_UNKNOWN


@pytest.mark.parametrize(("hours", "code"), [(1, "resource_missing"), (24, Code.OUTCOME_UNKNOWN)])
async def test_a_refusal_after_a_call_in_doubt_counts_as_long_as_the_endpoint_remembers_the_key(
    tell: Tell, hours: float, code: str
) -> None:
    story = tell(declined(404, "resource_missing"))
    await story.ledger.claim("tok_1", "attach-1", lease=120)  # a worker died in the middle of it
    story.world.clock += hours * 3600
    assert code_of(await story.handle(display=INSIDE)) == code


async def test_the_endpoints_own_words_are_in_no_result(tell: Tell) -> None:
    story = tell(*LOST)
    story.endpoint.shown |= {
        SOURCE: Answer("card", "card_2", {"name": "secret words"}),
        TOKEN: Answer("token", "tok_1", {"used": "secret words"}),
    }
    outcome = await story.handle(display=INSIDE)
    assert "secret words" not in repr(outcome) + result_of(outcome).model_dump_json()


async def test_parked_in_doubt_and_come_back_it_repeats_its_key_whatever_the_time(tell: Tell) -> None:
    story = tell(timed_out(), blocked(403), customer())
    assert isinstance(await story.handle(), Parked)
    await story.attacher.spender.caller.circuits.on_success(["main/endpoint/customer_sources"])
    story.world.clock += 700
    assert result_of(await story.handle()).ok
    assert len(set(story.endpoint.keys)) == 1
