"""A set of rows that needs one bit for each line of the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

MOST: Final = 1_000_000_000
"""Numbers above this are no lines of a file. A damaged checkpoint could hold one, and must not cost the memory."""


class RowSet:
    """A set of line numbers. A million rows need 125 kB.

    >>> rows = RowSet([2, 9])
    >>> 9 in rows, 3 in rows, len(rows)
    (True, False, 2)
    """

    def __init__(self, rows: Iterable[int] = ()) -> None:
        self._bits = bytearray()
        self._count = 0
        for row in rows:
            self.add(row)

    def add(self, row: int) -> None:
        """Add a line number. One that cannot be a line is ignored."""
        if not 0 <= row <= MOST:
            return
        place, bit = row >> 3, 1 << (row & 7)
        if place >= len(self._bits):
            self._bits.extend(bytes(place + 1 - len(self._bits) + len(self._bits) // 8))
        if not self._bits[place] & bit:
            self._bits[place] |= bit
            self._count += 1

    def discard(self, row: int) -> None:
        """Remove a line number if it is there."""
        if row in self:
            self._bits[row >> 3] &= ~(1 << (row & 7))
            self._count -= 1

    def __contains__(self, row: object) -> bool:
        if not isinstance(row, int) or row < 0 or row >> 3 >= len(self._bits):
            return False
        return bool(self._bits[row >> 3] & (1 << (row & 7)))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        """Yield the line numbers, the smallest first."""
        for place, bits in enumerate(self._bits):
            if bits:
                yield from (place * 8 + bit for bit in range(8) if bits & (1 << bit))
