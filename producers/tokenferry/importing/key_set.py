"""The keys of all rows so far, in little memory: whatever the length of a key, it needs 16 bytes and its free space."""

from __future__ import annotations

import hashlib
from typing import Final

_WIDTH: Final = 16
_EMPTY: Final = bytes(_WIDTH)


class KeySet:
    """A hash table with open addressing. A million keys need 32 MB, where a set of Python needs 130 MB.

    Two keys with the same 128-bit hash count as one. That does not happen by chance.

    >>> keys = KeySet()
    >>> keys.add("a"), keys.add("b"), keys.add("a"), len(keys)
    (True, True, False, 2)
    """

    def __init__(self) -> None:
        self._slots = 1024
        self._table = bytearray(self._slots * _WIDTH)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, key: str) -> bool:
        """Add *key*. Return False if it was there."""
        if self._count * 3 >= self._slots * 2:
            self._grow()
        digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_WIDTH).digest()
        place = self._place(digest)
        if self._table[place : place + _WIDTH] == digest:
            return False
        self._table[place : place + _WIDTH] = digest
        self._count += 1
        return True

    def _place(self, digest: bytes) -> int:
        """Where *digest* is, or the free place where it belongs."""
        mask = self._slots - 1
        slot = int.from_bytes(digest[:8], "little") & mask
        while True:
            place = slot * _WIDTH
            found = self._table[place : place + _WIDTH]
            if found in (digest, _EMPTY):
                return place
            slot = (slot + 1) & mask

    def _grow(self) -> None:
        before = self._table
        self._slots *= 2
        self._table = bytearray(self._slots * _WIDTH)
        for start in range(0, len(before), _WIDTH):
            digest = bytes(before[start : start + _WIDTH])
            if digest != _EMPTY:
                place = self._place(digest)
                self._table[place : place + _WIDTH] = digest
