"""What is remembered of the calls of one request: for `tokenferry show`, and for nothing that a worker decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class NotedAttempt:
    """How one call ended. Codes and ids only."""

    at: int
    """Unix milliseconds by the worker's clock."""
    endpoint: str
    """What was called: `tokens`, `customers`, ..."""
    status: int | None
    """HTTP status of the answer, if there was one."""
    code: str
    endpoint_request_id: str | None
    """Stripe's `Request-Id`."""


class AttemptNotes(Protocol):
    """Remembers the latest calls of each request or order."""

    async def note(self, id_: str, attempt: NotedAttempt) -> None:
        """Remember *attempt* of *id_*. Nothing is raised and nobody waits long where that is not possible."""
        ...


class NoNotes:
    """Remembers nothing."""

    async def note(self, id_: str, attempt: NotedAttempt) -> None:
        """Do nothing."""
