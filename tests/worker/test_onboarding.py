"""One delivery of a whole account: every step, every way it can fail, and a death at every moment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs

import pytest
from pydantic import ValidationError

from tokenferry.configuration import Platform
from tokenferry.contract.codes import Code
from tokenferry.contract.lifetimes import Lifetimes
from tokenferry.contract.onboarding import Onboarding, OnboardingEnvelope, OnboardingHeader, onboarding_from
from tokenferry.contract.queues import ONBOARD_TASK
from tokenferry.contract.requests import Kind
from tokenferry.contract.results import Attempt, Failure, OnboardingProgress, OnboardingResult, StepResult
from tokenferry.sealing import Recipient, Signer, seal_onboarding
from tokenferry_worker.circuits.breaker import CircuitBreaker
from tokenferry_worker.deliveries.lifetimes import LifetimeCheck
from tokenferry_worker.deliveries.onboarding import Onboarder
from tokenferry_worker.errors import Blocked, Declined, Unavailable
from tokenferry_worker.keys.identities import Signers, load_identities
from tokenferry_worker.keys.opening import Opener
from tokenferry_worker.limits.budgets import Budgets
from tokenferry_worker.on_redis.journal import RedisJournal
from tokenferry_worker.on_redis.onboardings import RedisOnboardings
from tokenferry_worker.on_redis.store import Store
from tokenferry_worker.onboarding.calls import AccountCalls
from tokenferry_worker.onboarding.plan import step_id
from tokenferry_worker.onboarding.progress import Resumption, Status, StepRecord, StepRecords, resume
from tokenferry_worker.onboarding.requirements import requirements_of
from tokenferry_worker.onboarding.steps import StepRunner
from tokenferry_worker.outcomes import DeadLettered, Outcome, Parked, Quarantined, Settled
from tokenferry_worker.provider.answers import Answer
from tokenferry_worker.provider.attempts import Caller
from tokenferry_worker.provider.platforms import PlatformContext
from tokenferry_worker.tokens.creating import TokenCreator
from tokenferry_worker.tokens.spending import Spender

from .standins import (
    EVERYBODY,
    NOW,
    Greets,
    MemoryCircuits,
    MemoryJournal,
    MemoryLedger,
    MemoryLimiter,
    StoryClock,
    server_error,
    timed_out,
    watched,
)

pytestmark = pytest.mark.anyio

DOCUMENT: dict[str, Any] = {
    "reference": "seller-7",
    "account": {"country": "US", "type": "custom", "email": "seller-7@example.com"},
    "legal_entity": {
        "business_type": "company",
        "company": {"name": "Imaginary Goods", "tax_id": "000000000", "owners_provided": True},
        "tos_shown_and_accepted": True,
    },
    "persons": [
        {"reference": "jenny", "person": {"first_name": "Jenny", "last_name": "Rosen", "id_number": "222222222"}},
        {"reference": "zora", "person": {"first_name": "Zora", "last_name": "Testerly"}, "id_number": "222222222"},
    ],
    "external_accounts": [
        {
            "reference": "bank",
            "bank_account": {
                "country": "US",
                "currency": "usd",
                "account_number": "000123456789",
                "routing_number": "110000000",
            },
        }
    ],
}
STEPS = ["account", "person:jenny", "person:zora", "id_number:zora", "external_account:bank", "complete"]
KEYS = [
    "tokenferry:onb-a70769ef8efd898c7f57857058fb0c611ef7ea03:0",
    "tokenferry:attach:a165a3a43b219069e928f93c1387efa1124fabd6:spend",
    "tokenferry:onb-1117ec4b9cc6ce35a8949295a2d96ecfb97ed2ed:0",
    "tokenferry:attach:6c968c4079a657a455af11c9e831439aa349cbed:spend",
    "tokenferry:onb-ed5b7ef10bd64d7c49130c39d2e163268574c35b:0",
    "tokenferry:attach:822e3c12b5912d5113d84ee06514311c60b306db:spend",
    "tokenferry:onb-be841f889747be0e95e55cc4cc9fad83a7e4c469:0",
    "tokenferry:attach:4b48742a76e91e013d3e46e2508fa295bc84cacc:spend",
    "tokenferry:onb-37b13f0c707a0ba631c15ced15fa23e3260d923f:0",
    "tokenferry:attach:e58fc00f54fc969e326b85437e73ddd00b44b110:spend",
    "tokenferry:onb-3c7e0b20c9b2b599809761fa697c5d25916fbf60:0",
    "tokenferry:attach:a7169fdb75d58db3538d2124c058f17fc1b4caba:spend",
    "tokenferry:onboard:onb-bb242a486abd14e3db3ec5fa19416839456fc90a",
]
"""Of every call for the document, and of the first for one whose account needs no token."""
STEP_IDS = [
    "onb-a70769ef8efd898c7f57857058fb0c611ef7ea03",
    "onb-1117ec4b9cc6ce35a8949295a2d96ecfb97ed2ed",
    "onb-ed5b7ef10bd64d7c49130c39d2e163268574c35b",
    "onb-be841f889747be0e95e55cc4cc9fad83a7e4c469",
    "onb-37b13f0c707a0ba631c15ced15fa23e3260d923f",
    "onb-3c7e0b20c9b2b599809761fa697c5d25916fbf60",
]
PREFIX = {"account": "ct", "person": "cpt", "pii": "pii", "bank_account": "btok", "card": "tok"}


class Killed(BaseException):
    """The process is gone: nothing of it runs any further."""


IN_THE_CALL, CALLED_AND_NOT_NOTED = 5, 6
"""Moments of the account's own call, in the first delivery."""


class Moments:
    """Counts the moments at which a process can die, and dies at one of them."""

    def __init__(self) -> None:
        self.passed = 0
        self.fatal = 0

    def pass_one(self) -> None:
        self.passed += 1
        if self.passed == self.fatal:
            raise Killed


class AccountsEndpoint(Greets):
    """Makes accounts and what belongs to them, spends every token once, and repeats its answer under the same key."""

    def __init__(self, moments: Moments, *, live: bool = False) -> None:
        self.moments = moments
        self.live = live
        self.stored: dict[str, tuple[str, Answer]] = {}
        self.calls: list[str] = []
        self.made: list[str] = []
        self.spent: set[str] = set()
        self.forms: dict[str, str] = {}
        self.spent_forms: list[str] = []
        """What the tokens that were spent were made of."""
        self.troubles: dict[str, list[Exception]] = {}
        """What the next calls of a place answer instead: a kind of token, or the last word of a path."""
        self.after: dict[str, list[Exception]] = {}
        """The same, when the call has had its effect."""
        self.writers: dict[str, int] = {}

    async def create_token(
        self, kind: Kind, form: str, *, idempotency_key: str, connected_account: str | None = None
    ) -> Answer:
        assert connected_account is None
        return await self._post(kind, form, idempotency_key, lambda: self._token(kind, form))

    async def post(self, path: str, form: str, *, idempotency_key: str, connected_account: str | None = None) -> Answer:
        words = path.split("/")
        what = words[-1] if len(words) % 2 else words[-2]
        return await self._post(what, form, idempotency_key, lambda: self._object(words, form))

    async def get(self, path: str, *, connected_account: str | None = None) -> Answer:
        self.calls.append(f"GET {path}")
        if self.troubles.get("GET"):
            raise self.troubles["GET"].pop(0)
        requirements = {"currently_due": ["representative.first_name"], "disabled_reason": "requirements.past_due"}
        id_ = path.split("/")[-1]
        return Answer("account", id_, {"requirements": requirements, "used": id_ in self.spent})

    async def _post(self, what: str, form: str, key: str, make: Callable[[], Answer]) -> Answer:
        self.calls.append(what)
        self.moments.pass_one()
        await asyncio.sleep(0)
        if self.troubles.get(what):
            raise self.troubles[what].pop(0)
        if key in self.stored:
            first, answer = self.stored[key]
            if first != form:
                raise Declined(400, "idempotency_error", "idempotency_error", ours=True)
            answer = replace(answer, replayed=True)
        else:
            answer = make()
            self.stored[key] = form, answer
        self.moments.pass_one()
        if self.after.get(what):
            raise self.after[what].pop(0)
        return answer

    def _token(self, kind: Kind, form: str) -> Answer:
        id_ = f"{PREFIX[kind]}_{'live' * self.live}{len(self.stored)}"
        self.forms[id_] = form
        inner = {kind: {"id": "ba_1", "last4": "6789"}} if kind == "bank_account" else {}
        return Answer("token", id_, {"type": kind, "livemode": self.live, "created": int(NOW), **inner})

    def _object(self, words: list[str], form: str) -> Answer:
        fields = {name: values[0] for name, values in parse_qs(form).items()}
        names = ("account_token", "person_token", "external_account", "id_number")
        token = next((fields[name] for name in names if name in fields), None)
        if token is not None:
            self.spent_forms.append(self.forms[token])
            if token in self.spent:
                raise Declined(400, "token_already_used", "invalid_request_error")
            self.spent.add(token)
        if len(words) % 2 == 0:  # an object that is there already
            return Answer(words[-2][:-1], words[-1], {})
        what = words[-1][:-1]
        self.made.append(what)
        return Answer(what, f"{'acct' if what == 'account' else what}_{self.made.count(what)}", {})


class MemoryOnboardingStore:
    """The store's memory of onboardings in a dict."""

    def __init__(self, moments: Moments) -> None:
        self.moments = moments
        self.entries: dict[tuple[str, str], dict[str, str]] = {}

    async def records(self, platform: str, onboarding_id: str) -> dict[str, str]:
        return dict(self.entries.get((platform, onboarding_id), {}))

    async def record(self, platform: str, onboarding_id: str, step: str, entry: str) -> str:
        self.moments.pass_one()
        known = self.entries.setdefault((platform, onboarding_id), {})
        if '"status":"done"' not in known.get(step, ""):
            known[step] = entry
        self.moments.pass_one()
        return known[step]


class ForgetfulStore(MemoryOnboardingStore):
    """A store whose reader sees nothing of what others have written meanwhile."""

    forgets = False

    async def records(self, platform: str, onboarding_id: str) -> dict[str, str]:
        return {} if self.forgets else await super().records(platform, onboarding_id)


@dataclass(frozen=True)
class DeadlyOpener(Opener):
    """Its worker dies of every document."""

    opened: list[OnboardingEnvelope] = field(default_factory=list)

    def open_onboarding(self, envelope: OnboardingEnvelope) -> Onboarding:
        self.opened.append(envelope)
        raise Killed


class MortalJournal(MemoryJournal):
    """A journal that whoever uses it may not outlive."""

    def __init__(self, moments: Moments) -> None:
        super().__init__()
        self.moments = moments

    async def record(self, id_: str, outcome: str, **more: Any) -> str:
        self.moments.pass_one()
        counts = await super().record(id_, outcome, **more)
        self.moments.pass_one()
        return counts


@dataclass
class House:
    """An onboarder among stand-ins."""

    folder: Any
    moments: Moments = field(default_factory=Moments)
    token_lifetime: float = 600.0

    def __post_init__(self) -> None:
        self.endpoint = AccountsEndpoint(self.moments)
        self.journal = MortalJournal(self.moments)
        self.book: Any = MemoryOnboardingStore(self.moments)
        self.opener = Opener(load_identities(self.folder.identities), Signers.load(self.folder.signers))
        self.ledger = MemoryLedger()
        self.limiter, self.world = MemoryLimiter(), StoryClock()
        self.circuits = CircuitBreaker(MemoryCircuits())
        self.messages = 0
        self.told: list[tuple[str, OnboardingProgress]] = []
        platform = Platform(mode="test", base_url="http://127.0.0.1:1")
        self.desk = PlatformContext("main", self.endpoint, Budgets("main", platform), live=False)
        self.signer = Signer.load(self.folder.producer)
        self.recipient = Recipient.load(self.folder.recipient)

    def wipe(self, *, book: bool = True) -> None:
        """Let the store lose everything, or all but the *book*."""
        self.journal = MortalJournal(self.moments)
        self.ledger = MemoryLedger()
        if book:
            self.book = MemoryOnboardingStore(self.moments)

    @property
    def onboarder(self) -> Onboarder:
        return self.onboarder_of(self.desk, self.ledger)

    def onboarder_of(self, platform: PlatformContext, ledger: MemoryLedger) -> Onboarder:
        """An onboarder for one platform."""
        ledgers, records = {platform.name: ledger}, StepRecords(self.book)
        caller = Caller(self.limiter, self.circuits, self.world, 3)
        creator, spender = TokenCreator(self.journal, caller, self.world), Spender(ledgers, caller, self.world)
        calls = AccountCalls(records, caller, self.world)
        return Onboarder(
            opener=self.opener,
            rights=EVERYBODY,
            steps=StepRunner(creator, spender, calls, self.journal, records, self.token_lifetime),
            calls=calls,
            records=records,
            ledgers=ledgers,
            platforms={platform.name: platform},
            journal=self.journal,
            clock=self.world,
            deliveries=5,
            lifetimes=LifetimeCheck(Lifetimes.remembered(journal_days=7, onboarding_days=365), self.world.now),
            publish_progress=lambda route, progress: self.told.append((route, progress)),
        )

    def sealed(self, document: Onboarding | dict[str, Any], **header: Any) -> str:
        """A new message with *document*."""
        self.messages += 1
        document = document if isinstance(document, Onboarding) else onboarding_from(document)
        fields: dict[str, Any] = {
            "key_id": self.recipient.key_id,
            "suite": self.recipient.suite,
            "request_id": f"req-{self.messages}",
            "platform": "main",
            "lane": "bulk",
            "reply_to": "route",
            "issued_at": int(NOW * 1000),
            "expires_at": int(NOW * 1000) + 3_600_000,
            "producer_id": self.signer.signer_id,
            **header,
        }
        envelope = seal_onboarding(document, OnboardingHeader(**fields), to=self.recipient, signer=self.signer)
        return envelope.model_dump_json()

    async def deliver(self, body: str) -> OnboardingResult:
        """One delivery of *body*, and what the requester is told."""
        return told(await self.onboarder.handle(body))


def told(outcome: Outcome) -> OnboardingResult:
    settled = outcome.settled if isinstance(outcome, DeadLettered) else outcome
    assert isinstance(settled, Settled)
    assert isinstance(settled.result, OnboardingResult)
    assert settled.reply_to == "route"
    return settled.result


def by_name(result: OnboardingResult) -> dict[str, StepResult]:
    return {step.step: step for step in result.steps}


def statuses(result: OnboardingResult) -> dict[str, str]:
    return {step.step: step.status for step in result.steps}


@pytest.fixture
def house(key_folder: Any) -> House:
    return House(key_folder)


def refused(code: str = "invalid_request", param: str | None = "x", status: int = 400) -> Declined:
    return Declined(status, code, "invalid_request_error", param, None, "req_endpoint")


class TestOneDelivery:
    async def test_makes_the_account_and_all_that_belongs_to_it_in_order(self, house: House) -> None:
        result = await house.deliver(house.sealed(DOCUMENT))
        assert result.ok
        assert result.complete
        assert result.failure is None
        assert (result.onboarding_id, result.account) == ("seller-7", "acct_1")
        assert result.persons == {"jenny": "person_1", "zora": "person_2"}
        assert result.external_accounts == {"bank": "external_account_1"}
        assert [(step.step, step.status) for step in result.steps] == [(name, "done") for name in STEPS]
        assert house.endpoint.calls == [
            *("account", "accounts", "person", "persons", "person", "persons", "pii", "persons"),
            *("bank_account", "external_accounts", "account", "accounts", "GET /v1/accounts/acct_1"),
        ]

    async def test_calls_under_keys_that_must_never_change(self, house: House) -> None:
        """Under other keys, a message that comes again after an upgrade would make a second account."""
        document = {**DOCUMENT, "account": {**DOCUMENT["account"], "tos_acceptance": {"date": 1, "ip": "192.0.2.1"}}}
        del document["legal_entity"]
        await house.deliver(house.sealed(DOCUMENT))
        await house.deliver(house.sealed({**document, "reference": "seller-8"}))
        assert list(house.endpoint.stored)[: len(KEYS)] == KEYS
        assert list(house.journal.entries)[: 1 + len(STEPS)] == ["req-1", *STEP_IDS]

    async def test_makes_each_token_only_when_it_is_spent_next(self, house: House) -> None:
        await house.deliver(house.sealed(DOCUMENT))
        tokens = [call for call in house.endpoint.calls if call in PREFIX]
        assert len(tokens) == len(house.endpoint.spent) == len(STEPS)
        kinds = iter(house.endpoint.calls[:-1])
        assert all(next(kinds) in PREFIX and next(kinds) not in PREFIX for _ in STEPS)

    async def test_tells_what_the_endpoint_still_asks_for(self, house: House) -> None:
        result = await house.deliver(house.sealed(DOCUMENT))
        assert result.requirements is not None
        assert result.requirements.currently_due == ("representative.first_name",)
        assert result.requirements.disabled_reason == "requirements.past_due"

    async def test_is_complete_also_where_the_endpoint_does_not_say_what_is_due(self, house: House) -> None:
        house.endpoint.troubles["GET"] = [timed_out(), timed_out(), timed_out()]
        result = await house.deliver(house.sealed(DOCUMENT))
        assert result.complete
        assert result.requirements is None

    async def test_draws_on_the_budget_of_account_creation_once(self, house: House) -> None:
        await house.deliver(house.sealed(DOCUMENT))
        drawn = [names for names, _ in house.limiter.permits if "main:account_creation" in names]
        assert len(drawn) == 1
        assert house.limiter.under_way == 0

    async def test_without_a_legal_entity_the_account_is_made_plainly_with_the_users_own_acceptance(
        self, house: House
    ) -> None:
        acceptance = {"date": 1_700_000_000, "ip": "192.0.2.7", "user_agent": "Example/1.0"}
        account = {"country": "FR", "type": "custom", "tos_acceptance": acceptance}
        result = await house.deliver(house.sealed({"reference": "plain", "account": account}))
        assert result.complete
        assert house.endpoint.calls == ["accounts", "GET /v1/accounts/acct_1"]
        ((form, _),) = house.endpoint.stored.values()
        assert "tos_acceptance[ip]=192.0.2.7" in form
        assert "tos_acceptance[date]=1700000000" in form


class TestWhatIsNoOnboarding:
    async def test_is_quarantined(self, house: House) -> None:
        assert isinstance(await house.onboarder.handle("{}"), Quarantined)
        body = house.sealed(DOCUMENT)
        assert isinstance(await house.onboarder.handle(body.replace("req-1", "req-2")), Quarantined)
        assert house.endpoint.calls == []

    async def test_a_platform_nobody_knows_is_told_and_kept(self, house: House) -> None:
        outcome = await house.onboarder.handle(house.sealed(DOCUMENT, platform="other"))
        assert isinstance(outcome, DeadLettered)
        assert outcome.code == Code.UNKNOWN_PLATFORM

    async def test_what_does_not_open_is_told_and_kept(self, house: House) -> None:
        envelope = OnboardingEnvelope.model_validate_json(house.sealed(DOCUMENT, expires_at=int(NOW * 1000) + 1))
        house.opener = Opener({}, house.opener.signers)
        outcome = await house.onboarder.handle(envelope.model_dump_json())
        assert isinstance(outcome, DeadLettered)
        assert (outcome.code, told(outcome).onboarding_id) == (Code.UNOPENABLE, None)

    @pytest.mark.parametrize("deliveries", [5, 6])
    async def test_one_that_workers_died_of_again_and_again_is_given_up(self, house: House, deliveries: int) -> None:
        body = house.sealed(DOCUMENT)
        house.journal.entry("req-1").deliveries = deliveries
        outcome = await house.onboarder.handle(body)
        assert isinstance(outcome, DeadLettered)
        assert outcome.code == Code.DELIVERIES_EXHAUSTED
        assert house.endpoint.calls == []

    async def test_an_outcome_that_a_newer_version_wrote_is_left_to_it(self, house: House) -> None:
        body = house.sealed(DOCUMENT)
        entry = house.journal.entry("req-1")
        entry.outcome, entry.deliveries = '{"said": "in words of tomorrow"}', 4
        with pytest.raises(ValidationError):
            await house.onboarder.handle(body)
        outcome = await house.onboarder.handle(body)
        assert isinstance(outcome, DeadLettered)
        assert (outcome.code, outcome.settled.reply_to) == (Code.DELIVERIES_EXHAUSTED, None)
        assert house.endpoint.calls == []

    async def test_one_that_is_given_up_says_what_there_is_of_it(self, house: House) -> None:
        place(house, "person:jenny", 1, [refused("email_invalid")])
        body = house.sealed(DOCUMENT)
        house.moments.fatal = 20  # jenny is refused, zora's call has begun
        with pytest.raises(Killed):
            await house.onboarder.handle(body)
        house.moments.fatal = 0
        house.journal.entry("req-1").deliveries = 5
        calls = len(house.endpoint.calls)
        outcome = await house.onboarder.handle(body)
        assert isinstance(outcome, DeadLettered)
        result = told(outcome)
        assert result.failure is not None
        assert result.failure.code == Code.DELIVERIES_EXHAUSTED
        assert (result.onboarding_id, result.account, result.persons) == ("seller-7", "acct_1", {})
        assert statuses(result) == {
            **dict.fromkeys(STEPS, "not_begun"),
            "account": "done",
            "person:jenny": "failed",
            "person:zora": "unknown",
        }
        assert len(house.endpoint.calls) == calls

    async def test_one_that_workers_may_die_of_opening_is_not_opened_a_second_time(self, house: House) -> None:
        opener = house.opener = DeadlyOpener(house.opener.identities, house.opener.signers)
        body = house.sealed(DOCUMENT)
        for _ in range(5 + 1):
            with pytest.raises(Killed):
                await house.onboarder.handle(body)
        outcome = await house.onboarder.handle(body)
        assert isinstance(outcome, DeadLettered)
        assert outcome.code == Code.DELIVERIES_EXHAUSTED
        assert len(opener.opened) == 6


REFUSALS = {
    # where it fails -> what cannot begin then
    "account": [name for name in STEPS if name != "account"],
    "person:jenny": ["complete"],
    "person:zora": ["id_number:zora", "complete"],
    "id_number:zora": [],
    "external_account:bank": [],
    "complete": [],
}
CALLS = {
    # the step's two calls, and how many of the same place come before
    "account": ("account", "accounts", 0),
    "person:jenny": ("person", "persons", 0),
    "person:zora": ("person", "persons", 1),
    "id_number:zora": ("pii", "persons", 2),
    "external_account:bank": ("bank_account", "external_accounts", 0),
    "complete": ("account", "accounts", 1),
}


def place(house: House, step: str, call: int, troubles: list[Exception]) -> None:
    """Let the token's (0) or the object's (1) call of *step* meet *troubles*, and no other."""
    *words, before = CALLS[step]
    what = str(words[call])
    before = 0 if what == "pii" else int(before)

    class Script(list[Exception]):
        seen = 0

        def __bool__(self) -> bool:
            if not len(self):
                return False
            self.seen += 1
            return self.seen > before

    house.endpoint.troubles[what] = Script(troubles)


@pytest.mark.parametrize("call", [0, 1], ids=["token", "object"])
@pytest.mark.parametrize("step", STEPS)
class TestAFailedStep:
    async def test_holds_up_only_what_needs_it_and_keeps_what_is_made(self, house: House, step: str, call: int) -> None:
        place(house, step, call, [refused("account_number_invalid", "bank_account[account_number]")])
        outcome = await house.onboarder.handle(house.sealed(DOCUMENT))
        result = told(outcome)
        assert isinstance(outcome, Settled), "a refusal needs another document, not another try"
        failed = {step: "failed", **dict.fromkeys(REFUSALS[step], "not_begun")}
        assert statuses(result) == {name: failed.get(name, "done") for name in STEPS}
        assert not result.ok
        assert result.failure is not None
        assert result.failure.code == "account_number_invalid"
        assert result.failure.param == "bank_account[account_number]"
        assert (result.account is None) == (step == "account")

    async def test_is_tried_anew_by_the_next_message_and_nothing_else_is(
        self, house: House, step: str, call: int
    ) -> None:
        place(house, step, call, [refused()])
        first = await house.deliver(house.sealed(DOCUMENT))
        before = len(house.endpoint.calls)
        second = await house.deliver(house.sealed(DOCUMENT))
        assert second.complete
        assert second.outcome_id != first.outcome_id
        again = {step, *REFUSALS[step]}
        assert {name for name, each in by_name(second).items() if not each.earlier} == again
        assert len(house.endpoint.calls) - before == 2 * len(again) + 1
        assert sorted(house.endpoint.made) == ["account", "external_account", "person", "person"]

    async def test_is_told_again_when_its_own_message_comes_again(self, house: House, step: str, call: int) -> None:
        place(house, step, call, [refused()])
        body = house.sealed(DOCUMENT)
        house.moments.fatal = 10_000
        first = await house.deliver(body)
        house.journal.entry("req-1").outcome = None  # died before it could be recorded
        calls = len(house.endpoint.calls)
        second = await house.deliver(body)
        assert statuses(second) == statuses(first)
        assert len(house.endpoint.calls) - calls <= 1, "only what is due is asked for"

    async def test_that_nobody_answered_is_kept_and_gone_on_with_under_the_same_keys(
        self, house: House, step: str, call: int
    ) -> None:
        place(house, step, call, [Unavailable("ConnectError", maybe_done=False)] * 3)
        body = house.sealed(DOCUMENT)
        outcome = await house.onboarder.handle(body)
        assert isinstance(outcome, DeadLettered)
        assert outcome.code == Code.ATTEMPTS_EXHAUSTED
        assert statuses(told(outcome))[step] == "failed"
        house.journal.entry("req-1").outcome = None  # as a redrive does
        again = await house.deliver(body)
        assert again.complete
        assert len(house.endpoint.stored) == 2 * len(STEPS)
        assert sorted(house.endpoint.made) == ["account", "external_account", "person", "person"]

    async def test_that_nobody_answered_is_done_as_the_next_document_says(
        self, house: House, step: str, call: int
    ) -> None:
        """Nothing had its effect, so nothing of the old document is left: not even in a token made of it."""
        place(house, step, call, [Unavailable("ConnectError", maybe_done=False)] * 3)
        await house.onboarder.handle(house.sealed(DOCUMENT))
        changed = json.loads(json.dumps(DOCUMENT).replace("222222222", "333333333").replace("Jenny", "Penny"))
        changed["external_accounts"][0]["bank_account"]["account_number"] = "000111111116"
        changed["legal_entity"]["company"]["owners_provided"] = False
        house.endpoint.spent_forms.clear()
        second = await house.deliver(house.sealed(changed))
        assert second.complete
        assert not by_name(second)[step].earlier
        sent = " ".join(house.endpoint.spent_forms)
        for old in ("222222222", "Jenny", "000123456789", "owners_provided]=true"):
            assert old not in sent
        assert sorted(house.endpoint.made) == ["account", "external_account", "person", "person"]


async def test_a_token_that_was_made_is_spent_and_the_result_says_that_it_is_the_earlier_documents(
    house: House,
) -> None:
    """The worker died with the token noted; the next document is another one. Two tokens might be two accounts."""
    body = house.sealed(DOCUMENT)
    house.moments.fatal = 4
    with pytest.raises(Killed):
        await house.onboarder.handle(body)
    house.moments.fatal = 0
    result = await house.deliver(house.sealed(json.loads(json.dumps(DOCUMENT).replace("Goods", "Bads"))))
    assert result.complete
    assert [name for name, step in by_name(result).items() if step.earlier] == ["account"]
    assert await house.deliver(body)
    assert house.endpoint.made.count("account") == 1


async def test_an_answer_that_was_lost_is_never_followed_by_a_second_object(house: House) -> None:
    """Three time-outs after the account was made: nobody knows. The next message finds out, with the same key."""
    house.endpoint.after["accounts"] = [timed_out(), timed_out(), timed_out()]
    first = await house.onboarder.handle(house.sealed(DOCUMENT))
    assert statuses(told(first))["account"] in ("unknown", "done")
    second = await house.deliver(house.sealed(DOCUMENT))
    assert second.complete
    assert house.endpoint.made.count("account") == 1


async def test_a_changed_document_after_an_unknown_outcome_makes_no_second_account(house: House) -> None:
    house.endpoint.after["accounts"] = [timed_out(), timed_out(), timed_out()]
    await house.onboarder.handle(house.sealed(DOCUMENT))
    for country in ("FR", "DE"):
        changed = {**DOCUMENT, "account": {**DOCUMENT["account"], "country": country}}
        result = told(await house.onboarder.handle(house.sealed(changed)))
        assert statuses(result)["account"] in ("unknown", "done")
    assert house.endpoint.made.count("account") == 1


async def test_a_refused_change_after_an_unknown_outcome_makes_no_second_account(house: House) -> None:
    """The refusal is about the changed document's call, under its own key; of the first one's it says nothing."""
    house.endpoint.after["accounts"] = [timed_out(), timed_out(), timed_out()]
    await house.onboarder.handle(house.sealed(DOCUMENT))
    house.endpoint.troubles["accounts"] = [refused("email_invalid", "email")]
    changed = {**DOCUMENT, "account": {**DOCUMENT["account"], "email": "no-mail"}}
    second = told(await house.onboarder.handle(house.sealed(changed)))
    assert statuses(second)["account"] == "unknown"
    corrected = {**DOCUMENT, "account": {**DOCUMENT["account"], "email": "new@example.com"}}
    await house.onboarder.handle(house.sealed(corrected))
    assert house.endpoint.made.count("account") == 1


async def test_killed_before_its_note_it_finds_its_account_though_a_change_was_refused_meanwhile(house: House) -> None:
    body = house.sealed(DOCUMENT)
    house.moments.fatal = CALLED_AND_NOT_NOTED
    with pytest.raises(Killed):
        await house.onboarder.handle(body)
    assert house.endpoint.made == ["account"]
    house.moments.fatal = 0
    house.endpoint.troubles["accounts"] = [refused("email_invalid", "email")]
    changed = {**DOCUMENT, "account": {**DOCUMENT["account"], "email": "no-mail"}}
    assert statuses(told(await house.onboarder.handle(house.sealed(changed))))["account"] == "unknown"
    house.endpoint.troubles.clear()
    assert told(await house.onboarder.handle(body)).complete
    assert house.endpoint.made.count("account") == 1


async def test_a_content_that_is_refused_is_refused_also_where_a_worker_was_killed_in_the_call(house: House) -> None:
    body = house.sealed(DOCUMENT)
    house.moments.fatal = IN_THE_CALL
    house.endpoint.troubles["accounts"] = [refused("email_invalid", "email")]
    with pytest.raises(Killed):
        await house.onboarder.handle(body)
    house.moments.fatal = 0
    again = told(await house.onboarder.handle(body))
    assert (statuses(again)["account"], again.failure and again.failure.code) == ("failed", "email_invalid")


async def test_a_twin_that_knows_less_takes_what_the_other_one_has_made(house: House) -> None:
    """Its lock had lapsed while it was frozen."""
    house.book = ForgetfulStore(house.moments)
    body = house.sealed(DOCUMENT)
    assert told(await house.onboarder.handle(body)).complete
    house.book.forgets = True
    house.journal.entry("req-1").outcome = None
    late = told(await house.onboarder.handle(body))
    assert statuses(late)["account"] == "done"
    assert house.endpoint.made.count("account") == 1


async def test_what_was_made_in_test_mode_is_made_again_in_live_mode(house: House) -> None:
    tried = told(await house.onboarder.handle(house.sealed(DOCUMENT)))
    house.endpoint = AccountsEndpoint(house.moments, live=True)
    house.desk = PlatformContext("main", house.endpoint, Budgets("main", Platform(mode="live")), live=True)
    real = told(await house.onboarder.handle(house.sealed(DOCUMENT)))
    assert (tried.complete, real.complete) == (True, True)
    assert house.endpoint.made.count("account") == 1


PLAIN = {key: DOCUMENT[key] for key in ("reference", "account")}


async def test_a_refused_change_of_a_plain_account_in_doubt_makes_no_second_account(house: House) -> None:
    house.endpoint.after["accounts"] = [timed_out(), timed_out(), timed_out()]
    await house.onboarder.handle(house.sealed(PLAIN))
    house.endpoint.troubles["accounts"] = [refused("email_invalid", "email")]
    for email in ("no-mail", "new@example.com"):
        changed = {**PLAIN, "account": {**PLAIN["account"], "email": email}}
        result = told(await house.onboarder.handle(house.sealed(changed)))
        assert statuses(result)["account"] == "unknown"
    assert house.endpoint.made.count("account") == 1


@pytest.mark.parametrize(("first", "second"), [(DOCUMENT, PLAIN), (PLAIN, DOCUMENT)])
async def test_an_account_begun_with_a_token_is_not_made_again_without_one_nor_the_other_way_round(
    house: House, first: dict[str, Any], second: dict[str, Any]
) -> None:
    house.endpoint.after["accounts"] = [timed_out(), timed_out(), timed_out()]
    body = house.sealed(first)
    house.moments.fatal = {True: 6, False: 4}[first is DOCUMENT]  # the account is made, and nobody has heard of it
    with pytest.raises(Killed):
        await house.onboarder.handle(body)
    house.moments.fatal = 0
    other = await house.onboarder.handle(house.sealed(second))
    assert isinstance(other, DeadLettered)
    assert statuses(told(other))["account"] == "unknown"
    house.endpoint.after.clear()
    assert (await house.deliver(body)).complete
    assert told(await house.onboarder.handle(house.sealed(second))).complete
    assert house.endpoint.made.count("account") == 1


async def test_a_plain_account_is_not_asked_for_again_once_the_endpoint_has_forgotten_its_key(house: House) -> None:
    document = {"reference": "plain", "account": {"country": "FR"}}
    house.endpoint.after["accounts"] = [timed_out(), timed_out(), timed_out()]
    first = told(await house.onboarder.handle(house.sealed(document)))
    assert statuses(first) == {"account": "unknown"}
    house.world.clock += 21 * 3600
    house.endpoint.stored.clear()
    second = await house.onboarder.handle(house.sealed(document, expires_at=int(house.world.clock * 1000) + 10**6))
    assert isinstance(second, DeadLettered)
    assert second.code == Code.OUTCOME_UNKNOWN
    assert house.endpoint.made == ["account"]


async def test_a_token_that_got_too_old_is_made_anew_under_the_next_key(house: House) -> None:
    house.moments.fatal = 0
    body = house.sealed(DOCUMENT)
    # The worker dies when the account's token is noted, and nobody comes for an hour.
    house.moments.fatal = 4
    with pytest.raises(Killed):
        await house.onboarder.handle(body)
    assert house.endpoint.calls == ["account"]
    house.moments.fatal = 0
    house.world.clock += 1200
    result = await house.deliver(body)
    assert result.complete
    assert house.endpoint.calls.count("account") == 3  # the old one, the new one, the one of `complete`
    assert house.endpoint.made.count("account") == 1


async def test_a_token_whose_maker_died_before_it_was_noted_is_as_old_as_it_says(house: House) -> None:
    """The endpoint repeats it under its key, and it is no younger for that."""
    body = house.sealed(DOCUMENT)
    house.moments.fatal = 2
    with pytest.raises(Killed):
        await house.onboarder.handle(body)
    house.moments.fatal = 0
    house.world.clock += 1200
    assert (await house.deliver(body)).complete
    assert "ct_0" not in house.endpoint.spent
    assert house.endpoint.made.count("account") == 1


async def test_where_the_store_was_wiped_a_repeated_token_is_spent_under_its_key_however_old(house: House) -> None:
    """It may have been spent before: another one in its place might be a second account."""
    body = house.sealed(DOCUMENT)
    house.moments.fatal = 6  # the account is made, and nobody has heard of it
    with pytest.raises(Killed):
        await house.onboarder.handle(body)
    house.moments.fatal = 0
    house.wipe()
    house.world.clock += 1200
    assert (await house.deliver(body)).complete
    assert house.endpoint.made.count("account") == 1


async def test_a_token_that_only_the_book_remembers_is_never_followed_by_another_one(house: House) -> None:
    """The book outlives the ledger and the endpoint's keys: what may have been spent a month ago stays in doubt."""
    body = house.sealed(DOCUMENT)
    house.moments.fatal = 6
    with pytest.raises(Killed):
        await house.onboarder.handle(body)
    house.moments.fatal = 0
    house.wipe(book=False)
    house.endpoint.stored.clear()
    house.world.clock += 30 * 86_400
    later = house.sealed(DOCUMENT, expires_at=int(house.world.clock * 1000) + 86_400_000)
    assert statuses(told(await house.onboarder.handle(later)))["account"] == "unknown"
    assert house.endpoint.made.count("account") == 1


async def test_the_steps_of_an_expired_message_are_not_begun(house: House) -> None:
    body = house.sealed(DOCUMENT, issued_at=int(NOW * 1000) - 9, expires_at=int(NOW * 1000) - 1)
    outcome = await house.onboarder.handle(body)
    assert isinstance(outcome, Settled)
    result = told(outcome)
    assert result.failure is not None
    assert result.failure.code == Code.EXPIRED
    assert house.endpoint.calls == []


@pytest.mark.parametrize(("days", "allowed"), [(365, True), (366, False)])
async def test_a_document_lives_no_longer_than_its_steps_are_remembered(house: House, days: int, allowed: bool) -> None:
    outcome = await house.onboarder.handle(house.sealed(DOCUMENT, expires_at=int((NOW + days * 86_400) * 1000)))
    code = outcome.code if isinstance(outcome, DeadLettered) else None
    assert code == (None if allowed else Code.INVALID_LIFETIME)
    assert bool(house.endpoint.calls) == allowed


async def test_a_done_step_is_not_done_again_and_the_result_says_so(house: House) -> None:
    await house.deliver(house.sealed(DOCUMENT))
    more = {"reference": "pepper", "person": {"first_name": "Pepper", "last_name": "Stubbs"}}
    grown = {**DOCUMENT, "persons": [*DOCUMENT["persons"], more]}
    result = await house.deliver(house.sealed(grown))
    assert result.complete
    assert {step.step for step in result.steps if not step.earlier} == {"person:pepper"}
    assert house.endpoint.made.count("person") == 3


async def test_a_delivery_that_comes_twice_tells_the_same_outcome_and_calls_nothing(house: House) -> None:
    body = house.sealed(DOCUMENT)
    first = await house.deliver(body)
    calls = list(house.endpoint.calls)
    assert await house.deliver(body) == first
    assert house.endpoint.calls == calls


async def test_two_messages_about_one_account_at_once_make_one_account(house: House) -> None:
    results = await asyncio.gather(*(house.deliver(house.sealed(DOCUMENT)) for _ in range(3)))
    assert all(result.complete for result in results)
    assert sorted(house.endpoint.made) == ["account", "external_account", "person", "person"]
    assert sum(not step.earlier for result in results for step in result.steps) == len(STEPS)


async def test_the_same_reference_on_two_platforms_is_two_accounts(house: House) -> None:
    platform = PlatformContext("other", house.endpoint, house.desk.budgets, live=False)
    other = house.onboarder_of(platform, MemoryLedger())
    await house.deliver(house.sealed(DOCUMENT))
    assert told(await other.handle(house.sealed(DOCUMENT, platform="other"))).complete
    assert house.endpoint.made.count("account") == 2


async def test_a_closed_endpoint_parks_the_message_and_it_goes_on_where_it_stopped(house: House) -> None:
    """A 403 about making accounts: the message waits where it holds up nobody."""
    body = house.sealed(DOCUMENT)
    house.endpoint.troubles["accounts"] = [Blocked(403, "unauthorized", ours=True)]
    async with watched(house.circuits):
        outcome = await house.onboarder.handle(body)
        assert outcome == Parked("main/endpoint/accounts", ONBOARD_TASK, "req-1")
        assert house.journal.entry("req-1").deliveries == 0
        await house.circuits._store.close("main/endpoint/accounts")
        await asyncio.sleep(0)
    house.circuits = CircuitBreaker(MemoryCircuits())
    result = await house.deliver(body)
    assert result.complete
    assert sorted(house.endpoint.made) == ["account", "external_account", "person", "person"]


@pytest.mark.parametrize("refused_for", [[], [Unavailable("ConnectError", maybe_done=False)]], ids=["", "not reached"])
async def test_plain_accounts_that_waited_for_days_at_an_open_circuit_are_made_when_it_closes(
    house: House, refused_for: list[Exception]
) -> None:
    """The first call is refused, the other messages make none at all: nothing is in doubt, however long it takes."""
    later = int(NOW * 1000) + 3 * 86_400_000
    documents = [{"reference": f"plain-{n}", "account": {"country": "FR"}} for n in range(3)]
    bodies = [house.sealed(each, expires_at=later) for each in documents]
    house.endpoint.troubles["accounts"] = [*refused_for, Blocked(403, "unauthorized", ours=True)]
    async with watched(house.circuits):
        for body in bodies:
            assert isinstance(await house.onboarder.handle(body), Parked)
    assert house.endpoint.made == []
    house.circuits = CircuitBreaker(MemoryCircuits())
    house.world.clock += 2 * 86_400
    for body in bodies:
        assert (await house.deliver(body)).complete
    assert house.endpoint.made == ["account"] * 3


async def test_a_plain_call_with_a_lost_answer_stays_in_doubt_also_when_a_circuit_opens_behind_it(house: House) -> None:
    house.endpoint.after["accounts"] = [timed_out()]
    place(house, "complete", 1, [Blocked(403, "unauthorized", ours=True)])  # the second call of /v1/accounts
    body = house.sealed(
        {"reference": "plain", "account": {"country": "FR"}}, expires_at=int(NOW * 1000) + 3 * 86_400_000
    )
    async with watched(house.circuits):
        assert isinstance(await house.onboarder.handle(body), Parked)
    house.circuits = CircuitBreaker(MemoryCircuits())
    house.world.clock += 2 * 86_400
    house.endpoint.stored.clear()
    assert statuses(told(await house.onboarder.handle(body))) == {"account": "unknown"}
    assert house.endpoint.made == ["account"]


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (Blocked(403, "unauthorized", ours=True), Code.ACCOUNT_REFUSES),
        (Blocked(403, "account_invalid", "invalid_request_error"), "account_invalid"),
    ],
)
async def test_an_account_that_takes_no_persons_is_told_and_holds_up_no_other_account(
    house: House, refusal: Blocked, code: str
) -> None:
    house.endpoint.troubles["persons"] = [refusal]
    result = await house.deliver(house.sealed(DOCUMENT))
    assert (result.complete, result.failure and result.failure.code) == (False, code)
    assert result.account is not None
    assert not house.circuits.is_open(["main", "main/endpoint/persons", f"main/account/{result.account}"])


async def test_a_stored_500_gets_a_new_key_and_one_object(house: House) -> None:
    house.endpoint.troubles["account"] = [server_error(), server_error()]
    result = await house.deliver(house.sealed(DOCUMENT))
    assert result.complete
    assert house.endpoint.made.count("account") == 1


async def test_a_redriven_message_does_not_meet_the_500_that_the_endpoint_has_stored(house: House) -> None:
    """A person's call was answered with 500 for good, and had no effect: redriven it goes under another key."""
    down, stored = True, set()
    post = house.endpoint.post

    async def breaking(path: str, form: str, *, idempotency_key: str, connected_account: str | None = None) -> Answer:
        if path.endswith("/persons") and (down or idempotency_key in stored):
            stored.add(idempotency_key)
            raise server_error()
        return await post(path, form, idempotency_key=idempotency_key, connected_account=connected_account)

    async def look(path: str, *, connected_account: str | None = None) -> Answer:
        id_ = path.rpartition("/")[2]
        return Answer("token", id_, {"used": id_ in house.endpoint.spent})

    house.endpoint.post, house.endpoint.get = breaking, look  # type: ignore[method-assign]
    body = house.sealed(DOCUMENT)
    outcome = await house.onboarder.handle(body)
    assert isinstance(outcome, DeadLettered)
    assert statuses(told(outcome))["person:jenny"] == "failed"
    down = False
    house.journal.entry("req-1").outcome = None  # as a redrive does
    assert (await house.deliver(body)).complete
    assert sorted(house.endpoint.made) == ["account", "external_account", "person", "person"]


async def test_a_500_that_may_have_had_its_effect_is_asked_about_under_its_own_key_alone(house: House) -> None:
    house.endpoint.after["accounts"] = [server_error()] * 3
    body = house.sealed({"reference": "plain", "account": {"country": "FR"}})
    assert statuses(told(await house.onboarder.handle(body))) == {"account": "unknown"}
    house.journal.entry("req-1").outcome = None
    assert (await house.deliver(body)).complete
    assert house.endpoint.made == ["account"]


MOMENTS = 2 * 2 * len(STEPS) + 2 * 2 * len(STEPS) + 2
"""Two calls of each step, begun and answered; two notes of each, begun and written; the outcome, the same."""


@pytest.mark.parametrize("moment", range(1, MOMENTS + 1))
async def test_a_worker_killed_at_any_moment_leaves_an_account_that_becomes_complete_and_is_one(
    house: House, moment: int
) -> None:
    body = house.sealed(DOCUMENT)
    house.moments.fatal = moment
    with pytest.raises(Killed):
        await house.onboarder.handle(body)
    house.moments.fatal = 0
    house.ledger.locks.clear()  # leases of the dead run out
    result = await house.deliver(body)
    assert result.complete
    assert not any(step.earlier for step in result.steps)
    assert sorted(house.endpoint.made) == ["account", "external_account", "person", "person"]
    assert len(house.endpoint.stored) == 2 * len(STEPS), "one token and one object of each step"


async def test_the_moments_of_death_are_all_the_moments_there_are(house: House) -> None:
    await house.deliver(house.sealed(DOCUMENT))
    assert house.moments.passed == MOMENTS


@pytest.mark.parametrize("asked", [True, False])
async def test_each_step_is_told_to_whoever_asked_for_it(house: House, asked: bool) -> None:
    place(house, "person:zora", 0, [refused()])
    await house.deliver(house.sealed({**DOCUMENT, "progress": asked}))
    assert {route for route, _ in house.told} == ({"route"} if asked else set())
    assert [(word.step.step, word.step.status, word.taken, word.done, word.steps) for _, word in house.told] == (
        [
            ("account", "done", 1, 1, 6),
            ("person:jenny", "done", 2, 2, 6),
            ("person:zora", "failed", 3, 2, 6),
            ("external_account:bank", "done", 5, 3, 6),
        ]
        if asked
        else []
    )


async def test_nothing_of_the_document_is_kept_but_ids_and_codes(house: House) -> None:
    place(house, "external_account:bank", 1, [refused("account_number_invalid", "external_account")])
    result = await house.deliver(house.sealed(DOCUMENT))
    kept = f"{house.book.entries} {house.journal.entries} {house.ledger.tokens} {result.model_dump_json()} {result!r}"
    for secret in ("222222222", "000123456789", "Jenny", "Rosen", "Imaginary", "example.com"):
        assert secret not in kept


def recorded(status: Status, message: str, *, token: str | None = None, stored_500: bool = False) -> StepRecord:
    attempts = (Attempt(at=1, status=500, code="api_error"),) if stored_500 else ()
    failure = Failure(code=Code.ATTEMPTS_EXHAUSTED, source="tokenferry", history=attempts)
    return StepRecord(
        status=status,
        round=2,
        message=message,
        at=1,
        token=token,
        failure=failure if status in ("refused", "stopped") else None,
    )


BEGUN, STOPPED = recorded("begun", "req-2", token="ct_1"), recorded("stopped", "req-1")


@pytest.mark.parametrize(
    ("known", "resumption"),
    [
        (None, Resumption(0, None)),
        (recorded("done", "req-1"), None),
        (recorded("done", "req-2"), None),
        (BEGUN, Resumption(2, BEGUN)),
        (recorded("begun", "req-1"), None),  # without a token: only a document without one can find out
        (recorded("refused", "req-1"), None),
        (recorded("refused", "req-2"), Resumption(3, None)),
        (STOPPED, Resumption(2, STOPPED)),
        (recorded("stopped", "req-1", stored_500=True), Resumption(3, None)),
        (recorded("stopped", "req-2"), Resumption(3, None)),
    ],
)
def test_how_a_message_goes_on_with_a_step_follows_from_its_record(
    known: StepRecord | None, resumption: Resumption | None
) -> None:
    assert resume(known, "req-1", with_token=True) == resumption


class TestTheStoresMemory:
    async def test_survives_and_keeps_what_is_done(self, store: Store) -> None:
        book = RedisOnboardings(store, days=1)
        assert await book.records("main", "seller-7") == {}
        begun, done = '{"status":"begun"}', '{"status":"done"}'
        assert await book.record("main", "seller-7", "account", begun) == begun
        assert await book.record("main", "seller-7", "account", done) == done
        assert await book.record("main", "seller-7", "account", begun) == done
        await book.record("main", "seller-7", "person:jenny", begun)
        assert await book.records("main", "seller-7") == {"account": done, "person:jenny": begun}
        assert await book.records("other", "seller-7") == {}


class TestADeadLetter:
    """What `tokenferry dead-letters redrive` does to the journal, and what the message then does."""

    async def test_that_is_redriven_goes_on_where_it_stopped(self, house: House, store: Store) -> None:
        journal = RedisJournal(store, "request", days=1)
        house.journal = journal  # type: ignore[assignment]
        place(house, "external_account:bank", 1, [Unavailable("ConnectError", maybe_done=False)] * 3)
        place(house, "person:jenny", 1, [refused("email_invalid")])
        body = house.sealed(DOCUMENT)
        outcome = await house.onboarder.handle(body)
        assert isinstance(outcome, DeadLettered)
        assert outcome.code == Code.ATTEMPTS_EXHAUSTED, "what can be mended goes before what the endpoint refused first"
        assert await journal.reopen("req-1", told=1) == "open"
        again = await house.deliver(body)
        assert again.outcome_id == "req-1:onboarding:2"
        assert statuses(again)["external_account:bank"] == "done"
        assert statuses(again)["person:jenny"] == "failed", "refused, and its own document is the same"
        assert await journal.reopen("req-1", told=2) == "done"


def test_requirements_are_read_tolerantly() -> None:
    assert requirements_of(Answer("account", "acct_1", {})) is None
    assert requirements_of(Answer("account", "acct_1", {"requirements": "none"})) is None
    odd = {"currently_due": ["a", 7, "x" * 500], "errors": [{"code": "c", "requirement": "r", "reason": "t"}, 3, {}]}
    found = requirements_of(Answer("account", "acct_1", {"requirements": odd}))
    assert found is not None
    assert found.currently_due == ("a",)
    assert [(error.code, error.requirement) for error in found.errors] == [("c", "r")]


class TestARequestIdThatStandsForSomethingElse:
    async def test_is_refused_and_the_other_one_is_not_touched(self, house: House) -> None:
        await house.journal.begin("req-1", "digest of a tokenization")
        await house.journal.record("req-1", '{"outcome_id": "req-1:token"}')
        body = house.sealed(DOCUMENT)
        outcome = await house.onboarder.handle(body)
        assert isinstance(outcome, Settled)
        result = told(outcome)
        assert result.failure is not None
        assert (result.failure.code, result.failure.source) == (Code.REQUEST_ID_REUSED, "tokenferry")
        assert result.outcome_id == "req-1:5ffcd338644b:onboarding"
        assert told(await house.onboarder.handle(body)) == result
        assert house.endpoint.calls == []
        assert house.journal.entries["req-1"].outcome == '{"outcome_id": "req-1:token"}'

    async def test_may_be_an_onboarding_that_an_earlier_version_has_begun_which_goes_on(self, house: House) -> None:
        """That one told the journal no digest, and died."""
        body = house.sealed(DOCUMENT)
        assert (await house.journal.begin("req-1")).deliveries == 1
        result = await house.deliver(body)
        assert result.ok
        assert result.deliveries == 2
        assert (await house.deliver(body)).outcome_id == result.outcome_id == "req-1:onboarding"
        assert (await house.journal.begin("req-1")).outcome is not None, "and an earlier version still finds it"

    async def test_may_be_that_of_a_step_whose_entry_an_earlier_version_has_begun(self, house: House) -> None:
        for id_ in STEP_IDS:
            await house.journal.begin(id_)
        assert (await house.deliver(house.sealed(DOCUMENT))).ok

    async def test_of_a_step_stops_that_step_without_a_call_under_the_others_key(self, house: House) -> None:
        account = step_id("main:test", "seller-7", "account", 0)
        await house.journal.begin(account, "digest of a tokenization")
        step = by_name(await house.deliver(house.sealed(DOCUMENT)))["account"]
        assert step.failure is not None
        assert (step.status, step.failure.code) == ("failed", Code.REQUEST_ID_REUSED)
        assert house.endpoint.calls == []
        assert (await house.deliver(house.sealed(DOCUMENT))).ok, "a later message takes the step under another id"
