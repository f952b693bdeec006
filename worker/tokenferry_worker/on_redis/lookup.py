"""Reads what the store knows of one request, token or object. It decides nothing and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenferry_worker.on_redis.attempts import RedisAttempts
from tokenferry_worker.on_redis.store import Script, Store
from tokenferry_worker.provider.noted import NotedAttempt


@dataclass(frozen=True)
class Entry:
    """What the journal has of one id."""

    deliveries: int = 0
    round: int = 1
    outcome: Mapping[str, Any] | None = None
    """The result as published. None: there is none yet."""


@dataclass(frozen=True)
class Known:
    """What the store knows of one id. An id of a request may be that of its attach order as well."""

    id: str
    request: Entry | None = None
    order: Entry | None = None
    attempts: Sequence[NotedAttempt] = ()
    token: str | None = None
    ledger: Mapping[str, str] = field(default_factory=dict)
    """The token in the ledger: state, by, object, type, ..."""

    def __bool__(self) -> bool:
        return bool(self.request or self.order or self.attempts or self.ledger)


class Lookup:
    """Reads by id, by token and by object."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read = Script("lookup")
        self._attempts = RedisAttempts(store)

    async def ids_of(self, what: str) -> Sequence[str]:
        """Return the ids of the request and the order that made or used *what*: a token, an object, or an id itself."""
        keys = self._store.keys
        token, object_ = await self._store.run(self._read, [keys.token(what), keys.object(what)], ["hash", "string"])
        if object_:
            (token,) = await self._store.run(self._read, [keys.token(object_[0])], ["hash"])
            what = str(object_[0])
        if not token:
            return [] if object_ else [what]
        held = _fields(token)
        found = [held[name] for name in ("request", "by") if held.get(name)]
        return list(dict.fromkeys(found))

    async def of(self, id_: str) -> Known:
        """Return what is known of one id."""
        keys = self._store.keys
        names = [keys.journal("request", id_), keys.journal("attach", id_)]
        request, order = map(_entry, await self._store.run(self._read, names, ["hash", "hash"]))
        outcomes = [each.outcome for each in (order, request) if each is not None and each.outcome is not None]
        token = next((str(each["token"]) for each in outcomes if each.get("token")), None)
        ledger: Mapping[str, str] = {}
        if token is not None:
            ledger = _fields(*await self._store.run(self._read, [keys.token(token)], ["hash"]))
        return Known(id_, request, order, await self._attempts.of(id_), token, ledger)


def _fields(flat: Sequence[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _entry(flat: Sequence[str]) -> Entry | None:
    if not flat:
        return None
    held = _fields(flat)
    try:
        outcome = json.loads(held["outcome"]) if "outcome" in held else None
    except ValueError:
        outcome = {}
    return Entry(
        int(held.get("deliveries", 0)),
        int(held.get("round", 1)),
        outcome if isinstance(outcome, dict) or outcome is None else {},
    )
