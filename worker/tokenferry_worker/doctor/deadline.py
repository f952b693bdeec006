"""Runs a check that may hang in its own thread, and leaves it behind after its deadline."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Final

from tokenferry_worker.doctor.verdicts import Check, failed, reason

SECONDS: Final = 10.0
"""For one group of checks. Client libraries start their time-outs again for every step, so this is the real limit."""


async def within(
    seconds: float, name: str, subject: str, examination: Callable[[], Iterator[Check]], do: str
) -> list[Check]:
    """Return what *examination* found within *seconds*. If it did not finish, the failed check *name* is added.

    An exception becomes that failed check too, without its text: that may quote an address with a password.
    """
    found: list[Check] = []
    loop = asyncio.get_running_loop()
    finished: asyncio.Future[Exception | None] = loop.create_future()

    def finish(error: Exception | None) -> None:
        if not finished.done():
            finished.set_result(error)

    def run() -> None:
        trouble: Exception | None = None
        try:
            for check in examination():
                found.append(check)
        except Exception as error:
            trouble = error
        try:
            loop.call_soon_threadsafe(finish, trouble)
        except RuntimeError:  # too late: the loop is closed, and nobody waits
            pass

    threading.Thread(target=run, name=f"tokenferry-{name}", daemon=True).start()
    try:
        error = await asyncio.wait_for(finished, seconds)
    except TimeoutError:
        return [*found, failed(name, subject, f"was not finished within {seconds:g} s", do)]
    return [*found, failed(name, subject, reason(error), do)] if error else found
