"""An attach worker and its orders, for the tests that tell what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tokenferry.configuration import Platform
from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.lifetimes import Lifetimes
from tokenferry.contract.results import AttachResult
from tokenferry.contract.targets import CustomerSource
from tokenferry.sealing import Signer, sign_attach
from tokenferry_worker.circuits.breaker import CircuitBreaker
from tokenferry_worker.deliveries.attaching import Attacher
from tokenferry_worker.deliveries.lifetimes import LifetimeCheck
from tokenferry_worker.keys.identities import Signers
from tokenferry_worker.limits.budgets import Budgets
from tokenferry_worker.outcomes import DeadLettered, Outcome, Settled
from tokenferry_worker.provider.attempts import Caller
from tokenferry_worker.provider.platforms import PlatformContext
from tokenferry_worker.tokens.journal import Journal
from tokenferry_worker.tokens.ledger import Ledger
from tokenferry_worker.tokens.spending import Spender

from .standins import (
    EVERYBODY,
    NOW,
    MemoryCircuits,
    MemoryJournal,
    MemoryLedger,
    MemoryLimiter,
    ScriptedEndpoint,
    ShownEndpoint,
    StoryClock,
)

TARGET = CustomerSource(customer="cus_1")


class Killed(BaseException):
    """The worker process is gone."""


@dataclass
class Death:
    """Kills the worker once, when it reaches a moment."""

    at: str = ""

    def reach(self, moment: str) -> None:
        if moment == self.at:
            self.at = ""
            raise Killed


class MortalLedger(MemoryLedger):
    """A ledger whose worker may die before and after it closes a token."""

    def __init__(self, now: Callable[[], float], dies: Death) -> None:
        super().__init__(now)
        self.dies = dies

    async def close(self, *given: Any, **named: Any) -> bool:
        self.dies.reach("before close")
        closed = await super().close(*given, **named)
        self.dies.reach("after close")
        return closed


class MortalJournal(MemoryJournal):
    """A journal whose worker may die before it records an outcome, and after it lets a request make another token."""

    def __init__(self, ledger: MemoryLedger, dies: Death) -> None:
        super().__init__(ledger, MemoryJournal(ledger))
        self.dies = dies

    async def record(self, *given: Any, **named: Any) -> str:
        self.dies.reach("before record")
        return await super().record(*given, **named)

    async def retokenize(self, *given: Any) -> bool:
        retokenized = await super().retokenize(*given)
        self.dies.reach("after retokenize")
        return retokenized


@dataclass
class Story:
    """An attach worker on one platform, and somebody whose orders count."""

    attacher: Attacher
    endpoint: Any
    journal: MemoryJournal
    ledger: MemoryLedger
    limiter: MemoryLimiter
    world: StoryClock
    signer: Signer
    dies: Death = field(default_factory=Death)

    def fields(self) -> dict[str, Any]:
        """What an order says."""
        return {
            "attach_id": "attach-1",
            "request_id": "req-1",
            "token": "tok_1",
            "kind": "card",
            "platform": "main",
            "target": TARGET,
            "reply_to": "importer",
            "token_created_at": int(NOW * 1000),
            "attach_before": int((NOW + 600) * 1000),
            "signer_id": self.signer.signer_id,
        }

    def order(self, **changed: Any) -> str:
        return sign_attach(AttachRequest(**{**self.fields(), **changed}), self.signer).model_dump_json()

    async def handle(self, **changed: Any) -> Outcome:
        return await self.attacher.handle(self.order(**changed))

    @property
    def state(self) -> str:
        """What the ledger says of the token."""
        return self.ledger.holding("tok_1").state


def attacher_of(
    key_folder: Any, endpoint: ScriptedEndpoint, journal: Journal, ledger: Ledger, world: StoryClock
) -> tuple[Attacher, MemoryLimiter]:
    limiter, platform = MemoryLimiter(), Platform(mode="test", base_url="http://127.0.0.1:1")
    circuits = CircuitBreaker(MemoryCircuits(), look_every=0.01)
    attacher = Attacher(
        signers=Signers.load(key_folder.signers),
        rights=EVERYBODY,
        spender=Spender({"main": ledger}, Caller(limiter, circuits, world, attempts=4), world),
        platforms={"main": PlatformContext("main", endpoint, Budgets("main", platform), False)},
        journal=journal,
        clock=world,
        deliveries=3,
        lifetimes=LifetimeCheck(Lifetimes.remembered(journal_days=7, onboarding_days=365), world.now),
    )
    return attacher, limiter


Tell = Callable[..., Story]


def begin(key_folder: Any, *script: Any, endpoint: ScriptedEndpoint | None = None) -> Story:
    """Begins a story with what the endpoint will answer."""
    endpoint, world, dies = endpoint or ShownEndpoint(*script), StoryClock(), Death()
    ledger = MortalLedger(world.now, dies)
    journal = ledger.orders = MortalJournal(ledger, dies)
    attacher, limiter = attacher_of(key_folder, endpoint, journal, ledger, world)
    return Story(attacher, endpoint, journal, ledger, limiter, world, Signer.load(key_folder.worker), dies)


def result_of(outcome: Outcome) -> AttachResult:
    if isinstance(outcome, DeadLettered):
        assert outcome.settled.result.failure is not None
        assert outcome.settled.result.failure.code == outcome.code
        outcome = outcome.settled
    assert isinstance(outcome, Settled)
    assert isinstance(outcome.result, AttachResult)
    assert outcome.reply_to == "importer"
    return outcome.result


def code_of(outcome: Outcome) -> str:
    failure = result_of(outcome).failure
    assert failure is not None
    return failure.code
