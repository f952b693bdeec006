"""Notes in the store that the fleet has a policy."""

from __future__ import annotations

from tokenferry_worker.on_redis.store import Script, Store


class RedisPolicyNote:
    """Implements `keys.policy_source.PolicyNote`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._script = Script("policy_note")

    async def write(self) -> None:
        """Note that a worker has read a policy."""
        await self._store.run(self._script, [self._store.keys.policy], [1])

    async def is_there(self) -> bool:
        """Return whether any worker has ever read one."""
        return bool(await self._store.run(self._script, [self._store.keys.policy], [0]))
