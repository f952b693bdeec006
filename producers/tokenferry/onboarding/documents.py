"""Reads the documents of a file: JSON lines, or one JSON array."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from tokenferry.contract.names import Id
from tokenferry.contract.onboarding import Onboarding, onboarding_from
from tokenferry.contract.requests import InvalidRequest, Problem
from tokenferry.inputs.jsonl_rows import parsed, why_none
from tokenferry.inputs.lines import BOM, Lines
from tokenferry.inputs.rows import UnreadableFile

LONGEST_ARRAY: Final = 64 * 1024 * 1024
"""Bytes of an array, because it is read as a whole. JSON lines are read one at a time and have no such limit."""
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
    for number, value, trouble in _values(stream):
        item = _read(number, value, trouble)
        if item.document is not None and item.reference in seen:
            reason = "was given before in this file; give each account its own"
            item = NumberedDocument(number, item.reference, problems=(Problem("document.reference", reason),))
        elif item.document is not None:
            seen.add(item.reference)
        yield item


def _values(stream: BufferedReader) -> Iterator[tuple[int, Any, str | None]]:
    if stream.peek(1024).removeprefix(BOM).lstrip().startswith(b"["):
        yield from _array(stream)
        return
    first = True
    for line in Lines(stream):
        if line.trouble is not None:
            yield line.number, None, line.trouble
        elif text := line.text.strip():
            if first and (not text.startswith("{") or text == "{"):
                raise UnreadableFile(
                    "this is neither JSON lines nor a JSON array: its first line does not hold a JSON object; "
                    "write each document in one line"
                )
            first = False
            value = parsed(text)
            yield line.number, value, why_none(text) if value is None else None


def _array(stream: BufferedReader) -> Iterator[tuple[int, Any, str | None]]:
    raw = stream.read(LONGEST_ARRAY + 1)
    if len(raw) > LONGEST_ARRAY:
        raise UnreadableFile("the array is longer than 64 MiB; write one document in each line (JSON lines)")
    value = parsed(raw.removeprefix(BOM).decode("utf-8", "replace"))
    if not isinstance(value, list):
        raise UnreadableFile("the JSON array cannot be read: it is not complete, or a member is given twice")
    for number, each in enumerate(value, 1):
        yield number, each, None


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
