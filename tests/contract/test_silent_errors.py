"""Errors about input that is not valid hold nothing of it: for a web framework's answer and a reporter of errors."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from tokenferry.contract.onboarding import Onboarding, onboarding_from
from tokenferry.contract.requests import REQUESTS, CardRequest, request_from
from tokenferry.contract.targets import TARGETS, target_from

NUMBER = "4000056655665556"
BAD: dict[str, Any] = {"number": f"{NUMBER}x", "exp_month": 13, NUMBER: NUMBER, "networks": {"preferred": {NUMBER: 1}}}


class Body(BaseModel):
    """A body of somebody's route, which FastAPI reads with pydantic."""

    card: CardRequest


def sentry_frames(trace: TracebackType | None) -> str:
    """What a reporter such as Sentry sends of a traceback: `repr` of each local, of every frame but the caller's."""
    return "\n".join(
        f"{frame.f_code.co_name} {name}={value!r}"
        for frame, _ in traceback.walk_tb(trace)
        if frame.f_code.co_filename != __file__ and "type_adapter" not in frame.f_code.co_filename
        for name, value in frame.f_locals.items()
    )


def fastapi_422(error: ValidationError) -> str:
    """The body of FastAPI's answer to input that is not valid."""
    return json.dumps({"detail": error.errors(include_url=False)}, default=str)


READERS: list[Callable[[], object]] = [
    lambda: CardRequest(**BAD),
    lambda: CardRequest.model_validate(BAD),
    lambda: CardRequest.model_validate_json(json.dumps(BAD)),
    lambda: TypeAdapter(CardRequest).validate_python(BAD),
    lambda: TypeAdapter(list[CardRequest]).validate_json(json.dumps([BAD])),
    lambda: TypeAdapter(Body).validate_python({"card": BAD}),
    lambda: request_from("card", BAD),
    lambda: request_from(NUMBER, BAD),
    lambda: onboarding_from({"account": {"country": NUMBER}, "persons": [BAD], NUMBER: 1}),
    lambda: Onboarding.model_validate({"external_accounts": [{"card": BAD}]}),
    lambda: target_from({"to": "customer", "metadata": {"a": BAD}, NUMBER: NUMBER}),
    *(lambda kind=kind: REQUESTS[kind].model_validate(BAD) for kind in REQUESTS),
    *(lambda to=to: TARGETS[to].model_validate(BAD) for to in TARGETS),
]


@pytest.mark.parametrize("read", READERS, ids=range(len(READERS)))
def test_no_error_about_input_holds_the_input(read: Callable[[], object]) -> None:
    with pytest.raises(ValueError) as caught:
        read()
    error = caught.value
    assert NUMBER not in str(error)
    assert NUMBER not in repr(error)
    assert error.__cause__ is None
    assert error.__context__ is None
    assert NUMBER not in sentry_frames(error.__traceback__)
    if isinstance(error, ValidationError):
        assert NUMBER not in error.json()
        assert NUMBER not in fastapi_422(error)


def test_the_answer_of_a_web_framework_still_says_where_and_why() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Body).validate_python({"card": {"number": NUMBER, "exp_month": "soon", "exp_year": 2034}})
    (detail,) = caught.value.errors(include_url=False)
    assert detail["loc"] == ("card", "exp_month")
    assert detail["input"] is None
    assert detail["msg"]
