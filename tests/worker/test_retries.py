"""The published table of retries, row by row, and the pauses between attempts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenferry_worker.provider.retries import TABLE, Reaction, RetryRule, pause, reaction

INVALID = "invalid_request_error"
CARD = "card_error"
DONE, SAME_KEY, PACE, REJECT, BLOCK = Reaction

EXPECTED: list[tuple[int, str | None, str | None, Reaction]] = [
    (200, None, None, DONE),
    (302, None, None, BLOCK),
    # 400: bad parameters, keys and tokens
    *(
        (400, INVALID, code, REJECT)
        for code in [
            "parameter_missing",
            "parameter_unknown",
            "parameter_invalid_empty",
            "parameter_invalid_integer",
            "parameter_invalid_string_blank",
            "parameter_invalid_string_empty",
            "parameters_exclusive",
            "account_number_invalid",
            "routing_number_invalid",
            "bank_account_unusable",
            "country_unsupported",
            "invalid_characters",
            "postal_code_invalid",
            "tax_id_invalid",
            "email_invalid",
            "token_card_network_invalid",
            "token_already_used",
            "resource_missing",
            "livemode_mismatch",
            "bank_account_exists",
            "invalid_card_type",
            "customer_max_payment_methods",
            "validation_error",
            "bank_account_verification_failed",
            "account_token_required_for_v2_account",
            "testmode_charges_only",
            "a_code_of_next_year",
        ]
    ),
    (400, INVALID, None, REJECT),
    (400, "idempotency_error", None, REJECT),
    (400, INVALID, "token_in_use", SAME_KEY),
    # 401 and 403: the key
    *((401, INVALID, code, BLOCK) for code in ("api_key_expired", "secret_key_required", "platform_api_key_expired")),
    (401, INVALID, None, BLOCK),
    (403, INVALID, "account_invalid", BLOCK),
    (403, INVALID, None, BLOCK),
    # 402: the card, or the account's leave to send one
    *(
        (402, CARD, code, REJECT)
        for code in [
            "incorrect_number",
            "invalid_number",
            "invalid_expiry_month",
            "invalid_expiry_year",
            "invalid_cvc",
            "incorrect_cvc",
            "expired_card",
            "card_declined",
            "processing_error",
            "incorrect_zip",
            "incorrect_address",
        ]
    ),
    (402, CARD, None, REJECT),
    (402, INVALID, None, BLOCK),
    (402, INVALID, "a_code_of_next_year", REJECT),
    (404, INVALID, "resource_missing", REJECT),
    (404, INVALID, None, REJECT),
    (409, "idempotency_error", "idempotency_key_in_use", SAME_KEY),
    (424, "api_error", None, SAME_KEY),
    (429, INVALID, "rate_limit", PACE),
    (429, INVALID, None, SAME_KEY),
    (429, INVALID, "lock_timeout", SAME_KEY),
    (418, INVALID, None, REJECT),
    *((status, "api_error", None, SAME_KEY) for status in (500, 502, 503, 504, 599)),
    (500, None, None, SAME_KEY),
]


def the_row(status: int, error_type: str | None, code: str | None) -> RetryRule:
    """What the table says by its own description: the first row whose every condition holds."""
    return next(
        row
        for row in TABLE
        if status in row.status
        and row.error_type in (None, error_type)
        and (row.code is None or row.code == (code or ""))
    )


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (429, None, PACE),
        (429, "rate_limit", PACE),
        (429, "a_code_of_next_year", PACE),
        (429, "lock_timeout", SAME_KEY),
        (400, None, REJECT),
        (200, None, DONE),
        (503, None, SAME_KEY),
    ],
)
def test_a_header_that_names_a_rate_limit_makes_a_429_one_and_nothing_else(
    status: int, code: str | None, expected: Reaction
) -> None:
    assert reaction(status, INVALID, code, limited=True) is expected


def test_a_row_that_the_header_changes_says_so() -> None:
    for row in TABLE:
        said = f"with a rate-limit reason header: {row.where_limited.name}" if row.where_limited else ""
        assert row.because.endswith(said)
        assert bool(said) == ("header" in row.because)


@pytest.mark.parametrize(("status", "error_type", "code", "expected"), EXPECTED)
def test_every_documented_answer_has_its_one_right_reaction(
    status: int, error_type: str | None, code: str | None, expected: Reaction
) -> None:
    assert reaction(status, error_type, code) is expected
    assert the_row(status, error_type, code).reaction is expected


def test_every_row_of_the_table_decides_something_and_says_why() -> None:
    decided = {id(the_row(status, error_type, code)) for status, error_type, code, _ in EXPECTED}
    assert [row.because for row in TABLE if id(row) not in decided] == []
    assert all(row.because for row in TABLE)


@given(status=st.integers(-1, 199) | st.integers(600, 999), code=st.none() | st.text())
def test_a_status_nobody_knows_is_repeated_with_the_same_key(status: int, code: str | None) -> None:
    assert reaction(status, None, code) is SAME_KEY


@given(
    attempt=st.integers(1, 10_000),
    dice=st.floats(0, 1, exclude_max=True),
    first=st.floats(0.01, 60),
    longest=st.floats(0.01, 600),
)
def test_a_pause_lies_in_the_upper_half_of_a_doubling_bound(
    attempt: int, dice: float, first: float, longest: float
) -> None:
    bound = min(longest, first * 2.0 ** min(attempt - 1, 20))
    assert bound / 2 <= pause(attempt, dice=dice, first=first, longest=longest) <= bound


@given(attempt=st.integers(1, 100), dice=st.floats(0, 1, exclude_max=True))
def test_later_attempts_never_wait_less_for_the_same_dice(attempt: int, dice: float) -> None:
    assert pause(attempt, dice=dice) <= pause(attempt + 1, dice=dice)
