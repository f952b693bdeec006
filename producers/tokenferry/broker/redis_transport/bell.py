"""A bell that wakes the thread which waits in a poller."""

from __future__ import annotations

import contextlib
import socket


class Bell:
    """Rung from any thread, heard through a file descriptor."""

    def __init__(self) -> None:
        self._bell, self._rope = socket.socketpair()
        self._bell.setblocking(False)
        self._rope.setblocking(False)
        self._rung = False

    def fileno(self) -> int:
        return self._bell.fileno()

    def ring(self) -> None:
        if not self._rung:
            self._rung = True
            with contextlib.suppress(OSError):  # closed: nobody waits
                self._rope.send(b"!")

    def heard(self) -> None:
        """Make it silent. What is done about the ring comes after this, or the next one is overlooked."""
        with contextlib.suppress(OSError):
            self._bell.recv(64)
        self._rung = False

    def close(self) -> None:
        self._bell.close()
        self._rope.close()
