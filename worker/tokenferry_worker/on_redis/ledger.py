"""The ledger in the store: who may spend a token, who spent it, and who writes to an object right now."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from tokenferry_worker.cancelling import cancel_and_wait
from tokenferry_worker.metrics.names import TOKENS
from tokenferry_worker.metrics.registry import Meters, NoMeters
from tokenferry_worker.on_redis.store import Script, Store
from tokenferry_worker.tokens.ledger import (
    Became,
    Burnt,
    Claim,
    Expired,
    Granted,
    HasOutcome,
    Held,
    InDoubt,
    Lease,
    Misfit,
    Past,
    Spent,
    TokenScope,
)
from tokenferry_worker.tokens.lifecycle import Ending

PASTS: Final[tuple[Past, ...]] = ("untried", "held", "used", "unrecorded")
"""What `claim.lua` returns as `past`, by its number."""


@dataclass(frozen=True)
class RenewedLease:
    """Implements `tokens.ledger.Hold`."""

    renew: Callable[[], Awaitable[bool]] = field(repr=False)

    async def holds(self) -> bool:
        """Ask the store, and renew the lease."""
        return await self.renew()


class RedisLedger:
    """Implements `tokens.ledger.Ledger`. Tokens are known by their id alone. Write locks belong to one platform."""

    def __init__(self, store: Store, platform: str, *, days: float, meters: Meters | None = None) -> None:
        """*days*: how long the ledger remembers a token."""
        self._meters = meters or NoMeters()
        self._store = store
        self._platform = platform
        self._ttl_ms = int(days * 86_400_000)
        self._claim = Script("claim")
        self._renew = Script("renew")
        self._close = Script("close")
        self._hold = Script("hold")
        self._let_go = Script("let_go")
        self._note = Script("object_note")

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
        """Take *token* for *lease* seconds, or learn why not.

        *lost*: fence of the lease that this delivery has lost. *journaled*: the order has an entry in the journal.
        """
        args = [by, int(lease * 1000), self._ttl_ms, "" if lost is None else lost]
        if scope is not None:
            args += [scope.platform, scope.mode, scope.account, scope.kind, scope.also or scope.account]
        return _claim(await self._store.run(self._claim, self._keys(token, by if journaled else None), args))

    @asynccontextmanager
    async def keeping(self, token: str, lease: Lease, *, seconds: float) -> AsyncIterator[RenewedLease]:
        """Renew *lease*, for *seconds* each time, while the block runs."""
        args = [lease.by, lease.fence, int(seconds * 1000), self._ttl_ms]

        async def renew() -> bool:
            # While the store is away it gives the token to nobody else.
            return await self._store.run_unless_away(self._renew, self._keys(token), args) != 0

        async with _repeating(renew, every=seconds / 3, name="tokenferry-lease"):
            yield RenewedLease(renew)

    async def close(
        self,
        token: str,
        lease: Lease,
        state: Ending,
        became: Became | None = None,
        *,
        used_by_unknown: bool = False,
        outcome: str | None = None,
        ours: bool = False,
    ) -> bool:
        """Leave *token* in *state*, and *outcome* in the journal. False, and neither, where a later lease took over."""
        object_ = (became.object_id, became.object_type, became.stored_id or "") if became else ("", "", "")
        args = [lease.by, lease.fence, state, self._ttl_ms, "" if used_by_unknown else lease.by, *object_]
        keys = self._keys(token, lease.by if outcome is not None else None)
        closing = self._store.run(self._close, keys, [*args, outcome or "", int(ours)])
        if became is None:
            closed = bool(await closing)
        else:  # in the same round trip
            note = self._store.run(self._note, [self._store.keys.object(became.object_id)], [token, self._ttl_ms])
            closed = bool((await asyncio.gather(closing, note))[0])
        if closed:
            self._meters.count(TOKENS, self._platform, state)
        return closed

    @asynccontextmanager
    async def writing(self, object_id: str | None, *, lease: float) -> AsyncIterator[None]:
        """Be the only writer of *object_id* in the fleet. The lock is renewed while the block runs.

        Of two writes to one object at once, Stripe makes the second wait for 20 s and then refuses it (`lock_timeout`).
        Waiting here costs nothing.
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
    """Run *step* every so many seconds while the block runs, until it returns False."""

    async def repeat() -> None:
        await asyncio.sleep(every)
        while await step():
            await asyncio.sleep(every)

    task = asyncio.create_task(repeat(), name=name)
    try:
        yield
    finally:
        await cancel_and_wait(task)


def _claim(answer: Sequence[Any]) -> Claim:
    """Read the answer of `claim.lua`."""
    state, who, fence, past, object_id, object_type, stored_id, made_at, outcome = answer
    match state:
        case "granted":
            return Granted(who, int(fence), PASTS[past], int(made_at) if made_at else None)
        case "held":
            return Held(who)
        case "spent":
            became = Became(object_id, object_type, stored_id or None) if object_id else None
            return Spent(who, int(fence), became)
        case "burnt":
            return Burnt(who, int(fence), recorded=PASTS[past] != "unrecorded")
        case "expired":
            return Expired(who)
        case "unknown":
            return InDoubt(who)
        case "misfit":
            return Misfit(who)
        case "told":
            return HasOutcome(outcome)
        case _:
            raise ValueError(f"claim.lua: unknown state {state}")
