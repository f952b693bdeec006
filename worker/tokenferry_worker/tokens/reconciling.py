"""Finding out what a call did whose answer was lost: by looking, never by guessing.

Two things can be read. First, the object that the call was to change. If it holds the very card or bank account that
was inside the token, the call had its effect: the id stays the same when the token is spent. Second, the `used` flag of
the token. Stripe documents the flag, but nobody has recorded when it changes. So it proves nothing by itself where
money moves. And it never proves who used the token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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
from tokenferry_worker.circuits.scopes import CallScope
from tokenferry_worker.clock import Clock
from tokenferry_worker.errors import Declined
from tokenferry_worker.provider.answers import Answer
from tokenferry_worker.provider.attempts import Attempts, Caller, CallPlan, Exhausted
from tokenferry_worker.provider.platforms import PlatformContext
from tokenferry_worker.tokens.ledger import Became
from tokenferry_worker.tokens.orders import name_of

QUESTIONS: Final = 4
"""Attempts for one question, before it counts as not answered."""
QUIET: Final = 30.0
"""Seconds until a call without an answer has ended at Stripe too: a write there was seen to wait 23 s for a lock."""
CONFIRMED: Final = frozenset({"processing", "requires_action", "requires_capture", "succeeded"})
"""States of a payment intent that only a confirmation leads to."""

NoObject = Literal["not_there", "no_answer"]


@dataclass(frozen=True)
class Finding:
    """What the lookup has proven: the call had its effect (`done`), it had none (`unused`), or neither."""

    verdict: Literal["done", "unused", "unknown"]
    became: Became | None = None
    used: bool = False
    """True if Stripe says that the token was used, whoever used it."""


@dataclass(frozen=True)
class Lookup:
    """Where to read the object of a call, and how to judge it."""

    path: str
    became: Callable[[Answer], Became | None]
    """Reads from the object what the token became. None: the object shows no effect of the call."""
    is_proof: bool
    """True if the object can be there only because of this very token."""


@dataclass(frozen=True)
class Reconciler:
    """Asks Stripe questions that change nothing."""

    caller: Caller
    clock: Clock

    async def reconcile(self, platform: PlatformContext, request: AttachRequest) -> Finding:
        """Find out what became of the token of *request*."""
        finding = await self._look(platform, request)
        if finding.verdict == "unused":
            # Unused so far. The last call may still be running at Stripe.
            await self.clock.sleep(QUIET)
            finding = await self._look(platform, request)
        return finding

    async def _look(self, platform: PlatformContext, request: AttachRequest) -> Finding:
        """Read the object of the call, and then the token."""
        lookup = lookup_of(request)
        shown: Answer | NoObject = "no_answer"
        became = None
        if lookup is not None:
            endpoint = request.target.endpoint()
            shown = await self._ask(platform, lookup.path, request, endpoint)
            became = lookup.became(shown) if isinstance(shown, Answer) else None
            if became is not None and lookup.is_proof:
                return Finding("done", became)
        token = await self._ask(platform, path_of("tokens", request.token), request, "tokens")
        used = token.body.get("used") if isinstance(token, Answer) and token.id == request.token else None
        if used is True and became is not None:
            return Finding("done", became)
        flag_is_proof = shown != "no_answer" if lookup is not None else not _moves_money(request.target)
        if used is False and flag_is_proof:
            return Finding("unused")
        return Finding("unknown", used=used is True)

    async def _ask(
        self, platform: PlatformContext, path: str, request: AttachRequest, endpoint: str
    ) -> Answer | NoObject:
        """Ask one question. A key that may write and not read opens no circuit: its question has no answer.

        During an outage the question waits, as calls do, because then silence proves nothing.
        """

        async def get() -> Answer:
            return await platform.client.get(path, connected_account=request.connected_account)

        try:
            return await self._attempts(platform, path, request, endpoint).run(get)
        except Declined as error:
            return "not_there" if error.status == 404 or error.code == "resource_missing" else "no_answer"
        except Exhausted:
            return "no_answer"

    def _attempts(self, platform: PlatformContext, path: str, request: AttachRequest, endpoint: str) -> Attempts:
        plan = CallPlan(
            platform,
            CallScope(platform.name, endpoint, connected_account=request.connected_account),
            request.lane,
            platform.budgets.call("GET", path, request.connected_account),
            name_of(request).key,
            may_park=False,
            asks=True,
        )
        return Attempts(replace(self.caller, attempts=QUESTIONS), plan)


def lookup_of(request: AttachRequest) -> Lookup | None:
    """Where to look for what the token of *request* became. None: nothing can be found by the ids that are known."""
    target = request.target
    inside = request.display.object_id if request.display else None
    if isinstance(target, PaymentIntentConfirm):
        return Lookup(path_of("payment_intents", target.payment_intent), _confirmed, is_proof=False)
    if inside is None or request.kind not in ("card", "bank_account"):
        return None
    changed: tuple[str, str] | None = None
    match target:
        case CustomerSource(customer=customer):
            path = path_of("customers", customer, "sources", inside)
        case CustomerUpdate(customer=customer):
            path, changed = path_of("customers", customer, "sources", inside), (customer, "customer")
        case ExternalAccount(account=account):
            path = path_of("accounts", account, "external_accounts", inside)
        case AccountUpdate(account=account):
            path, changed = path_of("accounts", account, "external_accounts", inside), (account, "account")
        case _:
            return None

    def became(answer: Answer) -> Became | None:
        return Became(*(changed or (answer.id, answer.object)), answer.id) if answer.id == inside else None

    return Lookup(path, became, is_proof=True)


def _moves_money(target: AttachTarget) -> bool:
    return isinstance(target, Charge | PaymentIntent | PaymentIntentConfirm | Topup)


def _confirmed(answer: Answer) -> Became | None:
    return Became(answer.id, answer.object) if answer.text("status") in CONFIRMED else None
