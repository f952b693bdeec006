"""Since when the store's entries have tags, and so until when entries without one are believed."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Final

from tokenferry_worker.keys.state_keys import StateKeys
from tokenferry_worker.on_redis.store import Script, Store

log = logging.getLogger(__name__)

LOOK_EVERY: Final = 10.0
"""Seconds between two looks: whoever deletes the time must not get a later one."""


class StateSince:
    """Knows when the first worker with a state key started. Believes untagged entries for `journal_days` from then.

    The time has a tag, so nobody who can only write to the store moves it. A process that knows an earlier time writes
    that one back.
    """

    def __init__(self, store: Store, keys: StateKeys, *, days: float, look_every: float = LOOK_EVERY) -> None:
        self._store = store
        self._keys = keys
        self._days_ms = days * 86_400_000
        self._look_every = look_every
        self._swap = Script("state_since")
        self._since: int | None = None
        self._now = 0.0
        self._known = asyncio.Event()
        if keys.current is None:
            self._known.set()

    async def known(self) -> None:
        """Return once this process knows the time. Until then no delivery may begin."""
        await self._known.wait()

    def believes_untagged(self) -> bool:
        """True while the version before may have written an entry that is still there."""
        return self._since is None or self._now < self._since + self._days_ms

    async def watch(self) -> None:
        """Learn the time, and keep it in the store."""
        if self._keys.current is None:
            return
        await self.look()
        if self.believes_untagged():
            assert self._since is not None
            until = datetime.fromtimestamp((self._since + self._days_ms) / 1000, UTC)
            log.warning("state: entries without a tag are believed until %s", until.isoformat(timespec="minutes"))
        while True:
            await asyncio.sleep(self._look_every)
            await self.look()

    async def look(self) -> None:
        """Look once."""
        self._now = await self._store.now() * 1000
        wanted = int(self._now) if self._since is None else self._since
        held = await self._write("", wanted)
        found = self._read(held)
        if found is None:
            log.error(
                "state: %s was not written by a worker; entries without a tag are not believed any more",
                self._store.keys.state_since,
            )
            found = 0
        self._since = found if self._since is None else min(self._since, found)
        if held != self._spelled(self._since):  # changed, or tagged with an earlier key
            await self._write(held, self._since)
        self._known.set()

    async def _write(self, seen: str, since: int) -> str:
        return str(await self._store.run(self._swap, [self._store.keys.state_since], [seen, self._spelled(since)]))

    def _spelled(self, since: int) -> str:
        return f"{since} {self._keys.tag('since', self._store.keys.state_since, str(since))}"

    def _read(self, held: str) -> int | None:
        """Return the time, or None where no worker wrote it."""
        since, _, tag = held.partition(" ")
        return int(since) if self._keys.verify(tag, "since", self._store.keys.state_since, since) else None
