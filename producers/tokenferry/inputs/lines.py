"""Cuts a stream into lines of text.

A line that is longer than `LONGEST` is skipped, so that it never fills the memory.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from tokenferry.inputs.decoding import source_of
from tokenferry.inputs.rows import UnreadableFile

LONGEST: Final = 1024 * 1024
"""Bytes in a line, at most. The largest possible request is far below it."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its line end, or what is wrong with it."""

    number: int
    """Counted from 1, as in an editor."""
    text: str = field(default="", repr=False)
    """With trouble, what can be read of the line: to find the row's key in it, and for nothing else."""
    trouble: str | None = None


class Lines:
    """The lines of a binary stream. Lines can be given back."""

    def __init__(self, stream: BinaryIO, *, encoding: str | None = None) -> None:
        """*encoding*: None finds it out. Raises `UnreadableFile`."""
        self._source = source_of(stream, encoding=encoding)
        self._number = 0
        self._returned: deque[Line] = deque()
        self._ended = False
        self._pending: bytes | None = None

    @property
    def bytes_read(self) -> int:
        """Bytes of the file read so far, to estimate what remains."""
        return self._source.position

    def __iter__(self) -> Iterator[Line]:
        return self

    def __next__(self) -> Line:
        if self._returned:
            return self._returned.popleft()
        if self._ended:
            raise StopIteration
        self._number += 1
        try:
            raw = self._raw(LONGEST + 2)
            content = raw.removesuffix(b"\n").removesuffix(b"\r")
            if len(content) > LONGEST:
                self._skip(raw)
                return Line(self._number, trouble="the line is longer than 1 MiB")
        except UnreadableFile as error:
            self._ended = True
            return Line(self._number, trouble=str(error))
        if not raw:
            self._ended = True
            raise StopIteration
        if b"\0" in content:
            return Line(self._number, trouble="the line contains a NUL byte")
        try:
            return Line(self._number, content.decode("utf-8"))
        except UnicodeDecodeError:
            trouble = f"the line is {self._source.why_not_text(content)}"
            return Line(self._number, content.decode("utf-8", "replace"), trouble)

    def start(self) -> str:
        """The first characters of the file that are no white space, at most 100. Nothing is read away by it."""
        while self._pending is None and not self._returned:
            try:
                self._pending = self._source.readline(LONGEST + 2)
            except UnreadableFile:
                return ""
            if self._pending and not self._pending.strip():
                self._number += 1
                self._pending = None
        return (self._pending or b"")[:1000].decode("utf-8", "replace").lstrip()[:100]

    def given_back(self) -> Iterator[Line]:
        """The lines that were given back."""
        while self._returned:
            yield self._returned.popleft()

    def pieces(self) -> Iterator[str]:
        """The rest as pieces of text, whatever the length of its lines. A lone surrogate stands for a bad byte."""
        decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        while raw := self._raw(65_536):
            yield decoder.decode(raw)
        yield decoder.decode(b"", True)

    def _raw(self, limit: int) -> bytes:
        if self._pending is None:
            return self._source.readline(limit)
        raw, self._pending = self._pending, None
        return raw

    def give_back(self, lines: list[Line]) -> None:
        """Return *lines* again, in this order, before any other line."""
        self._returned.extendleft(reversed(lines))

    def _skip(self, raw: bytes) -> None:
        while raw and not raw.endswith(b"\n"):
            raw = self._source.readline(LONGEST)
