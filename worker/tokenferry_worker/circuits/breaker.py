"""One process's view of the circuits. Every call asks it, so it answers from memory.

It reads the store once a second, and tells the store at once what its own calls learn.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Literal, Protocol

from tokenferry.broker.alarm import Alarm
from tokenferry.contract.codes import Code
from tokenferry.contract.queues import parked_queue
from tokenferry_worker.circuits.scopes import CircuitSnapshot, Park, parks, remedy
from tokenferry_worker.errors import Blocked

log = logging.getLogger(__name__)

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the store. For at most as long, calls meet a circuit that another process opened."""


class CircuitBreaker:
    """Holds calls back while a circuit that they depend on is open. One call at a time probes it."""

    def __init__(self, store: CircuitStore, *, look_every: float = LOOK_EVERY) -> None:
        self._store = store
        self._look_every = look_every
        self.snapshot = CircuitSnapshot()
        self._due: dict[str, float] = {}
        """Open scopes, and when (in the loop's time) it is worth asking to probe them."""
        self._fresh: set[str] = set()
        """Scopes that this process opened since the last look began: its answer does not close them."""
        self._waiting: dict[asyncio.Future[None], tuple[bool, Sequence[str]]] = {}
        """The calls that wait, in order of arrival: whether each was tried in vain already, and for which scopes."""
        self._queueing: dict[asyncio.Timeout, Sequence[str]] = {}
        """The calls that wait for a permit, and their scopes."""

    def is_open(self, scopes: Sequence[str]) -> bool:
        """True if a circuit among *scopes* is open, as far as this process knows."""
        return bool(self._due) and any(scope in self._due for scope in scopes)

    @property
    def waiting(self) -> int:
        """Return how many requests in hand in this process wait for any circuit. May be called from any thread."""
        return len(self._waiting)

    def waiting_for(self, scope: str) -> int:
        """Return how many requests in hand in this process wait until *scope* is closed."""
        return sum(scope in scopes for _, scopes in self._waiting.values())

    async def enter(self, scopes: Sequence[str], *, may_park: bool, by: str = "", tried: bool = False) -> Sequence[str]:
        """Return when a call may be made. Returns the open circuits that it probes: mostly none.

        *by*: id of the request. *tried*: True if a call of it got no answer. Then others probe first.

        Raises `Park` where the request should wait in a queue of its own.
        """
        while open_ := [scope for scope in scopes if scope in self._due]:
            if max(self._due[scope] for scope in open_) <= asyncio.get_running_loop().time():
                # One call asks, the others wait for what it learns.
                self._due.update(dict.fromkeys(open_, math.inf))
                reply = await self._store.admit(open_, by, tried=tried)
                if reply == "probe":
                    return open_
                if reply == "closed":
                    self._on_closed(open_)
                    continue
            if may_park and all(map(parks, open_)):
                raise Park(open_[0])
            await self._wait(open_, tried)
        return ()

    @contextmanager
    def queueing(self, limit: asyncio.Timeout, scopes: Sequence[str]) -> Iterator[None]:
        """Around the wait for a permit: *limit* ends the wait at once when one of *scopes* opens."""
        self._queueing[limit] = scopes
        try:
            yield
        finally:
            del self._queueing[limit]

    async def on_blocked(
        self, scope: str, error: Blocked, *, probed: Sequence[str] = (), wider: Sequence[str] = ()
    ) -> None:
        """A call was refused for *scope*. Of what it *probed*, everything in *wider* has thereby accepted it."""
        await self.on_success([each for each in probed if each in wider])
        await self.on_inconclusive([each for each in probed if each not in wider], failed=True)
        what = f"Stripe answers {error.status} {error.code} (request {error.request_id})"
        if error.code == Code.NOT_THE_ENDPOINT:
            what = f"what answers at base_url is not Stripe (status {error.status})"
        elif error.code == Code.CERTIFICATE_NOT_TRUSTED:
            what = "the certificate of what answers at base_url does not verify, so nothing was sent"
        await self._open(scope, error.status, error.code, error.request_id or "", what)

    async def unanswered(self, scope: str, status: int, what: str) -> None:
        """No call of *scope* gets an answer. *status*: how most of them ended, 0 for none. *what*: for the log."""
        await self._open(scope, status, Code.NO_ANSWER, "", what)

    async def _open(self, scope: str, status: int, code: str, request_id: str, what: str) -> None:
        if scope in self._due:
            return
        self._due[scope] = math.inf
        self._fresh.add(scope)
        for limit, scopes in self._queueing.items():
            if scope in scopes and not limit.expired():
                limit.reschedule(0.0)
        if await self._store.open(scope, status, code, request_id):
            log.error(
                "circuit '%s' is open: %s. Its requests wait in %s, nothing is lost, and one call at a time tries "
                "whether it is mended. %s",
                scope,
                what,
                parked_queue(scope) if parks(scope) else "their queues",
                remedy(scope, status, code),
            )

    async def on_success(self, probed: Sequence[str]) -> None:
        """A probe was answered: what it probed is closed, for the whole fleet."""
        for scope in probed:
            seconds = await self._store.close(scope)
            if seconds is not None:
                log.warning("circuit '%s' is closed after %.0f s; its requests go on", scope, seconds)
        self._on_closed(probed)

    async def on_inconclusive(self, probed: Sequence[str], *, failed: bool = False, by: str = "") -> None:
        """A probe proved nothing, or *failed*. The next one comes later, if possible of another request than *by*."""
        for scope in probed:
            await self._store.end_probe(scope, failed=failed, by=by)

    async def watch(self) -> None:
        """Read the store for ever."""
        alarm = Alarm(log, "reading the circuits in the store", level=logging.ERROR)
        while True:
            self._fresh.clear()
            try:
                self._learn(await self._store.snapshot())
            except Exception as error:
                # Whatever it was: without another look, the calls that wait would wait for ever.
                alarm.failed(f"{type(error).__name__}; trying again")
            else:
                alarm.worked()
            await asyncio.sleep(self._look_every)

    def _learn(self, snapshot: CircuitSnapshot) -> None:
        self.snapshot = snapshot
        now = asyncio.get_running_loop().time()
        gone = [scope for scope in self._due if scope not in snapshot.open and scope not in self._fresh]
        self._due.update({scope: now + circuit.due_in for scope, circuit in snapshot.open.items()})
        self._on_closed(gone)
        self._wake(scope for scope, due in self._due.items() if due <= now)

    def _on_closed(self, scopes: Sequence[str]) -> None:
        for scope in scopes:
            self._due.pop(scope, None)
        self._wake(scopes)

    def _wake(self, changed: Iterable[str]) -> None:
        """Wake the calls that wait for one of *changed*. The first to wake asks first: one that was not tried yet."""
        woken = set(changed)
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
    """The open circuits of the whole fleet."""

    async def open(self, scope: str, status: int, code: str, request_id: str) -> bool:
        """Open it. True if it was closed before: then the caller raises the alarm."""
        ...

    async def admit(
        self, scopes: Sequence[str], by: str = "", *, tried: bool = False
    ) -> Literal["closed", "open", "probe"]:
        """Say whether a call that depends on *scopes* may be made. `probe`: yes, as the only one in the fleet.

        *by*: id of the request. *tried*: True if a call of it got no answer. Then others probe first. A request that
        has just probed waits longest.
        """
        ...

    async def end_probe(self, scope: str, *, failed: bool, by: str = "") -> None:
        """Give back the right to probe. After a *failed* probe the next one is later, else as soon as before.

        *by*: the request that is not to be the next to probe. Empty: any may be.
        """
        ...

    async def close(self, scope: str) -> float | None:
        """Close it. Returns the seconds it was open, or None where another process has closed it."""
        ...

    async def snapshot(self) -> CircuitSnapshot:
        """Return everything that is open or parked."""
        ...

    async def count_parked(self, scope: str) -> None:
        """Count a message that was moved to the queue of *scope*."""
        ...

    async def forget_parked(self, scope: str, count: int) -> None:
        """Forget the queue of *scope*: it was empty, seen after *count* messages had been parked."""
        ...

    async def try_lead(self, scope: str, by: str, *, lease: float) -> bool:
        """True if *by* is now the one process that does a duty for *scope*, for *lease* seconds."""
        ...
