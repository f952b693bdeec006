"""Finding out what a call left behind whose answer was lost: by looking, never by guessing.

Two things can be looked at. The object a call was to change: where it holds the very card or bank account that was
inside the token (its id stays the same when the token is spent), the call had its effect. And the token: its `used`
flag. The endpoint documents the flag, but nobody has recorded when it changes: by itself it proves nothing where money
moves. That a token was used never proves by whom.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.target import path_of
from tokenferry.contract.targets import (
    AccountUpdate,
    AttachTarget,
    Charge,
    CustomerSource,
    CustomerUpdate,
    ExternalAccount,
    PaymentIntent,
    PaymentIntentConfirm,
    Topup,
)
from tokenferry_worker.circuits.breaker import CircuitBreaker
from tokenferry_worker.circuits.scopes import CallScope
from tokenferry_worker.clock import Clock
from tokenferry_worker.errors import Declined
from tokenferry_worker.limits.budgets import TOKENS
from tokenferry_worker.limits.pacing import Budget, Limiter
from tokenferry_worker.provider.answers import Answer
from tokenferry_worker.provider.attempts import Attempts, Caller, CallPlan, Exhausted
from tokenferry_worker.provider.platforms import PlatformContext
from tokenferry_worker.tokens.ledger import Became

QUESTIONS: Final = 4
"""Times one question is asked before it counts as not answered."""
QUIET: Final = 30.0
"""Seconds until a call without answer is over at the endpoint too: a write there was seen to wait 23 s for a lock."""
CONFIRMED: Final = frozenset({"processing", "requires_action", "requires_capture", "succeeded"})
"""States of a payment intent that only a confirmation leads to."""

Found = Literal["there", "not_there", "no_answer"]


@dataclass(frozen=True)
class Finding:
    """What looking has proven: that the call had its effect (`done`), that it had none (`unused`), or neither."""

    verdict: Literal["done", "unused", "unknown"]
    became: Became | None = None
    used: bool = False
    """Whether the endpoint says that the token was used, by whomever."""


@dataclass(frozen=True)
class Lookup:
    """Where the object of a call can be looked at, and how it tells."""

    path: str
    shows: Callable[[Answer], Became | None]
    by_its_id: bool
    """Whether it is there only because of this very token."""


@dataclass(frozen=True)
class Reconciler:
    """Asks the endpoint questions that change nothing."""

    limiter: Limiter
    circuits: CircuitBreaker
    clock: Clock

    async def reconcile(self, platform: PlatformContext, request: AttachRequest) -> Finding:
        """What has become of the token of *request*."""
        seen = await self._look(platform, request)
        if seen.verdict == "unused":
            # Unused so far: the last call may still be under way there.
            await self.clock.sleep(QUIET)
            seen = await self._look(platform, request)
        return seen

    async def _look(self, platform: PlatformContext, request: AttachRequest) -> Finding:
        budgets, account = platform.budgets, request.connected_account
        place = lookup_of(request)
        target: Found = "no_answer"
        became = None
        if place is not None:
            endpoint = request.target.endpoint()
            answer = await self._ask(platform, place.path, request, budgets.of(endpoint, account), endpoint)
            became = place.shows(answer) if isinstance(answer, Answer) else None
            target = "there" if became else "no_answer" if answer == "no_answer" else "not_there"
            if became is not None and place.by_its_id:
                return Finding("done", became)
        token = await self._ask(platform, path_of("tokens", request.token), request, budgets.tokens(account), TOKENS)
        used = token.body.get("used") if isinstance(token, Answer) and token.id == request.token else None
        if used is True and became is not None:
            return Finding("done", became)
        if used is False and not (target == "no_answer" if place is not None else _moves_money(request.target)):
            return Finding("unused")
        return Finding("unknown", used=used is True)

    async def _ask(
        self, platform: PlatformContext, path: str, request: AttachRequest, budgets: tuple[Budget, ...], endpoint: str
    ) -> Answer | Literal["not_there", "no_answer"]:
        """One question. A key that may write and not read is no reason to stop anything: it has no answer.

        While the endpoint answers nobody, this waits as calls do: silence then proves nothing.
        """

        async def get() -> Answer:
            return await platform.client.get(path, connected_account=request.connected_account)

        plan = CallPlan(
            platform=platform,
            scope=CallScope(platform.name, endpoint, connected_account=request.connected_account),
            lane=request.lane,
            budgets=budgets,
            request=request.attach_id,
            may_park=False,
            asks=True,
        )
        attempts = Attempts(Caller(self.limiter, self.circuits, self.clock, QUESTIONS), plan)
        try:
            return await attempts.run(get)
        except Declined as error:
            return "not_there" if error.status == 404 or error.code == "resource_missing" else "no_answer"
        except Exhausted:
            return "no_answer"


def lookup_of(request: AttachRequest) -> Lookup | None:
    """Where to look for what the token of *request* became; None where nothing can be found by what we know."""
    target = request.target
    inside = request.display.object_id if request.display else None
    if isinstance(target, PaymentIntentConfirm):
        return Lookup(path_of("payment_intents", target.payment_intent), _confirmed, by_its_id=False)
    if inside is None or request.kind not in ("card", "bank_account"):
        return None
    match target:
        case CustomerSource():
            path, becomes = path_of("customers", target.customer, "sources", inside), None
        case CustomerUpdate():
            path, becomes = path_of("customers", target.customer, "sources", inside), (target.customer, "customer")
        case ExternalAccount():
            path, becomes = path_of("accounts", target.account, "external_accounts", inside), None
        case AccountUpdate():
            path = path_of("accounts", target.account, "external_accounts", inside)
            becomes = (target.account, "account")
        case _:
            return None

    def shows(answer: Answer) -> Became | None:
        return Became(*(becomes or (answer.id, answer.object)), answer.id) if answer.id == inside else None

    return Lookup(path, shows, by_its_id=True)


def _moves_money(target: AttachTarget) -> bool:
    return isinstance(target, Charge | PaymentIntent | PaymentIntentConfirm | Topup)


def _confirmed(answer: Answer) -> Became | None:
    return Became(answer.id, answer.object) if answer.text("status") in CONFIRMED else None
