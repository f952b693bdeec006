"""The keys under which workers tag what they write to the store (docs/formats.md, "Authentic state").

A tag shows that a worker of this fleet wrote an entry, and that nobody has changed it. The keys never go to the store.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from tokenferry.configuration import Configuration
from tokenferry.sealing import UnusableKey, read_private_key_file

Entry = Literal["token made", "token spent", "onboarding step", "journal", "since"]
"""What a tag is about. The tag of one kind of entry never fits another kind."""

DOMAIN: Final = "tokenferry/v2/state"
TAG_DIGITS: Final = 32
"""Hex digits of a tag: 128 bits of HMAC-SHA256."""
MAKE: Final = "make one with `tokenferry keys generate --if-missing --out DIR`"


@dataclass(frozen=True)
class StateKey:
    """One key of 256 bits. Its `repr` shows only the key id."""

    key_id: str
    secret: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: bytes) -> StateKey:
        """Return the key with its id: `k` and 128 bits of an HMAC, because a secret key has no public bytes."""
        return cls("k" + hmac.digest(secret, f"{DOMAIN}/key id".encode(), hashlib.sha256).hex()[:32], secret)

    @classmethod
    def load(cls, path: Path) -> StateKey:
        """Read a file of 64 hex digits, which only its owner may read.

        Raises `UnusableKey`.
        """
        content = read_private_key_file(path, "state key", MAKE).strip()
        if not re.fullmatch(rb"[0-9a-f]{64}", content):
            raise UnusableKey(f"{path}: is not a state key (64 hex digits); {MAKE}")
        return cls.of(bytes.fromhex(content.decode()))

    def tag(self, entry: Entry, facts: tuple[str, ...]) -> str:
        """Return the tag of *facts*, without the key id."""
        spelled = json.dumps([DOMAIN, entry, *facts]).encode()
        return hmac.digest(self.secret, spelled, hashlib.sha256).hex()[:TAG_DIGITS]


@dataclass(frozen=True)
class StateKeys:
    """The key that makes tags, and earlier ones that still verify. Without a key nothing is tagged or verified."""

    current: StateKey | None = None
    earlier: Mapping[str, StateKey] = field(default_factory=dict)

    @classmethod
    def load(cls, configuration: Configuration) -> StateKeys:
        """Read `[keys] state_key`, if it is there, and every `*.key` of `[keys] old_state_keys`.

        Raises `UnusableKey` where one cannot be used.
        """
        path = configuration.path(configuration.keys.state_key)
        if not path.exists():
            return cls()
        old = sorted(configuration.path(configuration.keys.old_state_keys).glob("*.key"))
        return cls(StateKey.load(path), {key.key_id: key for key in map(StateKey.load, old)})

    def tag(self, entry: Entry, *facts: str) -> str:
        """Return `KEY_ID.TAG`, or nothing where there is no key."""
        return f"{self.current.key_id}.{self.current.tag(entry, facts)}" if self.current is not None else ""

    def verify(self, tag: str, entry: Entry, *facts: str) -> bool:
        """True if a worker with one of these keys made *tag* for exactly these *facts*."""
        key_id, _, digits = tag.partition(".")
        key = self.current if self.current is not None and self.current.key_id == key_id else self.earlier.get(key_id)
        return key is not None and hmac.compare_digest(key.tag(entry, facts).encode(), digits.encode())
