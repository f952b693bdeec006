"""Reads the expiry of a card and the date of a birth, in the forms in which files hold them."""

from __future__ import annotations

import re
from functools import cache
from typing import Final

_MONTHS: Final = (
    *("january", "february", "march", "april", "may", "june", "july"),
    *("august", "september", "october", "november", "december"),
)
MONTHS: Final = {
    "sept": 9,
    **{name: number for number, name in enumerate(_MONTHS, 1)},
    **{name[:3]: number for number, name in enumerate(_MONTHS, 1)},
}
"""Number of each month, by its English names."""

_PARTS: Final = {
    "YYYY": r"(?P<year>[0-9]{4})",
    "YY": r"(?P<year>[0-9]{2})",
    "MMM": r"(?P<month>[A-Za-z]{3,9})",
    "MM": r"(?P<month>[0-9]{1,2})",
    "DD": r"(?P<day>[0-9]{1,2})",
}
_TOKEN: Final = re.compile("YYYY|YY|MMM|MM|DD|[^YMD]")
_CLOSE: Final = re.compile("(?:YYYY|YY|MMM|MM|DD){2}")

EXPIRY_FORMS: Final = (
    *("MM/YY", "MM/YYYY", "MM-YY", "MM-YYYY", "MM.YY", "MM.YYYY", "MM YY", "MM YYYY", "MMYY", "MMYYYY"),
    *("YYYY-MM", "YYYY/MM", "YYYY.MM", "YYYYMM", "YYYY-MM-DD", "DD.MM.YYYY"),
    *("MMM-YY", "MMM YY", "MMM-YYYY", "MMM YYYY", "MMM/YY", "MMM/YYYY", "YY-MMM"),
)
"""Forms of an expiry that are read without being named. "04/28" that a spreadsheet took for a date is "Apr-28" or
"28-Apr". Four digits are MMYY: for YYMM name the form."""
DATE_FORMS: Final = ("YYYY-MM-DD", "YYYYMMDD", "DD.MM.YYYY")
"""Forms of a date that are read without being named. With slashes the day or the month may stand first."""


class UnknownForm(ValueError):
    """A form that is not made of YYYY, YY, MMM, MM and DD. The message is safe to show."""


def check_form(form: str, *, day: bool) -> None:
    """Raise `UnknownForm` if *form* is not one of a date (with *day*) or an expiry."""
    tokens = _TOKEN.findall(form)
    needed = [{"YYYY", "YY"}, {"MM", "MMM"}, *([{"DD"}] if day else [])]
    if "".join(tokens) != form or len(form) > 20 or any(sum(each in group for each in tokens) != 1 for group in needed):
        example = "DD/MM/YYYY" if day else "YYMM"
        raise UnknownForm(f'a form is made of YYYY or YY, MM or MMM{" and DD" if day else ""}, like "{example}"')


def read_expiry(text: str, form: str | None = None) -> tuple[str, str] | None:
    """Return month (1 or 2 digits) and year (4 digits) of an expiry. None if *text* is none.

    >>> read_expiry("04/28"), read_expiry("2028-04-30T00:00:00"), read_expiry("Apr-28"), read_expiry("2804", "YYMM")
    (('4', '2028'), ('4', '2028'), ('4', '2028'), ('4', '2028'))
    """
    for each in (form,) if form else EXPIRY_FORMS:
        if found := _read(text, each):
            year, month, _ = found
            return str(month), str(year)
    return None


def read_date(text: str, form: str | None = None) -> dict[str, int] | None:
    """Return day, month and year of a date. None if *text* is none.

    >>> read_date("1980-01-31"), read_date("31/01/1980"), read_date("31/01/1980", "DD/MM/YYYY")["day"]
    ({'day': 31, 'month': 1, 'year': 1980}, None, 31)
    """
    for each in (form,) if form else DATE_FORMS:
        if found := _read(text, each):
            year, month, day = found
            return {"day": day, "month": month, "year": year}
    return None


def _read(text: str, form: str) -> tuple[int, int, int] | None:
    found = _pattern(form).fullmatch(re.sub(r"[T ]00:00(:00(\.0+)?)?Z?$", "", text.strip()))
    if found is None:
        return None
    parts = found.groupdict()
    month = MONTHS.get(parts["month"].casefold(), 0) if parts["month"].isalpha() else int(parts["month"])
    year, day = int(parts["year"]), int(parts.get("day") or 1)
    if len(parts["year"]) == 2:
        year += 2000
    return (year, month, day) if 1 <= month <= 12 and 1 <= day <= 31 else None


@cache
def _pattern(form: str) -> re.Pattern[str]:
    parts = (_PARTS.get(token) or rf"\s*{re.escape(token)}\s*" for token in _TOKEN.findall(form))
    pattern = "".join(parts)
    if _CLOSE.search(form):  # nothing stands between the parts, so each has all its digits
        pattern = pattern.replace("[0-9]{1,2}", "[0-9]{2}")
    return re.compile(pattern)
