"""How long a message may live: never longer than the store remembers what became of it (docs/formats.md).

A message that outlives the memory of its outcome would be carried out a second time when it comes again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.envelope import CommonHeader
from tokenferry.contract.envelope2 import Header2
from tokenferry.contract.onboarding import OnboardingHeader

DAY: Final = 86_400.0
AHEAD: Final = 300.0
"""Seconds that a producer's clock may be ahead of the store's."""
WITH_CVC: Final = 120.0
"""Seconds that a request with a card verification code may live."""


def longest_life(journal_days: float) -> float:
    """Return the seconds that a request may live: the journal's memory less one day, or half of a short memory.

    >>> longest_life(7) / DAY, longest_life(2) / DAY, longest_life(1) / DAY
    (6.0, 1.0, 0.5)
    """
    return DAY * (journal_days - 1 if journal_days >= 2 else journal_days / 2)


@dataclass(frozen=True)
class Lifetimes:
    """The longest lives, in seconds."""

    request: float
    onboarding: float

    @classmethod
    def remembered(cls, *, journal_days: float, onboarding_days: float) -> Self:
        """Return what the settings of the store allow."""
        return cls(longest_life(journal_days), onboarding_days * DAY)

    def allow(self, header: CommonHeader | Header2, now: float) -> bool:
        """True if a message with this header may be carried out. *now*: Unix seconds on the store's clock."""
        is_document = isinstance(header, OnboardingHeader) or getattr(header, "kind", None) == "onboarding"
        longest = self.onboarding if is_document else self.request
        if getattr(header, "cvc", False):  # version 1 does not say so in clear
            longest = min(longest, WITH_CVC)
        return header.expires_at > header.issued_at and _fits(header.issued_at, header.expires_at, longest, now)

    def allow_order(self, order: AttachRequest, now: float) -> bool:
        """True if this order may be carried out.

        Its end may lie before its beginning: a call may return the token after the request's own deadline. Such an
        order is too late, which its own code says.
        """
        return _fits(order.token_created_at, order.attach_before, self.request, now)


def _fits(begins: int, ends: int, longest: float, now: float) -> bool:
    """True if it begins (Unix milliseconds) at most `AHEAD` from *now*, and lasts at most *longest* seconds."""
    return begins <= (now + AHEAD) * 1000 and ends - begins <= longest * 1000
