"""One server for one directory: found, started, stopped."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .addresses import Embedded
from .errors import EmbeddedServerError
from .home import Home
from .programs import server_program
from .starting import start

_POLL_SECONDS = 0.01


def ensure(
    directory: Path,
    *,
    owner: bool = False,
    seconds: float = 10.0,
    program: Callable[[], Path] = server_program,
    born_key: str | None = None,
) -> Embedded:
    """Make sure that a server runs for this data directory, and say how to reach it.

    By default the server is *shared*: the first process starts it, later ones find it, and it outlives all of them
    until `stop(directory)`. It runs in a session of its own, so Ctrl-C in a terminal does not reach it.

    With *owner* it belongs to this process: it is stopped when this process dies, even by SIGKILL (on macOS: when it
    exits in an orderly way). Other processes may find it with `ensure(directory)` while it runs. Prefer `running`.

    A server that was killed is started again on the data it had written. The directory is created if needed. One that
    exists must be empty, used by us before, or closed to other users already.

    *seconds* bounds the wait for the server's first answer. A shared server which is still reading its data by then
    is left alone to go on, and a later call finds it. *program* finds the server program.
    *born_key*: where the first start on an empty directory writes when that was.

    Raises EmbeddedServerUnavailable if there is no server program, and EmbeddedServerError if the directory cannot be
    used, the server died at start (the end of its log is quoted), did not answer in time, or, with *owner*, if the
    directory already has a server.
    """
    home = Home.of(directory)
    home.prepare()
    deadline = time.monotonic() + seconds
    ours = _Start(home, program, owner=owner)
    while True:
        answer = home.ask()
        if (server := _server_at(home, answer)) is not None:
            if owner and not ours.has_begun:
                raise EmbeddedServerError(
                    f"a server (pid {server.pid}) already runs on {home.directory}, so this process cannot own it: "
                    "stop it first, or choose another directory"
                )
            if ours.is_new and born_key is not None:
                home.note_birth(born_key)
            return server
        ours.begin_if_nobody_has()
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL_SECONDS)

    if owner and ours.has_begun:
        stop(directory)
    raise EmbeddedServerError(
        f"the embedded server on {home.directory} is there (pid {home.pid() or 'unknown'}), but it did not accept "
        f"commands within {seconds:g} s; its answer was: {answer or 'nothing'}. "
        f"If it is still loading its data try again, else stop it and start anew; {home.log} may say more"
    )


def _server_at(home: Home, answer: str) -> Embedded | None:
    """Return the server that gave this *answer* to a PING, or None if it is not ready."""
    # A server whose disk is full runs and refuses, PING too: another start would not make room.
    is_up = answer == "+PONG" or answer.startswith("-MISCONF")
    if is_up and (password := home.password()) and (pid := home.pid()):
        return Embedded(home.socket(), password, pid)
    return None


class _Start:
    """The start of one server, by one process."""

    def __init__(self, home: Home, program: Callable[[], Path], *, owner: bool) -> None:
        self._home = home
        self._program = program
        self._owner = owner
        self._log_begins: int | None = None
        """Where the words of our server begin in the log, in bytes."""
        self.is_new = False
        """True if it was the first start on this directory."""

    @property
    def has_begun(self) -> bool:
        return self._log_begins is not None

    def begin_if_nobody_has(self) -> None:
        """Start a server, unless one holds the lock. Raises EmbeddedServerError where ours has died."""
        if (lock := self._home.take_lock()) is None:
            return
        try:
            self._begin(lock)
        except OSError as error:
            raise EmbeddedServerError(f"cannot start a server on {self._home.directory}: {error}") from error
        finally:
            os.close(lock)  # the server has its own copy, and with it the lock

    def _begin(self, lock: int) -> None:
        home = self._home
        if self._log_begins is not None:
            raise EmbeddedServerError(
                f"the embedded server died while starting on {home.directory}; "
                f"its last words (more in {home.log}):\n{home.last_words(since=self._log_begins)}"
            )
        self._log_begins = home.log.stat().st_size if home.log.exists() else 0
        self.is_new = home.is_new
        start(home, lock, self._program(), owner=self._owner)
        if self._owner and sys.platform != "linux":
            atexit.register(stop, home.directory)


def is_running(directory: Path) -> bool:
    """True if a server runs for this data directory, or is being started. Starts nothing and writes nothing."""
    home = Home.of(directory)
    return home.ask() != "" or home.is_locked()


def stop(directory: Path, *, seconds: float = 10.0) -> bool:
    """Stop the server of this data directory, and keep its data. Harmless if there is none.

    Sends SIGTERM, upon which the server writes out its data; after *seconds* sends SIGKILL. Returns once the server
    is gone: True if there was one, False if not.

    Raises EmbeddedServerError if the server cannot be found or survives.
    """
    home = Home.of(directory)
    if not home.lock.exists():
        return False
    started = time.monotonic()
    target: int | None = None
    killed = False
    while True:
        if (lock := home.take_lock()) is not None:
            try:
                home.sweep()
            finally:
                os.close(lock)
            return target is not None
        pid = home.pid()
        if target is None and pid is not None and home.is_server(pid):
            target = pid
            _signal(target, signal.SIGTERM)
        if target is not None and pid is not None and pid != target:
            return True  # it is gone: another process has started a new one
        waited = time.monotonic() - started
        if waited > seconds and not killed and target is not None and home.is_server(target):
            killed = True
            _signal(target, signal.SIGKILL)
        if waited > seconds + 5.0:
            raise EmbeddedServerError(
                f"something (pid {target or 'unknown'}) still holds {home.lock}: end the processes which have it open"
            )
        time.sleep(_POLL_SECONDS)


@contextmanager
def running(directory: Path) -> Iterator[Embedded]:
    """A server of our own for the length of a `with` block, for demos and tests. Its data stays in the directory."""
    embedded = ensure(directory, owner=True)
    try:
        yield embedded
    finally:
        stop(directory)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise EmbeddedServerError(
            f"the embedded server (pid {pid}) belongs to another user: stop it as that one"
        ) from error
