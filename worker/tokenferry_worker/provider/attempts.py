"""One call until it has an answer: permit, call, pause, again. What tokenizing and attaching have in common."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
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
from tokenferry_worker.provider.answers import Answer
from tokenferry_worker.provider.platforms import PlatformContext
from tokenferry_worker.provider.retries import pause

LEAST_BACK_OFF = 0.25
"""Seconds the fleet rests on a budget after the endpoint refused a call for its rate."""
KEY_IS_SAFE: Final = 20 * 3600.0
"""Seconds for which a repeated call is answered as the first one was: the endpoint forgets keys after a day (its page
on idempotent requests). Without a token, which is its own guard, it would then make a second object.
"""


class TooLate(TokenferryError):
    """The request's own deadline passed while it waited. `maybe_done`: an earlier call may have taken effect."""

    def __init__(self, maybe_done: bool) -> None:
        super().__init__("the deadline passed")
        self.maybe_done = maybe_done


@dataclass
class Exhausted(TokenferryError):
    """Every allowed attempt ended without a usable answer; *last* is how the last one ended."""

    last: Unavailable
    attempts: int
    maybe_done: bool
    history: tuple[Attempt, ...] = ()


@dataclass
class Attempts:
    """The attempts of one call.

    `made` counts those that failed and were not refused for their rate. What failed because the endpoint answered
    nobody counts for nothing: once the circuit is closed again, the count begins anew.
    """

    limiter: Limiter
    circuits: CircuitBreaker
    clock: Clock
    platform: PlatformContext
    about: CallScope
    lane: Lane
    budgets: tuple[Budget, ...]
    limit: int
    until: float | None
    """Unix seconds after which no call is begun; None: no such moment."""
    may_park: bool
    """Whether the request may wait elsewhere while a circuit is open."""
    until_begun: float | None = None
    """The same as *until*, but only where no call may have taken effect."""
    request: str = ""
    """Whose call it is: an id. Failed calls of many requests make an outage, those of one do not."""
    asks: bool = False
    """Whether it is a question that changes nothing. It waits while the endpoint answers nobody. But the key may lack
    the right to ask: a refusal of the key is the answer, and shuts nothing off.
    """
    made: int = 0
    tried: bool = False
    """Whether a call got no answer. Then it may be what the endpoint cannot answer, and others probe first."""
    maybe_done: bool = False
    history: list[Attempt] = field(default_factory=list)
    under_way: str = ""
    """What the limiter knows the granted call by."""

    async def run(
        self,
        call: Callable[[], Awaitable[Answer]],
        on_unavailable: Callable[[Unavailable], Awaitable[bool]] | None = None,
    ) -> Answer:
        """Make the call until the endpoint answers it.

        *on_unavailable* is told of every failed attempt before the pause; it says whether it has changed the key.
        Raises `Declined`, `Exhausted`, `TooLate`, `Park`.
        """
        scopes = self._scopes()
        while True:
            probed = await self._enter(scopes) if self.circuits.is_open(scopes) else ()
            try:
                if not await self._permit(scopes, probed):
                    continue
                answer = await self._call(call)
                self._heard()
                await self.circuits.on_success(probed)
                return answer
            except Blocked as error:
                await self._blocked(error, scopes, probed)
            except Declined as error:
                # Without a status we refused it ourselves, before anybody was asked.
                if error.status:
                    self._heard()
                await (self.circuits.on_success(probed) if error.status else self.circuits.on_inconclusive(probed))
                raise
            except Unavailable as error:
                self.maybe_done = self.maybe_done or error.maybe_done
                await self._probed_in_vain(error, probed)
                if error.rate_limited is not None:
                    # Refused before it was executed: no attempt. The whole fleet learns of it at once.
                    budget = self.platform.budgets.refused(error.rate_limited, self.budgets)
                    await self.limiter.back_off(budget, max(LEAST_BACK_OFF, error.retry_after or 0.0))
                elif not await self._is_held_up(error, scopes):
                    await self._count(error, on_unavailable)
            except BaseException:
                # Called off, too late, or the call was not made after all: whoever comes next may probe.
                await self.circuits.on_inconclusive(probed)
                raise

    def _scopes(self) -> Sequence[str]:
        scopes = scopes_of(self.about)
        if self.asks:
            return [scope for scope in scopes if is_outage(scope) or scope == self.about.platform]
        return scopes

    def _heard(self) -> None:
        """The endpoint has answered. A question is no sign that calls which change something are answered, too."""
        if not self.asks:
            self.platform.unanswered.answered(self.about.endpoint, self.request)

    async def _blocked(self, error: Blocked, scopes: Sequence[str], probed: Sequence[str]) -> None:
        """Return where the call is to be made again once the circuit is closed; raises `Declined` where it is not."""
        self.maybe_done = self.maybe_done or error.maybe_done
        if not is_elsewhere(error):
            self._heard()
        platform = self.about.platform
        if self.asks and not is_elsewhere(error):
            await self.circuits.on_success([each for each in probed if is_outage(each)])
            await self.circuits.on_inconclusive([each for each in probed if each == platform], failed=True)
            if platform in probed:
                return
            raise error
        if concerns_this_call_only(error, self.about):
            # The key was accepted; of anything narrower it says as much as silence.
            accepted = [each for each in probed if each == platform or is_outage(each)]
            await self.circuits.on_success(accepted)
            await self.circuits.on_inconclusive([each for each in probed if each not in accepted], failed=True)
            code = Code.ACCOUNT_REFUSES if error.ours else error.code
            raise Declined(403, code, error.error_type, request_id=error.request_id, ours=error.ours) from None
        scope = scope_of(error, self.about)
        await self.circuits.on_blocked(scope, error, probed=probed, wider=scopes[: scopes.index(scope)])

    async def _probed_in_vain(self, error: Unavailable, probed: Sequence[str]) -> None:
        """A probe got no usable answer. Any answer of the endpoint ends an outage, and says nothing of the rest."""
        outages = [each for each in probed if is_outage(each)]
        if error.silent or error.replayed:
            # The next one is made for another request: this one may be what the endpoint cannot answer.
            await self.circuits.on_inconclusive(outages, failed=error.silent, by=self.request)
        else:
            self._heard()
            await self.circuits.on_success(outages)
        await self.circuits.on_inconclusive([each for each in probed if each not in outages])

    async def _is_held_up(self, error: Unavailable, scopes: Sequence[str]) -> bool:
        """Whether the endpoint answers nobody. Then the call waits at the circuit, and its failure does not count."""
        if not error.silent:
            return False
        self.tried = True
        if self.circuits.is_open(scopes):
            return True
        if self.asks:
            return False
        now = self.clock.now()
        out = self.platform.unanswered.failed(self.about.endpoint, self.request, error.status, now)
        return out and await self._is_outage(error, scopes)

    async def _count(self, error: Unavailable, on_unavailable: Callable[[Unavailable], Awaitable[bool]] | None) -> None:
        """Count a failed attempt, and rest. Raises `Exhausted` where it was the last."""
        self.made += 1
        at = int(self.clock.now() * 1000)
        self.history.append(Attempt(at=at, status=error.status, code=error.reason[:200]))
        new_key = on_unavailable is not None and self.made < self.limit and await on_unavailable(error)
        if self.made >= self.limit or (error.final and not new_key):
            # A stored answer without another key to try is no question of outages: looking finds out what it hides.
            asks = error.silent or (error.replayed and on_unavailable is not None)
            if asks and await self._is_outage(error, self._scopes()):
                return
            raise Exhausted(error, self.made, self.maybe_done, tuple(self.history)) from None
        await self._rest(error.retry_after or pause(self.made, dice=self.clock.random()))

    async def _is_outage(self, error: Unavailable, scopes: Sequence[str]) -> bool:
        """Ask whether the endpoint answers anybody, and open a circuit where it does not. Whether one is open then."""
        unanswered, path = self.platform.unanswered, self.about.endpoint
        try:
            async with asyncio.timeout(self._left()):
                opinion = await self.platform.second_opinion.ask(
                    self.platform.client, self.limiter, self.platform.budgets
                )
        except TimeoutError:
            raise TooLate(self.maybe_done) from None
        # Meanwhile another call may have been answered, or another request may have asked the same.
        if isinstance(opinion, Blocked):
            await self.circuits.on_blocked(self.about.platform, opinion)
        elif isinstance(opinion, Unavailable):
            await self._open(outage_of(self.about.platform), opinion, "nobody")
        elif not self.asks and unanswered.is_out(path, self.clock.now()):
            unanswered.blame(path)
            await self._open(outage_of(self.about.platform, path), error, f"no call of {path.replace('_', ' ')}")
        return self.circuits.is_open(scopes)

    async def _open(self, scope: str, error: Unavailable, whom: str) -> None:
        """Open the circuit of an outage, and say what was seen of it."""
        statuses, since = self.platform.unanswered.told(self.about.endpoint)
        if not statuses:
            statuses, since = Counter({error.status or NO_ANSWER: 1}), self.clock.now()
        self.platform.unanswered.forget()
        status, _ = statuses.most_common(1)[0]
        at = time.strftime("%H:%M:%S", time.localtime(since))
        await self.circuits.unanswered(
            scope, status, f"{self.platform.host} answers {whom}: {counted(statuses)} since {at}"
        )

    async def _call(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        try:
            return await call()
        finally:
            await self.limiter.done(self.budgets, self.under_way)

    async def _enter(self, scopes: Sequence[str]) -> Sequence[str]:
        try:
            async with asyncio.timeout(self._left()):
                probed = await self.circuits.enter(scopes, may_park=self.may_park, by=self.request, tried=self.tried)
        except TimeoutError:
            raise TooLate(self.maybe_done) from None
        self.made = 0
        self.history.clear()
        return probed

    async def _permit(self, scopes: Sequence[str], probed: Sequence[str]) -> bool:
        """Wait for a permit. False when a circuit opened meanwhile; a probe is not held up by its own."""
        watched = () if probed else scopes
        try:
            async with asyncio.timeout(self._left()) as limit:
                with self.circuits.queueing(limit, watched):
                    self.under_way = await self.limiter.permit(self.budgets, self.lane)
        except TimeoutError:
            if not self.circuits.is_open(watched):
                raise TooLate(self.maybe_done) from None
            return False
        if self.circuits.is_open(watched):
            await self.limiter.done(self.budgets, self.under_way)
            return False
        return True

    @property
    def _end(self) -> float | None:
        return self.until_begun if self.until is None and not self.maybe_done else self.until

    def _left(self) -> float | None:
        if self._end is None:
            return None
        left = self._end - self.clock.now()
        if left <= 0:
            raise TooLate(self.maybe_done)
        return left

    async def _rest(self, seconds: float) -> None:
        if self._end is not None and self.clock.now() + seconds > self._end:
            await self.clock.sleep(max(0.0, self._end - self.clock.now()))
            raise TooLate(self.maybe_done)
        await self.clock.sleep(seconds)
