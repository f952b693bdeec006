"""The circuits of the whole fleet, on the store's clock."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final, Literal

from tokenferry_worker.circuits.scopes import Circuit, CircuitSnapshot
from tokenferry_worker.on_redis.store import Script, Store

DAY_MS: Final = 86_400_000
KEPT_MS: Final = 7 * DAY_MS
PARKED_KEPT_MS: Final = 90 * DAY_MS
"""Longer than any request may live: a forgotten queue of parked messages would never be emptied."""


class RedisCircuits:
    """Implements `circuits.breaker.CircuitStore`."""

    def __init__(
        self, store: Store, *, first: float = 5.0, longest: float = 60.0, lasts: float = 60.0, others: float = 3.0
    ) -> None:
        """Seconds: the pause before the *first* probe, the *longest* pause, and how long one probe *lasts* at most.

        *others*: how long a due probe is kept for a request that has not been tried yet, and then as long again for
        any request but the last prober. It is longer than two looks of a breaker, so that every process knows that
        the probe is due.
        """
        self._store = store
        times = (first, longest, lasts, others)
        self._first, self._longest, self._lasts, self._others = (int(seconds * 1000) for seconds in times)
        self._open_set, self._parked_hash = store.keys.open_circuits, store.keys.parked
        self._open, self._ask, self._again, self._close, self._look, self._force, self._parked = (
            Script(f"circuit_{name}", after=("foreign", "circuit"))
            for name in ("open", "ask", "again", "close", "look", "force", "parked")
        )
        self._hold = Script("hold")

    async def open(self, scope: str, status: int, code: str, request_id: str) -> bool:
        """Open the circuit. Return True to the one caller that opened it."""
        args = [scope, status, code, request_id, secrets.token_hex(8), self._first, KEPT_MS]
        return bool(await self._store.run(self._open, [self._key(scope), self._open_set], args))

    async def admit(
        self, scopes: Sequence[str], by: str = "", *, tried: bool = False
    ) -> Literal["closed", "open", "probe"]:
        """Return whether a call may be made. `probe`: only this one."""
        admission: Literal["closed", "open", "probe"] = await self._store.run(
            self._ask, [self._key(scope) for scope in scopes], [self._lasts, by, int(tried), self._others]
        )
        return admission

    async def end_probe(self, scope: str, *, failed: bool, by: str = "") -> None:
        """End a probe that has not closed the circuit."""
        args = [int(failed), self._first, self._longest, KEPT_MS, by]
        await self._store.run(self._again, [self._key(scope), self._open_set], args)

    async def close(self, scope: str) -> float | None:
        """Close the circuit. Return the seconds it was open to the first caller, None to the others."""
        lasted = int(await self._store.run(self._close, [self._key(scope), self._open_set], [scope]))
        return None if lasted < 0 else lasted / 1000

    async def snapshot(self) -> CircuitSnapshot:
        """Return all open circuits, and the number of parked messages by scope."""
        prefix = self._store.keys.circuit("")
        open_, parked, odd = await self._store.run(self._look, [self._open_set, self._parked_hash], [prefix])
        circuits = {
            scope: Circuit(scope, int(status), code, id_, int(opened) / 1000, int(probes), int(due_in) / 1000)
            for scope, status, code, id_, opened, probes, due_in in open_
        }
        return CircuitSnapshot(circuits, dict(zip(parked[::2], map(int, parked[1::2]), strict=True)), odd)

    async def count_parked(self, scope: str) -> None:
        """Count one more parked message of *scope*."""
        await self._store.run(self._parked, [self._parked_hash], [scope, "", PARKED_KEPT_MS])

    async def forget_parked(self, scope: str, count: int) -> None:
        """Forget *scope*, whose queue was found empty after *count* parked messages, unless more came since."""
        await self._store.run(self._parked, [self._parked_hash], [scope, count, PARKED_KEPT_MS])

    async def try_lead(self, scope: str, by: str, *, lease: float) -> bool:
        """Take or keep the lead in a duty of the fleet, for *lease* seconds."""
        key = self._store.keys.circuit_duty(scope)
        return bool(await self._store.run(self._hold, [key], [by, int(lease * 1000)]))

    async def force(self, scope: str) -> bool:
        """Let the next call probe at once. Where the circuit is not open, have its queue emptied and return False."""
        keys = [self._key(scope), self._parked_hash]
        return bool(await self._store.run(self._force, keys, [scope, PARKED_KEPT_MS]))

    def _key(self, scope: str) -> str:
        return self._store.keys.circuit(scope)
