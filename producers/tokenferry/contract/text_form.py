"""The text form of everything signed in version 2: one line of ASCII, `PREFIX.PART.PART.SIGNATURE`.

A prefix names kind and version. Parts and signature are base64url without padding (RFC 4648, section 5). What is signed
is the text before the last dot, exactly as it travels, so nobody has to write it again to verify it.

JSON inside a part is canonical: keys sorted, no spaces, ASCII, integers only, absent fields left out. Each value has
one spelling, and `read` and `read_json` refuse every other one.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Any, Final

SIGNATURE_BYTES: Final = 64
"""Of Ed25519 (RFC 8032)."""
MOST_BRACKETS: Final = 2_000
"""Brackets in one part. Ours have some dozens; deeper or wider JSON is refused before it is parsed."""


class NotCanonical(ValueError):
    """A text is not in the text form, or not in its one spelling. Quotes nothing."""


def signed_text(signed: bytes, signature: bytes) -> str:
    """Return the whole text: what is signed, and its *signature*."""
    return f"{signed.decode()}.{_encode(signature)}"


def unsigned(prefix: str, *parts: bytes) -> str:
    """Return the text of *parts* without a signature.

    >>> unsigned("tf2e", b"{}")
    'tf2e.e30'
    """
    return ".".join((prefix, *map(_encode, parts)))


def read(prefix: str, text: str, *, parts: int) -> tuple[tuple[bytes, ...], bytes, bytes]:
    """Return the *parts* of *text*, the bytes that are signed, and the signature, which is not verified here.

    Raises `NotCanonical`.
    """
    found, *encoded = text.split(".", parts + 2)
    if found != prefix or len(encoded) != parts + 1:
        raise NotCanonical(f"is not of the form {prefix}")
    *decoded, signature = map(_decode, encoded)
    if len(signature) != SIGNATURE_BYTES:
        raise NotCanonical("the signature has another length")
    return tuple(decoded), text[: -len(encoded[-1]) - 1].encode(), signature


def to_json(value: Mapping[str, Any]) -> bytes:
    """Return the canonical JSON of *value*. Fields that are None are left out.

    >>> to_json({"b": 1, "a": "ü", "c": None})
    b'{"a":"\\\\u00fc","b":1}'
    """
    given = {name: each for name, each in value.items() if each is not None}
    return json.dumps(given, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def read_json(content: bytes) -> dict[str, Any]:
    """Return the JSON object that *content* is the canonical spelling of.

    Raises `NotCanonical`: for duplicate keys, spaces, another order, floats, and null as the value of a field.
    """
    if content.count(b"[") + content.count(b"{") > MOST_BRACKETS:
        raise NotCanonical("has too many parts")
    try:
        value = json.loads(content, parse_float=_refuse, parse_constant=_refuse)
        if isinstance(value, dict) and to_json(value) == content:
            return value
    except (ValueError, RecursionError):
        pass
    raise NotCanonical("is not canonical JSON")


def _encode(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """Raises `NotCanonical`: foreign characters, padding and bits behind the last byte have no meaning here."""
    try:
        content = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise NotCanonical("is not base64url") from None
    if _encode(content) != text:
        raise NotCanonical("is not base64url in its one spelling")
    return content


def _refuse(_: str) -> Any:
    raise NotCanonical("holds a number that is no integer")
