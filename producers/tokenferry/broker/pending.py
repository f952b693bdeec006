"""A message that waits for its confirmation, and the callers that wait for it."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from tokenferry.broker.error_text import refused_message
from tokenferry.broker.errors import PublishError, PublishTimeout, StillQueued
from tokenferry.broker.outgoing import Outgoing

PAUSE: Final = 0.05
"""Seconds before a second try; doubled with every further one, up to `MOST_PAUSE`."""
MOST_PAUSE: Final = 1.0
GRACE: Final = 0.5
"""Seconds by which a future may end after its deadline."""


def pause(tries: int) -> float:
    """Seconds before the next try."""
    return min(PAUSE * 2.0 ** min(tries, 10), MOST_PAUSE)


@dataclass(eq=False)
class PendingPublish:
    """One message of a publisher: its deadline, its tries, and the answers."""

    message: Outgoing
    deadline: float
    future: Future[None]
    begun: bool = False
    """Whether the caller can no longer cancel it."""
    tries: int = 0
    answered: int = 0
    """Tries that the broker answered, each with a refusal."""
    not_before: float = 0.0
    refusal: Exception | None = None
    """The broker's answer to the last try, if it refused it."""

    def begin(self) -> bool:
        """Start: the caller can no longer cancel it. False if it was cancelled or given up."""
        if not self.begun:
            self.begun = self.future.set_running_or_notify_cancel()
        return self.begun and not self.future.done()

    def begin_try(self) -> None:
        """Note that it is sent now. Until there is an answer, the broker may have it."""
        self.tries += 1
        self.refusal = None

    def refused(self, answer: Exception) -> None:
        """Note that the broker refused it. It is tried again after a pause."""
        self.answered += 1
        self.put_off(answer, pause(self.tries))

    def put_off(self, why: Exception, seconds: float) -> None:
        """Try again after *seconds* at the earliest."""
        self.refusal = why
        self.not_before = time.monotonic() + seconds

    @property
    def maybe_sent(self) -> bool:
        """Whether a try got no answer, so that the broker may have the message."""
        return self.tries > self.answered

    def give_up(self, trouble: PublishError | None) -> None:
        """Fail with the broker's answer to this message, else with the *trouble* of the connection."""
        maybe_sent = self.maybe_sent
        if self.refusal is not None:
            error = refused_message(self.refusal, maybe_sent=maybe_sent)
        elif trouble is not None:
            error = type(trouble)(str(trouble), maybe_sent=maybe_sent)
        else:
            error = StillQueued("the message could not be sent in time: others were before it", maybe_sent=maybe_sent)
        self.future.set_exception(error)


def wait(future: Future[None], timeout: float) -> None:
    """Wait for a future of `Publisher.submit` for *timeout* seconds and a moment of grace.

    Raises the `PublishError` it ended with, or `PublishTimeout` when it has not ended.
    """
    try:
        future.result(max(0.0, timeout + GRACE))
    except TimeoutError:
        sent = not future.cancel()
        raise PublishTimeout("the broker did not answer in time", maybe_sent=sent) from None


async def wait_async(future: Future[None], timeout: float) -> None:
    """The same for asyncio. A task that is cancelled takes back what was not yet being sent."""
    try:
        await asyncio.wait_for(asyncio.wrap_future(future), timeout + GRACE)
    except TimeoutError:
        raise PublishTimeout("the broker did not answer in time", maybe_sent=not future.cancelled()) from None
