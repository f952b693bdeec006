"""What an answer has from the message that asks: its version, whatever version began the id; and lane and trace."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.envelope2 import RequestHeader
from tokenferry.contract.onboarding import DocumentHeader
from tokenferry.contract.results import AttachResult, OnboardingResult
from tokenferry_worker.limits.waits import Waits
from tokenferry_worker.outcomes import DeadLettered, Dropped, Outcome, Parked, Settled


async def answer(
    work: Awaitable[Outcome], asker: RequestHeader | DocumentHeader | AttachRequest, waits: Waits
) -> Outcome:
    """Return the outcome of *work* in the version of *asker*. Meanwhile *waits* knows whose work it is."""
    with waits.of(asker):
        outcome = await work
    if isinstance(outcome, Parked):
        waits.note_parked(outcome.scope, asker)
    return answered(outcome, asker)


def answered(outcome: Outcome, asker: RequestHeader | DocumentHeader | AttachRequest) -> Outcome:
    """Return *outcome* as it is told to *asker*: with its lane and trace, and what version 2 adds if it asks so.

    A body that the journal has is one of version 1, and goes to askers of version 1 byte by byte.
    """
    match outcome:
        case Settled():
            return _told(outcome, asker)
        case DeadLettered(settled) | Dropped(settled):
            return replace(outcome, settled=_told(settled, asker))
        case _:
            return outcome


def _told(settled: Settled, asker: RequestHeader | DocumentHeader | AttachRequest) -> Settled:
    lane = None if isinstance(settled.result, OnboardingResult) else asker.lane
    settled = replace(settled, lane=lane, trace=asker.traceparent)
    return settled if asker.answer_version == 1 else _in_version_2(settled, asker)


def _in_version_2(settled: Settled, asker: RequestHeader | DocumentHeader | AttachRequest) -> Settled:
    added: dict[str, Any] = {"group": asker.group, "generation": asker.generation, "batch": asker.batch}
    if isinstance(settled.result, AttachResult) and isinstance(asker, AttachRequest):
        added["display"] = asker.display
    return replace(settled, result=settled.result.model_copy(update=added), recorded=None)
