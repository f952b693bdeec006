"""What tokenizing and attaching need of the world: protocols, so that tests bring small stand-ins."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from tokenferry.contract.names import Lane
from tokenferry.contract.requests import Kind
from tokenferry_worker.answers import Answer, Greeting
from tokenferry_worker.circuits import Board
from tokenferry_worker.lifecycle import Ending
from tokenferry_worker.pacing import Budget


class Endpoint(Protocol):
    """The provider's endpoint with the keys of one platform."""

    async def create_token(
        self, kind: Kind, form: str, *, idempotency_key: str, connected_account: str | None = None
    ) -> Answer: ...

    async def post(
        self, path: str, form: str, *, idempotency_key: str, connected_account: str | None = None
    ) -> Answer: ...

    async def get(self, path: str, *, connected_account: str | None = None) -> Answer: ...

    async def greet(self) -> Greeting:
        """Ask something that costs nothing. Raises `Unavailable` where there was no answer of any kind."""
        ...


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


@dataclass(frozen=True)
class Scope:
    """To whom a token belongs. Empty *account*: to the platform itself."""

    platform: str
    mode: str
    account: str
    kind: str
    also: str = ""
    """Another account whose tokens will do: an account's external accounts take its own as well."""


@dataclass(frozen=True)
class Place:
    """What tokens wait for together, and how many of them may wait."""

    name: str
    limit: int
    interval: float = 1.0
    """Seconds between two calls at the configured rate, which *limit* is right for."""


class Journal(Protocol):
    """One final outcome per id, whatever happens."""

    async def begin(self, id_: str, of: str = "") -> Begun:
        """Count a delivery, and say what is known. *of*: a digest of what the id stands for.

        Raises `Reused` where it stands for something else.
        """
        ...

    async def excuse(self, id_: str) -> None:
        """Uncount a delivery that was given back in good order: only a death or a crash counts towards poison."""
        ...

    async def record(self, id_: str, outcome: str, *, ours: bool = False, leaving: Sequence[Place] = ()) -> str:
        """Write *outcome* unless there is one already. Returns the one that counts.

        *ours*: it is our word and not the endpoint's: where the entry is gone since `begin`, a better one may have been
        told, and this one raises `Forgotten`. *leaving*: places where it counts as ahead no more.
        """
        ...

    async def made(self, id_: str, outcome: str, token: str, scope: Scope, *, at: int) -> str:
        """As `record`, of an outcome with a *token*: in the same moment the ledger has it as available.

        *at*: when it was made, in Unix milliseconds.
        """
        ...

    async def anew(self, id_: str, token: str, places: Sequence[Place]) -> bool:
        """Let request *id_* make another token, if *token*, expired and never tried, is the one it has made.

        Asked again it says the same and does nothing more. False where the token is not expired.
        """
        ...

    async def next_epoch(self, id_: str, after: int) -> int:
        """Begin a new generation after *after*, once, whoever asks. Returns the current one."""
        ...


@dataclass(frozen=True)
class Became:
    """What a token has become: ids and type of the object, and of the stored card or bank account where it is known."""

    object_id: str
    object_type: str
    stored_id: str | None = None


@dataclass(frozen=True)
class Claim:
    """The ledger's answer to who may spend a token."""

    state: Literal["granted", "held", "spent", "burnt", "expired", "unknown", "misfit", "told"]
    by: str
    """Who holds or spent it; for `misfit`, which part of its scope is another than the order says."""
    fence: int = 0
    """Number of this lease; a later lease has a higher one, and the ledger refuses the lower one's word."""
    again: bool = False
    """Whether it was held before and not given back: a call may already have been made."""
    became: Became | None = None
    """Of a spent token, where the ledger has been told."""
    elsewhere: bool = False
    """Whether the endpoint has called it used, and nobody knows who used it."""
    unheard: bool = False
    """Whether the ledger has not heard of its making, so it was made elsewhere, or the store was wiped since."""
    made_at: int | None = None
    """Unix milliseconds at which it was made, where it was made here."""
    told: str | None = None
    """The outcome (JSON of a result) that the order has already: it spends nothing any more."""


class Hold(Protocol):
    """A claim that is kept alive."""

    async def holds(self) -> bool:
        """Whether it still counts. Not where the store was wiped, or a later delivery has taken over."""
        ...


class Ledger(Protocol):
    """Who spends which token."""

    async def claim(
        self,
        token: str,
        by: str,
        *,
        lease: float,
        scope: Scope | None = None,
        lost: int | None = None,
        journaled: bool = False,
    ) -> Claim:
        """Take the token for *lease* seconds. A claimant that holds it already gets it again, with a new fence.

        *lost*: the fence of the claim that this very delivery had and has lost: while a later one lives, it is held.
        *journaled*: whether the claimant's outcome is in the journal of orders, and is asked for first.
        """
        ...

    def keeping(self, token: str, claim: Claim, *, lease: float) -> AbstractAsyncContextManager[Hold]:
        """Renew the claim for as long as the block runs."""
        ...

    async def close(
        self,
        token: str,
        claim: Claim,
        state: Ending,
        became: Became | None = None,
        *,
        elsewhere: bool = False,
        outcome: str | None = None,
        ours: bool = False,
    ) -> bool:
        """Leave it in *state*. False when another lease has taken over. *elsewhere*: it is not known who used it.

        *outcome* (*ours*: see `Journal.record`) is recorded in the same moment, unless another lease has taken over: no
        other delivery of the order may find the token free and its outcome not yet there.
        """
        ...

    def writing(self, object_id: str | None, *, lease: float) -> AbstractAsyncContextManager[None]:
        """Be the only one in the fleet to write to *object_id* (None: nobody else could) within the block."""
        ...


class Headway(Protocol):
    """How far tokenizing is ahead of spending, for the whole fleet."""

    async def go(self, id_: str, places: Sequence[Place], *, lasts: float) -> bool:
        """Count request *id_* as ahead at every one of *places*, for *lasts* seconds at most. False: one is full."""
        ...

    async def back(self, id_: str, places: Sequence[Place]) -> None:
        """It is ahead no more: there will be no token."""
        ...


class CircuitBook(Protocol):
    """Which circuits are open, for the whole fleet."""

    async def open(self, scope: str, status: int, code: str, request_id: str) -> bool:
        """Open it. Whether it was closed before: the one who is told so raises the alarm."""
        ...

    async def ask(
        self, scopes: Sequence[str], by: str = "", *, tried: bool = False
    ) -> Literal["closed", "open", "probe"]:
        """Whether a call that depends on *scopes* may be made; `probe`: yes, and it alone, to see whether they work.

        *by*: for which request, and whether it was *tried* in vain already: then it lets others go first, above all
        after a probe of its own.
        """
        ...

    async def again(self, scope: str, *, failed: bool, by: str = "") -> None:
        """Give back the right to probe; after a *failed* one the next is later, else as soon as before.

        *by*: the request that is not to be the next to probe; empty: whichever comes.
        """
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
