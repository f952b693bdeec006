"""Only one process sends from an outbox."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Final
from weakref import WeakSet


class SenderLock:
    """A lock on a file beside the outbox. It goes with its holder, however that ends, and whomever it has forked."""

    def __init__(self, outbox: Path) -> None:
        self.path = outbox.with_name(outbox.name + ".sender")
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Whether it is ours now. Raises `OSError` where the file cannot be locked at all."""
        if self._descriptor is not None:
            return True
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _open.add(self)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.leave()
            if isinstance(error, BlockingIOError):
                return False
            raise
        with suppress(OSError):  # a full disk: then nobody reads whose it is
            os.truncate(self._descriptor, 0)
            os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)
        return True

    def release(self) -> None:
        """Let another one send."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.truncate(self._descriptor, 0)
            # To close it is not enough while a process that is being forked has it open as well.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self.leave()

    def leave(self) -> None:
        """Close the file, and leave the lock to whoever else has it open."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def holder(self) -> int | None:
        """The process that sends, where one does; 0 where it did not say which."""
        if self.take():
            self.release()
            return None
        try:
            return int(self.path.read_text())
        except (OSError, ValueError):
            return 0


_open: Final[WeakSet[SenderLock]] = WeakSet()


def _leave_all() -> None:
    """A forked child that kept the file open would keep the lock beyond the death of its parent."""
    for lock in list(_open):
        lock.leave()


os.register_at_fork(after_in_child=_leave_all)
