"""One process's view of the circuits: asked before every call, so it answers from memory.

It looks at the store once a second, and tells the store at once what its own calls learn.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Literal, Protocol

from tokenferry.broker.alarm import Alarm
from tokenferry.contract.codes import Code
from tokenferry.contract.queues import parked_queue
from tokenferry_worker.circuits.scopes import CircuitSnapshot, Park, parks, remedy
from tokenferry_worker.errors import Blocked

log = logging.getLogger(__name__)

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the store: a circuit that another process opened is met with calls no longer."""


class CircuitBreaker:
    """Holds calls back while a circuit they depend on is open, and lets one at a time through to try."""

    def __init__(self, book: CircuitStore, *, look_every: float = LOOK_EVERY) -> None:
        self._book = book
        self._look_every = look_every
        self.snapshot = CircuitSnapshot()
        self._due: dict[str, float] = {}
        """Open scopes, and when (in the loop's time) it is worth asking to probe them."""
        self._fresh: set[str] = set()
        self._waiting: dict[asyncio.Future[None], tuple[bool, Sequence[str]]] = {}
        """Who waits, first come first: whether it was tried in vain already, and for which scopes."""
        self._queueing: dict[asyncio.Timeout, Sequence[str]] = {}

    def is_open(self, scopes: Sequence[str]) -> bool:
        """Whether a circuit among *scopes* is open, as far as this process knows."""
        return bool(self._due) and any(scope in self._due for scope in scopes)

    def waiting_for(self, scope: str) -> int:
        """How many requests in this process's hands wait until *scope* is closed."""
        return sum(scope in scopes for _, scopes in self._waiting.values())

    async def enter(self, scopes: Sequence[str], *, may_park: bool, by: str = "", tried: bool = False) -> Sequence[str]:
        """Return when a call may be made, with the open circuits that it probes: mostly none.

        *by*: for which request, and whether it was *tried* in vain already: then it lets others go first. Raises `Park`
        where it should wait elsewhere.
        """
        while open_ := [scope for scope in scopes if scope in self._due]:
            if max(self._due[scope] for scope in open_) <= asyncio.get_running_loop().time():
                # One of us asks, the others wait for what it learns.
                self._due.update(dict.fromkeys(open_, math.inf))
                word = await self._book.admit(open_, by, tried=tried)
                if word == "probe":
                    return open_
                if word == "closed":
                    self._closed(open_)
                    continue
            if may_park and all(map(parks, open_)):
                raise Park(open_[0])
            await self._wait(open_, tried)
        return ()

    @contextmanager
    def queueing(self, limit: asyncio.Timeout, scopes: Sequence[str]) -> Iterator[None]:
        """Around the wait for a permit: *limit* ends it at once when one of *scopes* opens."""
        self._queueing[limit] = scopes
        try:
            yield
        finally:
            del self._queueing[limit]

    async def on_blocked(
        self, scope: str, error: Blocked, *, probed: Sequence[str] = (), wider: Sequence[str] = ()
    ) -> None:
        """A call was refused for *scope*; of what it *probed*, what is *wider* has thereby accepted it."""
        await self.on_success([each for each in probed if each in wider])
        await self.on_inconclusive([each for each in probed if each not in wider], failed=True)
        says = f"the endpoint answers {error.status} {error.code} (request {error.request_id})"
        if error.code == Code.NOT_THE_ENDPOINT:
            says = f"what answers at base_url is not the endpoint (status {error.status})"
        await self._open(scope, error.status, error.code, error.request_id or "", says)

    async def unanswered(self, scope: str, status: int, says: str) -> None:
        """The endpoint answers nobody's calls of *scope*. *status*: how most of them ended, 0 for no answer at all."""
        await self._open(scope, status, Code.NO_ANSWER, "", says)

    async def _open(self, scope: str, status: int, code: str, request_id: str, says: str) -> None:
        if scope in self._due:
            return
        self._due[scope] = math.inf
        self._fresh.add(scope)
        for limit, scopes in self._queueing.items():
            if scope in scopes and not limit.expired():
                limit.reschedule(0.0)
        if await self._book.open(scope, status, code, request_id):
            log.error(
                "circuit '%s' is open: %s. Its requests wait in %s, nothing is lost, and one call at a time tries "
                "whether it is mended. %s",
                scope,
                says,
                parked_queue(scope) if parks(scope) else "their queues",
                remedy(scope, status, code),
            )

    async def on_success(self, probed: Sequence[str]) -> None:
        """A probe was answered: what it probed is closed, for the whole fleet."""
        for scope in probed:
            seconds = await self._book.close(scope)
            if seconds is not None:
                log.warning("circuit '%s' is closed after %.0f s; its requests go on", scope, seconds)
        self._closed(probed)

    async def on_inconclusive(self, probed: Sequence[str], *, failed: bool = False, by: str = "") -> None:
        """A probe told nothing, or *failed*: another one later, if possible for another request than *by*."""
        for scope in probed:
            await self._book.end_probe(scope, failed=failed, by=by)

    async def watch(self) -> None:
        """Look at the store for ever."""
        alarm = Alarm(log, "reading the circuits in the store", level=logging.ERROR)
        while True:
            self._fresh.clear()
            try:
                self._learn(await self._book.snapshot())
            except Exception as error:
                # Whatever it was: without another look, who waits would wait for ever.
                alarm.failed(f"{type(error).__name__}; trying again")
            else:
                alarm.worked()
            await asyncio.sleep(self._look_every)

    def _learn(self, board: CircuitSnapshot) -> None:
        self.snapshot = board
        now = asyncio.get_running_loop().time()
        gone = [scope for scope in self._due if scope not in board.open and scope not in self._fresh]
        self._due.update({scope: now + circuit.due_in for scope, circuit in board.open.items()})
        self._closed(gone)
        self._wake(scope for scope, due in self._due.items() if due <= now)

    def _closed(self, scopes: Sequence[str]) -> None:
        for scope in scopes:
            self._due.pop(scope, None)
        self._wake(scopes)

    def _wake(self, about: Iterator[str] | Sequence[str]) -> None:
        woken = set(about)
        # Who wakes first, asks first.
        for future, (_, scopes) in sorted(self._waiting.items(), key=lambda waiting: waiting[1][0]):
            if not future.done() and not woken.isdisjoint(scopes):
                future.set_result(None)

    async def _wait(self, scopes: Sequence[str], tried: bool) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = tried, scopes
        try:
            await future
        finally:
            del self._waiting[future]


class CircuitStore(Protocol):
    """Which circuits are open, for the whole fleet."""

    async def open(self, scope: str, status: int, code: str, request_id: str) -> bool:
        """Open it. Whether it was closed before: the one who is told so raises the alarm."""
        ...

    async def admit(
        self, scopes: Sequence[str], by: str = "", *, tried: bool = False
    ) -> Literal["closed", "open", "probe"]:
        """Whether a call that depends on *scopes* may be made; `probe`: yes, and it alone, to see whether they work.

        *by*: for which request, and whether it was *tried* in vain already: then it lets others go first, above all
        after a probe of its own.
        """
        ...

    async def end_probe(self, scope: str, *, failed: bool, by: str = "") -> None:
        """Give back the right to probe; after a *failed* one the next is later, else as soon as before.

        *by*: the request that is not to be the next to probe; empty: whichever comes.
        """
        ...

    async def close(self, scope: str) -> float | None:
        """Close it. Seconds it was open, or None for whoever comes second."""
        ...

    async def snapshot(self) -> CircuitSnapshot:
        """Everything that is open or parked."""
        ...

    async def count_parked(self, scope: str) -> None:
        """A message now rests in the queue of *scope*."""
        ...

    async def forget_parked(self, scope: str, count: int) -> None:
        """The queue of *scope* was empty, seen after *count* messages had been parked."""
        ...

    async def try_lead(self, scope: str, by: str, *, lease: float) -> bool:
        """Whether *by* is the one in the fleet that carries back what *scope* has parked, for *lease* seconds."""
        ...
