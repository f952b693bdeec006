"""Printing to standard output, with errors that say what was not printed and what was done all the same."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import click

from tokenferry.errors import OutputFailed
from tokenferry.shown import VisibleStream


class _Output:
    """A text stream that raises `OutputFailed`. A closed pipe still raises `BrokenPipeError`, which click handles."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with _translated():
            return self._stream.write(text)

    def flush(self) -> None:
        with _translated():
            self._stream.flush()


@contextmanager
def standard_output() -> Iterator[None]:
    """Let only visible characters through meanwhile, and make standard output raise `OutputFailed`.

    What cannot be written until the end is lost.
    """
    stream, errors = sys.stdout, sys.stderr
    if errors is not None:
        sys.stderr = VisibleStream(errors)
    if stream is None:  # it is closed
        try:
            yield
        finally:
            sys.stderr = errors
        return
    sys.stdout = VisibleStream(_Output(stream))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = stream, errors
        try:
            stream.flush()
        except OSError:
            # Python would try to write it once more at exit, and report an error.
            with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


def print_line(line: str, done: str) -> None:
    """Print *line*. Raises `OutputFailed` if it cannot be written; the message says what was *done* before."""
    try:
        click.echo(line)
    except OutputFailed as error:
        raise OutputFailed(f"{done}; {error}") from None


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputFailed(f"standard output cannot be written ({error.strerror})") from None
