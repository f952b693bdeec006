"""One call until it has an answer: permit, call, pause, again. What tokenizing and attaching have in common."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from tokenferry.contract.names import Lane
from tokenferry_worker.answers import Answer
from tokenferry_worker.budgets import Budgets
from tokenferry_worker.errors import Blocked, TokenferryError, Unavailable
from tokenferry_worker.pacing import Budget
from tokenferry_worker.ports import Endpoint, Journal, Limiter
from tokenferry_worker.retries import pause

log = logging.getLogger(__name__)

PUSHED_BACK = 1.0
"""Seconds the fleet rests on a budget after the endpoint refused a call for its rate."""
ALARM_EVERY = 60.0
"""Seconds between two alarms about one blocked platform."""


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


@asynccontextmanager
async def excused(journal: Journal, id_: str) -> AsyncIterator[None]:
    """Work that may be called off because the worker stops: then the delivery does not count towards poison."""
    try:
        yield
    except asyncio.CancelledError:
        await journal.excuse(id_)
        raise


@dataclass
class Desk:
    """One platform as a worker sees it: where to call, with which budgets, and until when it is blocked."""

    name: str
    endpoint: Endpoint
    budgets: Budgets
    live: bool
    alarmed_at: float = float("-inf")


@dataclass
class Attempts:
    """The attempts of one call. `made` counts those that reached the endpoint and were not refused for their rate."""

    limiter: Limiter
    world: World
    desk: Desk
    lane: Lane
    budgets: tuple[Budget, ...]
    limit: int
    until: float | None
    """Unix seconds after which no call is begun; None: no such moment."""
    made: int = 0
    maybe_done: bool = False

    async def run(
        self,
        call: Callable[[], Awaitable[Answer]],
        on_unavailable: Callable[[Unavailable], Awaitable[None]] | None = None,
    ) -> Answer:
        """Make the call until the endpoint answers it.

        *on_unavailable* is told of every failed attempt before the pause, to change the key or not.
        Raises `Declined`, `Exhausted`, `TooLate`.
        """
        blocked = 0
        while True:
            await self._permit()
            try:
                return await call()
            except Blocked as error:
                blocked += 1
                self._alarm(error)
                await self._rest(pause(blocked, dice=self.world.dice(), first=5.0, longest=60.0))
            except Unavailable as error:
                self.maybe_done = self.maybe_done or error.maybe_done
                if error.rate_limited is not None:
                    # Refused before it was executed: no attempt. The whole fleet learns of it at once.
                    await self.limiter.push_back(
                        self.desk.budgets.refused(error.rate_limited, self.budgets), PUSHED_BACK
                    )
                    continue
                self.made += 1
                if self.made >= self.limit:
                    raise Exhausted(error, self.made, self.maybe_done) from None
                if on_unavailable is not None:
                    await on_unavailable(error)
                await self._rest(error.retry_after or pause(self.made, dice=self.world.dice()))

    async def _permit(self) -> None:
        if self.until is None:
            await self.limiter.permit(self.budgets, self.lane)
            return
        left = self.until - self.world.now()
        if left <= 0:
            raise TooLate(self.maybe_done)
        try:
            async with asyncio.timeout(left):
                await self.limiter.permit(self.budgets, self.lane)
        except TimeoutError:
            raise TooLate(self.maybe_done) from None

    async def _rest(self, seconds: float) -> None:
        if self.until is not None and self.world.now() + seconds > self.until:
            await self.world.sleep(max(0.0, self.until - self.world.now()))
            raise TooLate(self.maybe_done)
        await self.world.sleep(seconds)

    def _alarm(self, error: Blocked) -> None:
        now = self.world.now()
        if now - self.desk.alarmed_at >= ALARM_EVERY:
            self.desk.alarmed_at = now
            log.error(
                "platform '%s' is blocked: the endpoint answers %s %s (request %s). Requests wait, nothing is lost. "
                "Check the key, its permissions and the account's access to raw card data.",
                self.desk.name,
                error.status,
                error.code,
                error.request_id,
            )
