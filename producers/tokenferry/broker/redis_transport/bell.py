"""A bell that wakes the thread which waits in a poller."""

from __future__ import annotations

import contextlib
import socket


class Bell:
    """Rung from any thread, heard through a file descriptor."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self._rung = False

    def fileno(self) -> int:
        return self._receiver.fileno()

    def ring(self) -> None:
        if not self._rung:
            self._rung = True
            with contextlib.suppress(OSError):  # closed: no thread waits
                self._sender.send(b"!")

    def heard(self) -> None:
        """Clear the ring. Act on it after this call: a ring during the work must be noticed."""
        with contextlib.suppress(OSError):
            self._receiver.recv(64)
        self._rung = False

    def close(self) -> None:
        self._receiver.close()
        self._sender.close()
