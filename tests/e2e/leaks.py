"""Looking for what must not be there: a value in clear, or behind the encodings a program puts on things."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}={0,2}")
_DEPTH = 3
"""A sealed body inside a task body inside a broker's message."""


def spellings(secret: str) -> set[bytes]:
    """How *secret* may look: as it is, URL-encoded, JSON-escaped, hexadecimal, and in base64 at any offset."""
    plain = secret.encode()
    looks = {plain, quote(secret, safe="").encode(), quote_plus(secret).encode(), plain.hex().encode()}
    for offset in range(3):
        text = base64.b64encode(bytes(offset) + plain)
        # Without the characters that also hold bits of its neighbours.
        inside = text[-(-offset * 8 // 6) : (offset + len(plain)) * 8 // 6]
        looks |= {inside, inside.translate(bytes.maketrans(b"+/", b"-_"))}
    return looks


def found(secrets: Iterable[str], content: Iterable[bytes]) -> set[str]:
    """Those of *secrets* that can be read somewhere in *content*."""
    looks = {secret: spellings(secret) for secret in secrets}
    seen: set[str] = set()
    for piece in content:
        for layer in layers(piece):
            seen |= {secret for secret, ways in looks.items() if any(way in layer for way in ways)}
    return seen


def layers(content: bytes, depth: int = _DEPTH) -> Iterator[bytes]:
    """*content*, and what its base64 runs decode to, and theirs."""
    yield content
    if depth:
        for run in _BASE64.findall(content):
            standard = run.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
            standard = standard[: len(standard) - (len(standard) % 4 == 1)]
            yield from layers(base64.b64decode(standard + b"=" * (-len(standard) % 4)), depth - 1)
