"""The latest attempts of every request that did not succeed at its first call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from tokenferry_worker.on_redis.store import Script, Store
from tokenferry_worker.provider.noted import NotedAttempt

MOST: Final = 10
"""Attempts that are kept of one request: the latest."""


class RedisAttempts:
    """Implements `provider.noted.AttemptNotes`."""

    def __init__(self, store: Store, *, days: float = 7.0) -> None:
        """*days*: how long they are kept after the latest: as long as the journal."""
        self._store = store
        self._ttl_ms = int(days * 86_400_000)
        self._note = Script("attempt_note")
        self._look = Script("history")

    async def note(self, id_: str, attempt: NotedAttempt) -> None:
        """Remember *attempt* of *id_*. While the store is away it is forgotten."""
        line = json.dumps(asdict(attempt))
        await self._store.run_unless_away(self._note, [self._store.keys.attempts(id_)], [line, MOST, self._ttl_ms])

    async def of(self, id_: str) -> Sequence[NotedAttempt]:
        """Return the attempts of *id_*, oldest first."""
        lines: list[str] = await self._store.run(self._look, [self._store.keys.attempts(id_)], [MOST])
        return [NotedAttempt(**json.loads(line)) for line in lines]
