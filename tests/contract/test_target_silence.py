"""What a target and its errors never say."""

from __future__ import annotations

import traceback

import pytest
from pydantic import ValidationError

from tokenferry.contract.message import Message
from tokenferry.contract.targets import TARGETS, AttachTarget, InvalidTarget, target_from

CANARY = "Canary_4000056655665556_Canary"


@pytest.mark.parametrize("to", TARGETS)
def test_no_error_about_a_target_repeats_a_value_of_it(to):
    for name in TARGETS[to].model_fields:
        for value in (CANARY, {CANARY: CANARY}, {"line1": CANARY, CANARY: CANARY}, [CANARY] * 99, CANARY * 9000):
            data = {"to": to, CANARY.upper(): CANARY, name: value}
            with pytest.raises(InvalidTarget) as refusal:
                target_from(data)
            said = "".join(traceback.format_exception(refusal.value))
            assert "canary" not in f"{said}{refusal.value!r}{refusal.value.__context__!r}".lower()


def test_a_foreign_target_name_is_not_repeated_by_pydantic_either():
    class Order(Message):
        target: AttachTarget

    with pytest.raises(ValidationError) as refusal:
        Order(target={"to": CANARY})
    assert "Canary" not in str(refusal.value)


def test_a_target_prints_what_it_works_on_and_not_who_that_is():
    target = target_from(
        {
            "to": "person_update",
            "account": "acct_1",
            "person": "person_1",
            "first_name": "Ann",
            "metadata": {"a": "Ann"},
        }
    )
    assert repr(target) == "PersonUpdate(to='person_update', account='acct_1', person='person_1')"
    assert "Ann" not in str(target)
