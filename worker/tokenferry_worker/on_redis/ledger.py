"""The ledger in the store: who may spend a token, who spent it, and who writes to an object right now."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple, cast

from tokenferry_worker.cancelling import cancel_and_wait
from tokenferry_worker.keys.state_tags import StateTags, untagged
from tokenferry_worker.metrics.names import TOKENS
from tokenferry_worker.metrics.registry import Meters, NoMeters
from tokenferry_worker.on_redis.entry import SHARED as ENTRY
from tokenferry_worker.on_redis.entry import OutcomeTag
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
    ScopePart,
    Spent,
    Superseded,
    TokenScope,
)
from tokenferry_worker.tokens.lifecycle import Ending

PASTS: Final[tuple[Past, ...]] = ("untried", "held", "used", "unrecorded", "unverified")
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

    def __init__(
        self, store: Store, platform: str, *, days: float, tags: StateTags | None = None, meters: Meters | None = None
    ) -> None:
        """*days*: how long the ledger remembers a token. *tags*: None: entries have none, and all are believed."""
        self._tags = tags or untagged()
        self._meters = meters or NoMeters()
        self._store = store
        self._platform = platform
        self._ttl_ms = int(days * 86_400_000)
        self._claim = Script("claim", after=ENTRY)
        self._distrust = Script("distrust")
        self._doubt = Script("doubt")
        self._renew = Script("renew")
        self._close = Script("close", after=ENTRY)
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
        generation: int = 1,
    ) -> Claim:
        """Take *token* for *lease* seconds, or learn why not.

        *lost*: fence of the lease that this delivery has lost. *journaled*: the order has an entry in the journal.
        """
        args = [by, int(lease * 1000), self._ttl_ms, "" if lost is None else lost, generation]
        if scope is not None:
            args += [scope.platform, scope.mode, scope.account, scope.kind, scope.also or scope.account]
        keys = self._keys(token, by if journaled else None)
        while True:
            answer = await self._store.run(self._claim, keys, args)
            row = LedgerRow(*answer[:ROW])
            if row.answer == "told" and await self._distrusted(keys[1], row.outcome, answer[ROW:]):
                continue
            if row.answer in ("told", "held", "superseded") or row.is_authentic(keys[0], self._tags):
                return _claim(row)
            self._tags.refuse(keys[0])
            await self._store.run(self._doubt, keys[:1], [row.made_tag, row.spent_tag, self._ttl_ms])

    async def _distrusted(self, name: str, outcome: str, more: Sequence[str]) -> bool:
        """True if no worker wrote the outcome of the order, which is deleted then."""
        tag, *facts = more
        if self._tags.is_authentic(tag, "journal", name, *facts, outcome):
            return False
        self._tags.refuse(name)
        await self._store.run(self._distrust, [name], [outcome, tag, self._ttl_ms])
        return True

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
        tags = self._spent_tags(keys[0], lease, object_) if became else ("", "")
        written = OutcomeTag(keys[-1], outcome or "", self._tags)
        while True:
            closing = self._store.run(self._close, keys, [*args, outcome or "", int(ours), *tags, *written.args()])
            if became is None:
                closed = await closing
            else:  # in the same round trip
                note = self._store.run(self._note, [self._store.keys.object(became.object_id)], [token, self._ttl_ms])
                closed, _ = await asyncio.gather(closing, note)
            if not written.has_learnt(closed):
                break
        if closed[0]:
            self._meters.count(TOKENS, self._platform, state)
        return bool(closed[0])

    def _spent_tags(self, name: str, lease: Lease, object_: tuple[str, str, str]) -> tuple[str, str]:
        """Return the tags of a spent token: with the record of its making, and where that is gone by now."""
        recorded = lease.recorded if isinstance(lease, Granted) else ()
        without = spent_tag(self._tags, name, NOT_RECORDED, lease.by, *object_)
        return (spent_tag(self._tags, name, recorded, lease.by, *object_) if recorded else without), without

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


NOT_RECORDED: Final = ("", "", "", "", "")
"""What the record of the making says where there is none."""


def made_tag(tags: StateTags, name: str, scope: TokenScope, made: str) -> str:
    """Return the tag of a token made here. *name*: its key in the store."""
    return tags.tag("token made", name, scope.platform, scope.mode, scope.account, scope.kind, made)


def spent_tag(tags: StateTags, name: str, recorded: Sequence[str], by: str, *became: str) -> str:
    """Return the tag of a spent token. *became*: id and type of the object, and what is stored."""
    return tags.tag("token spent", name, *recorded, by, *became)


ROW: Final = 17
"""Values in the answer of `claim.lua` that are about the token."""


class LedgerRow(NamedTuple):
    """The answer of `claim.lua`, and what the ledger has recorded of the token."""

    answer: str
    who: str
    fence: str
    past: int
    object_id: str
    object_type: str
    stored_id: str
    made: str
    outcome: str
    state: str
    by: str
    platform: str
    mode: str
    account: str
    kind: str
    made_tag: str
    spent_tag: str

    @property
    def recorded(self) -> tuple[str, ...]:
        """What the record says of the making."""
        return (self.platform, self.mode, self.account, self.kind, self.made)

    def is_authentic(self, name: str, tags: StateTags) -> bool:
        """True if a worker wrote what the record says. *name*: its key in the store."""
        recorded = self.recorded
        if (any(recorded) or self.made_tag) and not tags.is_authentic(self.made_tag, "token made", name, *recorded):
            return False
        became = (self.object_id, self.object_type, self.stored_id)
        if self.state == "spent":
            return tags.is_authentic(self.spent_tag, "token spent", name, *recorded, self.by, *became)
        # A token that was spent never becomes anything else.
        return not (any(became) or self.spent_tag) or tags.is_authentic("", "token spent", name)


def _claim(row: LedgerRow) -> Claim:
    """Return what the answer means."""
    who, fence, made_at, past = row.who, row.fence, row.made, row.past
    object_id, object_type, stored_id = row.object_id, row.object_type, row.stored_id
    match row.answer:
        case "granted":
            recorded = row.recorded if made_at else ()
            return Granted(who, int(fence), PASTS[past], int(made_at) if made_at else None, recorded)
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
            return Misfit(cast(ScopePart, who))
        case "superseded":
            return Superseded()
        case "told":
            return HasOutcome(row.outcome)
        case _:
            raise ValueError(f"claim.lua: unknown state {row.answer}")
