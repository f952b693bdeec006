"""The two manners of a message: frozen and closed always, silent where it carries what must not be seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict


class Message(BaseModel):
    """Frozen, closed to unknown fields, and silent about its input when it is invalid."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse assignment without pydantic's error, which would quote the value."""
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be changed")


class Sensitive(Message):
    """A message whose fields are secrets: it prints as its name and nothing else.

    `repr`, `str`, rich tracebacks and f-strings show ``CardRequest()``. Whoever asks for the values gets them: by name,
    through `form()`, and through what copies a model as a whole (`model_dump`, `dict`, `vars`, `pickle`). None of
    these belongs into a log.
    """

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield from ()

    def __rich_repr__(self) -> Iterator[Any]:
        yield from ()
