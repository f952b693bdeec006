"""Recording an outcome. What the journal has is what counts, and it goes to the queue as it is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Generic, TypeVar

from tokenferry.contract.results import AttachResult, OnboardingResult, TokenResult
from tokenferry_worker.errors import Reused
from tokenferry_worker.keys.contents import differ
from tokenferry_worker.tokens.grouped_ids import GroupedId
from tokenferry_worker.tokens.journal import Begun, Journal

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


def with_own_id(result: R, own: str) -> R:
    """Return *result* with an outcome id of its own, so that it stands in the way of no other of the same id."""
    id_, _, subject = result.outcome_id.partition(":")
    return result.model_copy(update={"outcome_id": f"{id_}:{own}:{subject}"})


async def check_same(journal: Journal, name: GroupedId, begun: Begun, mark: str) -> None:
    """Raise `Reused` where the recorded outcome is about another content than the one with this *mark*."""
    if differ(mark, begun.content):
        raise Reused(await journal.next_generation(name.key, name.generation, begun.outcome or ""), mark=mark)


async def record_refusal(journal: Journal, name: GroupedId, of: str, refusal: R, reused: Reused) -> Recorded[R]:
    """Record *refusal* of a message whose id stands for something else. Its outcome gets an id of its own.

    *of*: digest of what the id stands for in this message.
    """
    assert refusal.failure is not None
    if reused.mark or name.generation > 1 or reused.next_generation is not None:  # else as in version 1
        of = hashlib.sha256(f"{of}|{name.generation}|{reused.mark}|{reused.param}".encode()).hexdigest()
    own = of[:12]
    failure = refusal.failure.model_copy(update={"param": reused.param})
    refusal = with_own_id(refusal, own).model_copy(update={"failure": failure})
    offered = to_record(refusal)
    # Three parts at least: no id in a group has as many.
    return what_counts(refusal, offered, await journal.record(f"{name.key}:reused:{own}", offered))
