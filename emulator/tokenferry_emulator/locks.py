"""One write at a time on one object. A write that waits too long is answered `lock_timeout`.

Writes on real Connect objects held the connection for 21 to 23 seconds before that answer; no rate limit reason
comes with it, and `Stripe-Should-Retry` is true.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tokenferry_emulator.errors import Refusal, invalid


@dataclass(slots=True)
class _Lock:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    writers: int = 0


class Locks:
    """Locks by object id. Each exists only while a call writes."""

    def __init__(self) -> None:
        self._locks: dict[str, _Lock] = {}
        self.writers_peak = 0

    @asynccontextmanager
    async def held(self, object_id: str, timeout: float) -> AsyncIterator[None]:
        """Hold the object's lock; *timeout* in seconds."""
        entry = self._locks.setdefault(object_id, _Lock())
        entry.writers += 1
        self.writers_peak = max(self.writers_peak, entry.writers)
        try:
            if entry.lock.locked():
                try:
                    await asyncio.wait_for(entry.lock.acquire(), timeout)
                except TimeoutError:
                    raise lock_timeout() from None
            else:
                await entry.lock.acquire()
            try:
                yield
            finally:
                entry.lock.release()
        finally:
            entry.writers -= 1
            if not entry.writers:
                self._locks.pop(object_id, None)


def lock_timeout() -> Refusal:
    message = (
        "This object cannot be accessed right now because another API request or Stripe process is currently accessing "
        "it. If you see this error intermittently, retry the request. If you see this error frequently and are making "
        "multiple concurrent requests to a single object, make your requests serially or at a lower rate. For more "
        "details, see https://stripe.com/docs/rate-limits#object-lock-timeouts."
    )
    return invalid(message, status=429, code="lock_timeout", headers=((b"stripe-should-retry", b"true"),))
