"""The published table of retries: which answer gets which reaction. Code, test and documentation share it.

Pure. Rows are tried from the top, and the first that fits decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Reaction(Enum):
    """The one right reaction to an answer."""

    DONE = "done"
    SAME_KEY = "repeat with the same key after a pause"
    PACE = "repeat with the same key; the whole fleet slows down; counts as no attempt"
    REJECT = "tell the requester; the same call would be answered the same"
    BLOCK = "keep the request, tell the operator: account or key need a cure"


@dataclass(frozen=True)
class RetryRule:
    """One row: statuses, error type (None: any), error code (None: any, '': absent), and what follows."""

    status: range
    reaction: Reaction
    because: str
    error_type: str | None = None
    code: str | None = None
    where_limited: Reaction | None = None
    """What follows instead where the answer has a header `Stripe-Rate-Limited-Reason`."""


def _only(status: int) -> range:
    return range(status, status + 1)


TABLE: Final[tuple[RetryRule, ...]] = (
    RetryRule(range(200, 300), Reaction.DONE, "a well-formed object of the kind asked for; anything else is SAME_KEY"),
    RetryRule(range(300, 400), Reaction.BLOCK, "the endpoint never redirects: base_url is wrong"),
    RetryRule(_only(400), Reaction.SAME_KEY, "another call is spending this token now", code="token_in_use"),
    RetryRule(_only(400), Reaction.REJECT, "bad parameter, used or unknown token, key reused with other parameters"),
    RetryRule(_only(401), Reaction.BLOCK, "wrong, expired or missing key"),
    RetryRule(_only(402), Reaction.REJECT, "the card or account was refused", error_type="card_error"),
    RetryRule(_only(402), Reaction.BLOCK, "the account may not send card numbers", "invalid_request_error", ""),
    RetryRule(_only(402), Reaction.REJECT, "refused"),
    RetryRule(_only(403), Reaction.BLOCK, "the key lacks a permission"),
    RetryRule(_only(404), Reaction.REJECT, "no such object"),
    RetryRule(_only(409), Reaction.SAME_KEY, "the first call with this key is still under way"),
    RetryRule(_only(424), Reaction.SAME_KEY, "something behind the endpoint failed"),
    RetryRule(_only(429), Reaction.PACE, "too many calls; this one was not executed", code="rate_limit"),
    RetryRule(_only(429), Reaction.SAME_KEY, "an object was locked by another write", code="lock_timeout"),
    RetryRule(
        _only(429),
        Reaction.SAME_KEY,
        "an object was locked by another write; with a rate-limit reason header: PACE",
        where_limited=Reaction.PACE,
    ),
    RetryRule(range(400, 500), Reaction.REJECT, "refused"),
    RetryRule(range(500, 600), Reaction.SAME_KEY, "nobody can say whether it took effect: only the same key is safe"),
)


def reaction(status: int, error_type: str | None, code: str | None, *, limited: bool = False) -> Reaction:
    """Return what to do about an answer of *status* with this error type and code.

    *limited*: the answer has a header `Stripe-Rate-Limited-Reason`.

    >>> reaction(402, "invalid_request_error", None).name, reaction(402, "card_error", "card_declined").name
    ('BLOCK', 'REJECT')
    >>> reaction(429, None, None).name, reaction(429, None, None, limited=True).name
    ('SAME_KEY', 'PACE')
    """
    for row in TABLE:
        if status not in row.status:
            continue
        if row.error_type is not None and row.error_type != error_type:
            continue
        if row.code is not None and row.code != (code or ""):
            continue
        return row.where_limited or row.reaction if limited else row.reaction
    return Reaction.SAME_KEY


def pause(attempt: int, *, dice: float, first: float = 0.5, longest: float = 30.0) -> float:
    """Return the seconds to wait after failed attempt number *attempt* (from 1).

    The bound doubles with each attempt, up to *longest*. The pause is a random part of its upper half: *dice* is a
    random number in [0, 1).

    >>> pause(1, dice=0.0), pause(3, dice=0.5), pause(99, dice=0.0)
    (0.25, 1.5, 15.0)
    """
    return min(longest, first * 2.0 ** min(attempt - 1, 20)) * (0.5 + dice / 2)
