"""The version of an answer: that of the message that asks, whatever version began the id."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.envelope2 import RequestHeader
from tokenferry.contract.onboarding import DocumentHeader
from tokenferry.contract.results import AttachResult
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
    """Return *outcome* with what version 2 adds, where *asker* is of version 2. Else it stays as it is.

    A body that the journal has is one of version 1, and goes to askers of version 1 byte by byte.
    """
    if asker.version == 1:
        return outcome
    match outcome:
        case Settled():
            return _in_version_2(outcome, asker)
        case DeadLettered(settled) | Dropped(settled):
            return replace(outcome, settled=_in_version_2(settled, asker))
        case _:
            return outcome


def _in_version_2(settled: Settled, asker: RequestHeader | DocumentHeader | AttachRequest) -> Settled:
    added: dict[str, Any] = {"group": asker.group, "generation": asker.generation, "batch": asker.batch}
    if isinstance(settled.result, AttachResult) and isinstance(asker, AttachRequest):
        added["display"] = asker.display
    return Settled(settled.result.model_copy(update=added), settled.reply_to)
