"""Imports a part of a file first: its first rows, or rows from all over it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tokenferry.inputs.rows import BrokenRow, Row


class Chosen:
    """The chosen rows of a file. Afterwards `left_out` says whether there were others."""

    def __init__(
        self, rows: Iterable[Row | BrokenRow], *, limit: int | None = None, records: frozenset[int] | None = None
    ) -> None:
        """*limit*: only so many rows from the beginning. *records*: only the rows with these numbers, from 1."""
        self._rows = rows
        self._limit = limit
        self._records = records
        self.left_out = False

    def __iter__(self) -> Iterator[Row | BrokenRow]:
        read = 0
        for row in self._rows:
            if self._limit is not None and read >= self._limit:
                self.left_out = True
                return
            if self._records is not None and row.record not in self._records:
                self.left_out = True
                continue
            read += 1
            yield row


def spread(count: int, of: int) -> frozenset[int]:
    """Return *count* numbers from 1 to *of*, evenly spread.

    >>> sorted(spread(3, of=9)), sorted(spread(5, of=2))
    ([2, 5, 8], [1, 2])
    """
    if count >= of:
        return frozenset(range(1, of + 1))
    return frozenset(int((2 * place + 1) * of / (2 * count)) + 1 for place in range(count))
