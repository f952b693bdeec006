"""The journal: one final outcome per request or attach id, remembered longer than any message can come back."""

from __future__ import annotations

from tokenferry_worker.on_redis.store import Script, Store
from tokenferry_worker.ports import Begun


class RedisJournal:
    """Implements `ports.Journal`."""

    def __init__(self, store: Store, subject: str, *, days: float) -> None:
        """*subject*: `request` or `attach`. *days*: how long an entry outlives its last change."""
        self._store = store
        self._subject = subject
        self._ttl_ms = int(days * 86_400_000)
        self._begin = Script("begin")
        self._excuse = Script("excuse")
        self._record = Script("record")
        self._next_epoch = Script("next_epoch")

    async def begin(self, id_: str) -> Begun:
        """Count a delivery of *id_* and say what is known of it."""
        deliveries, epoch, outcome = await self._store.run(self._begin, [self._key(id_)], [self._ttl_ms])
        return Begun(deliveries, epoch, outcome or None)

    async def excuse(self, id_: str) -> None:
        """Uncount a delivery of *id_* that was given back in good order."""
        await self._store.run(self._excuse, [self._key(id_)], [self._ttl_ms])

    async def record(self, id_: str, outcome: str) -> str:
        """Write *outcome* unless there is one; returns the one that counts."""
        return str(await self._store.run(self._record, [self._key(id_)], [outcome, self._ttl_ms]))

    async def next_epoch(self, id_: str, after: int) -> int:
        """Begin a new generation of the idempotency key after *after*; returns the current one."""
        return int(await self._store.run(self._next_epoch, [self._key(id_)], [after, self._ttl_ms]))

    def _key(self, id_: str) -> str:
        return self._store.key("journal", self._subject, id_)
