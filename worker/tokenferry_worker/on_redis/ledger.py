"""The ledger: who may spend a token, who spent it, and who writes to an object right now."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal

from tokenferry_worker.on_redis.store import Script, Store
from tokenferry_worker.ports import Claim


class RedisLedger:
    """Implements `ports.Ledger` for one platform."""

    def __init__(self, store: Store, platform: str, *, days: float) -> None:
        """*days*: how long a spent token is remembered."""
        self._store = store
        self._platform = platform
        self._ttl_ms = int(days * 86_400_000)
        self._claim = Script("claim")
        self._close = Script("close")
        self._hold = Script("hold")
        self._let_go = Script("let_go")

    async def claim(self, token: str, by: str, *, lease: float) -> Claim:
        """Take *token* for *lease* seconds, or learn who has it."""
        args = [by, int(lease * 1000), self._ttl_ms]
        state, holder, fence, again = await self._store.run(self._claim, [self._token(token)], args)
        return Claim(state, holder, int(fence), bool(again))

    async def close(self, token: str, claim: Claim, state: Literal["spent", "burnt"]) -> bool:
        """Mark *token* spent or burnt; False when a later lease has taken over."""
        args = [claim.by, claim.fence, state, self._ttl_ms]
        return bool(await self._store.run(self._close, [self._token(token)], args))

    async def release(self, token: str, claim: Claim) -> None:
        """Give *token* back unspent."""
        await self._store.run(self._close, [self._token(token)], [claim.by, claim.fence, "free", self._ttl_ms])

    @asynccontextmanager
    async def writing(self, object_id: str | None, *, lease: float) -> AsyncIterator[None]:
        """Be the only writer of *object_id* in the fleet; the lock is renewed while the block runs.

        An endpoint that is asked for two writes of one object at once holds the second for 20 s and then refuses it
        (`lock_timeout`); waiting here costs nothing.
        """
        if object_id is None:
            yield
            return
        key, by, lease_ms = (
            self._store.key("writing", self._platform, object_id),
            secrets.token_hex(8),
            int(lease * 1000),
        )
        pause = 0.02
        while not await self._store.run(self._hold, [key], [by, lease_ms]):
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.25)
        renewing = asyncio.create_task(self._renew(key, by, lease), name="tokenferry-writing")
        try:
            yield
        finally:
            renewing.cancel()
            with suppress(asyncio.CancelledError):
                await renewing
            await self._store.run(self._let_go, [key], [by])

    async def _renew(self, key: str, by: str, lease: float) -> None:
        while True:
            await asyncio.sleep(lease / 3)
            await self._store.run(self._hold, [key], [by, int(lease * 1000)])

    def _token(self, token: str) -> str:
        return self._store.key("token", self._platform, token)
