"""Standard output that says in our words what it does not take, and whoever prints what was done says that too."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import click

from tokenferry.bulk.outputs import OutputFailed


class _Output:
    """A text stream whose errors are `OutputFailed`; but for a closed pipe, which is click's business."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with _in_our_words():
            return self._stream.write(text)

    def flush(self) -> None:
        with _in_our_words():
            self._stream.flush()


@contextmanager
def standard_output() -> Iterator[None]:
    """Errors of standard output are `OutputFailed` meanwhile, and what it does not take until the end is lost."""
    stream = sys.stdout
    if stream is None:  # closed: nobody wants to hear it
        yield
        return
    sys.stdout = _Output(stream)
    try:
        yield
    finally:
        sys.stdout = stream
        try:
            stream.flush()
        except OSError:
            # Python would try it once more at its end, and complain.
            with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


def printed(line: str, done: str) -> None:
    """Print *line*.

    Raises `OutputFailed`, which says what was *done*, where that cannot be written.
    """
    try:
        click.echo(line)
    except OutputFailed as error:
        raise OutputFailed(f"{done}; {error}") from None


@contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputFailed(f"standard output cannot be written ({error.strerror})") from None
