"""How a running server is reached."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote


@dataclass(frozen=True)
class Embedded:
    """A running server. The URLs contain the password: do not log them. `repr` leaves it out.

    The socket and the password outlive a restart of the server, so a client that reconnects needs no new URL.
    """

    socket: Path
    password: str = field(repr=False)
    pid: int
    db: int = 0

    def database(self, number: int) -> Embedded:
        """The same server with another of its 16 databases (0 to 15) selected in the URLs."""
        return replace(self, db=number)

    @property
    def redis_url(self) -> str:
        """For redis-py and valkey-py: `unix://:PASSWORD@/path/to/socket?db=0`."""
        return f"unix://:{self.password}@{quote(str(self.socket))}?db={self.db}"

    @property
    def kombu_url(self) -> str:
        """For kombu, Celery's broker and Celery's result backend: `redis+socket://:PASSWORD@/path?virtual_host=0`."""
        return f"redis+socket://:{self.password}@{quote(str(self.socket))}?virtual_host={self.db}"
