"""What follows from a failure, as one table: each of these answers decides about money or about a lost message."""

from __future__ import annotations

from tokenferry.contract.codes import DOUBTFUL, FAILURES, KEPT, MAYBE_SPENT, REPEATED, Code


def test_every_code_of_ours_has_one_row_and_every_row_says_what_happened() -> None:
    codes = [failure.code for failure in FAILURES]
    assert [code for code in codes if codes.count(code) > 1] == []
    assert set(Code) <= set(codes)
    assert all(failure.because for failure in FAILURES)


def test_what_somebody_can_mend_is_kept_and_nothing_else() -> None:
    assert {
        Code.ATTEMPTS_EXHAUSTED,
        Code.DELIVERIES_EXHAUSTED,
        Code.OUTCOME_UNKNOWN,
        Code.UNKNOWN_PLATFORM,
        Code.UNOPENABLE,
        Code.NOT_GRANTED,
        Code.PUBLISHABLE_KEY_MISSING,
        Code.ACCOUNT_REFUSES,
        Code.INVALID_LIFETIME,
        Code.STORE_IS_YOUNGER,
    } == KEPT
    assert set(Code) >= KEPT, "a code of Stripe is final: the same call would be answered the same"


def test_an_order_that_may_have_taken_effect_is_redriven_however_old_its_token_is() -> None:
    assert {Code.OUTCOME_UNKNOWN, Code.DELIVERIES_EXHAUSTED} == MAYBE_SPENT
    assert MAYBE_SPENT <= KEPT


def test_no_second_object_is_made_where_the_first_may_be_there() -> None:
    assert MAYBE_SPENT | REPEATED | {Code.TOKEN_SPENT, Code.TOKEN_IN_DOUBT, "token_in_use"} == DOUBTFUL


def test_a_refusal_that_an_earlier_call_of_ours_may_be_the_reason_for_is_looked_into() -> None:
    assert {"token_already_used", "idempotency_error"} == REPEATED
