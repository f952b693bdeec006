"""What Stripe still requires of an account: names of fields and codes, no values. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tokenferry.contract.results import RequirementError, Requirements
from tokenferry_worker.provider.answers import Answer

MOST_REQUIREMENTS: Final = 200
_NAME: Final = re.compile(r"(?!.*[0-9]{12})[A-Za-z0-9_.\[\]-]{1,200}")
"""`person_1Abc.verification.document`: anything else may be a value that was sent, and is left out."""


def requirements_of(answer: Answer) -> Requirements | None:
    """Read the requirements in an account's answer. What has an unexpected form is left out."""
    found = answer.body.get("requirements")
    if not isinstance(found, Mapping):
        return None
    lists = ("currently_due", "past_due", "eventually_due", "pending_verification")
    errors = [error for error in _list(found.get("errors")) if isinstance(error, Mapping)]
    return Requirements(
        **{name: tuple(field for field in _list(found.get(name)) if _is_name(field)) for name in lists},
        errors=tuple(
            RequirementError(requirement=error["requirement"], code=error["code"])
            for error in errors
            if _is_name(error.get("requirement")) and _is_name(error.get("code"))
        ),
        disabled_reason=answer.text("requirements", "disabled_reason"),
    )


def _list(value: object) -> Sequence[Any]:
    return value[:MOST_REQUIREMENTS] if isinstance(value, list) else ()


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None
