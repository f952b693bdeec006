"""The state of the emulator: tokens, objects, and what belongs to them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tokenferry_emulator.authentication import KeyScope
from tokenferry_emulator.cards import Behaviour
from tokenferry_emulator.errors import no_such
from tokenferry_emulator.faults import Faults
from tokenferry_emulator.idempotency import Idempotency
from tokenferry_emulator.ledger import CallLedger
from tokenferry_emulator.limits import RateLimiter
from tokenferry_emulator.locks import Locks
from tokenferry_emulator.settings import Settings

Json = dict[str, Any]

_LABELS = {"payment_method": "PaymentMethod"}
"""How an error calls an object of a kind."""


@dataclass(slots=True)
class Token:
    """A token and what it stands for. *payload* holds an account's or a person's fields, without numbers."""

    id: str
    kind: str
    scope: KeyScope
    body: Json
    behaviour: Behaviour = field(default_factory=Behaviour)
    payload: Json = field(default_factory=dict)
    magic: bool = False
    spent: bool = False
    holder: object | None = None
    """The call that is using it right now."""


@dataclass(slots=True)
class Thing:
    """Any stored object. *members* are ids of what belongs to it: sources, external accounts, persons."""

    kind: str
    scope: KeyScope
    body: Json
    behaviour: Behaviour = field(default_factory=Behaviour)
    members: list[str] = field(default_factory=list)
    owner: str | None = None
    private: Json = field(default_factory=dict)

    @property
    def id(self) -> str:
        return str(self.body["id"])


class EmulatorState:
    """One run's state. *clock* is the wall clock and *steady* one that never goes back, both in seconds."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.settings = settings or Settings()
        self.clock = clock
        self.steady = steady
        self.sleep = sleep
        self.faults = Faults(self.settings.faults, self.settings.seed)
        self.limiter = RateLimiter(self.settings.rates, steady)
        self.reset()

    def reset(self) -> None:
        """Forget everything but settings, limits and faults."""
        self.secret = os.urandom(32)
        self.dice = random.Random(self.settings.seed)
        self.tokens: dict[str, Token] = {}
        self.things: dict[str, Thing] = {}
        self.ledger = CallLedger(self.steady)
        self.idempotency = Idempotency(self.clock, self.secret)
        self.locks = Locks()
        self.rejected: set[str] = set()
        """Refused keys and connected accounts; "raw_cards" and "v1_accounts" refuse these for every key."""
        self.limiter.set(self.limiter.rates)

    def now(self) -> int:
        return int(self.clock())

    def keep(self, thing: Thing) -> Thing:
        self.things[thing.id] = thing
        self.ledger.objects[thing.kind] += 1
        return thing

    def drop(self, thing_id: str) -> None:
        thing = self.things.pop(thing_id)
        self.ledger.objects[thing.kind] -= 1

    def find(self, kind: str, thing_id: str, scope: KeyScope, *, param: str, status: int = 404) -> Thing:
        """The object of that kind in that scope, or the provider's "No such …"."""
        thing = self.things.get(thing_id)
        if thing is None or thing.kind != kind or thing.scope != scope:
            raise no_such(_LABELS.get(kind, kind), thing_id, param=param, status=status)
        return thing


def platform_account_id(scope: KeyScope) -> str:
    """The platform's own account: the same id for the same key, in both modes."""
    return f"acct_{hashlib.sha256(scope.account.encode()).hexdigest()[:16]}"
