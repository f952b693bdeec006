"""Ending a task that runs beside other work."""

from __future__ import annotations

import asyncio

import pytest

from tokenferry_worker.cancelling import cancel_and_wait

pytestmark = pytest.mark.anyio


class Tidy:
    """A task that needs a moment to end once it is cancelled."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.may_end = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
            await self.may_end.wait()
            if self.error is not None:
                raise self.error


async def started(error: Exception | None = None) -> Tidy:
    tidy = Tidy(error)
    await asyncio.sleep(0)
    return tidy


async def test_it_returns_when_the_task_has_ended() -> None:
    tidy = await started()
    ending = asyncio.create_task(cancel_and_wait(tidy.task))
    await tidy.cancelled.wait()
    assert not ending.done()
    tidy.may_end.set()
    await ending
    assert tidy.task.cancelled()


async def test_what_the_task_raises_is_raised_to_who_ends_it() -> None:
    tidy = await started(ZeroDivisionError())
    tidy.may_end.set()
    with pytest.raises(ZeroDivisionError):
        await cancel_and_wait(tidy.task)
    with pytest.raises(ZeroDivisionError):
        await cancel_and_wait(tidy.task)  # it had ended before


async def test_a_task_that_has_ended_well_is_no_error() -> None:
    task = asyncio.create_task(asyncio.sleep(0))
    await task
    await cancel_and_wait(task)


async def test_a_second_cancellation_meets_the_caller_and_is_not_taken_for_the_tasks_own() -> None:
    tidy = await started()
    went_on = []

    async def outer() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await cancel_and_wait(tidy.task)
            went_on.append("as if nothing had been said")

    caller = asyncio.create_task(outer())
    await asyncio.sleep(0)
    caller.cancel()
    await tidy.cancelled.wait()
    # In one turn of the loop the task ends and its caller is called off again.
    tidy.may_end.set()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert went_on == []
    await asyncio.wait([tidy.task])
