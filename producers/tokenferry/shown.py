"""The one filter for text that is shown in a terminal, written to a log, or exported as CSV.

Queues, the store and the endpoint are filled by others. Their text could move the cursor, hide or reverse what stands
beside it, forge a line of a log, or be run by a spreadsheet. Here such characters become visible: `\\u001b`.
"""

from __future__ import annotations

import logging
import sys
import unicodedata
from typing import Any, Final, TextIO

LONGEST: Final = 500
"""Characters of one foreign text that are shown."""
LONGEST_LINE: Final = 8192
"""Characters of one message in a log."""
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet may run (OWASP, CSV injection)."""
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories: C0 and C1 controls, bidi and other invisible controls, half characters, line separators."""


def shown(text: object, longest: int = LONGEST) -> str:
    """Return *text* as one visible line of at most *longest* characters.

    >>> shown("paused\\n2044 CRITICAL"), shown("\\u202egpj.exe"), shown("a" * 9, longest=8)
    ('paused\\\\u000a2044 CRITICAL', '\\\\u202egpj.exe', 'aaaaa...')
    """
    line = _visible(str(text), "")
    return line if len(line) <= longest else line[: longest - 3] + "..."


def visible(text: str) -> str:
    """Return *text* with its line ends and tabs, and every other hidden character as `\\uXXXX`.

    In JSON this is the same value: such characters stand in strings only.

    >>> visible("one\\n\\x9b2J"), visible('{"key":"\\u202ex"}')
    ('one\\n\\\\u009b2J', '{"key":"\\\\u202ex"}')
    """
    return _visible(text, "\n\t")


def cell(text: str) -> str:
    """Return *text* as a CSV cell that no spreadsheet runs: `'` stands before what could be a formula.

    >>> cell("=HYPERLINK(1)"), cell("-1"), cell("row-7")
    ("'=HYPERLINK(1)", "'-1", 'row-7')
    """
    return f"'{visible(text)}" if text.startswith(FORMULA) else visible(text)


class VisibleStream:
    """A text stream that writes only visible characters. Everything else is the stream's own."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.decorated = stream
        """For what draws on the terminal, and filters each text itself."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write *text*. Return its length."""
        self._stream.write(visible(text))
        return len(text)


def decorated(stream: TextIO) -> TextIO:
    """Return the stream below a `VisibleStream`, for colours and a moving cursor. Filter each text with `shown`."""
    found: TextIO = getattr(stream, "decorated", stream)
    return found


class OneLine(logging.Formatter):
    """Writes each message as one visible line, so that no text in it can look like another line.

    Lines of a traceback stay lines.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line without the traceback."""
        return shown(super().formatMessage(record), LONGEST_LINE)

    def formatException(self, ei: Any) -> str:
        """Return the traceback."""
        return visible(super().formatException(ei))


def _visible(text: str, kept: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in kept else _spelled(char) for char in text)


def _spelled(char: str) -> str:
    if unicodedata.category(char) not in _HIDDEN:
        return char  # a wide blank, or a character that this Python does not know yet
    code = ord(char)
    if code > 0xFFFF:
        return f"\\u{0xD800 + (code - 0x10000 >> 10):04x}\\u{0xDC00 + (code - 0x10000 & 0x3FF):04x}"
    return f"\\u{code:04x}"


def standard_error() -> TextIO:
    """Return standard error for what draws on the terminal."""
    return decorated(sys.stderr)
