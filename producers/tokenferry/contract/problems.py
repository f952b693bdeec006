"""What is wrong with data that cannot be a message, in our own sentences: field and reason, never the value."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from tokenferry.errors import ProducerError


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to correct: where (`card.number`) and why, without the value."""

    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}"


class InvalidInput(ProducerError, ValueError):
    """What was made or sent is not valid. `problems` names each field to correct. Safe to log and to show."""

    problems: tuple[Problem, ...] = ()


class InvalidRequest(InvalidInput):
    """The data cannot be a request, or the options of a send are not valid."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(", ".join(map(str, self.problems)))

    def __reduce__(self) -> tuple[type[InvalidRequest], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


class InvalidTarget(InvalidInput):
    """A token cannot be spent like this. The message says what to do, and contains no value."""

    def __init__(self, text: str, problems: Iterable[Problem] = ()) -> None:
        """*problems*: by field, where they are known."""
        super().__init__(text)
        self.problems = tuple(problems) or (Problem("attach", text),)

    def __reduce__(self) -> tuple[type[InvalidTarget], tuple[str, tuple[Problem, ...]]]:
        return type(self), (str(self), self.problems)


_REASONS: Mapping[str, str] = {
    "base64_decode": "must be base64",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be an object with fields",
    "extra_forbidden": "is not a known field",
    "finite_number": "must be a number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "invalid_key": "is not a known field",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "mapping_type": "must be an object with fields",
    "missing": "is required",
    "model_type": "must be an object with fields",
    "string_pattern_mismatch": "has a character or a form that is not allowed here",
    "string_too_long": "is longer than {max_length} characters",
    "string_too_short": "is empty; leave it out",
    "string_type": "must be text",
    "string_unicode": "has a character that cannot be sent",
    "too_long": "has more than {max_length} entries",
    "too_short": "is empty; leave it out",
    "tuple_type": "must be a list",
    "union_tag_invalid": "is not one of the known words",
    "union_tag_not_found": "is required",
}
"""Our sentence for each kind of error. What stands in braces is a limit that a field declares, never a value."""
_LIMITS = frozenset({"gt", "ge", "lt", "le", "max_length", "expected"})
_ANY_OTHER = "is not what belongs here"
_OF_PYDANTIC = frozenset(get_args(core_schema.ErrorType))
_FIELD_NAME = re.compile(r"[A-Za-z_]{1,40}")
UNPRINTABLE: Final = "(unprintable name)"
"""Stands for a name that is no plain word: it may be a value in the wrong place."""
_LONGEST_LIST = 50


def problems_of(error: ValidationError, *, under: str, names: frozenset[str]) -> tuple[Problem, ...]:
    """Our sentences for pydantic's errors. Only declared *names* and list positions are repeated.

    An unknown field name is quoted if it is a plain word: otherwise it may be a value in the wrong place.
    """
    details = error.errors(include_input=False, include_url=False)
    found = (Problem(_place(detail, under, names), reason_of(detail) + _meant(detail, names)) for detail in details)
    return tuple(dict.fromkeys(found))


def _meant(detail: Mapping[str, Any], names: frozenset[str]) -> str:
    """Which known field an unknown one may be. Nothing if it may be a value in the wrong place."""
    name = str(detail["loc"][-1]) if detail["loc"] else ""
    if detail["type"] != "extra_forbidden" or name in names or not _FIELD_NAME.fullmatch(name):
        return ""
    alike = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.75)
    return f"; did you mean {alike[0]}?" if alike else ""


def without_values(error: ValidationError) -> ValidationError:
    """Return the same error with nothing in it that was given."""
    details = [_without_value(each) for each in error.errors(include_url=False)]
    return ValidationError.from_exception_data(error.title, details, hide_input=True)


def _without_value(detail: Mapping[str, Any]) -> InitErrorDetails:
    kind, context = detail["type"], dict(detail.get("ctx", {}))
    if kind == "value_error":
        context = {"error": ValueError(str(context["error"]))}  # our sentence; the traceback of the first has values
    if "tag" in context:
        context["tag"] = "..."
    place = tuple(
        part if isinstance(part, int) or _FIELD_NAME.fullmatch(part) else UNPRINTABLE for part in detail["loc"]
    )
    if kind not in _OF_PYDANTIC:
        own = PydanticCustomError(kind, str(detail["msg"]).replace("{", "(").replace("}", ")"))
        return {"type": own, "loc": place, "input": None}
    return {"type": kind, "loc": place, "input": None, "ctx": context}


def reason_of(detail: Mapping[str, Any]) -> str:
    """Our sentence for one of `ValidationError.errors()`, which must have its context: limits come from there."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "value_error" or kind not in _OF_PYDANTIC:  # raised by a validator of ours, with our sentence
        return str(detail["msg"]).removeprefix("Value error, ")
    limits = {name: value for name, value in context.items() if name in _LIMITS}
    return _REASONS.get(kind, _ANY_OTHER).format(**limits)


def _place(detail: Mapping[str, Any], under: str, names: frozenset[str]) -> str:
    *path, last = detail["loc"] or ("",)
    place = under
    for part in path:
        place += _step(part, names)
        if part == "metadata":
            return place  # below it the keys are the caller's own
    if detail["type"] == "extra_forbidden" and last not in names:
        return f"{place}.{last if _FIELD_NAME.fullmatch(str(last)) else UNPRINTABLE}"
    return place + _step(last, names)


def _step(part: int | str, names: frozenset[str]) -> str:
    if isinstance(part, int):
        return f"[{part}]" if 0 <= part < _LONGEST_LIST else ""
    return f".{part}" if part in names else ""


@functools.cache
def field_names(model: type[BaseModel]) -> frozenset[str]:
    """The field names of a model and of every model inside it."""
    return frozenset(_walk(model.model_json_schema()))


def _walk(schema: Any) -> Iterable[str]:
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for part in schema.values():
            yield from _walk(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _walk(part)
