"""Reads the header of a CSV file: which field each column holds.

The whole header is checked before anything is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tokenferry.inputs.columns import Field, field_of, looks_like_data, quoted, suggestion
from tokenferry.inputs.mapping import ColumnMap
from tokenferry.inputs.rows import UnreadableFile

NAMELESS: Final = Field("")
"""A column without a name. It must be empty in every row, or be mapped by its position."""


def read_header(header: Sequence[str], given: ColumnMap) -> list[Field | None]:
    """Return the field of each column. None for a column that is left out.

    Raises `UnreadableFile`, which names all unknown columns and says how to continue.
    """
    names = [name.strip() for name in header]
    keys = [source_of(position, name, given) for position, name in enumerate(names, 1)]
    for position, (name, key) in enumerate(zip(names, keys, strict=True), 1):
        if name and key not in given.columns and looks_like_data(name):
            raise UnreadableFile(f"column {position} of the header looks like data: the file has no header line")
    if missing := [source for source in given.columns if source not in keys]:
        raise UnreadableFile(
            f"{', '.join(map(quoted, missing))}: mapped, and the header has no such column. "
            f"It has {', '.join(quoted(name) for name in names if name)}"
        )
    fields: list[Field | None] = []
    unknown: list[str] = []
    for name, key in zip(names, keys, strict=True):
        field_name = given.columns.get(key, name)
        field = field_of(field_name) if field_name else None
        if not name and key not in given.columns:
            field = NAMELESS
        elif field is None and key not in given.columns and not given.leaves_out_rest:
            unknown.append(f"{quoted(name)}{suggestion(name)}")
        fields.append(field)
    if unknown:
        raise UnreadableFile(
            f"unknown {'column' if len(unknown) == 1 else 'columns'}: {'; '.join(unknown)}. Name the field with "
            '--map "COLUMN=FIELD", or leave a column out with --map "COLUMN=", or all of these with '
            "--leave-out-rest; --suggest-map map.toml writes a map file with guesses"
        )
    _refuse_twice(names, fields)
    return fields


def source_of(position: int, name: str, given: ColumnMap) -> str:
    """How a column is called in the map: by its name, or by its position as `#3`."""
    by_position = f"#{position}"
    return by_position if by_position in given.columns or not name else name


def _refuse_twice(names: Sequence[str], fields: Sequence[Field | None]) -> None:
    seen: dict[Field, str] = {}
    for name, field in zip(names, fields, strict=True):
        if field is None or field is NAMELESS:
            continue
        if field in seen:
            raise UnreadableFile(f"columns {quoted(seen[field])} and {quoted(name)} both hold {field.name}")
        seen[field] = name
