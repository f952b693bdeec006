"""An event loop whose clock jumps to the next timer: six hours pass in seconds. Nothing in it may be real."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from .standins import NOW

T = TypeVar("T")


class _Jumping(selectors.DefaultSelector):
    """Waits for nobody: the time that it was told to wait has passed at once."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nobody is ever woken again"
        self.passed += timeout
        return super().select(0)


class QuickLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes as fast as there is nothing to do."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.passed


class QuickWorld:
    """The clock on the wall beside such a loop, and dice that always show one half."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def now(self) -> float:
        return NOW + self._loop.time()

    def random(self) -> float:
        return 0.5

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def played(story: Coroutine[Any, Any, T]) -> T:
    """Play *story* to its end; what it returns."""
    with asyncio.Runner(loop_factory=QuickLoop) as runner:
        return runner.run(story)
