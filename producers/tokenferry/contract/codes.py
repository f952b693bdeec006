"""Failure codes of our own, and what follows from a failure: one table for the whole distribution.

Stripe's own codes (`card_declined`, `account_number_invalid`, ...) travel unchanged beside ours. `Failure.source` tells
the two apart. New codes of Stripe appear without notice, so the table lists only those that something follows from.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal


class Code(StrEnum):
    """A failure that Stripe did not name. What it means and what to do: `FAILURES`."""

    EXPIRED = "expired"
    INVALID_LIFETIME = "invalid_lifetime"
    STORE_IS_YOUNGER = "store_is_younger"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    DELIVERIES_EXHAUSTED = "deliveries_exhausted"
    REFUSED = "refused"
    V1_ACCOUNTS_REFUSED = "v1_accounts_refused"
    RAW_CARD_DATA_REFUSED = "raw_card_data_refused"
    UNAUTHORIZED = "unauthorized"
    NO_ANSWER = "no_answer"
    NOT_THE_ENDPOINT = "not_the_endpoint"
    CERTIFICATE_NOT_TRUSTED = "certificate_not_trusted"
    ACCOUNT_REFUSES = "account_refuses"
    PUBLISHABLE_KEY_MISSING = "publishable_key_missing"
    UNKNOWN_PLATFORM = "unknown_platform"
    UNOPENABLE = "unopenable"
    NOT_GRANTED = "not_granted"
    CVC_NOT_DECLARED = "cvc_not_declared"
    WRONG_KIND = "wrong_kind"
    WRONG_OPTIONS = "wrong_options"
    ATTACH_ID_REUSED = "attach_id_reused"
    REQUEST_ID_REUSED = "request_id_reused"
    WRONG_SCOPE = "wrong_scope"
    TOKEN_OF_ANOTHER_PLATFORM = "token_of_another_platform"
    TOKEN_OF_ANOTHER_MODE = "token_of_another_mode"
    TOKEN_OF_ANOTHER_ACCOUNT = "token_of_another_account"
    TOKEN_OF_ANOTHER_KIND = "token_of_another_kind"
    TOKEN_EXPIRED = "token_expired"
    TOKEN_SPENT = "token_spent"
    TOKEN_IN_DOUBT = "token_in_doubt"
    OUTCOME_UNKNOWN = "outcome_unknown"


Effect = Literal["none", "perhaps", "of another call"]
"""Which effect may be there after a failure: none, that of this request, or that of another call with its token. The
other call may be an earlier one of ours."""


@dataclass(frozen=True)
class FailurePolicy:
    """What follows from one failure."""

    code: str
    because: str
    """What has happened, and what to do. The published text."""
    kept: bool = False
    """True if somebody can remove the cause: the message becomes a dead letter, to be redriven. After any other failure
    it is of no more use."""
    effect: Effect = "none"
    """Where it is not `none`, making another object is never safe: the first one may be there."""
    ours_perhaps: bool = False
    """True if Stripe may say so because of an earlier call of ours whose answer was lost."""


FAILURES: Final[tuple[FailurePolicy, ...]] = (
    FailurePolicy(
        Code.EXPIRED, "the request's deadline passed before a token was created: send it again if you still want it"
    ),
    FailurePolicy(
        Code.INVALID_LIFETIME,
        "it comes from the future, or lives longer than `[store] journal_days` less a day",
        kept=True,
    ),
    FailurePolicy(
        Code.STORE_IS_YOUNGER,
        "it moves money and is older than the store: `tokenferry store accept`, then redrive",
        kept=True,
    ),
    FailurePolicy(
        Code.ATTEMPTS_EXHAUSTED,
        "every attempt failed while Stripe answered others: see its logs there, then redrive",
        kept=True,
    ),
    FailurePolicy(
        Code.DELIVERIES_EXHAUSTED,
        "workers died on it again and again: look at the workers, then redrive",
        kept=True,
        effect="perhaps",
    ),
    FailurePolicy(Code.REFUSED, "Stripe refused it without a code: look up the request id in Stripe's dashboard"),
    FailurePolicy(
        Code.V1_ACCOUNTS_REFUSED, "Stripe sends this platform to Accounts v2: ask its support to allow v1 accounts"
    ),
    FailurePolicy(
        Code.ACCOUNT_REFUSES, "403 for the account in the path: it takes no such call, or the key may not", kept=True
    ),
    FailurePolicy(
        Code.PUBLISHABLE_KEY_MISSING, "live account and person tokens need it: configure it, then redrive", kept=True
    ),
    FailurePolicy(Code.UNKNOWN_PLATFORM, "no worker has this platform in its configuration", kept=True),
    FailurePolicy(
        Code.UNOPENABLE,
        "no private key here opens it (retired key, other fleet), or header and content disagree",
        kept=True,
    ),
    FailurePolicy(
        Code.NOT_GRANTED,
        "the policy lacks the line that `param` names: run `tokenferry signers grant`, then redrive",
        kept=True,
    ),
    FailurePolicy(
        Code.CVC_NOT_DECLARED, "a verification code is inside and the header does not say so: correct the producer"
    ),
    FailurePolicy(Code.WRONG_KIND, "this kind of token cannot be used for this target"),
    FailurePolicy(Code.WRONG_OPTIONS, "an option that the target needs is missing, or it has one too many"),
    FailurePolicy(Code.ATTACH_ID_REUSED, "another order has this attach id: take a new one"),
    FailurePolicy(Code.REQUEST_ID_REUSED, "another request has this id: take a new one, or the generation in `param`"),
    FailurePolicy(Code.WRONG_SCOPE, "Stripe made the token in another mode than `[platforms.NAME]` says"),
    FailurePolicy(Code.TOKEN_OF_ANOTHER_PLATFORM, "it was made on another platform: name that one"),
    FailurePolicy(Code.TOKEN_OF_ANOTHER_MODE, "it was made in the other mode, test or live"),
    FailurePolicy(Code.TOKEN_OF_ANOTHER_ACCOUNT, "it was made for another connected account, or for none: name it"),
    FailurePolicy(Code.TOKEN_OF_ANOTHER_KIND, "the order names another kind than the token has"),
    FailurePolicy(Code.TOKEN_EXPIRED, "the token is too old: tokenize again"),
    FailurePolicy(
        Code.TOKEN_SPENT,
        "another attach used it: `spent_by` is its id, `spent_on` is what the token became",
        effect="of another call",
    ),
    FailurePolicy(
        Code.TOKEN_IN_DOUBT,
        "another attach, `spent_by`, may have used it: wait for its result, or tokenize again",
        effect="of another call",
    ),
    FailurePolicy(
        Code.OUTCOME_UNKNOWN,
        "the call may have had its effect: look at the target before you try again",
        kept=True,
        effect="perhaps",
    ),
    # Of circuits only: the requests wait, and continue by themselves when the cause is corrected.
    FailurePolicy(Code.RAW_CARD_DATA_REFUSED, "the account may not send card numbers: ask Stripe for access"),
    FailurePolicy(Code.UNAUTHORIZED, "the key is wrong, expired or lacks a permission: correct it"),
    FailurePolicy(Code.NO_ANSWER, "Stripe does not answer, or only with 5xx"),
    FailurePolicy(
        Code.NOT_THE_ENDPOINT, "something other than Stripe answers at `base_url`: correct it, or the proxy before it"
    ),
    FailurePolicy(
        Code.CERTIFICATE_NOT_TRUSTED,
        "the certificate at `base_url` does not verify: somebody may stand between",
    ),
    # Of Stripe.
    FailurePolicy("token_in_use", "another call is using this token now", effect="of another call"),
    FailurePolicy("token_already_used", "a call has used this token", effect="of another call", ours_perhaps=True),
    FailurePolicy(
        "idempotency_error",
        "an earlier call with this idempotency key had other parameters",
        effect="of another call",
        ours_perhaps=True,
    ),
)
"""Every failure that something follows from. `docs/codes.md` shows this table, and a test compares the two."""

KEPT: Final = frozenset(failure.code for failure in FAILURES if failure.kept)
"""Codes of ours whose message becomes a dead letter."""
MAYBE_SPENT: Final = frozenset(failure.code for failure in FAILURES if failure.effect == "perhaps")
"""Codes after which the request itself may have taken effect. The same key finds out, however old the token is."""
DOUBTFUL: Final = frozenset(failure.code for failure in FAILURES if failure.effect != "none")
"""Codes after which an object may be there all the same: never a reason to make another one."""
REPEATED: Final = frozenset(failure.code for failure in FAILURES if failure.ours_perhaps)
"""Refusals that an earlier call of ours may be the reason for."""
