"""Objects with threads, connections or locks cannot be used after a fork: these stay in the parent process."""

from __future__ import annotations

import os


class ForkGuard:
    """The process in which an object was made."""

    def __init__(self, made: str) -> None:
        """*made*: the object's name, for the error."""
        self._made = made
        self._id = os.getpid()

    @property
    def is_this(self) -> bool:
        """Whether this is still that process."""
        return os.getpid() == self._id

    def check(self) -> None:
        """Raises `RuntimeError` in a process that was forked from it."""
        if not self.is_this:
            raise RuntimeError(
                f"{self._made} that was made before a fork does not work after it; "
                "make the Producer, the Outbox or the Results in the forked process: in gunicorn's post_fork, uWSGI's "
                "@postfork or Celery's worker_process_init, or when it is first used (docs/outbox.md)"
            )
