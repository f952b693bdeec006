"""Workers read version 2 beside version 1: requests, documents and orders, wherever one is read."""

from __future__ import annotations

import json
import random
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest

from tokenferry.configuration import Platform
from tokenferry.contract.attach import AttachRequest, SignedAttach, read_order
from tokenferry.contract.codes import Code
from tokenferry.contract.envelope import Header
from tokenferry.contract.envelope2 import Envelope2, Header2
from tokenferry.contract.lifetimes import Lifetimes
from tokenferry.contract.onboarding import Onboarding, onboarding_from
from tokenferry.contract.plaintext import Plaintext2, pad
from tokenferry.contract.requests import BankAccountRequest, CardRequest, CvcUpdateRequest, TokenRequest
from tokenferry.contract.results import TokenResult
from tokenferry.contract.targets import AttachTarget, CustomerSource, digest
from tokenferry.sealing import SUITES, Recipient, Signer, seal, seal2, sign_attach
from tokenferry_worker.circuits.breaker import CircuitBreaker
from tokenferry_worker.dead_letters.record import DeadLetter
from tokenferry_worker.dead_letters.resealing import Resealer
from tokenferry_worker.dead_letters.retention import retained
from tokenferry_worker.deliveries.lifetimes import LifetimeCheck
from tokenferry_worker.deliveries.tokenizing import Tokenizer, fingerprint
from tokenferry_worker.errors import HiddenCvc, Unopenable
from tokenferry_worker.keys.contents import ContentMarks
from tokenferry_worker.keys.identities import Signers, load_identities
from tokenferry_worker.keys.opening import Opener, read_attach
from tokenferry_worker.keys.policy import Policy, everything
from tokenferry_worker.keys.rights import Rights
from tokenferry_worker.limits.budgets import Budgets
from tokenferry_worker.outcomes import DeadLettered, HandedOn, Outcome, Quarantined, Settled
from tokenferry_worker.provider.attempts import Caller
from tokenferry_worker.provider.platforms import PlatformContext
from tokenferry_worker.tokens.creating import TokenCreator

from .standins import (
    EVERYBODY,
    NOW,
    MemoryBackpressure,
    MemoryCircuits,
    MemoryJournal,
    MemoryLimiter,
    ScriptedEndpoint,
    StoryClock,
    token,
)

pytestmark = pytest.mark.anyio

CARD = CardRequest(number="4242424242424242", exp_month="12", exp_year="2034")
CARD_WITH_CVC = CardRequest(number="4242424242424242", exp_month="12", exp_year="2034", cvc="123")
PLAN = CustomerSource(customer="cus_1", metadata={"import": "7"})
OTHER_PLAN = CustomerSource(customer="cus_2")
ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ {}":,\n\x00é'
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Fleet:
    """A producer who writes version 2 (and 1), and a tokenize worker."""

    tokenizer: Tokenizer
    journal: MemoryJournal
    endpoint: ScriptedEndpoint
    opener: Opener
    to: Recipient
    producer: Signer
    worker: Signer
    signers: Signers = field(repr=False)

    def header(self, request: TokenRequest, content: Plaintext2, **changed: Any) -> Header2:
        fields: dict[str, Any] = {
            **self._named(),
            "group": "legacy",
            "kind": request.kind,
            "cvc": request.carries_cvc,
            "lane": "realtime" if request.carries_cvc else "bulk",
            "plan_digest": content.plan_digest(),
            "operations": content.plan.operations() if content.plan else (),
        }
        if request.carries_cvc:
            fields["expires_at"] = int((NOW + 60) * 1000)
        return Header2(**{**fields, **changed})

    def sealed(self, request: TokenRequest = CARD, plan: AttachTarget | None = None, **changed: Any) -> str:
        content = Plaintext2.of(request, plan)
        return seal2(content, self.header(request, content, **changed), to=self.to, signer=self.producer).text()

    def sealed_document(self, document: Onboarding, **changed: Any) -> str:
        fields = {**self._named(), "group": "legacy", "kind": "onboarding", "lane": "bulk", **changed}
        content = Plaintext2.of_document(document)
        return seal2(content, Header2(**fields), to=self.to, signer=self.producer).text()

    def sealed_1(self, request: TokenRequest = CARD, plan: AttachTarget | None = None) -> str:
        header = Header(**self._named(), kind=request.kind, lane="bulk", attach_digest=digest(plan) if plan else None)
        return seal(request, header, to=self.to, signer=self.producer, attach=plan).text()

    def order(self, **changed: Any) -> SignedAttach:
        fields: dict[str, Any] = {
            "version": 2,
            "attach_id": "att-1",
            "request_id": "req-1",
            "token": "tok_1",
            "kind": "card",
            "platform": "main",
            "target": PLAN,
            "token_created_at": int(NOW * 1000),
            "attach_before": int(NOW * 1000) + 600_000,
            "signer_id": self.producer.signer_id,
        }
        return sign_attach(AttachRequest(**{**fields, **changed}), self.producer)

    async def handle(self, body: str) -> Outcome:
        return await self.tokenizer.handle(body)

    def _named(self) -> dict[str, Any]:
        return {
            "suite": self.to.suite,
            "key_id": self.to.key_id,
            "producer_id": self.producer.signer_id,
            "request_id": "req-1",
            "platform": "main",
            "reply_to": "importer",
            "issued_at": int(NOW * 1000),
            "expires_at": int((NOW + 86_400) * 1000),
        }


@pytest.fixture(params=["classic", "quantum"])
def fleet(request: pytest.FixtureRequest, key_folder: Any, quantum_key_folder: Any) -> Fleet:
    keys = {"classic": key_folder, "quantum": quantum_key_folder}[request.param]
    endpoint, clock, journal = ScriptedEndpoint(token(), token("tok_2")), StoryClock(), MemoryJournal()
    circuits = CircuitBreaker(MemoryCircuits(), look_every=0.01)
    signers, worker = Signers.load(keys.signers), Signer.load(keys.worker)
    opener = Opener(load_identities(keys.identities), signers)
    budgets = Budgets("main", Platform(mode="test", base_url="http://127.0.0.1:1"))
    tokenizer = Tokenizer(
        opener=opener,
        rights=EVERYBODY,
        lifetimes=LifetimeCheck(Lifetimes.remembered(journal_days=7, onboarding_days=365), clock.now),
        creator=TokenCreator(journal, Caller(MemoryLimiter(), circuits, clock, attempts=8), clock),
        platforms={"main": PlatformContext("main", endpoint, budgets, False)},
        journal=journal,
        backpressure=MemoryBackpressure(),
        clock=clock,
        sign=partial(sign_attach, signer=worker),
        signer_id=worker.signer_id,
        deliveries=3,
        token_lifetime=600.0,
    )
    to, producer = Recipient.load(keys.recipient), Signer.load(keys.producer)
    return Fleet(tokenizer, journal, endpoint, opener, to, producer, worker, signers)


def failure_code(outcome: Outcome) -> str:
    assert isinstance(outcome, Settled)
    assert isinstance(outcome.result, TokenResult)
    assert outcome.result.failure is not None
    return outcome.result.failure.code


async def test_a_request_of_version_2_becomes_a_token(fleet: Fleet) -> None:
    outcome = await fleet.handle(fleet.sealed())
    assert isinstance(outcome, Settled)
    assert isinstance(outcome.result, TokenResult)
    assert outcome.result.token == "tok_1"
    assert outcome.reply_to == "importer"


async def test_a_plan_of_version_2_becomes_an_order_of_version_2_that_carries_its_request(fleet: Fleet) -> None:
    body = fleet.sealed(plan=PLAN, batch="june", traceparent=TRACE)
    outcome = await fleet.handle(body)
    assert isinstance(outcome, HandedOn)
    text = outcome.order.text()
    assert text.startswith("tf2o.")
    order = read_attach(text, fleet.signers).request
    assert (order.target, order.sealed, order.batch, order.traceparent) == (PLAN, body, "june", TRACE)
    # Beside the one base64 of the order, the request inside is the text itself.
    assert body in json.loads(decoded(text.split(".")[1]))["sealed"]


@pytest.mark.parametrize("plan", [None, PLAN])
@pytest.mark.parametrize("named", [(), ("POST /v1/charges",), ("POST /v1/customers/{customer}",)])
async def test_a_header_that_names_other_operations_than_its_plan_is_refused_and_nothing_is_called(
    fleet: Fleet, plan: AttachTarget | None, named: tuple[str, ...]
) -> None:
    if plan is None and not named:
        named = ("POST /v1/customers",)
    outcome = await fleet.handle(fleet.sealed(plan=plan, operations=named))
    assert isinstance(outcome, DeadLettered)
    assert outcome.code == Code.UNOPENABLE
    assert fleet.endpoint.calls == []


async def test_the_answer_names_what_version_2_adds_and_the_journal_does_not(fleet: Fleet) -> None:
    told = await fleet.handle(fleet.sealed(batch="june"))
    assert isinstance(told, Settled)
    assert (told.result.group, told.result.generation, told.result.batch) == ("legacy", 1, "june")
    [entry] = fleet.journal.entries.values()
    assert "june" not in str(entry.outcome)
    again = await fleet.handle(fleet.sealed_1())
    assert isinstance(again, Settled)
    assert again.recorded == entry.outcome
    assert again.result.batch is None
    assert again.result.outcome_id == told.result.outcome_id


async def test_a_plan_of_version_1_still_becomes_an_order_of_version_1(fleet: Fleet) -> None:
    outcome = await fleet.handle(fleet.sealed_1(plan=PLAN))
    assert isinstance(outcome, HandedOn)
    told = json.loads(outcome.order.text())["request"]
    assert told["version"] == 1
    assert not told.keys() & {"group", "generation", "batch", "traceparent"}
    assert read_attach(outcome.order.text(), fleet.signers).request == outcome.order.request


async def test_a_verification_code_that_the_header_does_not_name_is_refused_and_nothing_is_kept(fleet: Fleet) -> None:
    body = fleet.sealed(CARD_WITH_CVC, cvc=False, lane="bulk")
    outcome = await fleet.handle(body)
    assert failure_code(outcome) == Code.CVC_NOT_DECLARED
    assert fleet.endpoint.calls == []
    again = await fleet.handle(body)
    assert failure_code(again) == Code.CVC_NOT_DECLARED


@pytest.mark.parametrize("name", ["card%5Bcvc%5D", "card[cvc]", "card[CVC]", "card%5b%63vc%5d"])
@pytest.mark.parametrize("split", ["&", ";"])
async def test_no_spelling_of_its_field_hides_a_verification_code(fleet: Fleet, name: str, split: str) -> None:
    content = Plaintext2(content_type="application/x-www-form-urlencoded", body=f"card[number]=4242{split}{name}=123")
    sealed = seal2(content, fleet.header(CARD, content), to=fleet.to, signer=fleet.producer)
    with pytest.raises(HiddenCvc):
        fleet.opener.open(fleet.opener.read(sealed.text()))


async def test_a_value_that_mentions_a_code_is_no_code(fleet: Fleet) -> None:
    named = CardRequest(number="4242424242424242", exp_month="12", exp_year="2034", name="A&cvc=1;cvc=2")
    assert "cvc" in fleet.opener.open(fleet.opener.read(fleet.sealed(named))).form


async def test_a_verification_code_that_the_header_names_is_used(fleet: Fleet) -> None:
    outcome = await fleet.handle(fleet.sealed(CARD_WITH_CVC))
    assert isinstance(outcome, Settled)
    assert outcome.result.failure is None


async def test_an_order_in_a_group_remembers_that_its_request_is_answered_in_version_1(fleet: Fleet) -> None:
    policy = Policy({fleet.producer.signer_id: everything("shop")})

    async def current() -> Policy:
        return policy

    outcome = await replace(fleet.tokenizer, rights=Rights(current)).handle(fleet.sealed_1(plan=PLAN))
    assert isinstance(outcome, HandedOn)
    order = outcome.order.request
    assert (order.version, order.group, order.answer_version) == (2, "shop", 1)
    assert read_order(outcome.order.text()).request == order


async def test_a_signer_that_is_not_known_goes_to_quarantine(fleet: Fleet) -> None:
    content = Plaintext2.of(CARD, None)
    header = fleet.header(CARD, content, producer_id="k" + "0" * 16)
    body = Envelope2.write(header, lambda _: b"sealed", fleet.producer.sign).text()
    assert await fleet.handle(body) == Quarantined("not signed by a known producer", stranger=header.producer_id)
    assert fleet.journal.entries == {}


async def test_a_group_that_the_policy_does_not_give_is_refused_and_nothing_is_touched(fleet: Fleet) -> None:
    outcome = await fleet.handle(fleet.sealed(group="shop"))
    assert isinstance(outcome, DeadLettered)
    assert outcome.settled.result.failure is not None
    assert (outcome.code, outcome.settled.result.failure.param) == (Code.NOT_GRANTED, "group")
    assert (fleet.journal.entries, fleet.endpoint.calls) == ({}, [])


MARKS = ContentMarks(bytes(32))


@pytest.fixture
def marking(fleet: Fleet) -> Fleet:
    """A worker with a content key."""
    fleet.tokenizer = replace(fleet.tokenizer, marks=MARKS)
    return fleet


@pytest.mark.parametrize("version", [1, 2])
async def test_the_same_content_is_the_same_in_both_versions_and_with_a_code(marking: Fleet, version: int) -> None:
    seals = {1: marking.sealed_1, 2: marking.sealed}
    first = await marking.handle(seals[version]())
    assert isinstance(first, Settled)
    for body in (seals[3 - version](), marking.sealed(CARD_WITH_CVC)):
        again = await marking.handle(body)
        assert isinstance(again, Settled)
        assert isinstance(again.result, TokenResult)
        assert (again.result.outcome_id, again.result.token) == ("req-1:token", "tok_1")
    assert len(marking.endpoint.calls) == 1


async def test_another_plan_or_card_in_version_2_is_refused_and_told_nothing(marking: Fleet) -> None:
    first = await marking.handle(marking.sealed(plan=PLAN))
    assert isinstance(first, HandedOn)
    other = CARD.model_copy(update={"exp_year": "2044"})
    for request, plan in ((CARD, OTHER_PLAN), (other, PLAN), (other, OTHER_PLAN)):
        outcome = await marking.handle(marking.sealed(request, plan=plan))
        assert failure_code(outcome) == Code.REQUEST_ID_REUSED
        assert isinstance(outcome, Settled)
        assert "tok_1" not in outcome.result.model_dump_json()
    again = await marking.handle(marking.sealed(plan=PLAN))
    assert isinstance(again, HandedOn)
    assert (again.order.request.token, again.order.request.target) == ("tok_1", PLAN)
    assert len(marking.endpoint.calls) == 1


async def test_what_an_earlier_worker_recorded_counts_as_the_same(fleet: Fleet) -> None:
    first = await fleet.handle(fleet.sealed())
    fleet.tokenizer = replace(fleet.tokenizer, marks=MARKS)
    assert await fleet.handle(fleet.sealed()) == first
    fleet.journal.entries["req-1"].content = f"k{'0' * 16}.{'0' * 64}"  # under a key that was replaced since
    assert await fleet.handle(fleet.sealed()) == first


async def test_what_cannot_be_opened_any_more_cannot_be_compared_and_is_told_nothing(marking: Fleet) -> None:
    body = marking.sealed()
    await marking.handle(body)
    before = marking.journal.entries["req-1"].outcome
    marking.tokenizer = replace(marking.tokenizer, opener=Opener({}, marking.signers))
    outcome = await marking.handle(body)
    assert isinstance(outcome, DeadLettered)
    assert (outcome.code, outcome.settled.result.ok) == (Code.UNOPENABLE, False)
    assert "tok_1" not in outcome.settled.result.model_dump_json()
    assert marking.journal.entries["req-1"].outcome == before


async def test_the_same_request_in_both_versions_is_one_request(fleet: Fleet) -> None:
    first = await fleet.handle(fleet.sealed_1(plan=PLAN))
    second = await fleet.handle(fleet.sealed(plan=PLAN))
    third = await fleet.handle(fleet.sealed_1(plan=PLAN))
    for outcome in (first, second, third):
        assert isinstance(outcome, HandedOn)
        assert outcome.order.request.token == "tok_1"
    assert len(fleet.endpoint.calls) == 1


async def test_what_version_2_began_is_known_again_in_version_1(fleet: Fleet) -> None:
    await fleet.handle(fleet.sealed(plan=PLAN))
    outcome = await fleet.handle(fleet.sealed_1(plan=PLAN))
    assert isinstance(outcome, HandedOn)
    assert len(fleet.endpoint.calls) == 1


async def test_another_plan_under_an_id_of_version_1_is_refused(fleet: Fleet) -> None:
    await fleet.handle(fleet.sealed_1(plan=PLAN))
    assert failure_code(await fleet.handle(fleet.sealed(plan=OTHER_PLAN))) == Code.REQUEST_ID_REUSED
    assert failure_code(await fleet.handle(fleet.sealed())) == Code.REQUEST_ID_REUSED


async def test_the_fingerprint_of_version_2_knows_no_salt(fleet: Fleet) -> None:
    one, other = (fleet.opener.read(fleet.sealed(plan=PLAN)).header for _ in range(2))
    assert isinstance(one, Header2)
    assert isinstance(other, Header2)
    assert one.plan_digest != other.plan_digest
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(one) != fingerprint(fleet.opener.read(fleet.sealed()).header)


async def test_a_plan_that_the_header_does_not_name_is_refused(fleet: Fleet) -> None:
    content = Plaintext2.of(CARD, PLAN)
    header = fleet.header(CARD, content, plan_digest="0" * 64)
    sealed = Envelope2.write(
        header,
        lambda info: SUITES[header.suite].encrypt(pad(content.canonical()), fleet.to.public, info),
        fleet.producer.sign,
    )
    with pytest.raises(Unopenable, match="do not agree"):
        fleet.opener.open(fleet.opener.read(sealed.text()))


DOCUMENT = onboarding_from(
    {"account": {"country": "US", "type": "custom"}, "legal_entity": {"business_type": "company"}}
)


async def test_a_document_is_read_as_a_document_and_never_as_a_request(fleet: Fleet) -> None:
    body = fleet.sealed_document(DOCUMENT, progress=True)
    envelope = fleet.opener.read_onboarding(body)
    assert fleet.opener.open_onboarding(envelope) == DOCUMENT.model_copy(update={"progress": True})
    assert await fleet.handle(body) == Quarantined("not an envelope")
    with pytest.raises(Unopenable, match="not an onboarding"):
        fleet.opener.read_onboarding(fleet.sealed())
    assert DeadLetter.read(body).task()[0] == "onboard.main"


async def test_a_dead_letter_of_version_2_is_kept_read_and_sealed_anew(fleet: Fleet, quantum_key_folder: Any) -> None:
    body = fleet.sealed(plan=PLAN)
    kept = retained(body, "attempts_exhausted", at=NOW, outcome_id="req-1:token")
    dead_letter = DeadLetter.read(kept)
    assert (dead_letter.id, dead_letter.kind, dead_letter.platform, dead_letter.lane) == (
        "req-1",
        "card",
        "main",
        "bulk",
    )
    assert dead_letter.message == body
    to = Recipient.load(quantum_key_folder.recipient)
    resealed = Resealer(fleet.opener, to, fleet.producer).message(dead_letter)
    opener = Opener(load_identities(quantum_key_folder.identities), fleet.signers)
    assert opener.open(opener.read(resealed)) == fleet.opener.open(fleet.opener.read(body))


async def test_an_order_that_is_a_dead_letter_has_its_request_sealed_anew(
    fleet: Fleet, quantum_key_folder: Any
) -> None:
    order = fleet.order(sealed=fleet.sealed(plan=PLAN))
    dead_letter = DeadLetter.read(retained(order.text(), "outcome_unknown", at=NOW))
    assert dead_letter.order == order
    resealer = Resealer(fleet.opener, Recipient.load(quantum_key_folder.recipient), fleet.producer)
    read = read_attach(resealer.message(dead_letter), fleet.signers).request
    assert read.model_copy(update={"sealed": None}) == order.request.model_copy(update={"sealed": None})


@pytest.mark.parametrize("cut", [0, 1])
async def test_of_a_message_with_a_verification_code_only_the_header_is_kept(fleet: Fleet, cut: int) -> None:
    body = fleet.sealed(CvcUpdateRequest(cvc="123"))
    kept = json.loads(retained(body[: len(body) - cut], "expired", at=NOW, realtime=False))
    assert kept["message"] == ""
    if not cut:
        dead_letter = DeadLetter.read(json.dumps(kept))
        assert (dead_letter.id, dead_letter.kind, dead_letter.sealed) == ("req-1", "cvc_update", None)


async def test_an_order_never_carries_a_request_with_a_verification_code(fleet: Fleet) -> None:
    with pytest.raises(ValueError, match="verification code"):
        fleet.order(sealed=fleet.sealed(CARD_WITH_CVC))


async def test_an_order_of_version_1_has_no_field_of_version_2(fleet: Fleet) -> None:
    signed = fleet.order(version=1)
    old = json.loads(signed.text())
    assert read_attach(json.dumps(old), fleet.signers) == signed
    for name, value in {"group": "legacy", "generation": 1, "batch": None, "version": 2}.items():
        with pytest.raises(Unopenable, match="not an attach request"):
            read_attach(json.dumps({**old, "request": {**old["request"], name: value}}), fleet.signers)


async def test_no_signature_of_one_version_or_kind_fits_another(fleet: Fleet) -> None:
    two = fleet.order()
    one = two.model_copy(update={"request": two.request.model_copy(update={"version": 1})})
    with pytest.raises(Unopenable, match="not signed"):
        read_attach(one.text(), fleet.signers)
    with pytest.raises(Unopenable):
        read_attach(fleet.sealed().replace("tf2e.", "tf2o.", 1), fleet.signers)


def mutations(text: str, seed: int, count: int) -> list[str]:
    """Texts near *text*: characters changed, doubled and lost, and values changed inside the JSON of a part."""
    chance = random.Random(seed)
    found = []
    while len(found) < count:
        if chance.random() < 0.5:
            parts = text.split(".")
            inside = decoded(parts[1])
            parts[1] = encoded(changed(inside, chance, 'abcdefghijklmnopqrstuvwxyz0123456789_"{}:, .-\\'))
            other = ".".join(parts)
        else:
            other = changed(text, chance, ALPHABET)
        if other != text:
            found.append(other)
    return found


def changed(text: str, chance: random.Random, alphabet: str) -> str:
    mutated = list(text)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        at = chance.randrange(len(mutated))
        mutated[at : at + chance.choice((0, 1, 1, 1, 3))] = chance.choice(alphabet) * chance.choice((0, 1, 1, 1, 2))
    return "".join(mutated)


def decoded(part: str) -> str:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4)).decode()


def encoded(text: str) -> str:
    return urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


@pytest.mark.parametrize("fleet", ["classic"], indirect=True)
@pytest.mark.parametrize("count", [420, pytest.param(4_200, marks=pytest.mark.campaign)])
async def test_of_thousands_of_mutated_messages_workers_accept_none(fleet: Fleet, count: int) -> None:
    """*count* of each kind. What is read at all must be refused for its signature."""
    bank = BankAccountRequest(country="US", currency="usd", account_number="000123456789", routing_number="110000000")
    request = fleet.sealed(bank, plan=PLAN, batch="june", connected_account="acct_1")
    document = fleet.sealed_document(DOCUMENT, progress=True)
    order = fleet.order(sealed=fleet.sealed(plan=PLAN), batch="june", connected_account="acct_1").text()
    readers: list[tuple[str, Any]] = [
        (request, fleet.opener.read),
        (document, fleet.opener.read_onboarding),
        (order, partial(read_attach, signers=fleet.signers)),
    ]
    for text, read in readers:
        read(text)
        for other in mutations(text, seed=len(text) % 7, count=count):
            with pytest.raises(Unopenable):
                read(other)


async def test_an_order_is_read_as_it_was_written(fleet: Fleet) -> None:
    signed = fleet.order(batch="june", traceparent=TRACE, lane="realtime")
    assert read_order(signed.text()) == signed
