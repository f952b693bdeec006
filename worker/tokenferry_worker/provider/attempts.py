"""One call, repeated until Stripe answers it: permit, call, pause, again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from tokenferry.contract.codes import Code
from tokenferry.contract.names import Lane
from tokenferry.contract.results import Attempt
from tokenferry_worker.circuits.breaker import CircuitBreaker
from tokenferry_worker.circuits.outages import NO_ANSWER
from tokenferry_worker.circuits.scopes import (
    CallScope,
    concerns_this_call_only,
    counted,
    is_elsewhere,
    is_outage,
    outage_of,
    scope_of,
    scopes_of,
)
from tokenferry_worker.clock import Clock
from tokenferry_worker.errors import Blocked, Declined, TokenferryError, Unavailable
from tokenferry_worker.limits.pacing import Budget, Limiter
from tokenferry_worker.limits.waits import Waits
from tokenferry_worker.log_fields import fields
from tokenferry_worker.metrics.names import ATTEMPTS, RATE_LIMITED, bounded, status_class
from tokenferry_worker.metrics.registry import Meters, NoMeters
from tokenferry_worker.provider.answers import Answer
from tokenferry_worker.provider.noted import AttemptNotes, NoNotes, NotedAttempt
from tokenferry_worker.provider.platforms import PlatformContext
from tokenferry_worker.provider.retries import pause

log = logging.getLogger(__name__)

LEAST_BACK_OFF = 0.25
"""Seconds for which the fleet makes no call on a budget after Stripe refused a call for its rate."""
KEY_IS_SAFE: Final = 20 * 3600.0
"""Seconds for which a repeated call is answered as the first one was. Stripe forgets keys after a day (its page on
idempotent requests). Without a token, which guards itself, the call would then make a second object.
"""

RenewKey = Callable[[Unavailable], Awaitable[bool]]
"""Gets every failed attempt before the pause. True if the next attempt has another idempotency key."""


class TooLate(TokenferryError):
    """The request's own deadline passed while it waited. `maybe_done`: an earlier call may have taken effect."""

    def __init__(self, maybe_done: bool) -> None:
        super().__init__("the deadline passed")
        self.maybe_done = maybe_done


@dataclass
class Exhausted(TokenferryError):
    """Every allowed attempt ended without a usable answer. *last* is how the last one ended."""

    last: Unavailable
    attempts: int
    maybe_done: bool
    history: tuple[Attempt, ...] = ()


@dataclass(frozen=True)
class Caller:
    """What every call needs, whatever it asks for. Built once."""

    limiter: Limiter
    circuits: CircuitBreaker
    clock: Clock
    attempts: int
    """Failed attempts after which a call is given up."""
    waits: Waits = field(default_factory=Waits)
    notes: AttemptNotes = field(default_factory=NoNotes)
    meters: Meters = field(default_factory=NoMeters)


@dataclass(frozen=True)
class CallPlan:
    """What one call depends on, which budgets it draws on, and how long it may wait."""

    platform: PlatformContext
    scope: CallScope
    lane: Lane
    budgets: tuple[Budget, ...]
    request: str = ""
    """Id of the request or order. Failed calls of many requests make an outage, those of one do not."""
    until: float | None = None
    """Unix seconds after which no call begins. None: no limit."""
    until_begun: float | None = None
    """The same, but only as long as no call may have taken effect."""
    may_park: bool = True
    """True if the request may wait in a queue of its own while a circuit is open."""
    asks: bool = False
    """True for a question, which changes nothing. It waits during an outage. But the key may lack the right to ask:
    a refusal of the key is then the answer, and opens no circuit.
    """
    trace: str | None = None
    """`traceparent` of the request, for logs."""

    @property
    def scopes(self) -> Sequence[str]:
        """The circuits that the call depends on, the widest first."""
        scopes = scopes_of(self.scope)
        if self.asks:
            return [scope for scope in scopes if is_outage(scope) or scope == self.scope.platform]
        return scopes


@dataclass
class Attempts:
    """The attempts of one call.

    `made` counts those that failed and were not refused for their rate. Failures during an outage count for nothing:
    once the circuit is closed again, the count starts from zero.
    """

    caller: Caller
    plan: CallPlan
    made: int = 0
    tried: bool = False
    """True if a call got no answer. The request may be what Stripe cannot answer, so others probe first."""
    maybe_done: bool = False
    history: list[Attempt] = field(default_factory=list)
    noted: int = 0
    """Calls of this run that did not succeed, whatever they count for."""

    async def run(self, call: Callable[[], Awaitable[Answer]], renew_key: RenewKey | None = None) -> Answer:
        """Make the call until Stripe answers it.

        Raises `Declined`, `Exhausted`, `TooLate`, `Park`.
        """
        circuits, scopes = self.caller.circuits, self.plan.scopes
        while True:
            probed = await self._enter(scopes) if circuits.is_open(scopes) else ()
            try:
                async with self._permit(scopes, probed) as granted:
                    answer = await call() if granted else None
                if answer is not None:
                    if self.noted:
                        await self._note(200, "succeeded", answer.request_id)
                    self._note_answer()
                    await circuits.on_success(probed)
                    return answer
            except Blocked as error:
                await self._note(error.status, error.code, error.request_id)
                await self._on_blocked(error, scopes, probed)
            except Declined as error:
                # Without a status we refused the call ourselves, before it was sent.
                if error.status:
                    await self._note(error.status, error.code, error.request_id)
                    self._note_answer()
                await (circuits.on_success(probed) if error.status else circuits.on_inconclusive(probed))
                raise
            except Unavailable as error:
                await self._note(error.status, error.reason, error.request_id)
                await self._on_unavailable(error, scopes, probed, renew_key)
            except BaseException:
                # Cancelled, too late, or not called after all: the next request may probe.
                await circuits.on_inconclusive(probed)
                raise

    @asynccontextmanager
    async def _permit(self, scopes: Sequence[str], probed: Sequence[str]) -> AsyncIterator[bool]:
        """Wait for a permit, and hold it while the block runs.

        Yields False where a circuit has opened meanwhile. A probe does not wait for the circuit that it probes.
        """
        watched = () if probed else scopes
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(self._seconds_left()) as limit:
                    with (
                        self.caller.circuits.queueing(limit, watched),
                        self.caller.waits.on(budgets=self.plan.budgets),
                    ):
                        await held.enter_async_context(self.caller.limiter.permit(self.plan.budgets, self.plan.lane))
            except TimeoutError:
                if not self.caller.circuits.is_open(watched):
                    raise TooLate(self.maybe_done) from None
            yield not self.caller.circuits.is_open(watched)

    async def _enter(self, scopes: Sequence[str]) -> Sequence[str]:
        """Wait until the circuits let the call through. Returns those that it probes."""
        try:
            async with asyncio.timeout(self._seconds_left()):
                with self.caller.waits.on(scopes=scopes):
                    probed = await self.caller.circuits.enter(
                        scopes, may_park=self.plan.may_park, by=self.plan.request, tried=self.tried
                    )
        except TimeoutError:
            raise TooLate(self.maybe_done) from None
        self.made = 0
        self.history.clear()
        return probed

    async def _note(self, status: int | None, code: str, endpoint_request_id: str | None) -> None:
        """Remember how a call ended, for `tokenferry show` and the log. Calls that succeed at once are not noted."""
        self.noted += 1
        plan, at = self.plan, int(self.caller.clock.now() * 1000)
        log.debug(
            "%s: attempt %d at %s ended with %s %s",
            plan.request,
            self.noted,
            plan.scope.endpoint,
            status or "no answer",
            code,
            extra=fields(plan.request, plan.platform.name, code=code, attempt=self.noted, trace=plan.trace),
        )
        if plan.request:
            await self.caller.notes.note(
                plan.request, NotedAttempt(at, plan.scope.endpoint, status, code[:200], endpoint_request_id)
            )

    def _note_answer(self) -> None:
        """Stripe has answered. A question proves nothing here: calls that change something may still get no answer."""
        if not self.plan.asks:
            self.plan.platform.unanswered.answered(self.plan.scope.endpoint, self.plan.request)

    async def _on_blocked(self, error: Blocked, scopes: Sequence[str], probed: Sequence[str]) -> None:
        """Return where the call is to be made again once the circuit is closed. Raises `Declined` where it is not."""
        self.maybe_done = self.maybe_done or error.maybe_done
        circuits, scope = self.caller.circuits, self.plan.scope
        if not is_elsewhere(error):
            self._note_answer()
        if self.plan.asks and not is_elsewhere(error):
            await circuits.on_success([each for each in probed if is_outage(each)])
            await circuits.on_inconclusive([each for each in probed if each == scope.platform], failed=True)
            if scope.platform in probed:
                return
            raise error
        if concerns_this_call_only(error, scope):
            # Stripe accepted the key. About anything narrower the refusal says nothing.
            accepted = [each for each in probed if each == scope.platform or is_outage(each)]
            await circuits.on_success(accepted)
            await circuits.on_inconclusive([each for each in probed if each not in accepted], failed=True)
            code = Code.ACCOUNT_REFUSES if error.ours else error.code
            raise Declined(403, code, error.error_type, request_id=error.request_id, ours=error.ours) from None
        refused = scope_of(error, scope)
        await circuits.on_blocked(refused, error, probed=probed, wider=scopes[: scopes.index(refused)])

    async def _on_unavailable(
        self, error: Unavailable, scopes: Sequence[str], probed: Sequence[str], renew_key: RenewKey | None
    ) -> None:
        """Return where the call is to be made again. Raises `Exhausted` after the last attempt."""
        self.maybe_done = self.maybe_done or error.maybe_done
        await self._end_failed_probe(error, probed)
        if error.rate_limited is not None:
            # Stripe did not execute the call, so it is no attempt. The whole fleet slows down at once.
            self.caller.meters.count(RATE_LIMITED, self.plan.platform.name, _reason(error.rate_limited))
            for budget in self.plan.platform.budgets.refused(error.rate_limited, self.plan.budgets):
                await self.caller.limiter.back_off(budget, max(LEAST_BACK_OFF, error.retry_after or 0.0))
        elif not await self._waits_for_circuit(error, scopes):
            await self._count(error, renew_key)

    async def _end_failed_probe(self, error: Unavailable, probed: Sequence[str]) -> None:
        """End a probe without a usable answer. Any answer of Stripe ends an outage, and proves nothing else."""
        circuits = self.caller.circuits
        outages = [each for each in probed if is_outage(each)]
        if error.silent or error.replayed:
            # The next probe is of another request: this one may be what Stripe cannot answer.
            await circuits.on_inconclusive(outages, failed=error.silent, by=self.plan.request)
        else:
            self._note_answer()
            await circuits.on_success(outages)
        await circuits.on_inconclusive([each for each in probed if each not in outages])

    async def _waits_for_circuit(self, error: Unavailable, scopes: Sequence[str]) -> bool:
        """True in an outage. Then the call waits at the circuit, and its failure does not count."""
        if not error.silent:
            return False
        self.tried = True
        if self.caller.circuits.is_open(scopes):
            return True
        if self.plan.asks:
            return False
        unanswered, now = self.plan.platform.unanswered, self.caller.clock.now()
        is_out = unanswered.failed(self.plan.scope.endpoint, self.plan.request, error.status, now)
        return is_out and await self._is_outage(error)

    async def _count(self, error: Unavailable, renew_key: RenewKey | None) -> None:
        """Count a failed attempt, and pause. Raises `Exhausted` where it was the last."""
        self.made += 1
        self.caller.meters.count(ATTEMPTS, self.plan.platform.name, status_class(error.status))
        at = int(self.caller.clock.now() * 1000)
        self.history.append(Attempt(at=at, status=error.status, code=error.reason[:200]))
        is_last = self.made >= self.caller.attempts
        renewed = renew_key is not None and not is_last and await renew_key(error)
        if is_last or (error.final and not renewed):
            # A stored answer of a key that cannot be renewed is no sign of an outage: reconciling finds out more.
            perhaps_outage = error.silent or (error.replayed and renew_key is not None)
            if perhaps_outage and await self._is_outage(error):
                return
            raise Exhausted(error, self.made, self.maybe_done, tuple(self.history)) from None
        await self._pause(error.retry_after or pause(self.made, dice=self.caller.clock.random()))

    async def _is_outage(self, error: Unavailable) -> bool:
        """Ask whether Stripe answers anybody, and open a circuit where it does not. True if one is open then."""
        platform, path, circuits = self.plan.platform, self.plan.scope.endpoint, self.caller.circuits
        try:
            async with asyncio.timeout(self._seconds_left()):
                opinion = await platform.second_opinion.ask(platform.client, self.caller.limiter, platform.budgets)
        except TimeoutError:
            raise TooLate(self.maybe_done) from None
        # Meanwhile another call may have been answered, or another request may have asked the same.
        if isinstance(opinion, Blocked):
            await circuits.on_blocked(platform.name, opinion)
        elif isinstance(opinion, Unavailable):
            await self._open(outage_of(platform.name), opinion, "nobody")
        elif not self.plan.asks and platform.unanswered.is_out(path, self.caller.clock.now()):
            platform.unanswered.blame(path)
            await self._open(outage_of(platform.name, path), error, f"no call of {path.replace('_', ' ')}")
        return circuits.is_open(self.plan.scopes)

    async def _open(self, scope: str, error: Unavailable, whom: str) -> None:
        """Open the circuit of an outage. The log says how the calls ended."""
        platform = self.plan.platform
        statuses, since = platform.unanswered.told(self.plan.scope.endpoint)
        if not statuses:
            statuses, since = Counter({error.status or NO_ANSWER: 1}), self.caller.clock.now()
        platform.unanswered.forget()
        status, _ = statuses.most_common(1)[0]
        at = time.strftime("%H:%M:%S", time.localtime(since))
        await self.caller.circuits.unanswered(
            scope, status, f"{platform.host} answers {whom}: {counted(statuses)} since {at}"
        )

    @property
    def _until(self) -> float | None:
        plan = self.plan
        return plan.until_begun if plan.until is None and not self.maybe_done else plan.until

    def _seconds_left(self) -> float | None:
        """Seconds until it is too late. None: no limit. Raises `TooLate`."""
        if self._until is None:
            return None
        left = self._until - self.caller.clock.now()
        if left <= 0:
            raise TooLate(self.maybe_done)
        return left

    async def _pause(self, seconds: float) -> None:
        clock, until = self.caller.clock, self._until
        if until is not None and clock.now() + seconds > until:
            await clock.sleep(max(0.0, until - clock.now()))
            raise TooLate(self.maybe_done)
        await clock.sleep(seconds)


def _reason(reason: str) -> str:
    """Return a `Stripe-Rate-Limited-Reason` as a label."""
    return bounded(reason.replace("-", "_"))
