"""The one way to end a background task."""

from __future__ import annotations

import asyncio
from typing import Any


async def cancel_and_wait(task: asyncio.Task[Any]) -> None:
    """Cancel *task* and return when it has ended.

    Raises the error of the task, unless that is its cancellation. Where the caller itself is cancelled meanwhile, that
    cancellation is raised. `suppress(CancelledError)` around `await task` would swallow it, because it cannot tell the
    two apart.
    """
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error
