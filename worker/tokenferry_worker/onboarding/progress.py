"""What is recorded of the steps of an onboarding, and what follows for the next try. Ids and codes only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from pydantic import StringConstraints

from tokenferry.contract.codes import DOUBTFUL, Code
from tokenferry.contract.message import Message
from tokenferry.contract.names import EndpointId
from tokenferry.contract.results import Failure, StepResult
from tokenferry_worker.tokens.results import failure

Status = Literal["begun", "done", "refused", "stopped"]
"""`refused`: Stripe refused the content. `stopped`: failed for another reason, and certainly without effect. A step
that may have had its effect stays `begun`: the next message repeats its calls under the same keys, whatever its
document says.
"""


class StepRecord(Message):
    """What is known of a step. Ids and codes only."""

    status: Status
    round: int = 0
    """Generation of the step's id. A later message tries a refused or stopped step in a new round, under new keys. So
    does the same message, where Stripe has stored a 500 for the old keys.
    """
    message: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}(:[0-9]{1,7})?$")]
    """The request id of the message that wrote this: the record is about that message's document. A later generation of
    it follows the colon.
    """
    at: int
    """Unix milliseconds. Of a begun step: when its token was made, or when its call began."""
    token: EndpointId | None = None
    stored_id: EndpointId | None = None
    """Id of the card or bank account inside the token. By this id one finds out whether the token was spent."""
    epoch: int = 0
    object_id: EndpointId | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Unverified:
    """A record that no worker wrote, or that was changed: nothing is known of the step."""


Known = StepRecord | Unverified


class OnboardingStore(Protocol):
    """The records of all onboardings, as JSON."""

    async def records(self, platform: str, onboarding_id: str) -> dict[str, str | None]:
        """Return the records by step name. None: the record was not written by a worker."""
        ...

    async def record(self, platform: str, onboarding_id: str, step: str, entry: str) -> str:
        """Write a record unless the step is done already. Return the one that counts."""
        ...


@dataclass(frozen=True)
class StepRecords:
    """Reads and writes the records of steps."""

    store: OnboardingStore

    async def read(self, namespace: str, onboarding_id: str) -> dict[str, Known]:
        """Return what is known, by step name."""
        known = await self.store.records(namespace, onboarding_id)
        return {
            step: Unverified() if record is None else StepRecord.model_validate_json(record)
            for step, record in known.items()
        }

    async def write(self, namespace: str, onboarding_id: str, step: str, record: StepRecord) -> StepRecord:
        """Write *record* unless the step is done already. Return the record that counts."""
        written = record.model_dump_json(exclude_none=True)
        counts = await self.store.record(namespace, onboarding_id, step, written)
        return record if counts == written else StepRecord.model_validate_json(counts)


@dataclass(frozen=True)
class Resumption:
    """How to go on with a step that is not finished."""

    round: int
    known: StepRecord | None
    """What earlier tries of this round have left behind."""


def resume(known: StepRecord | None, message: str, *, with_token: bool) -> Resumption | None:
    """Decide how *message* goes on with a step. None: what is *known* is the result.

    *with_token*: this message's document wants a token to be spent for the step.
    """
    if known is None:
        return Resumption(0, None)
    mine = known.message == message
    match known.status:
        case "done":
            return None
        case "begun" if with_token is not (known.token is not None):
            # Begun the other way, with a token or without one. Only the document that began it can find out.
            return None
        case "begun":
            return Resumption(known.round, known)
        case "refused" if mine:
            return None
        case "stopped" if mine and not is_stored(known.failure):
            return Resumption(known.round, known)
        case "refused" | "stopped":
            return Resumption(known.round + 1, None)


def as_known(step: str, known: Known | None, message: str) -> StepResult:
    """The result of a step as far as it is *known*, for *message*."""
    if known is None:
        return StepResult(step=step, status="not_begun")
    if isinstance(known, Unverified):
        return StepResult(step=step, status="unknown", failure=failure(Code.OUTCOME_UNKNOWN, None, 0))
    match known.status:
        case "done":
            return StepResult(step=step, status="done", object_id=known.object_id, earlier=known.message != message)
        case "begun":
            return StepResult(step=step, status="unknown", failure=failure(Code.OUTCOME_UNKNOWN, None, 0))
        case "refused" | "stopped":
            return StepResult(step=step, status="failed", failure=known.failure)


def is_final(why: Failure) -> bool:
    """True if Stripe itself has refused the content: only another content can succeed.

    >>> is_final(Failure(code="account_number_invalid", source="endpoint", status=400))
    True
    >>> is_final(Failure(code="attempts_exhausted", source="tokenferry", status=503))
    False
    """
    return why.code not in DOUBTFUL and (why.source == "endpoint" or why.code == Code.REFUSED)


def is_stored(why: Failure | None) -> bool:
    """True if a 500 was among the answers: Stripe stores it for its key."""
    return why is not None and any(attempt.status == 500 for attempt in why.history)
