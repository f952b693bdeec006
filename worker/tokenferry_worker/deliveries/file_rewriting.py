"""Lets the embedded server forget verification codes: its append-only file is rewritten soon after the last of them."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tokenferry_worker.circuits.breaker import CircuitStore

log = logging.getLogger(__name__)

AFTER: Final = 240.0
"""Seconds between a delivery of the realtime lane and the rewrite: a code is gone from the file within five minutes."""
EVERY: Final = 10.0
"""Seconds between two looks."""
DUTY: Final = "rewrite-files"
"""The name of this duty. In the fleet, one process at a time does it."""


@dataclass
class FileRewriter:
    """Rewrites for this process."""

    circuits: CircuitStore
    taken: Callable[[], int]
    """How many deliveries came by a queue that may carry a verification code."""
    rewrite: Callable[[], None]
    """Begins a rewrite. Blocks its thread."""
    after: float = AFTER
    every: float = EVERY
    name: str = field(default_factory=lambda: secrets.token_hex(8))

    async def run(self) -> None:
        """Rewrite after each time in which such deliveries came, for ever. Once for those before the start, too."""
        now = asyncio.get_running_loop().time
        rewritten_at_count, due_at = -1, float("inf")
        while True:
            await asyncio.sleep(self.every)
            taken = self.taken()
            if taken == rewritten_at_count:
                continue
            due_at = min(due_at, now() + self.after)
            if now() < due_at:
                continue
            try:
                if await self.circuits.try_lead(DUTY, self.name, lease=self.every):
                    await asyncio.to_thread(self.rewrite)
                rewritten_at_count, due_at = taken, float("inf")
            except Exception as error:
                log.warning(
                    "the files of the embedded server were not rewritten (%s); trying again", type(error).__name__
                )
