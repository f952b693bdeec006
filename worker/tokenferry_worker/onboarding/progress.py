"""What is known of the steps of an onboarding: ids and codes, and what they say about trying again."""

from __future__ import annotations

from typing import Literal, Protocol

from tokenferry.contract.codes import DOUBTFUL, Code
from tokenferry.contract.message import Message
from tokenferry.contract.names import EndpointId, Id
from tokenferry.contract.results import Failure, StepResult
from tokenferry_worker.tokens.results import failure

Status = Literal["begun", "done", "refused", "stopped"]
"""`refused`: by the endpoint, for good. `stopped`: for another reason, and for sure without effect. A step that may
have had its effect stays `begun`: whoever comes next asks under the same keys, whatever its document says.
"""


class StepRecord(Message):
    """What is known of a step. Ids and codes only."""

    status: Status
    round: int = 0
    """Generation of its id: a later message tries a refused or stopped step anew, under new keys; so does its own where
    the endpoint has kept a 500 for the old ones.
    """
    message: Id
    """The request id of the message that wrote this: what is known comes from its document."""
    at: int
    """Unix milliseconds: of a begun step, when its token was made or its call begun."""
    token: EndpointId | None = None
    stored_id: EndpointId | None = None
    """Id of the card or bank account inside the token: by it the spender finds out whether the token was spent."""
    epoch: int = 0
    object_id: EndpointId | None = None
    failure: Failure | None = None


class OnboardingStore(Protocol):
    """How far every onboarding is."""

    async def records(self, platform: str, onboarding_id: str) -> dict[str, str]:
        """Entries as JSON, by step name."""
        ...

    async def record(self, platform: str, onboarding_id: str, step: str, entry: str) -> str:
        """Write an entry unless the step is done already; returns the one that counts."""
        ...


def as_known(step: str, known: StepRecord | None, message: str) -> StepResult:
    """What became of a step as far as it is *known*, for whoever asks with *message*."""
    if known is None:
        return StepResult(step=step, status="not_begun")
    match known.status:
        case "done":
            return StepResult(step=step, status="done", object_id=known.object_id, earlier=known.message != message)
        case "begun":
            return StepResult(step=step, status="unknown", failure=failure(Code.OUTCOME_UNKNOWN, None, 0))
        case "refused" | "stopped":
            return StepResult(step=step, status="failed", failure=known.failure)


def is_final(why: Failure) -> bool:
    """Whether the endpoint itself has refused the content: only another content can do better.

    >>> is_final(Failure(code="account_number_invalid", source="endpoint", status=400))
    True
    >>> is_final(Failure(code="attempts_exhausted", source="tokenferry", status=503))
    False
    """
    return why.code not in DOUBTFUL and (why.source == "endpoint" or why.code == Code.REFUSED)


def is_stored(why: Failure | None) -> bool:
    """Whether a 500 was among the answers: the endpoint keeps it for its key."""
    return why is not None and any(attempt.status == 500 for attempt in why.history)
