"""One delivery of a sealed request, in every story it can live through."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
from pydantic import ValidationError

from tokenferry.configuration import Platform
from tokenferry.contract.codes import Code
from tokenferry.contract.envelope import MAX_ENVELOPE_BYTES, Envelope, Header
from tokenferry.contract.lifetimes import Lifetimes
from tokenferry.contract.onboarding import OnboardingHeader
from tokenferry.contract.queues import TOKENIZE_TASK
from tokenferry.contract.requests import CardRequest, CvcUpdateRequest, PiiRequest, TokenRequest
from tokenferry.contract.results import Failure, TokenResult
from tokenferry.contract.targets import AccountCreate, Charge, CustomerSource, Target, digest
from tokenferry.sealing import Recipient, Signer, seal, sign_attach
from tokenferry_worker.circuits.breaker import CircuitBreaker
from tokenferry_worker.deliveries.lifetimes import LifetimeCheck
from tokenferry_worker.deliveries.onboarding import fingerprint as onboarding_fingerprint
from tokenferry_worker.deliveries.tokenizing import BESIDE_THE_REQUEST, Tokenizer
from tokenferry_worker.errors import Blocked, Declined, Forgotten
from tokenferry_worker.keys.identities import Signers, load_identities
from tokenferry_worker.keys.opening import Opener, read_attach
from tokenferry_worker.limits.backpressure import slots_of
from tokenferry_worker.limits.budgets import Budgets
from tokenferry_worker.outcomes import DeadLettered, Dropped, HandedOn, Outcome, Parked, Quarantined, Settled
from tokenferry_worker.provider.answers import Answer
from tokenferry_worker.provider.attempts import LEAST_BACK_OFF, Caller
from tokenferry_worker.provider.platforms import PlatformContext
from tokenferry_worker.tokens.creating import TokenCreator
from tokenferry_worker.tokens.grouped_ids import GroupedId
from tokenferry_worker.tokens.ledger import TokenScope

from .standins import (
    EVERYBODY,
    NOW,
    MemoryBackpressure,
    MemoryCircuits,
    MemoryJournal,
    MemoryLimiter,
    ScriptedEndpoint,
    Step,
    StoryClock,
    blocked,
    declined,
    not_connected,
    rate_limited,
    server_error,
    timed_out,
    token,
    watched,
)

pytestmark = pytest.mark.anyio

CARD = CardRequest(number="4242424242424242", exp_month="12", exp_year="2034")
CVC = CvcUpdateRequest(cvc="123")
PLAN = CustomerSource(customer="cus_1")
PLATFORM = Platform(mode="test", base_url="http://127.0.0.1:1")

TOKENS = ("main:endpoint:tokens", "main:operation:POST /v1/tokens")


@dataclass
class Story:
    """A tokenize worker on one platform, and a producer who seals for it."""

    tokenizer: Tokenizer
    endpoint: ScriptedEndpoint
    journal: MemoryJournal
    backpressure: MemoryBackpressure
    limiter: MemoryLimiter
    circuits: CircuitBreaker
    clock: StoryClock
    to: Recipient
    producer: Signer
    signers: Signers
    bodies: list[str] = field(default_factory=list)

    def sealed(self, request: TokenRequest = CARD, *, attach: CustomerSource | None = None, **changed: Any) -> str:
        fields: dict[str, Any] = {
            "suite": self.to.suite,
            "key_id": self.to.key_id,
            "request_id": "req-1",
            "kind": request.kind,
            "platform": "main",
            "lane": "bulk",
            "reply_to": "importer",
            "attach_digest": digest(attach) if attach else None,
            "issued_at": int(NOW * 1000),
            "expires_at": int((NOW + 86_400) * 1000),
            "producer_id": self.producer.signer_id,
        }
        header = Header(**{**fields, **changed})
        return seal(request, header, to=self.to, signer=self.producer, attach=attach).model_dump_json()

    async def handle(self, body: str | None = None) -> Outcome:
        return await self.tokenizer.handle(body if body is not None else self.sealed())


Tell = Callable[..., Story]


@pytest.fixture
def tell(key_folder: Any) -> Tell:
    """Begins a story with what the endpoint will answer."""

    def begin(*script: Step, live: bool = False, journal: MemoryJournal | None = None) -> Story:
        endpoint, limiter, clock = ScriptedEndpoint(*script), MemoryLimiter(), StoryClock()
        journal = journal or MemoryJournal()
        backpressure = MemoryBackpressure()
        circuits = CircuitBreaker(MemoryCircuits(), look_every=0.01)
        signers, worker = Signers.load(key_folder.signers), Signer.load(key_folder.worker)
        tokenizer = Tokenizer(
            opener=Opener(load_identities(key_folder.identities), signers),
            rights=EVERYBODY,
            creator=TokenCreator(journal, Caller(limiter, circuits, clock, attempts=8), clock),
            platforms={"main": PlatformContext("main", endpoint, Budgets("main", PLATFORM), live)},
            journal=journal,
            backpressure=backpressure,
            clock=clock,
            sign=partial(sign_attach, signer=worker),
            signer_id=worker.signer_id,
            deliveries=3,
            token_lifetime=600.0,
            lifetimes=LifetimeCheck(Lifetimes.remembered(journal_days=7, onboarding_days=365), clock.now),
        )
        to, producer = Recipient.load(key_folder.recipient), Signer.load(key_folder.producer)
        return Story(tokenizer, endpoint, journal, backpressure, limiter, circuits, clock, to, producer, signers)

    return begin


def settled(outcome: Outcome) -> TokenResult:
    assert isinstance(outcome, Settled)
    assert isinstance(outcome.result, TokenResult)
    assert outcome.reply_to == "importer"
    return outcome.result


def failure_of(outcome: Outcome) -> Failure:
    given_up = outcome.settled if isinstance(outcome, DeadLettered | Dropped) else outcome
    failure = settled(given_up).failure
    assert failure is not None
    return failure


async def test_a_request_becomes_a_token_and_the_requester_is_told_what_may_be_shown(tell: Tell) -> None:
    story = tell(token("tok_1"))
    result = settled(await story.handle(story.sealed(connected_account="acct_1")))
    assert (result.token, result.ok, result.livemode, result.platform) == ("tok_1", True, False, "main")
    assert result.display is not None
    assert result.display.last4 == "4242"
    (call,) = story.endpoint.calls
    assert (call.where, call.form, call.key, call.account) == ("card", CARD.form(), "tokenferry:req-1:0", "acct_1")
    assert story.limiter.permits == [(("main:global", *TOKENS), "bulk")]
    assert "4242424242424242" not in repr(story.tokenizer) + result.model_dump_json()


async def test_a_redelivery_after_the_outcome_was_recorded_says_it_again_and_calls_nothing(tell: Tell) -> None:
    story = tell(token("tok_1"))
    body = story.sealed()
    first = settled(await story.handle(body))
    assert settled(await story.handle(body)) == first
    assert len(story.endpoint.calls) == 1


async def test_a_recorded_failure_is_said_again_too(tell: Tell) -> None:
    story = tell(declined())
    body = story.sealed()
    first = settled(await story.handle(body))
    assert settled(await story.handle(body)) == first
    assert len(story.endpoint.calls) == 1


@pytest.mark.parametrize("answer", [token("tok_1"), declined()])
async def test_every_delivery_publishes_the_very_text_that_the_journal_has(tell: Tell, answer: Step) -> None:
    story = tell(answer)
    body = story.sealed()
    for _ in range(2):
        outcome = await story.handle(body)
        assert isinstance(outcome, Settled)
        assert outcome.recorded == story.journal.entries["req-1"].outcome


async def test_what_another_delivery_has_recorded_meanwhile_counts(tell: Tell) -> None:
    earlier: list[str] = []

    async def overtaken() -> Answer:
        story.journal.entries["req-1"].outcome = earlier[0]
        return token("tok_2")

    first = tell(token("tok_1"))
    await first.handle()
    earlier.append(first.journal.entries["req-1"].outcome or "")
    story = tell(overtaken)
    assert settled(await story.handle()).token == "tok_1"


class Killed(BaseException):
    """The worker dies here."""


class DyingJournal(MemoryJournal):
    """A journal whose worker dies before it records anything, once."""

    died = False

    async def record_token(self, *given: Any, **named: Any) -> str:
        if not self.died:
            self.died = True
            raise Killed
        return await super().record_token(*given, **named)


async def test_killed_between_call_and_record_the_next_delivery_repeats_the_same_key(tell: Tell) -> None:
    story = tell(token("tok_1"), token("tok_1"), journal=DyingJournal())
    body = story.sealed()
    with pytest.raises(Killed):
        await story.handle(body)
    assert settled(await story.handle(body)).token == "tok_1"
    assert story.endpoint.keys == ["tokenferry:req-1:0"] * 2
    assert story.journal.entries["req-1"].deliveries == 2


async def test_what_was_given_up_on_while_the_store_lost_its_entry_is_not_told_but_begun_again(tell: Tell) -> None:
    """Another delivery may have told of a token, of which nobody but the endpoint knows any more."""
    story = tell(*[timed_out()] * 8, token())
    rest = story.clock.sleep

    async def forget(seconds: float) -> None:
        story.journal.entries.clear()
        await rest(seconds)

    story.clock.sleep = forget  # type: ignore[method-assign]
    with pytest.raises(Forgotten):
        await story.handle()
    assert settled(await story.handle()).token == "tok_1"
    assert set(story.endpoint.keys) == {"tokenferry:req-1:0"}


async def test_two_deliveries_at_once_tell_one_outcome(tell: Tell) -> None:
    """A lease that ran out while its worker still lived: both call, with one key, and the first word counts."""
    story = tell(token("tok_1"), token("tok_2"))
    body = story.sealed()
    one, other = await asyncio.gather(story.handle(body), story.handle(body))
    assert settled(one).token == settled(other).token
    assert len(set(story.endpoint.keys)) == 1


@pytest.mark.parametrize(
    ("reason", "budgets"),
    [
        ("global-rate", ("main:global",)),
        ("global-concurrency", ("main:global",)),
        ("endpoint-rate", TOKENS),
        ("endpoint-concurrency", TOKENS),
        ("resource-specific", TOKENS),
    ],
)
async def test_a_rate_limit_slows_the_right_budget_down_and_costs_no_attempt(
    tell: Tell, reason: str, budgets: tuple[str, ...]
) -> None:
    story = tell(*[rate_limited(reason)] * 20, token("tok_1"))
    assert settled(await story.handle()).token == "tok_1"
    assert story.limiter.pushed_back == [(budget, LEAST_BACK_OFF) for budget in budgets] * 20
    assert len(story.limiter.permits) == 21
    assert set(story.endpoint.keys) == {"tokenferry:req-1:0"}


async def test_after_three_stored_500s_a_new_generation_of_the_key_begins(tell: Tell) -> None:
    story = tell(*[server_error()] * 6, token("tok_1"))
    assert settled(await story.handle()).token == "tok_1"
    assert story.endpoint.keys == [f"tokenferry:req-1:{epoch}" for epoch in (0, 0, 0, 1, 1, 1, 2)]
    assert story.journal.entries["req-1"].epoch == 2


async def test_the_next_delivery_goes_on_with_the_generation_it_finds(tell: Tell) -> None:
    story = tell(token("tok_1"))
    story.journal.entry("req-1").epoch = 4
    await story.handle()
    assert story.endpoint.keys == ["tokenferry:req-1:4"]


async def test_time_outs_and_lost_connections_never_change_the_key(tell: Tell) -> None:
    story = tell(*[timed_out(), not_connected()] * 3, token("tok_1"))
    await story.handle()
    assert set(story.endpoint.keys) == {"tokenferry:req-1:0"}


async def test_pauses_between_attempts_double_and_obey_the_endpoint(tell: Tell) -> None:
    asked = server_error()
    asked.retry_after = 7.0
    story = tell(timed_out(), timed_out(), asked, timed_out(), token())
    await story.handle()
    assert story.clock.slept == [0.375, 0.75, 7.0, 3.0]


async def test_given_up_on_it_rests_sealed_and_the_requester_is_told(tell: Tell) -> None:
    story = tell(*[timed_out()] * 8)
    outcome = await story.handle()
    assert isinstance(outcome, DeadLettered)
    assert outcome.code == Code.ATTEMPTS_EXHAUSTED
    failure = failure_of(outcome)
    assert (failure.code, failure.source, failure.attempts) == ("attempts_exhausted", "tokenferry", 8)
    assert len(story.endpoint.calls) == 8


async def test_a_declined_card_is_told_with_the_endpoints_own_code(tell: Tell) -> None:
    story = tell(timed_out(), Declined(402, "incorrect_number", "card_error", "number", None, "req_9"))
    outcome = await story.handle()
    assert isinstance(outcome, Settled)
    assert failure_of(outcome) == Failure(
        code="incorrect_number", source="endpoint", param="number", status=402, endpoint_request_id="req_9", attempts=2
    )


async def test_an_endpoints_code_that_sounds_like_ours_dead_letters_nothing(tell: Tell) -> None:
    story = tell(Declined(400, Code.UNOPENABLE))
    assert isinstance(await story.handle(), Settled)


async def test_a_missing_publishable_key_keeps_the_request_until_there_is_one(tell: Tell) -> None:
    story = tell(Declined(0, Code.PUBLISHABLE_KEY_MISSING, ours=True))
    outcome = await story.handle()
    assert isinstance(outcome, DeadLettered)
    assert (outcome.code, failure_of(outcome).status) == ("publishable_key_missing", None)


async def test_an_expired_request_is_never_called_for(tell: Tell) -> None:
    story = tell()
    outcome = await story.handle(story.sealed(issued_at=int((NOW - 9) * 1000), expires_at=int((NOW - 1) * 1000)))
    assert failure_of(outcome).code == Code.EXPIRED
    assert isinstance(outcome, Settled)
    assert (story.endpoint.calls, story.limiter.permits) == ([], [])


DAYS = 86_400
YEAR_2090, YEAR_2100 = 3_786_912_000, 4_102_444_800


@pytest.mark.parametrize(
    ("issued", "expires"),
    [
        (NOW, NOW + 90 * DAYS),
        (NOW, NOW + 6 * DAYS + 1),
        (NOW, YEAR_2100),
        (YEAR_2090, YEAR_2090 + DAYS),
        (NOW + 301, NOW + DAYS),
        (NOW, NOW),
    ],
)
async def test_a_lifetime_that_no_memory_covers_is_refused_before_anything_begins(
    tell: Tell, issued: float, expires: float
) -> None:
    story = tell()
    body = story.sealed(issued_at=int(issued * 1000), expires_at=int(expires * 1000))
    outcomes = [await story.handle(body) for _ in range(2)]
    assert outcomes[0] == outcomes[1]
    assert isinstance(outcomes[0], DeadLettered)
    assert failure_of(outcomes[0]).code == outcomes[0].code == Code.INVALID_LIFETIME
    assert outcomes[0].settled.result.outcome_id not in ("req-1:token", "req-1")
    assert (story.endpoint.calls, story.limiter.permits, story.journal.entries) == ([], [], {})


async def test_what_may_carry_a_code_is_not_kept_when_its_lifetime_is_refused(tell: Tell) -> None:
    story = tell()
    outcome = await story.handle(story.sealed(lane="realtime", expires_at=int((NOW + 90 * DAYS) * 1000)))
    assert isinstance(outcome, Dropped)


async def test_the_same_bytes_after_the_journal_forgot_them_are_not_carried_out_again(tell: Tell) -> None:
    story = tell(token("tok_1"))
    body = story.sealed(issued_at=int(NOW * 1000), expires_at=int((NOW + 6 * DAYS) * 1000))
    assert settled(await story.handle(body)).token == "tok_1"
    story.clock.clock = NOW + 7 * DAYS + 1
    story.journal.entries.clear()
    assert failure_of(await story.handle(body)).code == Code.EXPIRED
    assert len(story.endpoint.calls) == 1


@pytest.mark.parametrize(("plan", "moves_money"), [(Charge(amount=100, currency="usd"), True), (PLAN, False)])
async def test_a_plan_that_moves_money_and_is_older_than_the_store_is_refused_and_kept(
    tell: Tell, plan: Any, moves_money: bool
) -> None:
    story = tell(token("tok_1"))
    story.journal.born = int(NOW * 1000) + 1
    outcome = await story.handle(story.sealed(attach=plan))
    if moves_money:
        assert isinstance(outcome, DeadLettered)
        assert outcome.code == Code.STORE_IS_YOUNGER
    assert len(story.endpoint.calls) == (0 if moves_money else 1)


async def test_a_request_whose_deadline_falls_into_a_pause_ends_there(tell: Tell) -> None:
    story = tell(*[timed_out()] * 3)
    outcome = await story.handle(story.sealed(expires_at=int((NOW + 2) * 1000)))
    assert failure_of(outcome).code == Code.EXPIRED
    assert len(story.endpoint.calls) == 3
    assert story.clock.now() == pytest.approx(NOW + 2)


async def test_a_request_that_gets_no_permit_in_time_expires_without_a_call(tell: Tell) -> None:
    story = tell()
    story.limiter.shut = True
    outcome = await story.handle(story.sealed(expires_at=int((NOW + 0.05) * 1000)))
    assert failure_of(outcome).code == Code.EXPIRED
    assert story.endpoint.calls == []


@pytest.mark.parametrize(("request_", "lane"), [(CVC, "realtime"), (CVC, "bulk"), (CARD, "realtime")])
async def test_what_may_carry_a_verification_code_is_dropped_never_kept(
    tell: Tell, request_: TokenRequest, lane: str
) -> None:
    story = tell(*[timed_out()] * 8)
    outcome = await story.handle(story.sealed(request_, lane=lane))
    assert isinstance(outcome, Dropped)
    assert failure_of(outcome).code == Code.ATTEMPTS_EXHAUSTED


async def test_the_realtime_lane_is_named_when_asking_for_a_permit(tell: Tell) -> None:
    story = tell(token())
    await story.handle(story.sealed(lane="realtime"))
    assert [lane for _, lane in story.limiter.permits] == ["realtime"]


async def test_while_the_key_is_refused_requests_wait_one_call_at_a_time_probes_and_one_alarm_is_raised(
    tell: Tell, caplog: pytest.LogCaptureFixture
) -> None:
    story = tell(*[blocked()] * 3, *[token(f"tok_{n}") for n in range(10)])
    with caplog.at_level(logging.WARNING):
        async with asyncio.timeout(30), watched(story.circuits):
            first = await asyncio.gather(story.handle(), story.handle(story.sealed(request_id="req-0")))
            later = await asyncio.gather(*(story.handle(story.sealed(request_id=f"req-{n}")) for n in range(2, 10)))
    assert all(settled(outcome).token for outcome in (*first, *later))
    assert len(story.endpoint.calls) == 13
    opened, closed = (record.getMessage() for record in caplog.records)
    assert "circuit 'main' is open: Stripe answers 401 unauthorized (request req_endpoint)" in opened
    assert "[platforms.main] secret_key" in opened
    assert closed.startswith("circuit 'main' is closed after ")
    assert "4242424242424242" not in caplog.text


async def test_a_request_that_waits_for_a_circuit_ends_as_expired_at_its_deadline(tell: Tell) -> None:
    story = tell(*[blocked()] * 100)
    async with asyncio.timeout(30), watched(story.circuits):
        outcome = await story.handle(story.sealed(expires_at=int((NOW + 0.3) * 1000)))
    assert failure_of(outcome).code == Code.EXPIRED
    assert len(story.endpoint.calls) <= 4


def raw_card_refusal() -> Blocked:
    return Blocked(402, Code.RAW_CARD_DATA_REFUSED, ours=True)


async def test_a_refusal_of_one_kind_parks_its_requests_and_no_other(tell: Tell) -> None:
    story = tell(raw_card_refusal(), token("pii_1", kind="pii"))
    parked = Parked("main/kind/card", TOKENIZE_TASK, "req-1")
    assert await story.handle() == parked
    assert await story.handle() == parked, "and calls nothing any more"
    other = await story.handle(story.sealed(PiiRequest(id_number="222222222"), request_id="req-2"))
    assert settled(other).token == "pii_1"
    assert len(story.endpoint.calls) == 2


async def test_being_parked_is_no_delivery_that_counts_towards_poison(tell: Tell) -> None:
    story = tell(raw_card_refusal(), token("tok_1"))
    for _ in range(10):
        assert isinstance(await story.handle(), Parked)
    async with asyncio.timeout(30), watched(story.circuits):
        while isinstance(outcome := await story.handle(), Parked):
            await asyncio.sleep(0.01)
    assert settled(outcome).token == "tok_1"
    assert story.journal.entry("req-1").deliveries == 1


@pytest.mark.parametrize(("request_", "lane"), [(CVC, "realtime"), (CARD, "realtime")])
async def test_what_may_carry_a_verification_code_is_never_parked(
    tell: Tell, request_: TokenRequest, lane: str
) -> None:
    story = tell(raw_card_refusal(), token("tok_1", kind=request_.kind))
    async with asyncio.timeout(30), watched(story.circuits):
        assert settled(await story.handle(story.sealed(request_, lane=lane))).token == "tok_1"
    story = tell(*[raw_card_refusal()] * 9)
    async with asyncio.timeout(30), watched(story.circuits):
        outcome = await story.handle(story.sealed(request_, lane=lane, expires_at=int((NOW + 0.2) * 1000)))
    assert failure_of(outcome).code == Code.EXPIRED


async def test_who_waits_for_a_permit_when_the_circuit_opens_takes_none(tell: Tell) -> None:
    story = tell(token("pii_1", kind="pii"))
    story.limiter.shut = True
    waiting = [asyncio.create_task(story.handle(story.sealed(request_id=f"req-{n}"))) for n in range(5)]
    await asyncio.sleep(0.02)
    await story.circuits.on_blocked("main/kind/card", raw_card_refusal())
    async with asyncio.timeout(30):
        assert all(isinstance(outcome, Parked) for outcome in await asyncio.gather(*waiting))
    assert story.limiter.permits == []


async def test_a_probe_that_gets_no_answer_leaves_the_circuit_open_for_the_next(tell: Tell) -> None:
    story = tell(blocked(), timed_out(), blocked(), token("tok_1"))
    async with asyncio.timeout(30), watched(story.circuits):
        assert settled(await story.handle()).token == "tok_1"
    assert set(story.endpoint.keys) == {"tokenferry:req-1:0"}


async def test_a_declined_card_proves_the_key(tell: Tell) -> None:
    story = tell(blocked(), declined(), token("tok_2"))
    async with asyncio.timeout(30), watched(story.circuits):
        assert failure_of(await story.handle()).code == "card_declined"
        assert not story.circuits.is_open(["main"])
        assert settled(await story.handle(story.sealed(request_id="req-2"))).token == "tok_2"


@pytest.mark.parametrize(("live", "livemode"), [(False, True), (True, False)])
async def test_a_token_of_the_wrong_mode_is_not_handed_out(tell: Tell, live: bool, livemode: bool) -> None:
    story = tell(token("tok_1", livemode=livemode), live=live)
    outcome = await story.handle(story.sealed(attach=PLAN))
    assert failure_of(outcome).code == Code.WRONG_SCOPE
    assert settled(outcome).token is None


async def test_a_platform_nobody_knows_dead_letters_without_opening(tell: Tell) -> None:
    story = tell()
    outcome = await story.handle(story.sealed(platform="elsewhere"))
    assert isinstance(outcome, DeadLettered)
    assert outcome.code == Code.UNKNOWN_PLATFORM


async def test_what_is_no_envelope_or_not_signed_by_us_is_quarantined_unjournalled(tell: Tell) -> None:
    story = tell()
    envelope = Envelope.model_validate_json(story.sealed())
    forged = envelope.model_copy(update={"signature": bytes(64)}).model_dump_json()
    for body in ("", "{}", "4242424242424242", forged):
        outcome = await story.handle(body)
        assert isinstance(outcome, Quarantined)
        assert "4242424242424242" not in repr(outcome)
    assert story.journal.entries == {}


async def test_an_envelope_of_a_retired_key_is_kept_sealed_and_told(tell: Tell) -> None:
    story = tell()
    body = story.sealed()
    retired = Opener({}, story.signers)
    story.tokenizer = Tokenizer(**{**vars(story.tokenizer), "opener": retired})
    outcome = await story.handle(body)
    assert isinstance(outcome, DeadLettered)
    assert (outcome.code, failure_of(outcome).code) == (Code.UNOPENABLE, Code.UNOPENABLE)


async def test_a_delivery_that_killed_its_worker_too_often_is_taken_for_poison(tell: Tell) -> None:
    story = tell()
    story.journal.entry("req-1").deliveries = 3
    outcome = await story.handle()
    assert isinstance(outcome, DeadLettered)
    assert outcome.code == Code.DELIVERIES_EXHAUSTED
    assert story.endpoint.calls == []


@pytest.mark.parametrize(("lane", "kept"), [("bulk", DeadLettered), ("realtime", Dropped)])
async def test_an_outcome_that_a_newer_version_wrote_is_left_to_it_and_never_spoken_against(
    tell: Tell, lane: str, kept: type[Outcome]
) -> None:
    story = tell()
    body = story.sealed(lane=lane)
    written = '{"token": "tok_1", "said": "in words of tomorrow"}'
    story.journal.entry("req-1").outcome = written
    for _ in range(story.tokenizer.deliveries):
        with pytest.raises(ValidationError):
            await story.handle(body)  # goes back to the queue, perhaps to a worker who understands
    outcome = await story.handle(body)
    assert isinstance(outcome, DeadLettered | Dropped)
    assert type(outcome) is kept
    assert outcome.settled.reply_to is None
    assert story.journal.entry("req-1").outcome == written
    assert story.endpoint.calls == []


async def test_a_request_that_crashes_whoever_has_it_in_hand_is_set_aside_in_the_end(
    tell: Tell, caplog: pytest.LogCaptureFixture
) -> None:
    story = tell(*[RuntimeError("4242424242424242")] * 3)

    async def record(*_: Any, **__: Any) -> str:
        raise RuntimeError("4242424242424242")

    story.journal.record = record  # type: ignore[method-assign]
    body = story.sealed()
    for _ in range(story.tokenizer.deliveries):
        with pytest.raises(RuntimeError):
            await story.handle(body)
    outcome = await story.handle(body)
    assert isinstance(outcome, DeadLettered)
    assert (outcome.code, outcome.settled.reply_to) == (Code.DELIVERIES_EXHAUSTED, None)
    assert "4242424242424242" not in caplog.text


async def test_a_delivery_called_off_because_the_worker_stops_is_no_sign_of_poison(tell: Tell) -> None:
    story = tell(token())
    story.limiter.shut = True
    body = story.sealed()
    for _ in range(5):
        delivery = asyncio.create_task(story.handle(body))
        await asyncio.sleep(0.001)
        delivery.cancel()
        with pytest.raises(asyncio.CancelledError):
            await delivery
    story.limiter.shut = False
    assert settled(await story.handle(body)).ok


async def test_an_attach_plan_is_handed_on_as_a_signed_order(tell: Tell) -> None:
    story = tell(token("tok_1"))
    outcome = await story.handle(story.sealed(attach=PLAN, connected_account="acct_1"))
    assert isinstance(outcome, HandedOn)
    order = read_attach(outcome.order.model_dump_json(), story.signers).request
    assert (order.attach_id, order.request_id, order.token, order.target) == ("req-1", "req-1", "tok_1", PLAN)
    assert (order.reply_to, order.platform, order.connected_account) == ("importer", "main", "acct_1")
    assert order.attach_before - order.token_created_at == 600_000
    assert order.token_created_at == int(NOW * 1000)


async def test_a_redelivered_plan_is_handed_on_again_with_the_first_token_and_its_first_deadline(tell: Tell) -> None:
    story = tell(token("tok_1"))
    body = story.sealed(attach=PLAN)
    first = await story.handle(body)
    story.clock.clock += 100
    assert await story.handle(body) == first
    assert len(story.endpoint.calls) == 1


@pytest.mark.parametrize(
    ("remembered", "age"), [(True, 1200), (False, 0)], ids=["the worker died", "the store was wiped too"]
)
async def test_a_token_repeated_under_its_key_is_as_old_as_it_says_unless_it_may_have_been_spent(
    tell: Tell, remembered: bool, age: int
) -> None:
    """Where nobody knows, it is to be tried under its own key, and not to be followed by another one."""
    story = tell(replace(token("tok_1"), replayed=True))
    story.clock.clock += 1200
    story.journal.entry("req-1").deliveries = int(remembered)
    outcome = await story.handle(story.sealed(attach=PLAN))
    assert isinstance(outcome, HandedOn)
    assert int(story.clock.now() * 1000) - outcome.order.request.token_created_at == age * 1000


async def test_a_plan_of_a_request_that_failed_is_not_handed_on(tell: Tell) -> None:
    story = tell(declined())
    body = story.sealed(attach=PLAN)
    assert isinstance(await story.handle(body), Settled)
    assert isinstance(await story.handle(body), Settled)


async def test_a_redelivered_plan_whose_key_was_retired_leaves_the_token_to_the_requester(tell: Tell) -> None:
    story = tell(token("tok_1"))
    body = story.sealed(attach=PLAN)
    await story.handle(body)
    story.tokenizer = Tokenizer(**{**vars(story.tokenizer), "opener": Opener({}, story.signers)})
    assert settled(await story.handle(body)).token == "tok_1"


async def test_an_order_carries_its_request_as_sealed_so_that_a_token_too_old_can_be_made_anew(tell: Tell) -> None:
    story = tell(token("tok_1"))
    body = story.sealed(attach=PLAN)
    outcome = await story.handle(body)
    assert isinstance(outcome, HandedOn)
    order = read_attach(outcome.order.model_dump_json(), story.signers)
    assert order.request.sealed == body


@pytest.mark.parametrize("lane", ["realtime"])
async def test_what_may_carry_a_verification_code_travels_no_further(tell: Tell, lane: str) -> None:
    story = tell(token("tok_1"))
    outcome = await story.handle(story.sealed(attach=PLAN, lane=lane))
    assert isinstance(outcome, HandedOn)
    assert outcome.order.request.sealed is None


@pytest.mark.parametrize(("more", "travels"), [(0, True), (1, False)])
async def test_the_longest_request_that_travels_with_an_order_still_makes_one_that_is_read(
    tell: Tell, more: int, travels: bool
) -> None:
    story = tell()
    made: dict[str, Any] = {"outcome_id": "o", "request_id": "r", "kind": "card", "platform": "main", "token": "tok_1"}
    result, header = (
        TokenResult(**made, settled_at=int(NOW * 1000)),
        Envelope.model_validate_json(story.sealed()).header,
    )
    plan = PLAN.model_copy(update={"metadata": {f"{n:040}": "\x01" * 500 for n in range(50)}})
    length = MAX_ENVELOPE_BYTES - BESIDE_THE_REQUEST - len(plan.model_dump_json()) + more
    order = story.tokenizer._order(GroupedId("req-1"), header, result, plan, '{"a":"' + "x" * (length - 8) + '"}')
    assert (order.request.sealed is not None) == travels
    assert len(order.model_dump_json()) <= MAX_ENVELOPE_BYTES


async def test_a_token_is_in_the_ledger_with_whom_it_belongs_to_as_soon_as_it_is_recorded(tell: Tell) -> None:
    story = tell(token("tok_1"))
    await story.handle(story.sealed(connected_account="acct_1"))
    held = story.journal.ledger.holding("tok_1")
    assert (held.state, held.scope) == ("available", TokenScope("main", "test", "acct_1", "card"))


async def test_a_request_id_stands_for_one_request_whenever_and_to_whomever_it_is_sealed(tell: Tell) -> None:
    story = tell(token("tok_1"))
    first = settled(await story.handle(story.sealed()))
    later = {"issued_at": int(NOW * 1000) + 7, "expires_at": int((NOW + 90) * 1000), "lane": "realtime"}
    assert settled(await story.handle(story.sealed(**later))) == first
    others = {
        "req-1:3f3a1a930a7f:token": story.sealed(PiiRequest(id_number="000000000")),
        "req-1:47de31ec17f5:token": story.sealed(connected_account="acct_1"),
    }
    for outcome_id, other in others.items():
        outcome = await story.handle(other)
        assert failure_of(outcome).code == Code.REQUEST_ID_REUSED
        assert settled(outcome).outcome_id == outcome_id != first.outcome_id
    assert settled(await story.handle(story.sealed())) == first


async def test_a_request_id_that_an_onboarding_has_is_refused_and_is_no_poison(tell: Tell) -> None:
    story = tell()
    header = OnboardingHeader(
        key_id=story.to.key_id,
        request_id="req-1",
        platform="main",
        lane="bulk",
        issued_at=int(NOW * 1000),
        expires_at=int((NOW + 60) * 1000),
        producer_id=story.producer.signer_id,
    )
    onboarding = f"req-1 {onboarding_fingerprint(header)}"
    await story.journal.begin("req-1", onboarding_fingerprint(header))
    await story.journal.record("req-1", onboarding)
    for _ in range(5):
        assert failure_of(await story.handle()).code == Code.REQUEST_ID_REUSED
    assert story.endpoint.calls == []
    assert story.journal.entries["req-1"].outcome == onboarding


@pytest.mark.parametrize(("left", "until"), [(86_400, 600), (120, 120)])
async def test_a_token_is_spent_while_it_is_fresh_and_before_the_requests_own_deadline(
    tell: Tell, left: int, until: int
) -> None:
    story = tell(token("tok_1"))
    body = story.sealed(attach=PLAN, lane="realtime", expires_at=int((NOW + left) * 1000))
    outcome = await story.handle(body)
    assert isinstance(outcome, HandedOn)
    assert outcome.order.request.attach_before == int((NOW + until) * 1000)
    assert outcome.order.request.lane == "realtime"


SOURCES = "main:operation:POST /v1/customers/{id}/sources"
PLACES = {"main:global", "main:endpoint:customer_sources", SOURCES}


async def test_a_request_whose_token_is_to_be_spent_counts_as_ahead_and_any_other_does_not(tell: Tell) -> None:
    story = tell(token("tok_1"), token("tok_2"))
    await story.handle(story.sealed(request_id="req-2"))
    assert story.backpressure.seats == {}
    await story.handle(story.sealed(attach=PLAN))
    assert story.backpressure.seats == {place: {"req-1"} for place in PLACES}
    assert story.journal.left == []


async def test_a_request_without_a_token_gives_its_seat_up(tell: Tell) -> None:
    story = tell(declined())
    await story.handle(story.sealed(attach=PLAN))
    ((who, places),) = story.journal.left
    assert (who, set(places)) == ("req-1", PLACES)


async def test_a_parked_request_is_ahead_no_more(tell: Tell) -> None:
    story = tell(raw_card_refusal())
    assert isinstance(await story.handle(story.sealed(attach=PLAN)), Parked)
    assert set(map(len, story.backpressure.seats.values())) == {0}


@pytest.mark.parametrize(("left", "lasts"), [(86_400, 86_400.0), (60, 600.0)])
async def test_a_seat_lasts_as_long_as_the_request_and_no_shorter_than_a_token(
    tell: Tell, left: int, lasts: float
) -> None:
    """Tokens that grow old while nothing is spent make no room for others."""
    story = tell(token("tok_1"))
    await story.handle(story.sealed(attach=PLAN, expires_at=int((NOW + left) * 1000)))
    assert story.backpressure.lasts == lasts


async def test_an_end_that_cannot_read_the_plan_gives_the_seat_up_wherever_it_is(tell: Tell) -> None:
    story = tell()
    body = story.sealed(attach=PLAN)
    story.journal.entry("req-1").deliveries = 3
    assert failure_of(await story.handle(body)).code == Code.DELIVERIES_EXHAUSTED
    ((who, places),) = story.journal.left
    assert who == "req-1"
    assert set(places) >= PLACES


async def test_a_token_that_is_told_because_its_plan_cannot_be_read_any_more_is_ahead_no_more(
    tell: Tell,
) -> None:
    story = tell(token("tok_1"))
    body = story.sealed(attach=PLAN)
    await story.handle(body)
    story.tokenizer = Tokenizer(**{**vars(story.tokenizer), "opener": Opener({}, story.signers)})
    assert settled(await story.handle(body)).token == "tok_1"
    assert set(map(len, story.backpressure.seats.values())) == {0}


def full(story: Story) -> set[str]:
    """As many are ahead as can be spent in half a lifetime: 600 s, 25/s, half of it."""
    seats = story.backpressure.seats.setdefault("main:endpoint:customer_sources", set())
    seats.update(f"other-{n}" for n in range(7_500))
    return seats


async def test_while_attaching_is_behind_a_request_waits_unopened_and_uncalled_and_then_goes_on(tell: Tell) -> None:
    story = tell(token("tok_1"))
    seats = full(story)
    opened = _counting(story)
    waiting = asyncio.create_task(story.handle(story.sealed(attach=PLAN)))
    while len(story.clock.slept) < 5:
        await asyncio.sleep(0)
    assert (story.endpoint.calls, story.limiter.permits, len(opened)) == ([], [], 1)
    seats.pop()
    assert isinstance(await waiting, HandedOn)
    assert len(opened) == 2


def _counting(story: Story) -> list[Envelope]:
    opened: list[Envelope] = []

    class Counting(Opener):
        def open(self, envelope: Envelope) -> Any:
            opened.append(envelope)
            return super().open(envelope)

    opener = story.tokenizer.opener
    story.tokenizer = Tokenizer(**{**vars(story.tokenizer), "opener": Counting(opener.identities, opener.signers)})
    return opened


async def test_realtime_and_what_is_only_tokenized_find_room_where_bulk_has_to_wait(tell: Tell) -> None:
    story = tell(token("tok_1"), token("tok_2"))
    full(story)
    assert isinstance(await story.handle(story.sealed(attach=PLAN, lane="realtime")), HandedOn)
    assert settled(await story.handle(story.sealed(request_id="req-2"))).ok


async def test_a_request_that_finds_no_room_in_time_expires_without_a_call(tell: Tell) -> None:
    story = tell()
    full(story)
    outcome = await story.handle(story.sealed(attach=PLAN, expires_at=int((NOW + 30) * 1000)))
    assert failure_of(outcome).code == Code.EXPIRED
    assert story.clock.now() == pytest.approx(NOW + 30)


async def test_called_off_while_it_waits_for_room_is_no_sign_of_poison(tell: Tell) -> None:
    story = tell()
    full(story)
    waiting = asyncio.create_task(story.handle(story.sealed(attach=PLAN)))
    while not story.clock.slept:
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert story.journal.entry("req-1").deliveries == 0


@pytest.mark.parametrize(
    ("target", "limits"),
    [
        (CustomerSource(customer="cus_1"), dict.fromkeys(PLACES, 7_500)),
        (AccountCreate(), {"main:global": 7_500, "main:endpoint:accounts": 7_500, "main:account_creation": 1_500}),
    ],
)
def test_no_more_tokens_wait_than_the_attach_stage_can_spend_in_half_their_lifetime(
    target: Target, limits: dict[str, int]
) -> None:
    found = slots_of(Budgets("main", PLATFORM), target, "bulk", lifetime=600.0)
    assert {place.name: place.limit for place in found} == limits


async def test_fields_of_the_answer_that_are_not_what_they_should_be_are_left_out(tell: Tell) -> None:
    odd = Answer("token", "tok_1", {"livemode": False, "type": "card", "card": {"brand": 7, "bank_name": "n" * 500}})
    story = tell(odd)
    result = settled(await story.handle())
    assert result.token == "tok_1"
    assert result.display is not None
    assert result.display.brand is None
