"""The journal: one final outcome per request or attach id, kept longer than any message can come back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

from tokenferry_worker.errors import Forgotten, Reused
from tokenferry_worker.limits.backpressure import Slot
from tokenferry_worker.metrics.names import TOKENS
from tokenferry_worker.metrics.registry import Meters, NoMeters
from tokenferry_worker.on_redis.birth import SHARED as BIRTH
from tokenferry_worker.on_redis.store import Script, Store
from tokenferry_worker.tokens.journal import Begun
from tokenferry_worker.tokens.ledger import TokenScope


class RedisJournal:
    """Implements `tokens.journal.Journal`."""

    def __init__(
        self, store: Store, subject: Literal["request", "attach"], *, days: float, meters: Meters | None = None
    ) -> None:
        """*subject*: `request` or `attach`. *days*: how long an entry outlives its last change."""
        self._meters = meters or NoMeters()
        self._store = store
        self._subject = subject
        self._ttl_ms = int(days * 86_400_000)
        self._begin = Script("begin", after=BIRTH)
        self._excuse = Script("excuse")
        self._record = Script("record")
        self._next_epoch = Script("next_epoch")
        self._reopen = Script("reopen")
        self._made = Script("made")
        self._anew = Script("anew")

    async def begin(self, id_: str, of: str = "") -> Begun:
        """Count a delivery of *id_* and return its entry. *of*: a digest of what the id stands for.

        Raises `Reused` where the id stands for something else.
        """
        keys = [self._key(id_), self._store.keys.born, self._store.keys.accepted]
        known = await self._store.run(self._begin, keys, [self._ttl_ms, of])
        if known is None:
            raise Reused
        deliveries, epoch, outcome, round_, born = known
        return Begun(deliveries, epoch, _of_round(outcome, round_) if outcome else None, born)

    async def uncount(self, id_: str) -> None:
        """Uncount a delivery of *id_* that its worker gave back by itself."""
        await self._store.run(self._excuse, [self._key(id_)], [self._ttl_ms])

    async def record(self, id_: str, outcome: str, *, ours: bool = False, leaving: Sequence[Slot] = ()) -> str:
        """Write *outcome* unless there is one, and return the one that counts. Release the slots in *leaving*."""
        keys = [self._key(id_), *(self._store.keys.ahead(slot.name) for slot in leaving)]
        known = await self._store.run(self._record, keys, [outcome, self._ttl_ms, id_, int(ours)])
        if known is None:
            raise Forgotten
        return _of_round(*known)

    async def record_token(self, id_: str, outcome: str, token: str, scope: TokenScope, *, at: int) -> str:
        """Do as `record`, for an outcome with a *token*, and add the token to the ledger in the same step.

        *at*: when the token was created, in Unix milliseconds.
        """
        keys = [self._key(id_), self._store.keys.token(token)]
        args = [outcome, self._ttl_ms, scope.platform, scope.mode, scope.account, scope.kind, at]
        counts, round_ = await self._store.run(self._made, keys, args)
        if counts == outcome:
            self._meters.count(TOKENS, scope.platform, "available")
        return _of_round(counts, round_)

    async def retokenize(self, id_: str, token: str, places: Sequence[Slot]) -> bool:
        """Let request *id_* create another token, if it has created *token*, and that expired before any call.

        Asked again it returns the same and changes nothing. Returns False where the token is not expired.
        """
        keys = self._store.keys
        names = [keys.journal("request", id_), keys.journal("attach", id_), keys.token(token)]
        names += [keys.ahead(slot.name) for slot in places]
        return bool(await self._store.run(self._anew, names, [token, id_, self._ttl_ms]))

    async def next_epoch(self, id_: str, after: int) -> int:
        """Begin a new epoch of the idempotency key after *after*, and return the current one."""
        return int(await self._store.run(self._next_epoch, [self._key(id_)], [after, self._ttl_ms]))

    async def reopen(self, id_: str, *, told: int) -> Literal["open", "done"]:
        """Let *id_* start again, if its failure was ours. Return `done` where the outcome came from Stripe.

        *told*: outcomes that the requester is known to have got, for a journal that has forgotten the entry.
        """
        state: Literal["open", "done"] = await self._store.run(self._reopen, [self._key(id_)], [told, self._ttl_ms])
        return state

    def _key(self, id_: str) -> str:
        return self._store.keys.journal(self._subject, id_)


def _of_round(outcome: str, round_: int) -> str:
    """Return the outcome with the outcome id of its round. A reader that knows the last one takes this one too.

    >>> _of_round('{"outcome_id": "req-1:token"}', 2)
    '{"outcome_id": "req-1:token:2"}'
    """
    if round_ == 1:
        return outcome
    result = json.loads(outcome)
    return json.dumps({**result, "outcome_id": f"{result['outcome_id']}:{round_}"})
