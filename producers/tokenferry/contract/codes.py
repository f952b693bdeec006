"""Failure codes of our own: what may be said about a failure that the endpoint did not name.

The endpoint's own codes (`card_declined`, `account_number_invalid`, ...) travel unchanged beside these, told
apart by `Failure.source`. New endpoint codes appear without notice, so nothing anywhere lists those.
"""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """One word a program can branch on; the comment is what a person should do."""

    EXPIRED = "expired"  # the request's own deadline passed before a token was made: send it again if still wanted
    ATTEMPTS_EXHAUSTED = (
        "attempts_exhausted"  # this call failed again and again, others did not: look there, then redrive
    )
    DELIVERIES_EXHAUSTED = (
        "deliveries_exhausted"  # workers died on it again and again: look at the workers, then redrive
    )
    REFUSED = "refused"  # the endpoint said no without a code: look the request id up in its dashboard
    V1_ACCOUNTS_REFUSED = "v1_accounts_refused"  # Stripe sends this platform to Accounts v2: ask its support for v1
    # These four are of a circuit only: its requests wait, and go on by themselves.
    RAW_CARD_DATA_REFUSED = "raw_card_data_refused"  # the account may not send card numbers: ask the provider
    UNAUTHORIZED = "unauthorized"  # the key is wrong, expired or lacks a permission: mend it
    NO_ANSWER = "no_answer"  # the endpoint answers nobody, or with 5xx only: its requests wait until it does
    NOT_THE_ENDPOINT = "not_the_endpoint"  # something else answers: correct base_url, or the proxy
    ACCOUNT_REFUSES = "account_refuses"  # 403 for the account in the path: it takes no such call, or the key may not
    PUBLISHABLE_KEY_MISSING = "publishable_key_missing"  # live account and person tokens need it: configure it, redrive
    UNKNOWN_PLATFORM = "unknown_platform"  # no worker has this platform in its configuration
    UNOPENABLE = "unopenable"  # no private key here opens it: retired key, or sealed for another fleet
    WRONG_KIND = "wrong_kind"  # this kind of token cannot be spent on this target
    WRONG_OPTIONS = "wrong_options"  # the target's options do not fit: one it must be told is missing, or one too many
    ATTACH_ID_REUSED = "attach_id_reused"  # another order has this attach id: take a new one
    REQUEST_ID_REUSED = "request_id_reused"  # another request has this request id: take a new one
    WRONG_SCOPE = "wrong_scope"  # the endpoint made the token in another mode than [platforms.NAME] says
    TOKEN_OF_ANOTHER_PLATFORM = "token_of_another_platform"  # it was made on another platform: name that one
    TOKEN_OF_ANOTHER_MODE = "token_of_another_mode"  # it was made in the other mode, test or live
    TOKEN_OF_ANOTHER_ACCOUNT = "token_of_another_account"  # made for another connected account, or for none: name it
    TOKEN_OF_ANOTHER_KIND = "token_of_another_kind"  # the order says it is of another kind than it is
    TOKEN_EXPIRED = "token_expired"  # it waited longer than a token may: tokenize again
    TOKEN_SPENT = "token_spent"  # another attach spent it: `spent_by` says which, `spent_on` on what
    TOKEN_IN_DOUBT = "token_in_doubt"  # another attach, `spent_by`, may have spent it: let it end, or tokenize again
    OUTCOME_UNKNOWN = "outcome_unknown"  # the call may have had its effect: look at the target before trying again
