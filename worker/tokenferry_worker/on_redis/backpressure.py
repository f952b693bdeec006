"""How far tokenizing is ahead: one sorted set per place, so that the whole fleet counts the same requests."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tokenferry_worker.limits.backpressure import Slot
from tokenferry_worker.on_redis.store import Script, Store


class RedisBackpressure:
    """Implements `limits.backpressure.Backpressure`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._go = Script("go_ahead", after=("budget",))
        self._back = Script("step_back")

    async def acquire(self, id_: str, places: Sequence[Slot], *, lasts: float) -> bool:
        """Take a seat at every one of *places*, or none. *lasts*: seconds until it passes away by itself."""
        args: list[str | int] = [id_, int(lasts * 1000)]
        for place in places:
            args += [place.limit, math.ceil(place.interval * 1_000_000)]
        keys = self._keys(places) + [self._store.keys.budget(place.name) for place in places]
        return bool(await self._store.run(self._go, keys, args))

    async def release(self, id_: str, places: Sequence[Slot]) -> None:
        """Give the seats up."""
        if not places:
            return
        await self._store.run(self._back, self._keys(places), [id_])

    def _keys(self, places: Sequence[Slot]) -> list[str]:
        return [self._store.keys.ahead(place.name) for place in places]
