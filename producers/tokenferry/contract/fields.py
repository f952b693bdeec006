"""The shapes a field may have: every string bounded, every id an id, every number a number.

Shape only. Whether a value makes sense (a checksum, a date in the past) is the business of `tokenferry.checks`,
and whether it is true is the business of the endpoint. The lengths of names, addresses, mail addresses and file
ids are the documented ones; the others are generous bounds, there so that a huge value is refused at the door.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar, Union

from pydantic import BeforeValidator, Discriminator, Field, StrictBool, StrictInt, StringConstraints, Tag

PRINTABLE = r"^[^\x00-\x1f\x7f]*$"

IBAN_START = re.compile("[A-Za-z]{2}[0-9]{2}")
_LONGEST_TYPED_NUMBER = 64


def printable(longest: int) -> StringConstraints:
    """Any characters but control characters, at least one, at most *longest*."""
    return StringConstraints(strict=True, min_length=1, max_length=longest, pattern=PRINTABLE)


def shaped(pattern: str, longest: int) -> StringConstraints:
    return StringConstraints(strict=True, max_length=longest, pattern=f"^{pattern}$")


def _digits_of(value: Any) -> Any:
    """A month or a year is often an int in the caller's hands; the form carries digits."""
    return str(value) if type(value) is int and 0 <= value <= 9999 else value


def _without_spaces_and_dashes(value: Any) -> Any:
    if isinstance(value, str) and len(value) <= _LONGEST_TYPED_NUMBER:
        return value.replace(" ", "").replace("-", "")
    return value


def _bare_account_number(value: Any) -> Any:
    bare = _without_spaces_and_dashes(value)
    return bare if not isinstance(bare, str) or IBAN_START.match(bare) else value.replace(" ", "")


# Words
Name = Annotated[str, printable(100)]
Line = Annotated[str, printable(200)]
Town = Annotated[str, printable(100)]
PostalCode = Annotated[str, printable(50)]
Email = Annotated[str, printable(800)]
Phone = Annotated[str, printable(50)]
Text = Annotated[str, printable(500)]
LongText = Annotated[str, printable(5000)]
Url = Annotated[str, printable(2000)]
UserAgent = Annotated[str, printable(2000)]
Word = Annotated[str, shaped("[A-Za-z0-9_.-]{1,100}", 100)]
"""A value of an extensible enum: the provider adds words, so an unknown one passes."""
IdNumber = Annotated[str, printable(100)]

# Codes
Country = Annotated[str, shaped("[A-Za-z]{2}", 2)]
Currency = Annotated[str, shaped("[A-Za-z]{3}", 3)]
IpAddress = Annotated[str, shaped("[0-9A-Fa-f:.]{2,45}", 45)]
ObjectId = Annotated[str, shaped("[0-9]*[A-Za-z_][A-Za-z0-9_]*", 255)]
"""An id of the provider's. Prefixes are no documented contract; digits alone are refused, as a number gone astray."""
FileId = Annotated[str, shaped("[0-9]*[A-Za-z_][A-Za-z0-9_]*", 500)]

# Numbers as typed by people
CardNumber = Annotated[str, shaped("[0-9]{12,19}", 19), BeforeValidator(_without_spaces_and_dashes)]
Cvc = Annotated[str, shaped("[0-9]{3,4}", 4)]
Month = Annotated[str, shaped("[0-9]{1,2}", 2), BeforeValidator(_digits_of)]
Year = Annotated[str, shaped("(?:[0-9]{2}|[0-9]{4})", 4), BeforeValidator(_digits_of)]
AccountNumber = Annotated[str, shaped("[0-9A-Za-z./-]{1,64}", 64), BeforeValidator(_bare_account_number)]
"""Spaces go (people group an IBAN in fours), and dashes in an IBAN; elsewhere some national formats need them."""
RoutingNumber = Annotated[str, shaped("[0-9A-Za-z -]{1,50}", 50)]
Last4 = Annotated[str, shaped("[0-9]{4}", 4)]

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
"""A value, or the empty string where the provider documents it as "unset this"."""
