"""Cuts a stream into lines of UTF-8 text.

A line that is longer than `LONGEST` is skipped, so that it never fills the memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Final

LONGEST: Final = 1024 * 1024
"""Bytes in a line, at most. The largest possible request is far below it."""

BOM: Final = b"\xef\xbb\xbf"
UTF_16_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")


def trouble_in(raw: bytes) -> str | None:
    """Why *raw* is not valid text. None if it is."""
    if raw.startswith(UTF_16_BOMS):
        return "is UTF-16; write UTF-8"
    if b"\0" in raw:
        return "contains a NUL byte"
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return "is not UTF-8"
    return None


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its line end, or what is wrong with it."""

    number: int
    """Counted from 1, as in an editor."""
    text: str = field(default="", repr=False)
    trouble: str | None = None


class Lines:
    """The lines of a binary stream. Lines can be given back."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._number = 0
        self._returned: deque[Line] = deque()
        self.bytes_read = 0
        """Bytes read so far, to estimate what remains."""

    def __iter__(self) -> Iterator[Line]:
        return self

    def __next__(self) -> Line:
        if self._returned:
            return self._returned.popleft()
        raw = self._stream.readline(LONGEST + 2)
        if not raw:
            raise StopIteration
        self._number += 1
        self.bytes_read += len(raw)
        if self._number == 1:
            raw = raw.removeprefix(BOM)
        content = raw.removesuffix(b"\n").removesuffix(b"\r")
        if len(content) > LONGEST:
            self._skip(raw)
            return Line(self._number, trouble="the line is longer than 1 MiB")
        if trouble := trouble_in(content):
            return Line(self._number, trouble=f"the line {trouble}")
        return Line(self._number, content.decode("utf-8"))

    def give_back(self, lines: list[Line]) -> None:
        """Return *lines* again, in this order, before any other line."""
        self._returned.extendleft(reversed(lines))

    def _skip(self, raw: bytes) -> None:
        while raw and not raw.endswith(b"\n"):
            raw = self._stream.readline(LONGEST)
            self.bytes_read += len(raw)
