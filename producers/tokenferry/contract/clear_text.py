"""Finds card numbers, verification codes and id numbers in text that is not sealed, however they are spelled.

Pure. Reasons and results never repeat a value. What is found is a strong hint and no proof: beginning, length and check
digit of a card number are right, or a name says what its value is.
"""

from __future__ import annotations

import re
import unicodedata
from base64 import b64decode, urlsafe_b64decode
from collections.abc import Iterator, Mapping
from typing import Any, Final

SEARCHED: Final = 65_536
"""Characters of a text that are searched. A message of a person or a program by mistake is shorter."""

_CARD: Final = re.compile(
    r"4\d{15}(?:\d{3})?|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[68]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}|6(?:011|5\d\d|4[4-9]\d)\d{12}|62\d{14}(?:\d{3})?"
    r"|(?:5018|5020|5038|5893|6304|6759|676[1-3])\d{8,15}"
)
"""Beginning and length together, by brand. Telephone numbers have at most 15 digits, and these begin otherwise."""
_RUN: Final = re.compile(
    r"(?:(?<![0-9A-Za-z])(?<![0-9A-Za-z]_)|(?<=pan)|(?<=card)|(?<=number)|(?<=nr)|(?<=cc))"
    r"[0-9](?:[^0-9A-Za-z]{0,3}[0-9]){11,18}(?![0-9A-Za-z_])",
    re.IGNORECASE,
)
"""Digits with little between them, which stand alone or behind a word for such a number. An id with letters is none."""
_ENCODED: Final = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_NAMED: Final = re.compile(r"(?<![a-z0-9])(?:cvc2?|cvv2?|csc|ssn)[^a-z0-9]{1,8}[0-9]{3}", re.IGNORECASE)
_WORDS: Final = re.compile(r"[A-Z]?[a-z]+[0-9]?|[A-Z]+[0-9]?")
SECRET_WORDS: Final = frozenset({"cvc", "cvc2", "cvv", "cvv2", "csc", "ssn", "dob", "pan"})
"""A name with one of these words in it names a secret."""
SECRET_NAMES: Final = frozenset(
    {
        "cardnumber",
        "cardverificationcode",
        "verificationcode",
        "cardsecuritycode",
        "securitycode",
        "socialsecuritynumber",
        "dateofbirth",
        "birthdate",
        "birthday",
    }
)
"""So does one of these, whatever stands between its letters."""


def folded(text: str) -> str:
    """Return *text* with one character for each that looks or counts the same, and without invisible ones.

    >>> folded("\\uff14\\u0662\\u200b4")
    '424'
    """
    if text.isascii():
        return text
    plain = (char for char in unicodedata.normalize("NFKC", text) if unicodedata.category(char) not in ("Cf", "Mn"))
    return "".join(str(unicodedata.decimal(char, char)) for char in plain)


def bare(text: str) -> str:
    """Return the letters and digits of *text* alone, folded.

    >>> bare("4242.4242/\\u2009ab")
    '42424242AB'
    """
    return "".join(filter(str.isalnum, folded(text))).upper()


def is_secret_name(name: str) -> bool:
    """True if *name* names a verification code, a card number, a social security number or a date of birth.

    >>> [is_secret_name(name) for name in ("cvc", "card_CVV2", "customerDob", "Date of birth", "order", "panorama")]
    [True, True, True, True, False, False]
    """
    name = folded(name)
    words = {word.lower() for word in _WORDS.findall(name)}
    return bool(words & SECRET_WORDS) or bare(name).lower() in SECRET_NAMES


def holds_card_number(text: str) -> bool:
    """True if a card number stands in *text*: in other digits, with separators, or in base64, too.

    >>> [holds_card_number(text) for text in ("4242.4242.4242.4242", "NDI0MjQyNDI0MjQyNDI0Mg==", "42424242 42424241")]
    [True, True, False]
    """
    text = folded(text[:SEARCHED])
    return _shows_card_number(text) or any(map(_shows_card_number, _decoded(text)))


def holds_secret(text: str) -> bool:
    """True if *text* holds a card number, or a verification code or a social security number behind its name."""
    return holds_card_number(text) or _NAMED.search(folded(text[:SEARCHED])) is not None


def texts_in(value: Any) -> Iterator[str]:
    """Yield every text in a value as JSON has it, the names in its objects included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inside in value.items():
            yield str(name)
            yield from texts_in(inside)
    elif isinstance(value, list | tuple):
        for inside in value:
            yield from texts_in(inside)


def names_in(value: Any) -> Iterator[str]:
    """Yield every name in the objects of a value as JSON has it."""
    if isinstance(value, Mapping):
        for name, inside in value.items():
            yield str(name)
            yield from names_in(inside)
    elif isinstance(value, list | tuple):
        for inside in value:
            yield from names_in(inside)


def _shows_card_number(text: str) -> bool:
    for found in _RUN.finditer(text):
        digits = "".join(filter(str.isdigit, found[0]))
        if _CARD.fullmatch(digits) and _has_check_digit(digits):
            return True
    return False


def _decoded(text: str) -> Iterator[str]:
    """Yield what is readable of the parts of *text* that may be base64."""
    for found in _ENCODED.finditer(text):
        part = found[0].rstrip("=")
        part = part[: len(part) // 4 * 4 + (len(part) % 4 if len(part) % 4 > 1 else 0)]
        decode = urlsafe_b64decode if "-" in part or "_" in part else b64decode
        try:
            yield decode(part + "=" * (-len(part) % 4)).decode("ascii")
        except ValueError:  # Unicode's error is one, and so is binascii's
            continue


def _has_check_digit(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B ("Luhn")."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[::-2])) + sum(doubled)) % 10 == 0
