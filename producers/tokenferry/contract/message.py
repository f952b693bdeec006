"""How messages behave: all are frozen and closed; those that carry secrets print none of them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator

from tokenferry.contract.problems import InvalidInput, InvalidRequest, Problem, field_names, problems_of, without_values


class Message(BaseModel):
    """Frozen, closed to unknown fields, and silent about its input when it is invalid."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse assignment without pydantic's error, which would quote the value."""
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be changed")


class Input(Message):
    """A message that callers fill in. An empty string is a field that is not given, unless Stripe unsets by it.

    Where pydantic itself reads it, its `ValidationError` holds nothing that was given: `errors()` and `json()` have
    `null` as input, and no frame of ours or of this class has a value. So a web framework may return it as it is, and
    a reporter of errors may collect it.
    """

    def __init__(self, /, **fields: Any) -> None:
        """Raises `InvalidRequest`, or `InvalidTarget` for a target: field and reason, never the value."""
        try:
            super().__init__(**fields)
            return
        except ValidationError as error:
            problems = problems_of(error, under=self.place(), names=field_names(type(self)))
        # Outside the handler, so that no `__context__` keeps pydantic's error and, inside it, the input.
        fields.clear()  # this frame travels with the exception
        raise self.invalid(problems)

    # To pydantic it is no `__init__` of our own: models inside others are validated as before, all problems at once.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def model_validate(cls, obj: Any, **how: Any) -> Self:
        """Read a mapping. Raises pydantic's `ValidationError`, without values."""
        try:
            return super().model_validate(obj, **how)
        except ValidationError as error:
            silent = error.with_traceback(None)  # pydantic's frame has the values
        del obj
        raise silent

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **how: Any) -> Self:
        """Read JSON. Raises pydantic's `ValidationError`, without values."""
        try:
            return super().model_validate_json(json_data, **how)
        except ValidationError as error:
            silent = without_values(error).with_traceback(None)
        del json_data
        raise silent

    @model_validator(mode="wrap")
    @classmethod
    def _silently(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            silent = without_values(error)
        del data
        raise silent

    @classmethod
    def place(cls) -> str:
        """Return what stands before the names of fields in an error."""
        return cls.__name__

    @classmethod
    def invalid(cls, problems: tuple[Problem, ...]) -> InvalidInput:
        """Return the error for fields that are not valid."""
        return InvalidRequest(problems)

    @model_validator(mode="before")
    @classmethod
    def _without_empty_strings(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        optional = _never_empty(cls)
        return {name: value for name, value in data.items() if value != "" or name not in optional}


@functools.cache
def _never_empty(model: type[BaseModel]) -> frozenset[str]:
    """The names of the fields that an empty string does not unset."""
    return frozenset(name for name, field in model.model_fields.items() if not _takes_empty(field.annotation))


def _takes_empty(annotation: Any) -> bool:
    if get_origin(annotation) is Literal:
        return "" in get_args(annotation)
    return any(map(_takes_empty, get_args(annotation)))


class Sensitive(Input):
    """A message whose fields are secrets: it prints as its name and nothing else.

    `repr`, `str`, rich tracebacks and f-strings show `CardRequest()`. The values are there by name, in `form()`, and in
    what copies a whole model (`model_dump`, `dict`, `vars`, `pickle`). Put none of these into a log.
    """

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield from ()

    def __rich_repr__(self) -> Iterator[Any]:
        yield from ()
