"""What is refused because of its age: nothing is opened or called for it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.codes import Code
from tokenferry.contract.envelope import CommonHeader
from tokenferry.contract.envelope2 import Header2
from tokenferry.contract.lifetimes import Lifetimes
from tokenferry.contract.results import AttachResult, OnboardingResult, TokenResult
from tokenferry.contract.targets import MOVES_MONEY, AttachTarget
from tokenferry_worker.deliveries.recording import with_own_id
from tokenferry_worker.outcomes import DeadLettered, Dropped, Outcome, Settled
from tokenferry_worker.tokens.journal import Begun

log = logging.getLogger(__name__)

R = TypeVar("R", TokenResult, AttachResult, OnboardingResult)


@dataclass(frozen=True)
class LifetimeCheck:
    """Compares what a message says of its life with the store's clock and memory."""

    longest: Lifetimes
    now: Callable[[], float]
    """Unix seconds on the store's clock."""

    def allows(self, header: CommonHeader | Header2) -> bool:
        """True if a sealed message may be carried out."""
        return self.longest.allow(header, self.now())

    def allows_order(self, order: AttachRequest) -> bool:
        """True if an order may be carried out."""
        return self.longest.allow_order(order, self.now())


def lifetime_refused(refusal: R, signature: bytes, reply_to: str | None, *, keep: bool = True) -> Outcome:
    """Return the outcome of a message that never began: the journal is not touched.

    *keep*: True if the message may be kept.
    """
    settled = Settled(with_own_id(refusal, hashlib.sha256(signature).hexdigest()[:12]), reply_to)
    log.warning(
        "%s: its lifetime is not valid (see `tokenferry dead-letters`, [store] journal_days)", refusal.outcome_id
    )
    return DeadLettered(settled, Code.INVALID_LIFETIME) if keep else Dropped(settled)


def store_is_younger(id_: str, target: AttachTarget, issued_at: int, begun: Begun) -> bool:
    """True if the call moves money and the store began after the message was issued: it may have been done before.

    *issued_at*: Unix milliseconds.
    """
    if target.to not in MOVES_MONEY or issued_at >= begun.born:
        return False
    log.error(
        "%s: moves money and is older than the store, which cannot say whether it was done; refused. If the store is "
        "new on purpose: `tokenferry store accept`, then redrive",
        id_,
    )
    return True
