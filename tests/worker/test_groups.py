"""Whose id it is: what the header claims and the policy gives, for workers and for a redrive."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from tokenferry.configuration import Configuration, Platform
from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.lifetimes import Lifetimes
from tokenferry.contract.requests import CardRequest, InvalidRequest
from tokenferry.contract.results import AttachResult
from tokenferry.contract.targets import CustomerCreate
from tokenferry.ordering import Order, Sealer
from tokenferry.sealing import Recipient, Signer
from tokenferry_worker.dead_letters.record import DeadLetter
from tokenferry_worker.dead_letters.redriving import Redriver
from tokenferry_worker.dead_letters.resealing import Resealer
from tokenferry_worker.dead_letters.retention import retained
from tokenferry_worker.deliveries.answering import answered
from tokenferry_worker.errors import NotGranted
from tokenferry_worker.keys.identities import Signers, load_identities
from tokenferry_worker.keys.opening import Opener
from tokenferry_worker.keys.policy import Policy, Role, everything
from tokenferry_worker.keys.rights import Rights
from tokenferry_worker.outcomes import DeadLettered, Settled

from .standins import EVERYBODY, FlakyPublisher

pytestmark = pytest.mark.anyio

CARD = CardRequest(number="4242424242424242", exp_month="12", exp_year="2034")
SIGNER = "k0123456789abcdef"
EVERY_ROLE: tuple[Role, ...] = ("seal", "onboard", "order", "worker")


def policy_of(group: str, *roles: Role, signer: str = SIGNER) -> Policy:
    return Policy({signer: everything(group).model_copy(update={"roles": roles or EVERY_ROLE})})


def rights(policy: Policy) -> Rights:
    async def current() -> Policy:
        return policy

    return Rights(current)


def order(**changed: Any) -> AttachRequest:
    fields = {"attach_id": "req-1", "request_id": "req-1", "token": "tok_1", "kind": "card", "platform": "main"}
    times = {"token_created_at": 0, "attach_before": 1, "signer_id": SIGNER, "target": CustomerCreate()}
    return AttachRequest.model_validate({**fields, **times, **changed})


async def test_version_1_is_in_the_group_of_its_signer() -> None:
    assert (await rights(policy_of("shop", "order")).in_its_group(order())).group == "shop"
    assert (await EVERYBODY.in_its_group(order())).group == "legacy"


async def test_an_order_of_a_worker_is_in_the_group_of_its_request() -> None:
    workers = rights(policy_of("legacy", "worker"))
    claims = order(version=2, group="shop")
    assert (await workers.in_its_group(claims)).group == "shop"
    await workers.check_order(claims)
    own = rights(policy_of("tools", "worker"))
    assert (await own.in_its_group(order())).group == "legacy"


@pytest.mark.parametrize("group", ["mail", "legacy"])
async def test_an_order_of_another_group_than_the_policy_gives_is_not_granted(group: str) -> None:
    with pytest.raises(NotGranted, match="group"):
        await rights(policy_of("shop", "order")).check_order(order(version=2, group=group))
    await rights(policy_of("shop", "order")).check_order(order(version=2, group="shop"))


async def test_without_a_policy_nobody_is_in_another_group() -> None:
    with pytest.raises(NotGranted, match="group"):
        await EVERYBODY.check_order(order(version=2, group="shop"))


# -- the answer is for whoever asks


ATTACHED = AttachResult(
    outcome_id="shop/req-1:attach",
    request_id="req-1",
    attach_id="req-1",
    kind="card",
    platform="main",
    settled_at=1,
    to="customer_create",
)


def test_a_request_of_version_1_is_answered_in_version_1_in_every_group() -> None:
    as_recorded = Settled(ATTACHED, "shop", "as recorded")
    for asker in (order(), order(version=2, group="shop", answer_in=1)):
        assert answered(as_recorded, asker) == as_recorded
    told = answered(as_recorded, order(version=2, group="shop", token_created_at=5_999, attach_before=6_000))
    added = {"group": "shop", "generation": 1, "token_created": 5}
    assert told == Settled(ATTACHED.model_copy(update=added), "shop")


def test_every_outcome_says_of_which_lane_and_trace_its_request_was() -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    settled = Settled(ATTACHED, "shop")
    asker = order(version=2, group="shop", lane="realtime", traceparent=trace)
    for outcome in (answered(settled, asker), answered(DeadLettered(settled, "expired"), asker)):
        told = outcome.settled if isinstance(outcome, DeadLettered) else outcome
        assert isinstance(told, Settled)
        assert (told.lane, told.trace) == ("realtime", trace)
    told = answered(settled, order(lane="realtime"))
    assert isinstance(told, Settled)
    assert told.lane == "realtime"


# -- a producer says its group, and redriving keeps it


@dataclass
class ReopenedIds:
    """A journal that reopens everything, and remembers what it was asked."""

    asked: list[tuple[str, int]] = field(default_factory=list)

    async def reopen(self, id_: str, *, told: int, generation: int = 1) -> Literal["open", "done"]:
        self.asked.append((id_, generation))
        return "open"


def sealer(key_folder: Any, **producer: Any) -> Sealer:
    keys = {"recipient": key_folder.recipient, "producer_signing_key": key_folder.producer}
    return Sealer(Configuration.model_validate({"keys": keys, "producer": producer, "platforms": {"main": Platform()}}))


def dead(sealer: Sealer, *, generation: int = 1) -> DeadLetter:
    _, message = sealer.message(Order(CARD, platform="main", request_id="req-1"), generation=generation)
    return DeadLetter.read(retained(message.body, "attempts_exhausted", at=time.time(), realtime=False))


def redriver(key_folder: Any, group: str, resealer: Resealer | None = None) -> tuple[Redriver, ReopenedIds]:
    signer, requests = Signer.load(key_folder.producer).signer_id, ReopenedIds()
    made = Redriver(
        signers=Signers.load(key_folder.signers),
        platforms=["main"],
        requests=requests,
        orders=ReopenedIds(),
        publisher=FlakyPublisher(),
        publish_timeout=5.0,
        lifetimes=Lifetimes.remembered(journal_days=7, onboarding_days=365),
        born=0,
        now=time.time,
        policy=policy_of(group, signer=signer),
        resealer=resealer,
    )
    return made, requests


async def test_a_redrive_reopens_the_id_of_its_group_and_generation(key_folder: Any) -> None:
    by_header, by_policy = sealer(key_folder, envelope=2, group="shop"), sealer(key_folder, envelope=1)
    for letter, key in (
        (dead(by_header), ("shop:req-1", 1)),
        (dead(by_header, generation=3), ("shop:req-1", 3)),
        (dead(by_policy), ("shop:req-1", 1)),
        (dead(sealer(key_folder, envelope=2)), ("req-1", 1)),
    ):
        again, requests = redriver(key_folder, "shop")
        assert await again.redrive(letter) == "redriven"
        assert requests.asked == [key]


@pytest.mark.parametrize("version", [1, 2])
async def test_no_request_gets_into_another_group_by_being_sealed_again(
    key_folder: Any, quantum_key_folder: Any, version: int
) -> None:
    signers = Signers.load(key_folder.signers)
    to = Recipient.load(quantum_key_folder.recipient)
    again = Resealer(Opener(load_identities(key_folder.identities), signers), to, Signer.load(key_folder.worker))
    letter = dead(sealer(key_folder, envelope=version, **({"group": "shop"} if version == 2 else {})))
    made, requests = redriver(key_folder, "shop", again)
    assert made.fate(letter) == "other_group"
    assert await made.redrive(letter) == "other_group"
    assert requests.asked == []


def test_version_1_has_no_generations(key_folder: Any) -> None:
    with pytest.raises(InvalidRequest, match="generation"):
        dead(sealer(key_folder, envelope=1), generation=2)
