"""What was made in one process is not used in one forked from it: its threads, connections and locks stayed behind."""

from __future__ import annotations

import os


class ForkGuard:
    """The process in which something was made."""

    def __init__(self, made: str) -> None:
        """*made*: what, for the error."""
        self._made = made
        self._id = os.getpid()

    @property
    def is_this(self) -> bool:
        """Whether we are still in it."""
        return os.getpid() == self._id

    def check(self) -> None:
        """Raises `RuntimeError` in a process that was forked from it."""
        if not self.is_this:
            raise RuntimeError(
                f"{self._made} that was made before a fork does not work after it; "
                "make the Producer, the Outbox or the Results in the forked process (docs/outbox.md)"
            )
