"""Names and ids as they may appear in queue names, store keys, headers and logs: short, plain, never a card number."""

from __future__ import annotations

import re
import secrets
from typing import Annotated, Literal

from pydantic import AfterValidator, StringConstraints, TypeAdapter, ValidationError

Lane = Literal["realtime", "bulk"]
"""Which of two queues a request waits in: `realtime` (a person waits) is served before `bulk`."""

LANES: tuple[Lane, ...] = ("realtime", "bulk")


def _not_a_number(text: str) -> str:
    if sum(map(str.isdigit, text)) >= 12 and not any(map(str.isalpha, text)):
        raise ValueError("must contain letters: an id of digits alone could be a card number")
    return text


Name = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$"),
    AfterValidator(_not_a_number),
]
"""A platform, a result route, a producer or a key id: part of queue and key names, so lower case and short."""

_PREFIX = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}|\{[a-z0-9][a-z0-9_-]{0,60}\}")


def _prefix(text: str) -> str:
    if _PREFIX.fullmatch(text) is None:
        raise ValueError("is a name (a-z, 0-9, _ and -), or for a cluster a name in braces, as in {ferry}")
    return _not_a_number(text)


Prefix = Annotated[str, AfterValidator(_prefix)]
"""What the names of one fleet begin with on a server that others use too.

A name in braces is a hash tag of Redis Cluster and Valkey: all keys that begin with it are in one slot, on one node.
"""


def is_hash_tag(prefix: str | None) -> bool:
    """True if *prefix* keeps all keys that begin with it in one slot of a cluster.

    >>> is_hash_tag("{ferry}"), is_hash_tag("ferry"), is_hash_tag(None)
    (True, False, False)
    """
    return prefix is not None and prefix.startswith("{")


Id = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$"),
    AfterValidator(_not_a_number),
]
"""A request or attach id: chosen by the producer, unique for ever, part of the idempotency key."""

_ID: TypeAdapter[str] = TypeAdapter(Id)


def is_id(value: object) -> bool:
    """True if *value* is an `Id`, so that it may stand in a log line.

    >>> is_id("req-1"), is_id("req-1\\nforged line"), is_id(["req-1"])
    (True, False, False)
    """
    try:
        _ID.validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


EndpointId = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_]{1,255}$"),
    AfterValidator(_not_a_number),
]
"""An id from Stripe: token, customer, account. Stripe documents no prefixes, so none is required."""


def _like_a_token(text: str) -> str:
    if not any(map(str.isalpha, text)):
        raise ValueError("is not the id of a token: it has no letters")
    first = text.partition("_")[0]
    if first in _OTHERS:
        raise ValueError(f"is the id of {_OTHERS[first]}, not of a token")
    return text


_OTHERS = {
    "acct": "an account",
    "ba": "a bank account",
    "card": "a card",
    "ch": "a charge",
    "cus": "a customer",
    "person": "a person",
    "pi": "a payment intent",
    "pm": "a payment method",
    "src": "a source",
}
"""Ids that people most often take for a token. Stripe documents no prefixes of tokens."""

TokenId = Annotated[EndpointId, AfterValidator(_like_a_token)]
"""The id of a token: not digits alone, and not the id of an object that a token becomes."""


LETTERS = str.maketrans("0123456789", "ghijklmnop")
"""Turns hex digits into letters."""


def new_id(prefix: str = "req") -> str:
    """Return a new random id of 128 bits. It says nothing about the request.

    It has letters only: log filters would take a run of digits for a card number, and mask it.
    """
    return f"{prefix}-{secrets.token_hex(16).translate(LETTERS)}"
