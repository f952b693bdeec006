"""Who may spend which token: the ledger's protocol and its answers."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from tokenferry_worker.tokens.lifecycle import Ending


@dataclass(frozen=True)
class TokenScope:
    """To whom a token belongs. Empty *account*: to the platform itself."""

    platform: str
    mode: str
    account: str
    kind: str
    also: str = ""
    """Another account whose tokens will do: an account's external accounts take its own as well."""


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
    was_held: bool = False
    """Whether it was held before and not given back: a call may already have been made."""
    became: Became | None = None
    """Of a spent token, where the ledger has been told."""
    used_by_unknown: bool = False
    """Whether the endpoint has called it used, and nobody knows who used it."""
    unknown_to_ledger: bool = False
    """Whether the ledger has not heard of its making, so it was made elsewhere, or the store was wiped since."""
    made_at: int | None = None
    """Unix milliseconds at which it was made, where it was made here."""
    settled_outcome: str | None = None
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
        scope: TokenScope | None = None,
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
