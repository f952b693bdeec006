"""Identifiers of the provider's shape. Never seeded: two runs must not hand out the same id."""

from __future__ import annotations

import random
import string

_ALPHABET = string.ascii_letters + string.digits
_dice = random.Random()


def new_id(prefix: str) -> str:
    """`tok` becomes `tok_1…` with 24 characters after the underscore."""
    return f"{prefix}_1{''.join(_dice.choices(_ALPHABET, k=23))}"


def new_request_id() -> str:
    return f"req_{''.join(_dice.choices(_ALPHABET, k=14))}"
