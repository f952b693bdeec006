"""Spending one token, once: claim it, make the call, and leave the token as the answer says."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Final

from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.codes import REPEATED, Code
from tokenferry.contract.results import AttachResult, Attempt
from tokenferry.contract.targets import MOVES_MONEY, InvalidTarget
from tokenferry_worker.circuits.scopes import Park
from tokenferry_worker.clock import Clock
from tokenferry_worker.errors import Declined, Reused, TokenferryError, Unavailable
from tokenferry_worker.outcomes import own_failure_code
from tokenferry_worker.provider.answers import Answer
from tokenferry_worker.provider.attempts import KEY_IS_SAFE, Attempts, Caller, CallPlan, Exhausted, TooLate
from tokenferry_worker.provider.platforms import PlatformContext
from tokenferry_worker.tokens.ledger import (
    Became,
    Burnt,
    Expired,
    Granted,
    HasOutcome,
    Held,
    Hold,
    InDoubt,
    Lease,
    Ledger,
    Misfit,
    Past,
    ScopePart,
    Spent,
    Superseded,
)
from tokenferry_worker.tokens.lifecycle import Ending
from tokenferry_worker.tokens.orders import SpendPlan, begin_before, name_of, plan_of
from tokenferry_worker.tokens.reconciling import Finding, Reconciler
from tokenferry_worker.tokens.results import attached, failed

LEASE: Final = 120.0
"""Seconds that a lease on a token lasts. It is renewed for as long as the order is in hand, whatever it waits for."""
WRITING: Final = 6.0
"""Seconds for which nobody writes to an object whose writer has died. Renewed while the writer lives. Two writers at
once do no harm: Stripe makes one of them wait.
"""
GIVING_BACK: Final = 1.0
"""Seconds for which a cancelled order waits for the store, to say that it has made no call."""
HELD_PAUSE: Final = 0.5
"""Seconds between two claims on a token that somebody else has in hand."""
IN_USE: Final = "token_in_use"
MAYBE_TRIED: Final[frozenset[Past]] = frozenset({"held", "used", "unverified"})
"""What the ledger may know of a token that an earlier call may have spent."""
MISFITS: Final[Mapping[ScopePart, Code]] = {
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


class _LeaseLost(TokenferryError):
    """Another delivery may have the token now, so no call is made."""


@dataclass(frozen=True)
class _Unspent:
    """The token is not spent. It is left in *state*, and *result* says why."""

    state: Ending
    result: AttachResult
    used_by_unknown: bool = False


@dataclass(frozen=True)
class _ClaimAgain:
    """No call is made and no result is published before the ledger has been asked again.

    *maybe_tried*: a call of this order may have had its effect.
    """

    maybe_tried: bool


@dataclass(frozen=True)
class _NoLease:
    """The hold on a token that nobody can take any more."""

    async def holds(self) -> bool:
        return True


@dataclass(frozen=True)
class _Turn:
    """The order has the token in hand."""

    plan: SpendPlan
    lease: Lease
    tried: bool
    """True if an earlier call of this order may have been made."""
    past: Past | None = None
    """None: this order has used the token up, and its worker died before the outcome was recorded."""
    made_at: int | None = None

    @property
    def latest(self) -> float | None:
        """Unix seconds after which no first call begins. None: this would not be the first."""
        return None if self.tried else begin_before(self.plan.order, self.made_at)

    @property
    def in_doubt(self) -> bool:
        """True if an earlier call of this order may have spent the token."""
        return self.tried and self.past != "used"

    @property
    def unrecorded(self) -> bool:
        """True if nobody can say whether this order was tried before.

        An onboarding can: where the store was wiped, its own records are gone too.
        """
        return self.plan.journaled and self.past == "unrecorded"


@dataclass
class _SpendCall:
    """The call that spends the token, as `Attempts` repeats it."""

    plan: SpendPlan
    hold: Hold
    begun: bool = False
    """True once a call may have been made."""
    in_use: bool = False
    """True once Stripe has said that another call is spending the token."""

    async def make(self) -> Answer:
        """Make the call once, if the lease still counts."""
        self.begun = True
        # Right before the call: while this delivery waited for its permit, another one may have taken over.
        if not await self.hold.holds():
            raise _LeaseLost
        plan = self.plan
        try:
            return await plan.platform.client.post(
                plan.call.path,
                plan.call.form,
                idempotency_key=plan.key("spend"),
                connected_account=plan.order.connected_account,
            )
        except Unavailable as error:
            self.in_use = self.in_use or error.reason == IN_USE
            raise


@dataclass(frozen=True)
class Spender:
    """Spends tokens."""

    ledgers: Mapping[str, Ledger]
    caller: Caller
    clock: Clock

    async def spend(
        self,
        platform: PlatformContext,
        request: AttachRequest,
        *,
        journaled: bool = False,
        forgotten: bool = False,
        doubted: bool = False,
    ) -> AttachResult:
        """Claim the token and make the one call that spends it. The same order repeated has one effect.

        Of several deliveries at once the newest decides the outcome, unless one of them has spent the token.
        *journaled*: the order has an entry in the journal of orders, and its result is recorded there. *forgotten*: if
        the ledger has no record of the token, it may have lost the record of an earlier try. *doubted*: the journal had
        an outcome of the order that no worker had written, so nobody knows what an earlier delivery did.

        Raises `Park`, `AlreadySettled` where the journal has the outcome already, and `Reused` where a later generation
        of the order has begun.
        """
        try:
            plan = plan_of(platform, request, journaled=journaled, was_recorded=forgotten or request.sealed is not None)
        except InvalidTarget:
            known = request.kind in request.target.kinds
            return self._failed(request, Code.WRONG_OPTIONS if known else Code.WRONG_KIND)
        ledger, order_id = self.ledgers[request.platform], name_of(request).key
        tried, lost = False, None
        while True:
            claim = await ledger.claim(
                request.token,
                order_id,
                lease=LEASE,
                scope=plan.token_scope,
                lost=lost,
                journaled=journaled,
                generation=request.generation,
            )
            match claim:
                case Superseded():
                    raise Reused
                case HasOutcome(outcome):
                    raise AlreadySettled(outcome)
                case Held():
                    await self.clock.sleep(HELD_PAUSE)
                    continue
                case Spent(became=Became() as became) if claim.by == order_id:
                    # The worker died before the outcome was recorded.
                    return await self._follow_up(plan, became)
                case Granted(past=past, made_at=made_at):
                    past = "unverified" if doubted else past
                    wiped = past == "unrecorded" and plan.was_recorded
                    turn = _Turn(plan, claim, tried or wiped or past in MAYBE_TRIED, past, made_at)
                case Spent() | Burnt() if claim.by == order_id:
                    turn = _Turn(plan, claim, tried=True)
                case Spent() | Burnt() | Expired() | InDoubt() | Misfit():
                    return self._refused(request, claim, tried)
            end = await self._take(turn)
            if isinstance(end, AttachResult):
                return end
            tried, lost = turn.tried or end.maybe_tried, turn.lease.fence

    def _refused(
        self, request: AttachRequest, claim: Spent | Burnt | Expired | InDoubt | Misfit, tried: bool
    ) -> AttachResult:
        """The order does not get the token. *tried*: it may have made a call before the ledger forgot that."""
        match claim:
            case Misfit(part):
                return self._failed(request, MISFITS[part])
            case Spent(by=by, became=became):
                spent_on = became.object_id if became is not None else None
                return self._failed(request, Code.TOKEN_SPENT, spent_by=by, spent_on=spent_on)
            case _ if tried:
                return self._failed(request, Code.OUTCOME_UNKNOWN, spent_by=claim.by)
            case Burnt(by=by, recorded=True):
                return self._failed(request, Code.TOKEN_SPENT, spent_by=by)
            case Expired():
                return self._failed(request, Code.TOKEN_EXPIRED)
            case Burnt(by=by) | InDoubt(by=by):
                # Burnt and unrecorded: this order may have spent the token before the store was wiped.
                return self._failed(request, Code.TOKEN_IN_DOUBT, spent_by=by)

    async def _take(self, turn: _Turn) -> AttachResult | _ClaimAgain:
        """Use the turn, and make the second call of the target where it needs one."""
        end = await self._spend(turn)
        return await self._follow_up(turn.plan, end) if isinstance(end, Became) else end

    async def _spend(self, turn: _Turn) -> Became | AttachResult | _ClaimAgain:
        """Make the call while the lease is renewed, and close the token in the ledger."""
        order, lease = turn.plan.order, turn.lease
        ledger = self.ledgers[order.platform]
        keeping = ledger.keeping(order.token, lease, seconds=LEASE) if turn.past else nullcontext(_NoLease())
        async with keeping as hold:
            call = _SpendCall(turn.plan, hold)
            try:
                async with ledger.writing(order.target.serialised_on(), lease=WRITING):
                    return await self._close(turn, await self._call(turn, call))
            except asyncio.CancelledError:
                if not turn.tried and not call.begun:
                    # No call was made, so the token is as it was, and can still become too old.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(GIVING_BACK):
                            await ledger.close(order.token, lease, "available")
                raise

    async def _close(self, turn: _Turn, end: Became | _Unspent | _ClaimAgain) -> Became | AttachResult | _ClaimAgain:
        """Leave the token as the call has ended, and record a failure in the same moment."""
        plan, lease = turn.plan, turn.lease
        ledger, token = self.ledgers[plan.order.platform], plan.order.token
        match end:
            case Became():
                await ledger.close(token, lease, "spent", end)
                return end
            case _Unspent(state, result, used_by_unknown):
                if turn.past == "unverified" and state == "available":
                    state = "unknown"  # nobody knows what the record said before it was changed
                # An expired token is no outcome yet: another one may be made.
                is_outcome = plan.journaled and state != "expired"
                closed = await ledger.close(
                    token,
                    lease,
                    state,
                    used_by_unknown=used_by_unknown,
                    outcome=result.model_dump_json(exclude_none=True) if is_outcome else None,
                    ours=is_outcome and own_failure_code(result) is not None,
                )
                if closed or turn.past is None:
                    return result
                # The store was wiped, or a later delivery has the token in hand and may spend it after all.
                return _ClaimAgain(maybe_tried=state != "expired")
            case _ClaimAgain():
                return end

    async def _call(self, turn: _Turn, call: _SpendCall) -> Became | _Unspent | _ClaimAgain:
        """Make the call until Stripe answers it, and read what the answer says about the token."""
        plan, latest = turn.plan, turn.latest
        if turn.past == "unverified" and (end := await self._look_first(turn)) is not None:
            return end
        attempts = self._attempts(plan, until_begun=latest)
        try:
            if latest is not None and self.clock.now() > latest:
                raise TooLate(False)
            answer = await attempts.run(call.make)
        except _LeaseLost:
            return _ClaimAgain(attempts.maybe_done)
        except Declined as error:
            return await self._declined(turn, error, attempts)
        except TooLate:
            return await self._too_late(turn, attempts.made)
        except Exhausted as error:
            return await self._exhausted(turn, error, in_use=call.in_use)
        except Park:
            maybe_spent = attempts.maybe_done or turn.tried
            ledger = self.ledgers[plan.order.platform]
            await ledger.close(plan.order.token, turn.lease, "unknown" if maybe_spent else "available")
            raise
        display = plan.order.display
        stored_id = answer.text("default_source") or (display.object_id if display else None)
        return Became(answer.id, answer.object, stored_id, answer.request_id)

    async def _look_first(self, turn: _Turn) -> Became | _Unspent | None:
        """Find out what became of a token whose record says nothing that can be believed. None: the call may be made.

        It may be made where Stripe calls the token unused, no money moves, and Stripe still knows the key of an
        earlier call.
        """
        order = turn.plan.order
        match await self._reconcile(turn.plan):
            case Finding(became=Became() as became):
                return became
            case Finding(verdict="unused") if order.target.to not in MOVES_MONEY and not self._key_forgotten(order):
                return None
            case _:
                return _Unspent("unknown", self._failed(order, Code.OUTCOME_UNKNOWN))

    def _key_forgotten(self, order: AttachRequest) -> bool:
        """True if Stripe may have forgotten the key of the order's first call."""
        return self.clock.now() - order.token_created_at / 1000 > KEY_IS_SAFE

    async def _declined(self, turn: _Turn, error: Declined, attempts: Attempts) -> Became | _Unspent:
        """Stripe refused the call. Where an earlier call may have spent the token, the refusal may prove nothing."""
        plan, used = turn.plan, error.code in REPEATED
        # A 403 comes before Stripe looks whether the key of the call has an answer already.
        proves_nothing = used or error.status == 403 or self._key_forgotten(plan.order)
        # An earlier document of an onboarding may have tried this step under another key.
        perhaps_other_key = turn.tried and not plan.journaled and error.status != 402
        if (attempts.maybe_done or turn.in_doubt) and (proves_nothing or perhaps_other_key):
            end = await self._find_out(plan, _uncoded(error), attempts.made + 1, tuple(attempts.history))
            if proves_nothing or not isinstance(end, _Unspent) or end.state != "available":
                return end
        # A declined card may or may not have used up its token (undocumented): it counts as burnt. After any other
        # refusal the token is as it was before. If some call has used it, only an order that repeats its own call
        # learns from Stripe whether it was that one. So no order is turned away because of that.
        state: Ending = "burnt" if error.status == 402 else "unknown" if used else "available"
        result = self._failed(plan.order, error.code, declined=error, attempts=attempts.made + 1)
        return _Unspent(state, result, used_by_unknown=used)

    async def _exhausted(self, turn: _Turn, error: Exhausted, *, in_use: bool) -> Became | _Unspent:
        """No call got a usable answer."""
        last = _uncoded(error.last)
        if turn.tried or error.maybe_done or in_use:
            return await self._find_out(turn.plan, last, error.attempts, error.history)
        details = {"declined": last, "attempts": error.attempts, "history": error.history}
        return _Unspent("available", self._failed(turn.plan.order, Code.ATTEMPTS_EXHAUSTED, **details))

    async def _too_late(self, turn: _Turn, attempts: int) -> Became | _Unspent | _ClaimAgain:
        """The token is too old for a first call. Where the ledger has no record of it, look whether it was used."""
        order = turn.plan.order
        # A token that the ledger has a record of was never tried.
        found = await self._reconcile(turn.plan) if turn.unrecorded else Finding("unused")
        match found:
            case Finding(became=Became() as became):
                return became
            case Finding(verdict="unused"):
                return _Unspent("expired", self._failed(order, Code.TOKEN_EXPIRED, attempts=attempts))
            case Finding(used=True):
                # The call can spend nothing any more. Repeated under its key, it shows whether it was ours.
                return _ClaimAgain(maybe_tried=True)
            case _:
                return _Unspent("unknown", self._failed(order, Code.OUTCOME_UNKNOWN, attempts=attempts))

    async def _find_out(
        self, plan: SpendPlan, last: Declined, attempts: int, history: tuple[Attempt, ...]
    ) -> Became | _Unspent:
        """Look whether a call of ours had its effect, where a repeated call would not show it."""
        details = {"declined": last, "attempts": attempts, "history": history}
        match await self._reconcile(plan):
            case Finding(became=Became() as became):
                return became
            case Finding(verdict="unused"):
                return _Unspent("available", self._failed(plan.order, Code.ATTEMPTS_EXHAUSTED, **details))
            case _:
                return _Unspent("unknown", self._failed(plan.order, Code.OUTCOME_UNKNOWN, **details))

    async def _reconcile(self, plan: SpendPlan) -> Finding:
        return await Reconciler(self.caller, self.clock).reconcile(plan.platform, plan.order)

    async def _follow_up(self, plan: SpendPlan, became: Became) -> AttachResult:
        """Make the second call, where the target needs one. It can be repeated without the token."""
        order = plan.order
        follow_up = order.target.follow_up(became.object_id)
        if follow_up is None:
            return self._attached(order, became)

        async def attach() -> Answer:
            return await plan.platform.client.post(
                follow_up.path,
                follow_up.form,
                idempotency_key=plan.key("follow-up"),
                connected_account=order.connected_account,
            )

        try:
            async with self.ledgers[order.platform].writing(order.target.serialised_on(), lease=WRITING):
                await self._attempts(plan, path=follow_up.path).run(attach)
        except Declined as error:
            return self._failed(order, error.code, declined=error, attempts=1, became=became)
        except (Exhausted, TooLate):
            return self._failed(order, Code.OUTCOME_UNKNOWN, became=became)
        return self._attached(order, became)

    def _attempts(self, plan: SpendPlan, *, until_begun: float | None = None, path: str | None = None) -> Attempts:
        """*until_begun*: Unix seconds after which no first call begins. *path*: of another call than the plan's."""
        account, budgets = plan.order.connected_account, plan.platform.budgets
        call_plan = CallPlan(
            plan.platform,
            plan.call_scope,
            plan.order.lane,
            plan.budgets if path is None else budgets.call("POST", path, account),
            name_of(plan.order).key,
            until_begun=until_begun,
            trace=plan.order.traceparent,
        )
        return Attempts(self.caller, call_plan)

    def _failed(self, order: AttachRequest, code: str, **details: Any) -> AttachResult:
        """The result of an order whose token was not spent, or whose second call failed."""
        return failed(order, code, settled_at=int(self.clock.now() * 1000), **details)

    def _attached(self, order: AttachRequest, became: Became) -> AttachResult:
        return attached(order, became, settled_at=int(self.clock.now() * 1000))


def _uncoded(last: Declined | Unavailable) -> Declined:
    """How the last call ended, without its code: the result has a code of ours."""
    return Declined(last.status or 0, "", request_id=last.request_id, ours=True)
