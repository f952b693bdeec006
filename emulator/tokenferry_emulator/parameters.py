"""Which parameters each call has, of which type, and what is wrong with those that were sent.

The tables lie in `allowed/*.txt`: one parameter a line, children indented by two spaces. The word after the name is
its type: `string`, `integer`, `number`, `boolean`, `list`, `map`, `hash`, `hash|string`, `unset` or
the allowed values joined by `|`. A trailing `?` (or an empty first value) means that an empty string unsets it.
`tools/fields.py` writes them from the parameter types of the provider's SDK, with what else the emulator takes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from tokenferry_emulator.errors import Refusal, invalid

_INTEGER = re.compile(r"-?\d{1,18}\Z")
_NUMBER = re.compile(r"-?\d{1,15}(\.\d{1,12})?\Z")
_TYPES = {"string", "integer", "number", "boolean", "list", "map", "hash", "unset", "any"}

_NEVER_EMPTY = frozenset(
    [
        "source",
        "card",
        "customer",
        "token",
        "account_token",
        "person_token",
        "external_account",
        "payment_method",
        "cvc_token",
        "number",
        "cvc",
        "country",
        "account_number",
        "routing_number",
        "currency",
    ]
)
"""Parameters that name something: an empty string is an error there, never an "unset"."""


@dataclass(slots=True)
class Parameter:
    """One line of a table."""

    type: str
    unset: bool = False
    or_string: bool = False
    values: tuple[str, ...] = ()
    children: dict[str, Parameter] = field(default_factory=dict)


@cache
def table(name: str) -> Parameter:
    """Return the table `allowed/<name>.txt` as one hash of parameters."""
    text = files("tokenferry_emulator").joinpath("allowed", f"{name}.txt").read_text()
    root = Parameter("hash")
    parents = [root]
    for line in text.splitlines():
        name_of, kind = line.split(maxsplit=1)
        depth = (len(line) - len(line.lstrip())) // 2
        parameter = _parameter(kind)
        del parents[depth + 1 :]
        parents[depth].children[name_of] = parameter
        parents.append(parameter)
    return root


def _parameter(kind: str) -> Parameter:
    if kind == "hash|string":
        return Parameter("hash", or_string=True)
    if kind.removesuffix("?") in _TYPES:
        return Parameter(kind.removesuffix("?"), unset=kind.endswith("?"))
    values = kind.split("|")
    return Parameter("enum", unset="" in values, values=tuple(value for value in values if value))


def read(name: str, form: dict[str, Any]) -> dict[str, Any]:
    """Return the form with every value in its type: int, float, bool, str, list, dict, or None where unset.

    Raises a 400 that names the first parameter nobody knows, else the first value that cannot be read.
    """
    known = table(name)
    if unknown := list(_unknown(known, form, "")):
        plural = "s" if len(unknown) > 1 else ""
        message = f"Received unknown parameter{plural}: {', '.join(unknown)}"
        raise invalid(message, code="parameter_unknown", param=unknown[0])
    return _hash(known, form, "")


def _unknown(known: Parameter, form: dict[str, Any], path: str) -> list[str]:
    found: list[str] = []
    for name, value in form.items():
        child = known.children.get(name)
        here = f"{path}[{name}]" if path else name
        if child is None:
            found.append(here)
        elif isinstance(value, dict):
            if child.type == "hash":
                found += _unknown(child, value, here)
            elif child.type == "list" and child.children:
                for index, item in value.items():
                    found += _unknown(child, item, f"{here}[{index}]") if isinstance(item, dict) else []
    return found


def _hash(known: Parameter, form: dict[str, Any], path: str) -> dict[str, Any]:
    return {
        name: _value(known.children[name], value, f"{path}[{name}]" if path else name, name)
        for name, value in form.items()
    }


def _value(known: Parameter, value: Any, path: str, name: str) -> Any:
    if isinstance(value, dict):
        return _nested(known, value, path)
    if value == "":
        return _empty(known, path, name)
    match known.type:
        case "string" | "any":
            return value
        case "hash" if known.or_string:
            return value
        case "integer" if _INTEGER.match(value):
            return int(value)
        case "integer":
            raise invalid(f"Invalid integer: {_quoted(value)}", code="parameter_invalid_integer", param=path)
        case "number" if _NUMBER.match(value):
            return float(value)
        case "number":
            raise invalid(f"Invalid decimal: {_quoted(value)}", param=path)
        case "boolean" if value in ("true", "false"):
            return value == "true"
        case "boolean":
            raise invalid(f"Invalid boolean: {_quoted(value)}", param=path)
        case "enum" if value in known.values:
            return value
        case "enum":
            raise invalid(f"Invalid {path}: must be one of {_alternatives(known.values)}", param=path)
    raise _not_a(known.type, path)


def _nested(known: Parameter, value: dict[str, Any], path: str) -> Any:
    if known.type == "hash":
        return _hash(known, value, path)
    if known.type == "map":
        return {key: text for key, text in value.items() if isinstance(text, str)}
    if known.type == "list":
        if not known.children:
            return [item for item in value.values() if isinstance(item, str)]
        return [_hash(known, item, f"{path}[{at}]") for at, item in value.items() if isinstance(item, dict)]
    raise invalid(f"Invalid {known.type}: a hash was given", param=path)


def _empty(known: Parameter, path: str, name: str) -> None:
    if known.unset or (known.type in ("string", "any", "unset", "map") and name not in _NEVER_EMPTY):
        return
    message = (
        f"You passed an empty string for '{path}'. We assume empty values are an attempt to unset a field; however "
        f"'{path}' cannot be unset. You should remove '{path}' from your request or supply a non-empty value."
    )
    raise invalid(message, code="parameter_invalid_empty", param=path)


def _not_a(kind: str, path: str) -> Refusal:
    wanted = {"hash": "object", "map": "object", "list": "array"}.get(kind, kind)
    return invalid(f"Invalid {wanted}", param=path)


def _quoted(value: str) -> str:
    """Short values only: a card number in the wrong field must not come back in an error."""
    return value if len(value) <= 4 else "(hidden)"


def _alternatives(values: tuple[str, ...]) -> str:
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])}, or {values[-1]}"
