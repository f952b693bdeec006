"""The shapes a field may have: every string bounded, every id an id, every number a number.

Shape only: `tokenferry.checks` finds wrong checksums and dates, and Stripe has the last word. The lengths of names,
addresses, mail addresses and file ids are the documented ones. Other bounds are generous: they only stop huge values.

Numbers and codes lose what a person cannot see or means as decoration: blanks, invisible characters, dashes. So what is
checked is what is sent. A sealed document, which is read from JSON, keeps the numbers it has: its calls may have been
made with them already, and an idempotency key allows no other form.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar, Union

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetPydanticSchema,
    StrictBool,
    StrictInt,
    StringConstraints,
    Tag,
    ValidationInfo,
)
from pydantic_core import CoreSchema, core_schema

PRINTABLE = r"^[^\x00-\x1f\x7f]*$"

IBAN_START = re.compile("[A-Za-z]{2}[0-9]{2}")
_LONGEST_TYPED_NUMBER = 64


def printable(longest: int) -> StringConstraints:
    """Any characters but control characters, at least one, at most *longest*."""
    return StringConstraints(strict=True, min_length=1, max_length=longest, pattern=PRINTABLE)


def shaped(pattern: str, longest: int) -> StringConstraints:
    return StringConstraints(strict=True, max_length=longest, pattern=f"^{pattern}$")


def without_blanks(text: str) -> str:
    """*text* without blanks of any width and without invisible characters.

    >>> without_blanks("\\u200bDE89\\u00a03704 0044\\t")
    'DE8937040044'
    """
    if text.isascii():
        return "".join(text.split())
    return "".join(char for char in text if not char.isspace() and unicodedata.category(char) != "Cf")


def with_plain_dashes(text: str) -> str:
    """*text* with a hyphen for every dash a word processor makes of one.

    >>> with_plain_dashes("23\\u201314\\u221270")
    '23-14-70'
    """
    if text.isascii():
        return text
    return "".join("-" if char == "\N{MINUS SIGN}" or unicodedata.category(char) == "Pd" else char for char in text)


def without_dashes(text: str) -> str:
    """*text* without any dash.

    >>> without_dashes("11-00\\u201300\\u22121")
    '1100001'
    """
    return with_plain_dashes(text).replace("-", "")


def _trimmed(value: Any) -> Any:
    """A code as it was meant: nothing invisible in it, no blanks around it."""
    if not isinstance(value, str) or value.isascii():
        return value.strip() if isinstance(value, str) else value
    plain = (" " if char.isspace() else char for char in value if unicodedata.category(char) != "Cf")
    return "".join(plain).strip()


def _trimmed_unless_sealed(value: Any, info: ValidationInfo) -> Any:
    return value if info.mode == "json" else _trimmed(value)


def _bank_code(value: Any, info: ValidationInfo) -> Any:
    return with_plain_dashes(_trimmed(value)) if info.mode != "json" and is_typed_number(value) else value


def _digits_of(value: Any) -> Any:
    """A month or a year is often an int in the caller's hands; the form carries digits."""
    return str(value) if type(value) is int and 0 <= value <= 9999 else _trimmed(value)


def _schema_of(digits: Any) -> Callable[[Any, GetCoreSchemaHandler], CoreSchema]:
    """The schema of *digits*, for a field that callers may also fill with a number."""

    def schema(_: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_digits_of, handler.generate_schema(digits))

    return schema


def is_typed_number(value: Any) -> bool:
    """True if *value* may be a number with blanks and dashes, and is not so long that folding it would cost time."""
    return isinstance(value, str) and len(value) <= _LONGEST_TYPED_NUMBER


def _bare_card_number(value: Any) -> Any:
    return without_dashes(without_blanks(value)) if is_typed_number(value) else value


def _bare_account_number(value: Any, info: ValidationInfo) -> Any:
    if not is_typed_number(value):
        return value
    number = without_blanks(value) if info.mode != "json" else value.replace(" ", "")
    without = without_dashes(number)
    return without if IBAN_START.match(without) else with_plain_dashes(number)


def _one_line(value: Any) -> Any:
    """Two lines of an address in one cell become one line, with a comma between them; Stripe takes no line end."""
    if isinstance(value, str) and ("\n" in value or "\r" in value):
        return ", ".join(filter(None, (line.strip(" \t,") for line in value.splitlines())))
    return value


# Words
Name = Annotated[str, printable(100)]
Line = Annotated[str, printable(200), BeforeValidator(_one_line)]
Town = Annotated[str, printable(100)]
PostalCode = Annotated[str, printable(50)]
Email = Annotated[str, printable(800)]
Phone = Annotated[str, printable(50)]
Text = Annotated[str, printable(500)]
LongText = Annotated[str, printable(5000)]
Url = Annotated[str, printable(2000)]
UserAgent = Annotated[str, printable(2000)]
Word = Annotated[str, shaped("[A-Za-z0-9_.-]{1,100}", 100)]
"""A value of an extensible enum: Stripe adds values, so an unknown one passes."""
IdNumber = Annotated[str, printable(100), BeforeValidator(_trimmed_unless_sealed)]

# Codes
Country = Annotated[str, shaped("[A-Za-z]{2}", 2), BeforeValidator(_trimmed)]
Currency = Annotated[str, shaped("[A-Za-z]{3}", 3), BeforeValidator(_trimmed)]
IpAddress = Annotated[str, shaped("[0-9A-Fa-f:.]{2,45}", 45), BeforeValidator(_trimmed)]
ObjectId = Annotated[str, shaped("[0-9]*[A-Za-z_][A-Za-z0-9_]*", 255)]
"""An id from Stripe. Stripe documents no prefixes. Digits alone are refused: they may be a card number."""
FileId = Annotated[str, shaped("[0-9]*[A-Za-z_][A-Za-z0-9_]*", 500)]

# Numbers as typed by people
CardNumber = Annotated[str, shaped("[0-9]{12,19}", 19), BeforeValidator(_bare_card_number)]
Cvc = Annotated[str, shaped("[0-9]{3,4}", 4), BeforeValidator(_trimmed)]
Month = Annotated[int | str, GetPydanticSchema(_schema_of(Annotated[str, shaped("[0-9]{1,2}", 2)]))]
"""Taken as a number or as digits, and kept as digits."""
Year = Annotated[int | str, GetPydanticSchema(_schema_of(Annotated[str, shaped("(?:[0-9]{2}|[0-9]{4})", 4)]))]
"""Taken as a number or as digits, two or four, and kept as digits."""
AccountNumber = Annotated[str, shaped("[0-9A-Za-z./-]{1,64}", 64), BeforeValidator(_bare_account_number)]
"""Without blanks (people group an IBAN in fours), an IBAN without dashes; some national formats need dashes."""
RoutingNumber = Annotated[str, shaped("[0-9A-Za-z -]{1,50}", 50), BeforeValidator(_bank_code)]
Last4 = Annotated[str, shaped("[0-9]{4}", 4), BeforeValidator(_trimmed)]

# Plain values
Flag = StrictBool
"""Only true and false: a declaration is never made by the string "yes"."""
Timestamp = Annotated[StrictInt, Field(ge=0, le=253_402_300_799)]
"""Seconds since 1970."""
Amount = Annotated[StrictInt, Field(ge=1, le=999_999_999_999)]
"""In the currency's minor unit (cents)."""
Percent = Annotated[float, Field(strict=True, ge=0, le=100, allow_inf_nan=False)]
FileIds = Annotated[tuple[FileId, ...], Field(min_length=1, max_length=50)]
Names = Annotated[tuple[Name, ...], Field(min_length=1, max_length=50)]
Words = Annotated[tuple[Word, ...], Field(min_length=1, max_length=50)]

MetadataKey = Annotated[
    str, StringConstraints(strict=True, min_length=1, max_length=40, pattern=r"^[^\x00-\x1f\x7f\[\]]*$")
]
MetadataValue = Annotated[str, StringConstraints(strict=True, max_length=500, pattern=r"^[^\x00]*$")]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=50)]
"""An empty value unsets its key (documented)."""


def _is_unset(value: Any) -> str:
    return "unset" if isinstance(value, str) and value == "" else "given"


T = TypeVar("T")
OrUnset = Annotated[Union[Annotated[Literal[""], Tag("unset")], Annotated[T, Tag("given")]], Discriminator(_is_unset)]  # noqa: UP007
"""A value, or the empty string where Stripe documents that it unsets the field."""
