"""A delivery that crashes comes again, perhaps to a newer worker, but not for ever: on Redis nobody else counts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tokenferry.contract.codes import Code
from tokenferry.contract.results import AttachResult, OnboardingResult, TokenResult
from tokenferry_worker.circuits.scopes import Park
from tokenferry_worker.errors import Forgotten
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
    """What *work* comes to. Where it crashes after more than *most* deliveries, the message is set aside.

    Then nobody is told: there may be an outcome that we cannot read, written by a newer version for instance, and
    another one must not be said. *keep*: whether the message may be kept.
    """
    try:
        return await work
    except Forgotten:
        raise
    except Exception as error:
        if begun.deliveries <= most:
            raise
        untold = Settled(given_up(), None)
        # Only the type: the text of an unforeseen error could hold anything.
        log.error("%s: crashed too often (%s); given up on", untold.result.outcome_id, type(error).__name__)
        return DeadLettered(untold, Code.DELIVERIES_EXHAUSTED) if keep else Dropped(untold)


@asynccontextmanager
async def uncounted_if_called_off(journal: Journal, id_: str) -> AsyncIterator[None]:
    """Work that may be called off: when the worker stops or a circuit is open, that is no sign of poison."""
    try:
        yield
    except (asyncio.CancelledError, Park):
        await journal.uncount(id_)
        raise
