"""Counts the tokens that wait to be spent: one sorted set per slot, for the whole fleet."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tokenferry_worker.limits.backpressure import Slot
from tokenferry_worker.on_redis.limiter import SHARED
from tokenferry_worker.on_redis.store import Script, Store


class RedisBackpressure:
    """Implements `limits.backpressure.Backpressure`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._acquire = Script("go_ahead", after=SHARED)
        self._release = Script("step_back")

    async def acquire(self, id_: str, slots: Sequence[Slot], *, lasts: float) -> bool:
        """Count request *id_* in every one of *slots*, or in none. *lasts*: seconds until it expires by itself."""
        args: list[str | int] = [id_, int(lasts * 1000)]
        for slot in slots:
            args += [slot.limit, math.ceil(slot.interval * 1_000_000)]
        keys = self._keys(slots) + [self._store.keys.budget(slot.name) for slot in slots]
        return bool(await self._store.run(self._acquire, keys, args))

    async def release(self, id_: str, slots: Sequence[Slot]) -> None:
        """Count request *id_* no more."""
        if not slots:
            return
        await self._store.run(self._release, self._keys(slots), [id_])

    def _keys(self, slots: Sequence[Slot]) -> list[str]:
        return [self._store.keys.ahead(slot.name) for slot in slots]
