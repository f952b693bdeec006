"""Reads what files hold in another form than Stripe takes: an expiry or a date in one column, first and last name,
text with a line end, whole numbers that a spreadsheet wrote as decimals.

Only what is unambiguous is changed. Everything else gets a problem that says what to do, or stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from tokenferry.contract.requests import InvalidRequest, Problem
from tokenferry.inputs.dates import MONTHS, read_date, read_expiry
from tokenferry.inputs.shapes import Shape

COMBINED: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "card": {"expiry": ("exp_month", "exp_year"), "first_name": ("name",), "last_name": ("name",)},
    "bank_account": {"first_name": ("account_holder_name",), "last_name": ("account_holder_name",)},
}
"""Columns that are no fields of a kind, and the fields they are turned into."""

_FORMULA: Final = re.compile(r'="([^"]*)"')
_WHOLE_AS_DECIMAL: Final = re.compile(r"([0-9]{1,19})\.0{1,3}")
_SHORTENED: Final = re.compile(r"[0-9](?:[.,][0-9]{1,15})?[eE]\+?[0-9]{1,3}")
_EXACT: Final = 2**53
"""Whole numbers up to here are exact as a double (IEEE 754)."""
_DIGITS_MATTER: Final = frozenset({
    *("cvc", "account_number", "routing_number", "id_number", "ssn_last_4", "personal_id_number", "tax_id", "vat_id"),
    *("postal_code", "address_zip", "phone"),
})  # fmt: skip
"""Fields whose leading zeros count."""
_MONTH_OR_YEAR: Final = ("exp_month", "exp_year")
_WHOLE: Final = ("day", "month", "year")
"""Numbers that may be written as decimals. An amount may not: 10.0 may be ten dollars, and the field takes cents."""


def tidied(values: Mapping[str, Any], shape: Shape | None, formats: Mapping[str, str]) -> dict[str, Any]:
    """Return *values* (nested objects of a request or target) in the forms that the models read.

    *formats*: forms of dates by dotted name. Raises `InvalidRequest`.
    """
    problems: list[Problem] = []
    tidy = _object(values, shape, formats, "", problems)
    if problems:
        raise InvalidRequest(problems)
    return tidy


def combined(kind: str, fields: Mapping[str, Any], formats: Mapping[str, str]) -> dict[str, Any]:
    """Turn the columns of `COMBINED` into fields of *kind*. Raises `InvalidRequest`."""
    columns = COMBINED.get(kind, {})
    found = {name: fields[name] for name in columns if fields.get(name) not in (None, "")}
    rest = {name: value for name, value in fields.items() if name not in columns}
    if not found:
        return rest
    if twice := [into for name in found for into in columns[name] if into in rest]:
        raise InvalidRequest([Problem(twice[0], f"is given twice: as {twice[0]} and in {_listed(found)}")])
    if "expiry" in found:
        rest |= _expiry(found.pop("expiry"), formats.get("expiry"))
    names = [found[name] for name in ("first_name", "last_name") if name in found]
    if not all(isinstance(name, str) for name in names):
        raise InvalidRequest([Problem(_listed(found), "must be text")])
    if names:
        rest[columns["first_name"][0]] = " ".join(name.strip() for name in names)
    return rest


def _expiry(value: Any, form: str | None) -> dict[str, str]:
    read = read_expiry(value, form) if isinstance(value, str) else None
    if read is None:
        expected = form or "MM/YY, MM/YYYY, MMYY, YYYY-MM or Apr-28"
        raise InvalidRequest([Problem("expiry", f"is not {expected}; a form of your own is named in a map file")])
    return dict(zip(_MONTH_OR_YEAR, read, strict=True))


def _listed(names: Mapping[str, Any]) -> str:
    return " and ".join(names)


def _object(
    values: Mapping[str, Any], shape: Shape | None, formats: Mapping[str, str], under: str, problems: list[Problem]
) -> dict[str, Any]:
    tidy: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{under}.{name}" if under else name
        inner = shape.at(name) if shape is not None and name and "." not in name else None
        tidy[name] = _value(value, inner, formats, path, problems)
    return tidy


def _value(value: Any, shape: Shape | None, formats: Mapping[str, str], path: str, problems: list[Problem]) -> Any:
    if isinstance(value, Mapping):
        return _object(value, shape, formats, path, problems)
    if isinstance(value, list):
        each = shape.each if shape is not None else None
        return [_value(item, each, formats, path, problems) for item in value]
    name = path.rpartition(".")[2]
    if isinstance(value, float) and value.is_integer() and name in (*_MONTH_OR_YEAR, *_WHOLE):
        return int(value)
    if not isinstance(value, str):
        return value
    if shape is not None and shape.is_date:
        return _date(value, formats.get(path), path, problems)
    if name in _WHOLE and (whole := _WHOLE_AS_DECIMAL.fullmatch(value)):
        return int(whole[1])
    return _text(value, name, path, problems)


def _date(text: str, form: str | None, path: str, problems: list[Problem]) -> Any:
    read = read_date(text, form)
    if read is None:
        problems.append(
            Problem(
                path,
                f"is not {form}"
                if form
                else f"is not YYYY-MM-DD or DD.MM.YYYY; give {path}.day, .month and .year, or name the form in a map "
                f'file: [formats] "{path}" = "MM/DD/YYYY"',
            )
        )
    return read or text


def _text(text: str, name: str, path: str, problems: list[Problem]) -> str:
    if formula := _FORMULA.fullmatch(text):
        text = formula[1]  # ="0123" is how spreadsheets are told to keep a zero
    if name in _MONTH_OR_YEAR:
        if whole := _WHOLE_AS_DECIMAL.fullmatch(text):
            return whole[1]
        return str(MONTHS.get(text.casefold(), text)) if name == "exp_month" else text
    if _SHORTENED.fullmatch(text) and (name == "number" or name in _DIGITS_MATTER):
        problems.append(
            Problem(path, "was shortened by a spreadsheet (like 4.2E+15), digits are lost: export the column as text")
        )
    elif whole := _WHOLE_AS_DECIMAL.fullmatch(text):
        if name == "number" and int(whole[1]) < _EXACT:
            return whole[1]
        if name == "number" or name in _DIGITS_MATTER:
            reason = "ends in .0, as if a program had read it as a decimal, so leading zeros may be lost"
            problems.append(Problem(path, f"{reason}: export the column as text"))
    if ("\n" in text or "\r" in text) and not name.endswith(("line1", "line2")):  # those the models join with ", "
        return " ".join(filter(None, map(str.strip, text.splitlines())))
    return text
