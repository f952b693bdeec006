"""When the store began, as every worker process knows it, and the store's clock between two questions."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from dataclasses import dataclass
from typing import Final, Literal

from tokenferry_worker.on_redis.store import Script, Store

log = logging.getLogger(__name__)

LOOK_EVERY: Final = 1.0
"""Seconds between two looks."""
SETTLE: Final = 3.0
"""Seconds that a starting process gives the running ones to notice that the store was wiped."""
MARGIN_MS: Final = 60_000
"""What a store may lose without beginning again: the last second of an append-only file, a replica's lag."""
REMEMBERED_MS: Final = 86_400_000
"""How long the store knows that a process was alive."""
SHARED: Final = ("born",)
"""The script that comes before every script on the store's birth."""

Absent = Literal["", "old", "new"]
"""What it means that nobody has written when the store began (`birth.lua`)."""


@dataclass(frozen=True)
class StoreAge:
    """When the store began, and its time now, in Unix milliseconds."""

    born: int
    """0: nothing is refused, because the time is unknown, or an operator has accepted the store. -1: not written."""
    now: int


class StoreBirth:
    """Knows when the store began. The first process that finds an empty store writes it down."""

    def __init__(self, store: Store, *, look_every: float = LOOK_EVERY, settle: float = SETTLE) -> None:
        self._store = store
        self._look_every = look_every
        self._settle = settle
        self._birth = Script("birth", after=SHARED)
        self._accept = Script("accept", after=SHARED)
        self._process = secrets.token_hex(8)
        self._age: StoreAge | None = None
        self._ahead = 0.0
        """Seconds by which the store's clock is ahead of the monotonic one of this process."""
        self._known = asyncio.Event()

    async def watch(self) -> None:
        """Find out when the store began, and notice for ever after when it is wiped or restored."""
        await self._begin()
        while True:
            await asyncio.sleep(self._look_every)
            await self.look("new")

    async def known(self) -> None:
        """Return once this process knows when the store began. Until then no delivery may begin."""
        await self._known.wait()

    def now(self) -> float:
        """Return Unix seconds on the store's clock, without asking it. For use after `known`."""
        return time.monotonic() + self._ahead

    async def look(self, absent: Absent = "") -> StoreAge:
        """Ask the store. *absent*: what it means that nobody has written it down. Nothing is written for ""."""
        keys = self._store.keys
        names = [keys.born, keys.accepted, keys.alive(self._process)]
        seen = self._age.now if self._age is not None else 0
        born, now = await self._store.run(self._birth, names, [absent, seen, MARGIN_MS, REMEMBERED_MS])
        if absent:
            self._remember(StoreAge(born, now))
        return StoreAge(born, now)

    def _remember(self, age: StoreAge) -> None:
        if self._age is not None and age.born > self._age.now:
            log.error(
                "store: it was wiped or restored, and begins now; what moves money and was sent before is refused "
                "(store_is_younger); if this is on purpose: `tokenferry store accept`"
            )
        self._age = age
        self._ahead = age.now / 1000 - time.monotonic()
        self._known.set()

    async def _begin(self) -> None:
        """Tell a new store from one of the version before, which did not write when it began."""
        absent: Absent = "new"
        if (await self.look()).born == -1 and await self._is_used():
            await asyncio.sleep(self._settle)  # a worker that runs has written to a wiped store, and soon says so
            absent = "old"
        await self.look(absent)

    async def _is_used(self) -> bool:
        keys = self._store.keys
        return await self._store.has_keys(keys.journal("request", "*"), keys.journal("attach", "*"), keys.token("*"))

    async def accept(self, *, who: str, why: str) -> int:
        """Record that this store is new on purpose. Return when it began, in Unix milliseconds."""
        keys = self._store.keys
        return int(await self._store.run(self._accept, [keys.born, keys.accepted], [0, who, why]))

    async def restored(self, *, who: str, why: str) -> int:
        """Let the store begin now, because it came from a backup. Return that time, in Unix milliseconds."""
        keys = self._store.keys
        return int(await self._store.run(self._accept, [keys.born, keys.accepted], [1, who, why]))
