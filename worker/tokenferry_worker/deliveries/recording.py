"""Recording an outcome. What the journal has is what counts, and it goes to the queue as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from tokenferry.contract.results import AttachResult, OnboardingResult, TokenResult
from tokenferry_worker.tokens.journal import Journal

R = TypeVar("R", TokenResult, AttachResult, OnboardingResult)


@dataclass(frozen=True)
class Recorded(Generic[R]):
    """The outcome that counts."""

    result: R
    body: str
    """The same as JSON, as the journal has it."""


def to_json(result: TokenResult | AttachResult | OnboardingResult) -> str:
    """Return *result* as the requester reads it."""
    return result.model_dump_json(exclude_none=True)


def to_record(result: TokenResult | AttachResult | OnboardingResult) -> str:
    """Return *result* as the journal keeps it: as in version 1, so that workers of the version before read it.

    What version 2 adds is known from the message that asks, except for the id of Stripe's answer.
    """
    if not isinstance(result, AttachResult):
        return to_json(result)
    return result.model_dump_json(exclude_none=True, exclude={"endpoint_request_id"})


def what_counts(result: R, offered: str, recorded: str) -> Recorded[R]:
    """Return what the journal has *recorded* when it was offered *result*. *offered* is the JSON of that.

    Mostly they are the same, and nothing is parsed.
    """
    return Recorded(result if recorded == offered else type(result).model_validate_json(recorded), recorded)


async def record_refusal(journal: Journal, id_: str, of: str, refusal: R) -> Recorded[R]:
    """Record *refusal* of a message whose id stands for something else. Its outcome gets an id of its own.

    *of*: digest of what the id stands for in this message.
    """
    own = f"{id_}:{of[:12]}"
    outcome_id = own + refusal.outcome_id.removeprefix(id_)
    refusal = refusal.model_copy(update={"outcome_id": outcome_id})
    offered = to_record(refusal)
    return what_counts(refusal, offered, await journal.record(own, offered))
