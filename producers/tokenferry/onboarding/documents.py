"""Reads the documents of a file: JSON lines, or one JSON array."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tokenferry.contract.names import Id
from tokenferry.contract.onboarding import Onboarding, onboarding_from
from tokenferry.contract.requests import InvalidRequest, Problem
from tokenferry.inputs.json_values import json_values, why_none
from tokenferry.inputs.lines import Lines

_REFERENCE: TypeAdapter[str] = TypeAdapter(Id)


@dataclass(frozen=True)
class NumberedDocument:
    """One document and its position, or what is wrong with it."""

    number: int
    """The line of the file, or the position in the array, counted from 1."""
    reference: str
    document: Onboarding | None = field(default=None, repr=False)
    problems: tuple[Problem, ...] = ()


def documents(stream: BufferedReader) -> Iterator[NumberedDocument]:
    """Read *stream*. If two documents have the same reference, the second one has a problem.

    Raises `UnreadableFile` if the file does not consist of documents.
    """
    seen: set[str] = set()
    for found in json_values(Lines(stream)):
        item = _read(found.number, found.value, found.trouble)
        if item.document is not None and item.reference in seen:
            reason = "was given before in this file; give each account its own"
            item = NumberedDocument(found.number, item.reference, problems=(Problem("document.reference", reason),))
        elif item.document is not None:
            seen.add(item.reference)
        yield item


def _read(number: int, value: Any, trouble: str | None) -> NumberedDocument:
    name = f"document-{number}"
    if trouble is not None:
        return NumberedDocument(number, name, problems=(Problem("document", trouble),))
    if not isinstance(value, dict):
        return NumberedDocument(number, name, problems=(Problem("document", why_none(json.dumps(value))),))
    try:
        reference = _REFERENCE.validate_python(value.get("reference"))
    except ValidationError:
        what = "is required" if value.get("reference") in (None, "") else "is given, and cannot be used"
        reason = (
            f"{what}: your own id of the account, letters, digits, - and _ (no spaces), at most 64 (and not 12 or more "
            "digits alone: that could be a card number); with it the same file can be sent again and makes no second "
            "account"
        )
        return NumberedDocument(number, name, problems=(Problem("document.reference", reason),))
    try:
        return NumberedDocument(number, reference, onboarding_from(value))
    except InvalidRequest as error:
        return NumberedDocument(number, reference, problems=error.problems)
