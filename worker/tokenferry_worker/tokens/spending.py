"""Spending one token, once: claim, call, and what the call left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.codes import REPEATED, Code
from tokenferry.contract.results import AttachResult, Attempt
from tokenferry.contract.targets import InvalidTarget
from tokenferry_worker.circuits.breaker import CircuitBreaker
from tokenferry_worker.circuits.scopes import CallScope, Park
from tokenferry_worker.clock import Clock
from tokenferry_worker.errors import Declined, TokenferryError, Unavailable
from tokenferry_worker.limits.pacing import Limiter
from tokenferry_worker.outcomes import own_failure_code
from tokenferry_worker.provider.answers import Answer
from tokenferry_worker.provider.attempts import KEY_IS_SAFE, Attempts, Caller, CallPlan, Exhausted, TooLate
from tokenferry_worker.provider.platforms import PlatformContext
from tokenferry_worker.tokens.ledger import Became, Claim, Hold, Ledger
from tokenferry_worker.tokens.lifecycle import Ending
from tokenferry_worker.tokens.orders import begin_before, idempotency_key, named_account, scope_of
from tokenferry_worker.tokens.reconciling import Reconciler
from tokenferry_worker.tokens.results import attached, failed

LEASE: Final = 120.0
"""Seconds a claim on a token lasts, renewed for as long as the order is in hand, whatever it waits for."""
WRITING: Final = 6.0
"""Seconds for which nobody writes to an object whose writer has died; renewed while it lives. Two writers at once do no
harm: the endpoint makes one of them wait.
"""
GIVING_BACK: Final = 1.0
"""Seconds for which an order that is called off waits for the store, to say that it has called nothing."""
HELD_PAUSE: Final = 0.5
"""Seconds between two looks at a token that somebody else is spending."""
IN_USE: Final = "token_in_use"
MISFITS: Final = {
    "platform": Code.TOKEN_OF_ANOTHER_PLATFORM,
    "mode": Code.TOKEN_OF_ANOTHER_MODE,
    "account": Code.TOKEN_OF_ANOTHER_ACCOUNT,
    "kind": Code.TOKEN_OF_ANOTHER_KIND,
}


class AlreadySettled(TokenferryError):
    """The order has its outcome already: another delivery of it was faster."""

    def __init__(self, outcome: str) -> None:
        super().__init__("the order has its outcome")
        self.outcome = outcome


class _Again(TokenferryError):
    """Nothing further is called or told before the ledger was asked again."""

    def __init__(self, maybe_done: bool) -> None:
        super().__init__("the ledger is asked again")
        self.maybe_done = maybe_done


@dataclass(frozen=True)
class _End:
    """How the order leaves its token, and what its requester is to hear. Without a failure: what the token became."""

    state: Ending
    became: Became | None = None
    failure: AttachResult | None = None
    elsewhere: bool = False
    """Whether the token was used, and nobody knows by whom."""


@dataclass(frozen=True)
class _Still:
    """The hold on a token that nobody can take any more."""

    async def holds(self) -> bool:
        return True


@dataclass
class _Marked:
    """A hold that remembers whether it was asked: so whether a call may have been begun."""

    hold: Hold = field(default_factory=_Still)
    asked: bool = False

    async def holds(self) -> bool:
        self.asked = True
        return await self.hold.holds()


@dataclass(frozen=True)
class Spender:
    """Spends tokens. Everything it needs of the world comes in here."""

    ledgers: Mapping[str, Ledger]
    limiter: Limiter
    circuits: CircuitBreaker
    clock: Clock
    attempts: int

    async def spend(
        self, platform: PlatformContext, request: AttachRequest, *, journaled: bool = False, forgotten: bool = False
    ) -> AttachResult:
        """Claim the token and make the one call that consumes it. The same order repeated has one effect.

        Of several deliveries at once the newest says how it ends, unless one of them has spent the token. *journaled*:
        the order has an entry in the journal of orders, and what it ends with is its outcome. *forgotten*: whether a
        ledger that has not heard of the token may have known of an earlier try.

        Raises `Park`, and `AlreadySettled` where the journal has the outcome already.
        """
        try:
            # The whole call, so that nothing about the target can go wrong once the token is in hand.
            request.target.call(request.token, request.kind)
        except InvalidTarget:
            known = request.kind in request.target.kinds
            return self.failed(request, Code.WRONG_OPTIONS if known else Code.WRONG_KIND)
        ledger, scope = self.ledgers[request.platform], scope_of(platform, request)
        attempted, lost = False, None
        while True:
            claim = await ledger.claim(
                request.token, request.attach_id, lease=LEASE, scope=scope, lost=lost, journaled=journaled
            )
            if claim.settled_outcome is not None:
                raise AlreadySettled(claim.settled_outcome)
            if claim.state == "held":
                await self.clock.sleep(HELD_PAUSE)
                continue
            if claim.state == "spent" and claim.by == request.attach_id and claim.became is not None:
                # Spent by this very order, and yet no outcome: the worker died in between.
                return await self._follow_up(platform, request, claim.became)
            if claim.state != "granted" and (claim.by != request.attach_id or claim.state == "expired"):
                return self._refused(request, claim, attempted)
            granted = claim.state == "granted"
            # Perhaps the store was wiped, and nobody can say; of a token of the pipeline that is certain. Not of an
            # onboarding: its own notes would be gone too, unless it says that they have outlived the ledger.
            unheard = claim.unknown_to_ledger and journaled
            certain = request.sealed is not None or forgotten
            attempted = attempted or claim.was_held or not granted or (claim.unknown_to_ledger and certain)
            keeping = ledger.keeping(request.token, claim, lease=LEASE) if granted else nullcontext(_Still())
            hold = _Marked()
            try:
                async with keeping as hold.hold, ledger.writing(request.target.serialised_on(), lease=WRITING):
                    end = await self._spend(
                        platform,
                        ledger,
                        request,
                        claim,
                        hold,
                        attempted=attempted,
                        unheard=unheard,
                        journaled=journaled,
                    )
                    closed = await self._close(ledger, request, claim, end, journaled)
            except _Again as error:
                attempted, lost = attempted or error.maybe_done, claim.fence
                continue
            except asyncio.CancelledError:
                if granted and not attempted and not hold.asked:
                    # Given back in good order before any call: the token is as it was, and can still be too old.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(GIVING_BACK):
                            await ledger.close(request.token, claim, "available")
                raise
            if end.failure is None and end.became is not None:
                return await self._follow_up(platform, request, end.became)
            if end.failure is not None and (closed or not granted):
                return end.failure
            # A later delivery has it in hand, and may spend it after all; or the store was wiped.
            attempted, lost = attempted or end.state != "expired", claim.fence

    async def _close(self, ledger: Ledger, request: AttachRequest, claim: Claim, end: _End, journaled: bool) -> bool:
        # An expired token is no outcome yet: another one may be made.
        outcome = end.failure if journaled and end.state != "expired" else None
        return await ledger.close(
            request.token,
            claim,
            end.state,
            end.became,
            elsewhere=end.elsewhere,
            outcome=outcome.model_dump_json(exclude_none=True) if outcome else None,
            ours=outcome is not None and own_failure_code(outcome) is not None,
        )

    def _refused(self, request: AttachRequest, claim: Claim, attempted: bool) -> AttachResult:
        """The token is not to be had. *attempted*: by us, before the ledger forgot that it was."""
        match claim.state:
            case "misfit":
                return self.failed(request, MISFITS[claim.by])
            case "spent":
                on = claim.became.object_id if claim.became else None
                return self.failed(request, Code.TOKEN_SPENT, spent_by=claim.by, spent_on=on)
            case _ if attempted:
                return self.failed(request, Code.OUTCOME_UNKNOWN, spent_by=claim.by)
            case "burnt" if not claim.unknown_to_ledger:
                # Else this order may have spent it before the store was wiped: a decline proves nothing of others.
                return self.failed(request, Code.TOKEN_SPENT, spent_by=claim.by)
            case "expired":
                return self.failed(request, Code.TOKEN_EXPIRED)
            case _:
                return self.failed(request, Code.TOKEN_IN_DOUBT, spent_by=claim.by)

    async def _spend(
        self,
        platform: PlatformContext,
        ledger: Ledger,
        request: AttachRequest,
        claim: Claim,
        hold: Hold,
        *,
        attempted: bool,
        unheard: bool,
        journaled: bool,
    ) -> _End:
        """What the token became, or why it became nothing."""
        call = request.target.call(request.token, request.kind)
        in_use = False
        latest = begin_before(request, claim)
        attempts = self._attempts(platform, request, until_begun=None if attempted else latest)

        async def spend() -> Answer:
            # Asked right before the call: a delivery that waited long for its permit may have been taken for dead.
            nonlocal in_use
            if not await hold.holds():
                raise _Again(attempts.maybe_done)
            try:
                return await platform.client.post(
                    call.path,
                    call.form,
                    idempotency_key=idempotency_key(request, "spend"),
                    connected_account=request.connected_account,
                )
            except Unavailable as error:
                in_use = in_use or error.reason == IN_USE
                raise

        try:
            if not attempted and self.clock.now() > latest:
                raise TooLate(False)
            answer = await attempts.run(spend)
        except Declined as error:
            in_doubt = attempts.maybe_done or (attempted and not claim.used_by_unknown)
            forgotten = self.clock.now() - request.token_created_at / 1000 > KEY_IS_SAFE
            # A 403 comes before Stripe looks whether the key of the call has an answer already.
            says_nothing = error.code in REPEATED or error.status == 403 or forgotten
            # A step of an onboarding may have been tried as another document says: under another key.
            perhaps_another = attempted and not journaled and error.status != 402
            if in_doubt and (says_nothing or perhaps_another):
                history = tuple(attempts.history)
                end = await self._find_out(platform, request, _unnamed(error), attempts.made + 1, history)
                if says_nothing or end.state != "available":
                    return end
            # A declined card may or may not have used up its token (undocumented): it counts as burnt. After any other
            # refusal the token is as it was before. Used by nobody knows whom: the endpoint tells it only to the order
            # that repeats its own call, so no order is turned away because of it.
            used = error.code in REPEATED
            state: Ending = "burnt" if error.status == 402 else "unknown" if used else "available"
            why = self.failed(request, error.code, declined=error, attempts=attempts.made + 1)
            return _End(state, failure=why, elsewhere=used)
        except TooLate:
            if unheard:
                return await self._too_late(platform, request, attempts.made)
            return _End("expired", failure=self.failed(request, Code.TOKEN_EXPIRED, attempts=attempts.made))
        except Park:
            doubtful = attempts.maybe_done or attempted
            await ledger.close(request.token, claim, "unknown" if doubtful else "available")
            raise
        except Exhausted as error:
            last = _unnamed(error.last)
            if attempted or error.maybe_done or in_use:
                return await self._find_out(platform, request, last, error.attempts, error.history)
            told = {"declined": last, "attempts": error.attempts, "history": error.history}
            return _End("available", failure=self.failed(request, Code.ATTEMPTS_EXHAUSTED, **told))
        stored = answer.text("default_source") or (request.display.object_id if request.display else None)
        return _End("spent", Became(answer.id, answer.object, stored))

    async def _too_late(self, platform: PlatformContext, request: AttachRequest, attempts: int) -> _End:
        """Too old, and whether it was ever tried the ledger cannot say: look."""
        seen = await Reconciler(self.limiter, self.circuits, self.clock).reconcile(platform, request)
        if seen.became is not None:
            return _End("spent", seen.became)
        if seen.verdict == "unused":
            return _End("expired", failure=self.failed(request, Code.TOKEN_EXPIRED, attempts=attempts))
        if seen.used:
            # So the call can spend nothing any more: repeated, it tells whether it was ours.
            raise _Again(True)
        return _End("unknown", failure=self.failed(request, Code.OUTCOME_UNKNOWN, attempts=attempts))

    async def _find_out(
        self,
        platform: PlatformContext,
        request: AttachRequest,
        last: Declined,
        attempts: int,
        history: tuple[Attempt, ...],
    ) -> _End:
        """A call of ours may have had its effect, and repeating it tells nothing: look."""
        seen = await Reconciler(self.limiter, self.circuits, self.clock).reconcile(platform, request)
        if seen.became is not None:
            return _End("spent", seen.became)
        told = {"declined": last, "attempts": attempts, "history": history}
        if seen.verdict == "unused":
            return _End("available", failure=self.failed(request, Code.ATTEMPTS_EXHAUSTED, **told))
        return _End("unknown", failure=self.failed(request, Code.OUTCOME_UNKNOWN, **told))

    async def _follow_up(self, platform: PlatformContext, request: AttachRequest, became: Became) -> AttachResult:
        """The second call, where the target needs one. It can be repeated without the token."""
        follow_up = request.target.follow_up(became.object_id)
        if follow_up is None:
            return self._attached(request, became)

        async def attach() -> Answer:
            return await platform.client.post(
                follow_up.path,
                follow_up.form,
                idempotency_key=idempotency_key(request, "follow-up"),
                connected_account=request.connected_account,
            )

        try:
            async with self.ledgers[request.platform].writing(request.target.serialised_on(), lease=WRITING):
                await self._attempts(platform, request).run(attach)
        except Declined as error:
            return self.failed(request, error.code, declined=error, attempts=1, made=became)
        except (Exhausted, TooLate):
            return self.failed(request, Code.OUTCOME_UNKNOWN, made=became)
        return self._attached(request, became)

    def _attempts(
        self, platform: PlatformContext, request: AttachRequest, *, until_begun: float | None = None
    ) -> Attempts:
        plan = CallPlan(
            platform=platform,
            scope=CallScope(
                platform.name,
                request.target.endpoint(),
                connected_account=request.connected_account,
                named_account=named_account(request.target),
            ),
            lane=request.lane,
            budgets=platform.budgets.spending(request.target, request.connected_account),
            request=request.attach_id,
            until_begun=until_begun,
        )
        return Attempts(Caller(self.limiter, self.circuits, self.clock, self.attempts), plan)

    def failed(self, request: AttachRequest, code: str, **told: Any) -> AttachResult:
        """The result of an order whose token was not spent, or not all the way."""
        return failed(request, code, settled_at=int(self.clock.now() * 1000), **told)

    def _attached(self, request: AttachRequest, became: Became) -> AttachResult:
        return attached(request, became, settled_at=int(self.clock.now() * 1000))


def _unnamed(last: Declined | Unavailable) -> Declined:
    """How the last call ended, without a code: the code of the result says what we made of it."""
    return Declined(last.status or 0, "", request_id=last.request_id, ours=True)
