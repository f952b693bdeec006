"""Finds out what bytes a file holds, and turns them into lines of UTF-8.

Read as they are: UTF-8, UTF-16 and UTF-32 (by their byte order mark, UTF-16 also without one), gzip around any of them,
and every encoding that Python knows when it is named. Line ends may be LF, CRLF or CR. Any other kind of file is named
in the error, with a command that converts it.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO, Final, Protocol, cast

from tokenferry.inputs.rows import UnreadableFile

BOM: Final = codecs.BOM_UTF8
_GZIP: Final = b"\x1f\x8b"
_REPLACED: Final = "\ufffd".encode()
_SAMPLE: Final = 8192
"""Bytes of the beginning that are looked at."""
_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_PIPE: Final = "`{} FILE | tokenferry import -`"
_FOREIGN: Final = (
    (b"PK\x03\x04", "a zip archive: unpack it with " + _PIPE.format("unzip -p")),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word document: save the sheet as CSV (File, Save As, CSV UTF-8)"),
    (b"age-encryption.org/", "encrypted with age: " + _PIPE.format("age -d")),
    (b"-----BEGIN AGE ", "encrypted with age: " + _PIPE.format("age -d")),
    (b"-----BEGIN PGP ", "encrypted with OpenPGP: " + _PIPE.format("gpg --decrypt")),
    (b"\x84", "probably encrypted with OpenPGP: " + _PIPE.format("gpg --decrypt")),
    (b"\x85", "probably encrypted with OpenPGP: " + _PIPE.format("gpg --decrypt")),
    (b"\x8c", "probably encrypted with OpenPGP: " + _PIPE.format("gpg --decrypt")),
    (b"BZh", "compressed with bzip2: " + _PIPE.format("bzcat")),
    (b"\xfd7zXZ\0", "compressed with xz: " + _PIPE.format("xzcat")),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: " + _PIPE.format("zstdcat")),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it with " + _PIPE.format("7z x -so")),
    (b"PAR1", "Parquet: export it as CSV or JSONL"),
    (b"SQLite format 3\0", "a SQLite database: export the table as CSV"),
    (b"%PDF-", "a PDF: export the data as CSV"),
    (b"<?xml", "XML: convert it to CSV or JSONL"),
)
_WORKBOOKS: Final = (
    (b"[Content_Types].xml", "an Excel workbook (.xlsx): save the sheet as CSV (File, Save As, CSV UTF-8)"),
    (b"_rels/.rels", "an Excel workbook (.xlsx): save the sheet as CSV (File, Save As, CSV UTF-8)"),
    (b"xl/", "an Excel workbook (.xlsx): save the sheet as CSV (File, Save As, CSV UTF-8)"),
    (b"mimetype", "an OpenDocument sheet (.ods): save it as CSV, with the character set UTF-8"),
)


class Source(Protocol):
    """Bytes that can be read by line."""

    @property
    def position(self) -> int:
        """How many bytes of the file are read."""

    def readline(self, limit: int) -> bytes:
        """Return the next line in UTF-8 with LF at its end, at most *limit* bytes of it. Empty at the end.

        Bytes that are not text of the encoding come as bytes that are not UTF-8. Raises `UnreadableFile` if a
        compressed file is damaged.
        """

    def why_not_text(self, raw: bytes) -> str:
        """Why *raw*, which is not UTF-8, is not text. To follow "the line is"."""


def source_of(stream: BinaryIO, *, encoding: str | None = None) -> Source:
    """Return the lines of *stream*, whatever its encoding.

    *encoding*: None finds it out. Raises `UnreadableFile`.
    """
    if encoding is not None:
        _check_encoding(encoding)
    head = _head(stream)
    if not head.startswith(_GZIP):
        return _text(stream, head, encoding)
    unzipped = cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    try:
        text = _text(unzipped, _head(unzipped), encoding)
    except (OSError, EOFError, zlib.error):
        raise UnreadableFile("is a damaged gzip file") from None
    return _Unzipped(text, stream.tell if stream.seekable() else lambda: 0)


def not_utf_8(raw: bytes) -> str:
    """That *raw* is not UTF-8, and which encoding it may be in. To follow "is"."""
    low, high = sum(0x80 <= byte < 0xA0 for byte in raw), sum(byte >= 0xA0 for byte in raw)
    if high >= low:
        return 'not UTF-8, perhaps Windows-1252; name the encoding with "--encoding cp1252"'
    return 'not UTF-8; name the encoding, for instance with "--encoding cp850" or "--encoding mac_roman"'


def _check_encoding(encoding: str) -> None:
    try:
        if codecs.lookup(encoding)._is_text_encoding:
            return
    except LookupError:
        pass
    raise UnreadableFile('--encoding is not known; known are for instance "utf-8", "cp1252", "latin-1", "shift_jis"')


def _head(stream: BinaryIO) -> bytes:
    peek = cast("Callable[[int], bytes] | None", getattr(stream, "peek", None))
    if peek is not None:
        return peek(_SAMPLE)[:_SAMPLE]
    position = stream.tell()
    head = stream.read(_SAMPLE)
    stream.seek(position)
    return head


def _text(stream: BinaryIO, head: bytes, encoding: str | None) -> Source:
    if encoding is None:
        _refuse_foreign(head)
        encoding = _by_its_bytes(head)
    if encoding is not None:
        return _Recoded(stream, encoding)
    if b"\r" in head and b"\n" not in head:
        return _Recoded(stream, "utf-8-sig")
    return _Plain(stream)


def _refuse_foreign(head: bytes) -> None:
    if head.startswith(b"PK\x03\x04"):
        for name, what in _WORKBOOKS:
            if head[30:].startswith(name):
                raise UnreadableFile(f"is {what}")
    for start, what in _FOREIGN:
        if head.startswith(start):
            raise UnreadableFile(f"is {what}")


def _by_its_bytes(head: bytes) -> str | None:
    """The encoding that the first bytes show. None: UTF-8, or nothing that can be seen."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    even, odd = head[0:200:2], head[1:200:2]
    if len(even) > 3 and even.count(0) == len(even) and not odd.count(0):
        return "utf-16-be"
    if len(odd) > 3 and odd.count(0) == len(odd) and not even.count(0):
        return "utf-16-le"
    return None


class _Plain:
    """UTF-8 with LF or CRLF: read as it is."""

    def __init__(self, stream: BinaryIO) -> None:
        self._readline = stream.readline
        self._first = True
        self.position = 0

    def readline(self, limit: int) -> bytes:
        raw = self._readline(limit)
        self.position += len(raw)
        if self._first:
            self._first = False
            return raw.removeprefix(BOM)
        return raw

    def why_not_text(self, raw: bytes) -> str:
        return not_utf_8(raw)


class _Recoded:
    """Another encoding, or lines that end with CR."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        # A byte of no meaning becomes a lone surrogate, which is no UTF-8 when it is encoded.
        errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
        self._text = io.TextIOWrapper(cast(io.BufferedReader, stream), encoding, errors, newline=None)
        self._encoding = encoding.removesuffix("-sig")
        self.position = 0

    def __del__(self) -> None:
        with suppress(ValueError, AttributeError):
            self._text.detach()  # the stream is not ours to close

    def readline(self, limit: int) -> bytes:
        line = self._text.readline(limit)
        self.position += len(line.encode(self._encoding, "replace"))
        raw = line.removeprefix("\ufeff").encode("utf-8", "surrogateescape")
        return raw.replace(_REPLACED, b"\xff")

    def why_not_text(self, raw: bytes) -> str:
        return not_utf_8(raw) if self._encoding == "utf-8" else f"not {self._encoding}: it holds bytes of no meaning"


class _Unzipped:
    """What a gzip file holds. Its position is that in the compressed file."""

    def __init__(self, inner: Source, position: Callable[[], int]) -> None:
        self._inner = inner
        self._position = position

    @property
    def position(self) -> int:
        return self._position()

    def readline(self, limit: int) -> bytes:
        try:
            return self._inner.readline(limit)
        except (OSError, EOFError, zlib.error):
            raise UnreadableFile("the gzip file is damaged or cut off here; nothing behind it was read") from None

    def why_not_text(self, raw: bytes) -> str:
        return self._inner.why_not_text(raw)
