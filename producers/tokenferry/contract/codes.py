"""Failure codes of our own: what may be said about a failure that the endpoint did not name.

The endpoint's own codes (`card_declined`, `account_number_invalid`, ...) travel unchanged beside these, told
apart by `Failure.source`. New endpoint codes appear without notice, so nothing anywhere lists those.
"""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """One word a program can branch on; the comment is what a person should do."""

    EXPIRED = "expired"  # the request's own deadline passed before a token was made: send it again if still wanted
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"  # the endpoint stayed unreachable or failing: look there, then redrive
    DELIVERIES_EXHAUSTED = (
        "deliveries_exhausted"  # workers died on it again and again: look at the workers, then redrive
    )
    REFUSED = "refused"  # the endpoint said no without a code: look the request id up in its dashboard
    RAW_CARD_DATA_REFUSED = (
        "raw_card_data_refused"  # the account may not send card numbers: ask the provider for access
    )
    UNAUTHORIZED = "unauthorized"  # the key is wrong, expired or lacks a permission: mend the key, then redrive
    PUBLISHABLE_KEY_MISSING = "publishable_key_missing"  # live account and person tokens need it: configure it, redrive
    UNKNOWN_PLATFORM = "unknown_platform"  # no worker has this platform in its configuration
    UNOPENABLE = "unopenable"  # no private key here opens it: retired key, or sealed for another fleet
    WRONG_KIND = "wrong_kind"  # this kind of token cannot be spent on this target
    WRONG_SCOPE = "wrong_scope"  # the token belongs to another platform, mode or connected account
    TOKEN_EXPIRED = "token_expired"  # it waited longer than a token may: tokenize again
    TOKEN_SPENT = "token_spent"  # another attach spent it: `spent_by` says which
    OUTCOME_UNKNOWN = "outcome_unknown"  # the call may have had its effect: look at the target before trying again
