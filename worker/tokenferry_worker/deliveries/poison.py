"""A delivery that crashes comes again, perhaps to a newer worker, but not for ever. On Redis only we count it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tokenferry.contract.codes import Code
from tokenferry.contract.results import AttachResult, OnboardingResult, TokenResult
from tokenferry_worker.circuits.scopes import Park
from tokenferry_worker.errors import Forgotten, NotGranted, Reused
from tokenferry_worker.outcomes import DeadLettered, Dropped, Outcome, Settled
from tokenferry_worker.tokens.journal import Begun, Journal

log = logging.getLogger(__name__)


async def unless_poison(
    work: Awaitable[Outcome],
    begun: Begun,
    most: int,
    given_up: Callable[[], TokenResult | AttachResult | OnboardingResult],
    *,
    keep: bool = True,
) -> Outcome:
    """Return the outcome of *work*. Where it crashes after more than *most* deliveries, the message is set aside.

    Then no result is published. There may be an outcome that we cannot read, from a newer version for instance, and
    the requester must not get a second one. *keep*: True if the message may be kept.
    """
    try:
        return await work
    except Forgotten:
        raise
    except Exception as error:
        if begun.deliveries <= most:
            raise
        unpublished = Settled(given_up(), None)
        # Only the type: the text of an unforeseen error could hold anything.
        log.error("%s: crashed too often (%s); given up on", unpublished.result.outcome_id, type(error).__name__)
        return DeadLettered(unpublished, Code.DELIVERIES_EXHAUSTED) if keep else Dropped(unpublished)


@asynccontextmanager
async def uncounted_if_called_off(journal: Journal, id_: str) -> AsyncIterator[None]:
    """Uncount the delivery if its work is cancelled, parked or refused: none of them is a sign of poison."""
    try:
        yield
    except (asyncio.CancelledError, Park, NotGranted, Reused):
        await journal.uncount(id_)
        raise
