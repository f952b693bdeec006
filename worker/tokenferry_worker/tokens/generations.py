"""Which outcomes let the next generation of an id begin: those that provably left nothing behind. Pure.

Where anything may be there, the answer is no. So a failure that is not named here does not count.
"""

from __future__ import annotations

from typing import Final

from pydantic import ValidationError

from tokenferry.contract.codes import DOUBTFUL, Code
from tokenferry.contract.results import AttachResult, Failure, OnboardingResult, TokenResult, parse_result

LEFT_NOTHING: Final = frozenset(
    {
        Code.EXPIRED,
        Code.TOKEN_EXPIRED,
        Code.REFUSED,
        Code.V1_ACCOUNTS_REFUSED,
        Code.ACCOUNT_REFUSES,
        Code.PUBLISHABLE_KEY_MISSING,
        Code.UNKNOWN_PLATFORM,
        Code.UNOPENABLE,
        Code.CVC_NOT_DECLARED,
        Code.WRONG_KIND,
        Code.WRONG_OPTIONS,
    }
)
"""Failures of ours before anything was made. Not `store_is_younger`: an earlier store may know more. Not
`attempts_exhausted`, nor anything else that a lookup has decided."""


def is_token(outcome: str) -> bool:
    """True if a recorded outcome (JSON of a result) is a token: then what the token was made for decides.

    >>> is_token('{"type": "token", "outcome_id": "req-1:token", "request_id": "req-1", "kind": "card", "platform":'
    ...          '"main", "settled_at": 1, "token": "tok_1"}'), is_token("unreadable")
    (True, False)
    """
    result = _read(outcome)
    return isinstance(result, TokenResult) and result.token is not None


def left_nothing(outcome: str) -> bool:
    """True if a recorded outcome (JSON of a result) says that nothing was made. False where it cannot be read."""
    match _read(outcome):
        case OnboardingResult(failure=Failure() as failure, steps=steps):
            untouched = all(step.status in ("failed", "not_begun") for step in steps)
            failures = [failure, *(step.failure for step in steps if step.status == "failed")]
            return untouched and all(map(_made_nothing, failures))
        case AttachResult(failure=Failure() as failure, object_id=None) | TokenResult(failure=Failure() as failure):
            return _made_nothing(failure)
        case _:
            return False


def _read(outcome: str) -> TokenResult | AttachResult | OnboardingResult | None:
    try:
        return parse_result(outcome)
    except ValidationError:
        return None


def _made_nothing(failure: Failure | None) -> bool:
    if failure is None:
        return False
    return failure.code not in DOUBTFUL if failure.source == "endpoint" else failure.code in LEFT_NOTHING
