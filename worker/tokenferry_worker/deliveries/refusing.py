"""What becomes of a message whose signer may not ask for it. The journal records nothing of it."""

from __future__ import annotations

import hashlib
import logging
from typing import TypeVar

from tokenferry.contract.codes import Code
from tokenferry.contract.results import AttachResult, OnboardingResult, TokenResult
from tokenferry_worker.deliveries.recording import with_own_id
from tokenferry_worker.errors import NotGranted
from tokenferry_worker.outcomes import DeadLettered, Dropped, Settled

log = logging.getLogger(__name__)

R = TypeVar("R", TokenResult, AttachResult, OnboardingResult)


def refused(
    result: R, missing: NotGranted, body: str, reply_to: str | None, *, keep: bool = True
) -> DeadLettered | Dropped:
    """Return the outcome of the message *body*. *result*: its failure. *keep*: True if the message may be kept.

    The id may be that of another signer's request, so the refusal gets an outcome id of its own. It is the same when
    the same message is refused again for the same reason.
    """
    assert result.failure is not None
    own = hashlib.sha256(f"{missing.line}|{body}".encode("utf-8", "surrogatepass")).hexdigest()[:12]
    failure = result.failure.model_copy(update={"param": missing.line})
    refusal = with_own_id(result, own).model_copy(update={"failure": failure})
    settled = Settled(refusal, reply_to if missing.may_tell else None)
    log.warning("%s: %s", result.outcome_id, missing)
    return DeadLettered(settled, Code.NOT_GRANTED) if keep else Dropped(settled)


def unopenable(
    result: R, signature: bytes, reply_to: str | None, *, code: str = Code.UNOPENABLE, keep: bool = True
) -> DeadLettered | Dropped:
    """Return the outcome of a message whose id has an outcome, and that nobody here can open.

    So nobody can say whether the recorded outcome is about it: that one is not told.
    """
    settled = Settled(with_own_id(result, hashlib.sha256(signature).hexdigest()[:12]), reply_to)
    log.warning("%s: does not open, so it cannot be compared with the first one", result.outcome_id)
    return DeadLettered(settled, code) if keep else Dropped(settled)
