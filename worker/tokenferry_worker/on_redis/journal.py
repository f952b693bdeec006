"""The journal: one final outcome per request or attach id, kept longer than any message can come back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, Literal

from tokenferry_worker.errors import Forgotten, Reused
from tokenferry_worker.keys.contents import differ
from tokenferry_worker.keys.state_tags import StateTags, untagged
from tokenferry_worker.limits.backpressure import Slot
from tokenferry_worker.metrics.names import TOKENS
from tokenferry_worker.metrics.registry import Meters, NoMeters
from tokenferry_worker.on_redis.birth import SHARED as BIRTH
from tokenferry_worker.on_redis.entry import FACTS, ExpectedFacts, OutcomeTag, Told
from tokenferry_worker.on_redis.entry import SHARED as ENTRY
from tokenferry_worker.on_redis.ledger import made_tag
from tokenferry_worker.on_redis.store import Script, Store
from tokenferry_worker.tokens.generations import is_token, left_nothing
from tokenferry_worker.tokens.journal import NOTHING, About, Begun
from tokenferry_worker.tokens.ledger import TokenScope

TOLD: Final = 4 + FACTS
"""Values of an outcome in the answer of a script."""


class RedisJournal:
    """Implements `tokens.journal.Journal`."""

    def __init__(
        self,
        store: Store,
        subject: Literal["request", "attach"],
        *,
        days: float,
        tags: StateTags | None = None,
        meters: Meters | None = None,
    ) -> None:
        """*subject*: `request` or `attach`. *days*: how long an entry outlives its last change.

        *tags*: None: entries have no tags, and all are believed.
        """
        self._tags = tags or untagged()
        self._meters = meters or NoMeters()
        self._expected = ExpectedFacts()
        self._store = store
        self._subject = subject
        self._ttl_ms = int(days * 86_400_000)
        self._begin = Script("begin", after=(*BIRTH, *ENTRY))
        self._excuse = Script("excuse")
        self._record = Script("record", after=ENTRY)
        self._next_epoch = Script("next_epoch")
        self._reopen = Script("reopen")
        self._made = Script("made", after=ENTRY)
        self._anew = Script("anew")
        self._again = Script("again")
        self._outcome = Script("outcome", after=ENTRY)
        self._distrust = Script("distrust")

    async def begin(self, id_: str, of: str = "", *, generation: int = 1) -> Begun:
        """Count a delivery of *id_* and return its entry. *of*: a digest of what the id stands for.

        Raises `Reused` where the id stands for something else, or another generation of it counts.
        """
        keys = [self._key(id_), self._store.keys.born, self._store.keys.accepted]
        while True:
            match await self._store.run(self._begin, keys, [self._ttl_ms, of, generation]):
                case [deliveries, epoch, born, doubted, *answer] if len(answer) == TOLD:
                    told = Told.of(answer)
                    if await self._is_authentic(id_, told):
                        self._expected.note(self._key(id_), told.facts)
                        outcome = _of_round(told.outcome, told.round) if told.outcome else None
                        return Begun(deliveries, epoch, outcome, born, told.content, doubted=bool(doubted))
                    await self.uncount(id_)  # it is counted once more
                case [recorded, *answer]:
                    told = Told.of(answer)
                    if not await self._is_authentic(id_, told):
                        raise Reused
                    if generation < recorded:
                        raise Reused(recorded)  # where the content is the same, that one has the outcome
                    following = await self.next_generation(id_, recorded, told.outcome)
                    if following != generation:
                        raise Reused(following)
                    await self._store.run(self._again, [self._key(id_)], [told.outcome, recorded, self._ttl_ms])

    async def _is_authentic(self, id_: str, told: Told) -> bool:
        """True if a worker wrote the outcome. Otherwise it is deleted, and the entry says so from then on."""
        name = self._key(id_)
        if told.is_authentic(name, self._tags):
            return True
        self._tags.refuse(name)
        await self._store.run(self._distrust, [name], [told.outcome, told.tag, self._ttl_ms])
        return False

    async def next_generation(self, id_: str, generation: int, outcome: str) -> int | None:
        """Return the generation that may begin *id_* again: the next one, if *outcome* has left nothing behind."""
        if outcome and self._subject == "request" and is_token(outcome):
            # What the token was made for decides.
            key = self._store.keys.journal("attach", id_)
            told = Told.of(await self._store.run(self._outcome, [key], []))
            if told.generation != generation or not told.is_authentic(key, self._tags):
                return None
            outcome = told.outcome
        return generation + 1 if outcome and left_nothing(outcome) else None

    async def uncount(self, id_: str) -> None:
        """Uncount a delivery of *id_* that its worker gave back by itself."""
        await self._store.run(self._excuse, [self._key(id_)], [self._ttl_ms])

    async def record(
        self,
        id_: str,
        outcome: str,
        *,
        about: About = NOTHING,
        ours: bool = False,
        leaving: Sequence[Slot] = (),
    ) -> str:
        """Write *outcome* unless there is one, and return the one that counts. Release the slots in *leaving*."""
        keys = [self._key(id_), *(self._store.keys.ahead(slot.name) for slot in leaving)]
        args = [outcome, self._ttl_ms, id_, int(ours), about.content, about.generation]
        known = await self._write(self._record, keys, args, self._tag_of(keys[0], outcome, about))
        if known is None:
            raise Forgotten
        return await self._counts(id_, about, known)

    def _tag_of(self, name: str, outcome: str, about: About) -> OutcomeTag:
        facts = self._expected.facts(name, content=about.content, generation=about.generation)
        return OutcomeTag(name, outcome, self._tags, facts)

    async def _write(self, script: Script, keys: list[str], args: list[Any], tag: OutcomeTag) -> Sequence[Any] | None:
        """Run a script that writes an outcome, until its tag covers what the entry says beside it."""
        while True:
            known: Sequence[Any] | None = await self._store.run(script, keys, [*args, *tag.args()])
            if tag.has_learnt(known):
                continue
            if not known or (told := Told.of(known)).is_authentic(tag.name, self._tags):
                return known
            self._tags.refuse(tag.name)
            tag.doubted = told.outcome

    async def record_token(
        self, id_: str, outcome: str, token: str, scope: TokenScope, *, at: int, about: About = NOTHING
    ) -> str:
        """Do as `record`, for an outcome with a *token*, and add the token to the ledger in the same step.

        *at*: when the token was created, in Unix milliseconds.
        """
        keys = [self._key(id_), self._store.keys.token(token)]
        args = [outcome, self._ttl_ms, scope.platform, scope.mode, scope.account, scope.kind, at]
        args += [about.content, about.generation, made_tag(self._tags, keys[1], scope, str(at))]
        known = await self._write(self._made, keys, args, self._tag_of(keys[0], outcome, about))
        assert known is not None
        counts = await self._counts(id_, about, known)
        if counts == outcome:
            self._meters.count(TOKENS, scope.platform, "available")
        return counts

    async def _counts(self, id_: str, about: About, known: Sequence[Any]) -> str:
        """Return the outcome that a script has found. Raises `Reused` where it is not about the same."""
        if not known:
            raise Reused
        told = Told.of(known)
        if differ(about.content, told.content):
            raise Reused(await self.next_generation(id_, about.generation, told.outcome), mark=about.content)
        return _of_round(told.outcome, told.round)

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

    async def reopen(self, id_: str, *, told: int, generation: int = 1) -> Literal["open", "done"]:
        """Let *id_* start again, if its failure was ours. Return `done` where the outcome came from Stripe.

        So it does where another generation counts. *told*: outcomes that the requester is known to have got, for a
        journal that has forgotten the entry.
        """
        args = [told, self._ttl_ms, generation]
        state: Literal["open", "done"] = await self._store.run(self._reopen, [self._key(id_)], args)
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
