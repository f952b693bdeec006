"""Time and randomness, passed in so that tests need neither."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Protocol


class Clock(Protocol):
    """Time and dice, so that tests need neither."""

    def now(self) -> float:
        """Unix seconds."""
        ...

    def random(self) -> float:
        """A random number in [0, 1)."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The clock on the wall and fair dice."""

    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    def random(self) -> float:
        """A random number in [0, 1)."""
        return random.random()

    async def sleep(self, seconds: float) -> None:
        """Let others run for *seconds*."""
        await asyncio.sleep(seconds)
