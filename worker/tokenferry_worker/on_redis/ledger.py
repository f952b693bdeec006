"""The ledger: who may spend a token, who spent it, and who writes to an object right now."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tokenferry_worker.cancelling import cancel_and_wait
from tokenferry_worker.on_redis.store import Script, Store
from tokenferry_worker.tokens.ledger import Became, Claim, TokenScope
from tokenferry_worker.tokens.lifecycle import Ending


@dataclass
class Kept:
    """Implements `tokens.ledger.Hold`."""

    renew: Callable[[], Awaitable[bool]] = field(repr=False)

    async def holds(self) -> bool:
        """Ask the store, and renew the claim."""
        return await self.renew()


class RedisLedger:
    """Implements `tokens.ledger.Ledger`. Tokens are known by their id alone; locks belong to one platform."""

    def __init__(self, store: Store, platform: str, *, days: float) -> None:
        """*days*: how long a token is remembered."""
        self._store = store
        self._platform = platform
        self._ttl_ms = int(days * 86_400_000)
        self._claim = Script("claim")
        self._renew = Script("renew")
        self._close = Script("close")
        self._hold = Script("hold")
        self._let_go = Script("let_go")

    async def claim(
        self,
        token: str,
        by: str,
        *,
        lease: float,
        scope: TokenScope | None = None,
        lost: int | None = None,
        journaled: bool = False,
    ) -> Claim:
        """Take *token* for *lease* seconds, or learn who has it, or that it is not of *scope*.

        *lost*: fence of the claim that this delivery had. *journaled*: whether the order has an entry in the journal.
        """
        args = [by, int(lease * 1000), self._ttl_ms, "" if lost is None else lost]
        if scope is not None:
            args += [scope.platform, scope.mode, scope.account, scope.kind, scope.also or scope.account]
        answer = await self._store.run(self._claim, self._keys(token, by if journaled else None), args)
        state, holder, fence, again, object_id, object_type, stored_id, made, told = answer
        return Claim(
            state,
            holder,
            int(fence),
            again in (1, 2),
            Became(object_id, object_type, stored_id or None) if object_id else None,
            used_by_unknown=again == 2,
            unknown_to_ledger=again == 3,
            made_at=int(made) if made else None,
            settled_outcome=told or None,
        )

    @asynccontextmanager
    async def keeping(self, token: str, claim: Claim, *, lease: float) -> AsyncIterator[Kept]:
        """Renew *claim* while the block runs, whatever it waits for."""
        args = [claim.by, claim.fence, int(lease * 1000), self._ttl_ms]

        async def renew() -> bool:
            # A store that is away has given it to nobody.
            return await self._store.run_unless_away(self._renew, self._keys(token), args) != 0

        async with _repeating(renew, every=lease / 3, name="tokenferry-lease"):
            yield Kept(renew)

    async def close(
        self,
        token: str,
        claim: Claim,
        state: Ending,
        became: Became | None = None,
        *,
        elsewhere: bool = False,
        outcome: str | None = None,
        ours: bool = False,
    ) -> bool:
        """Leave *token* in *state*, and *outcome* in the journal; False, and neither, when a later lease took over."""
        object_ = (became.object_id, became.object_type, became.stored_id or "") if became else ("", "", "")
        args = [claim.by, claim.fence, state, self._ttl_ms, "" if elsewhere else claim.by, *object_]
        keys = self._keys(token, claim.by if outcome is not None else None)
        return bool(await self._store.run(self._close, keys, [*args, outcome or "", int(ours)]))

    @asynccontextmanager
    async def writing(self, object_id: str | None, *, lease: float) -> AsyncIterator[None]:
        """Be the only writer of *object_id* in the fleet; the lock is renewed while the block runs.

        An endpoint that is asked for two writes of one object at once holds the second for 20 s and then refuses it
        (`lock_timeout`); waiting here costs nothing.
        """
        if object_id is None:
            yield
            return
        key, by = self._store.keys.writing(self._platform, object_id), secrets.token_hex(8)

        async def hold() -> bool:
            return bool(await self._store.run(self._hold, [key], [by, int(lease * 1000)]))

        async def renew() -> bool:
            await hold()
            return True

        pause = 0.02
        while not await hold():
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.25)
        try:
            async with _repeating(renew, every=lease / 3, name="tokenferry-writing"):
                yield
        finally:
            await self._store.run(self._let_go, [key], [by])

    def _keys(self, token: str, order: str | None = None) -> list[str]:
        keys = self._store.keys
        return [keys.token(token), *([] if order is None else [keys.journal("attach", order)])]


@asynccontextmanager
async def _repeating(step: Callable[[], Awaitable[bool]], *, every: float, name: str) -> AsyncIterator[None]:
    """Take *step* every so many seconds while the block runs, until it says False."""

    async def repeat() -> None:
        await asyncio.sleep(every)
        while await step():
            await asyncio.sleep(every)

    task = asyncio.create_task(repeat(), name=name)
    try:
        yield
    finally:
        await cancel_and_wait(task)
