"""Reads one JSON object from a file or from standard input."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any, BinaryIO

from tokenferry.inputs.json_values import parsed, why_none
from tokenferry.inputs.lines import LONGEST, Lines
from tokenferry.inputs.rows import UnreadableFile


def standard_input() -> BinaryIO:
    """Standard input, as bytes. Raises `UnreadableFile` if it is closed."""
    if sys.stdin is None:
        raise UnreadableFile("standard input: is closed")
    return sys.stdin.buffer


def _typed_or_piped() -> BinaryIO:
    """Standard input; if it is a terminal, say first what is expected."""
    stream = standard_input()
    if sys.stdin.isatty() and sys.stderr is not None:
        print("tokenferry: type one JSON object, then Ctrl-D; what you type is visible", file=sys.stderr, flush=True)
    return stream


def object_from(source: str) -> dict[str, Any]:
    """Read the object in the file *source*; `-` is standard input. It may be as long as a row.

    Raises `UnreadableFile`, which says why and repeats nothing of the content.
    """
    name = "standard input" if source == "-" else source
    if source.lstrip().startswith("{"):
        raise UnreadableFile(
            "{...}: this is the JSON itself, which every user of this machine can see now: give the name of a file, "
            "or - and pipe it in"
        )
    try:
        if source == "-":
            raw = _typed_or_piped().read(LONGEST + 1)
        else:
            with Path(source).open("rb") as file:
                raw = file.read(LONGEST + 1)
    except OSError as error:
        raise UnreadableFile(f"{name}: cannot be read ({error.strerror})") from None
    if len(raw) > LONGEST:
        raise UnreadableFile(f"{name}: is longer than 1 MiB")
    if not raw.strip():
        raise UnreadableFile(f"{name}: is empty")
    lines = list(Lines(io.BytesIO(raw)))
    if trouble := next((line.trouble for line in lines if line.trouble), None):
        raise UnreadableFile(f"{name}: {trouble}")
    text = "\n".join(line.text for line in lines)
    value = parsed(text)
    if not isinstance(value, dict):
        raise UnreadableFile(f"{name}: {why_none(text)}")
    return value
