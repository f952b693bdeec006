"""Cutting a stream into lines, each of bounded length and in UTF-8, whatever the stream holds.

Memory is bounded by `LONGEST`: what is longer is read past, never kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Final

LONGEST: Final = 1024 * 1024
"""Bytes in a line. The largest request with every field full is far below it."""

BOM: Final = b"\xef\xbb\xbf"
UTF_16_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")


def trouble_in(raw: bytes) -> str | None:
    """What keeps *raw* from being text of ours."""
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
    """One line without its end, or what is wrong with it."""

    number: int
    """Counted from 1, as editors do."""
    text: str = field(default="", repr=False)
    trouble: str | None = None


class Lines:
    """The lines of a binary stream, with a way to give some back."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._number = 0
        self._returned: deque[Line] = deque()
        self.bytes_read = 0
        """How far into the stream we are: for an estimate of what remains."""

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
            self._read_past(raw)
            return Line(self._number, trouble="the line is longer than 1 MiB")
        if trouble := trouble_in(content):
            return Line(self._number, trouble=f"the line {trouble}")
        return Line(self._number, content.decode("utf-8"))

    def give_back(self, lines: list[Line]) -> None:
        """Read *lines*, in this order, again next."""
        self._returned.extendleft(reversed(lines))

    def _read_past(self, raw: bytes) -> None:
        while raw and not raw.endswith(b"\n"):
            raw = self._stream.readline(LONGEST)
            self.bytes_read += len(raw)
