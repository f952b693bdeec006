"""One call until it has an answer: permit, call, pause, again. What tokenizing and attaching have in common."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

from tokenferry.contract.codes import Code
from tokenferry.contract.names import Lane
from tokenferry.contract.results import Attempt
from tokenferry_worker.answers import Answer
from tokenferry_worker.budgets import Budgets
from tokenferry_worker.circuits import About, Park, is_its_own, scope_of, scopes_of
from tokenferry_worker.errors import Blocked, Declined, TokenferryError, Unavailable
from tokenferry_worker.pacing import Budget
from tokenferry_worker.ports import Endpoint, Journal, Limiter
from tokenferry_worker.retries import pause
from tokenferry_worker.switchboard import Switchboard

PUSHED_BACK = 0.25
"""Seconds the fleet rests on a budget after the endpoint refused a call for its rate."""
KEY_IS_SAFE: Final = 20 * 3600.0
"""Seconds for which a repeated call is answered as the first one was: the endpoint forgets keys after a day (its page
on idempotent requests). Without a token, which is its own guard, it would then make a second object.
"""


class World(Protocol):
    """Time and dice, so that tests need neither."""

    def now(self) -> float:
        """Unix seconds."""
        ...

    def dice(self) -> float:
        """A random number in [0, 1)."""
        ...

    async def sleep(self, seconds: float) -> None: ...


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


@asynccontextmanager
async def excused(journal: Journal, id_: str) -> AsyncIterator[None]:
    """Work that may be called off: when the worker stops or a circuit is open, that is no sign of poison."""
    try:
        yield
    except (asyncio.CancelledError, Park):
        await journal.excuse(id_)
        raise


@dataclass
class Desk:
    """One platform as a worker sees it: where to call, and with which budgets."""

    name: str
    endpoint: Endpoint
    budgets: Budgets
    live: bool


def mode_of(desk: Desk) -> str:
    """What the ledger calls the mode of a platform."""
    return "live" if desk.live else "test"


@dataclass
class Attempts:
    """The attempts of one call. `made` counts those that reached the endpoint and were not refused for their rate."""

    limiter: Limiter
    circuits: Switchboard
    world: World
    desk: Desk
    about: About
    lane: Lane
    budgets: tuple[Budget, ...]
    limit: int
    until: float | None
    """Unix seconds after which no call is begun; None: no such moment."""
    may_park: bool
    """Whether the request may wait elsewhere while a circuit is open."""
    until_begun: float | None = None
    """The same as *until*, but only where no call may have taken effect."""
    made: int = 0
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
        scopes = scopes_of(self.about)
        while True:
            probed = await self._enter(scopes) if self.circuits.is_open(scopes) else ()
            try:
                if not await self._permit(scopes, probed):
                    continue
                answer = await self._call(call)
                await self.circuits.proved(probed)
                return answer
            except Blocked as error:
                if is_its_own(error, self.about):
                    # The key was accepted; of anything narrower it says as much as silence.
                    platform = self.about.platform
                    await self.circuits.proved([each for each in probed if each == platform])
                    await self.circuits.again([each for each in probed if each != platform], failed=True)
                    code = Code.ACCOUNT_REFUSES if error.ours else error.code
                    raise Declined(403, code, error.error_type, request_id=error.request_id, ours=error.ours) from None
                scope = scope_of(error, self.about)
                await self.circuits.refused(scope, error, probed=probed, wider=scopes[: scopes.index(scope)])
            except Declined as error:
                # Without a status we refused it ourselves, before anybody was asked.
                await (self.circuits.proved(probed) if error.status else self.circuits.again(probed))
                raise
            except Unavailable as error:
                await self.circuits.again(probed)
                self.maybe_done = self.maybe_done or error.maybe_done
                if error.rate_limited is not None:
                    # Refused before it was executed: no attempt. The whole fleet learns of it at once.
                    budget = self.desk.budgets.refused(error.rate_limited, self.budgets)
                    await self.limiter.push_back(budget, max(PUSHED_BACK, error.retry_after or 0.0))
                    continue
                self.made += 1
                at = int(self.world.now() * 1000)
                self.history.append(Attempt(at=at, status=error.status, code=error.reason[:200]))
                new_key = on_unavailable is not None and self.made < self.limit and await on_unavailable(error)
                if self.made >= self.limit or (error.final and not new_key):
                    raise Exhausted(error, self.made, self.maybe_done, tuple(self.history)) from None
                await self._rest(error.retry_after or pause(self.made, dice=self.world.dice()))
            except BaseException:
                # Called off, too late, or the call was not made after all: whoever comes next may probe.
                await self.circuits.again(probed)
                raise

    async def _call(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        try:
            return await call()
        finally:
            await self.limiter.done(self.budgets, self.under_way)

    async def _enter(self, scopes: Sequence[str]) -> Sequence[str]:
        try:
            async with asyncio.timeout(self._left()):
                return await self.circuits.enter(scopes, may_park=self.may_park)
        except TimeoutError:
            raise TooLate(self.maybe_done) from None

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
        left = self._end - self.world.now()
        if left <= 0:
            raise TooLate(self.maybe_done)
        return left

    async def _rest(self, seconds: float) -> None:
        if self._end is not None and self.world.now() + seconds > self._end:
            await self.world.sleep(max(0.0, self._end - self.world.now()))
            raise TooLate(self.maybe_done)
        await self.world.sleep(seconds)
