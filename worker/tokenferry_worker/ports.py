"""What tokenizing and attaching need of the world: protocols, so that tests bring small stand-ins."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from tokenferry.contract.names import Lane
from tokenferry.contract.requests import Kind
from tokenferry_worker.answers import Answer
from tokenferry_worker.circuits import Board
from tokenferry_worker.pacing import Budget


class Endpoint(Protocol):
    """The provider's endpoint with the keys of one platform."""

    async def create_token(
        self, kind: Kind, form: str, *, idempotency_key: str, connected_account: str | None = None
    ) -> Answer: ...

    async def post(
        self, path: str, form: str, *, idempotency_key: str, connected_account: str | None = None
    ) -> Answer: ...


class Limiter(Protocol):
    """Leave to call, for the whole fleet."""

    async def permit(self, budgets: Sequence[Budget], lane: Lane) -> str:
        """Return when one call may be made now; what to tell `done` once it is over."""
        ...

    async def done(self, budgets: Sequence[Budget], call: str) -> None:
        """The call is over, however it ended."""
        ...

    async def push_back(self, budget: Budget, seconds: float) -> None:
        """Nobody in the fleet draws on *budget* for *seconds*: the endpoint said it is exhausted."""
        ...


@dataclass(frozen=True)
class Begun:
    """What the journal knows when a delivery begins."""

    deliveries: int
    """Hand-overs so far, this one included."""
    epoch: int
    """Generation of the idempotency key."""
    outcome: str | None
    """The recorded final outcome (JSON of a result), if there is one."""


class Journal(Protocol):
    """One final outcome per id, whatever happens."""

    async def begin(self, id_: str) -> Begun: ...

    async def excuse(self, id_: str) -> None:
        """Uncount a delivery that was given back in good order: only a death or a crash counts towards poison."""
        ...

    async def record(self, id_: str, outcome: str) -> str:
        """Write *outcome* unless there is one already. Returns the one that counts."""
        ...

    async def next_epoch(self, id_: str, after: int) -> int:
        """Begin a new generation after *after*, once, whoever asks. Returns the current one."""
        ...


@dataclass(frozen=True)
class Claim:
    """The ledger's answer to who may spend a token."""

    state: Literal["granted", "held", "spent", "burnt"]
    by: str
    """Who holds or spent it."""
    fence: int = 0
    """Number of this lease; a later lease has a higher one, and the ledger refuses the lower one's word."""
    again: bool = False
    """Whether the same claimant held it before: a call may already have been made."""


class Ledger(Protocol):
    """Who spends which token."""

    async def claim(self, token: str, by: str, *, lease: float) -> Claim:
        """Take the token for *lease* seconds. A claimant that holds it already gets it again, with a new fence."""
        ...

    async def close(self, token: str, claim: Claim, state: Literal["spent", "burnt"]) -> bool:
        """Mark it spent or burnt. False when another lease has taken over."""
        ...

    async def release(self, token: str, claim: Claim) -> None:
        """Give it back unspent."""
        ...

    def writing(self, object_id: str | None, *, lease: float) -> AbstractAsyncContextManager[None]:
        """Be the only one in the fleet to write to *object_id* (None: nobody else could) within the block."""
        ...


class CircuitBook(Protocol):
    """Which circuits are open, for the whole fleet."""

    async def open(self, scope: str, status: int, code: str, request_id: str) -> bool:
        """Open it. Whether it was closed before: the one who is told so raises the alarm."""
        ...

    async def ask(self, scopes: Sequence[str]) -> Literal["closed", "open", "probe"]:
        """Whether a call that depends on *scopes* may be made; `probe`: yes, and it alone, to see whether they work."""
        ...

    async def again(self, scope: str, *, failed: bool) -> None:
        """Give back the right to probe; after a *failed* one the next is later, else as soon as before."""
        ...

    async def close(self, scope: str) -> float | None:
        """Close it. Seconds it was open, or None for whoever comes second."""
        ...

    async def look(self) -> Board:
        """Everything that is open or parked."""
        ...

    async def parked(self, scope: str) -> None:
        """A message now rests in the queue of *scope*."""
        ...

    async def emptied(self, scope: str, count: int) -> None:
        """The queue of *scope* was empty, seen after *count* messages had been parked."""
        ...

    async def mind(self, scope: str, by: str, *, lease: float) -> bool:
        """Whether *by* is the one in the fleet that carries back what *scope* has parked, for *lease* seconds."""
        ...
