"""Time and randomness as constructor arguments, so that tests can set both."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time, sleeps, and makes random numbers."""

    def now(self) -> float:
        """Unix seconds."""
        ...

    def random(self) -> float:
        """A random number in [0, 1)."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The clock of this machine, and real random numbers."""

    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    def random(self) -> float:
        """A random number in [0, 1)."""
        return random.random()

    async def sleep(self, seconds: float) -> None:
        """Sleep for *seconds*, and let other tasks run."""
        await asyncio.sleep(seconds)
