"""The lock that lets only one process send from an outbox."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Final
from weakref import WeakSet

from tokenferry.owned_files import open_owned


class SenderLock:
    """A lock on a file beside the outbox. It ends with the process that holds it, also if that has forked others."""

    def __init__(self, outbox: Path) -> None:
        self.path = outbox.with_name(outbox.name + ".sender")
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Return True if the lock is ours now. Raises `OSError` if the file cannot be locked at all."""
        if self._descriptor is not None:
            return True
        self._descriptor = open_owned(self.path, os.O_RDWR | os.O_CREAT)
        _open.add(self)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.leave()
            if isinstance(error, BlockingIOError):
                return False
            raise
        with suppress(OSError):  # a full disk: then the file does not say who holds it
            os.truncate(self._descriptor, 0)
            os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)
        return True

    def release(self) -> None:
        """Let another one send."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.truncate(self._descriptor, 0)
            # Closing it is not enough while a process that is being forked has it open as well.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self.leave()

    def leave(self) -> None:
        """Close the file without unlocking it. Another process that has it open keeps the lock."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def holder(self) -> int | None:
        """Return the id of the process that sends, 0 if it is not known, None if no process sends."""
        try:
            with self.path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
        except FileNotFoundError:
            return None
        except BlockingIOError:
            pass
        try:
            return int(self.path.read_text())
        except (OSError, ValueError):
            return 0


_open: Final[WeakSet[SenderLock]] = WeakSet()


def _leave_all() -> None:
    """In a forked child: close the file. Else the child would keep the lock when its parent dies."""
    for lock in list(_open):
        lock.leave()


os.register_at_fork(after_in_child=_leave_all)
