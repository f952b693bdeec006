"""Who may spend which token: the ledger's protocol, and its answers as a sum type."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
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
    """Another account whose tokens are accepted: an account's external accounts take its own tokens as well."""


@dataclass(frozen=True)
class Became:
    """What a spent token became: id and type of the object, and the stored card or bank account where it is known."""

    object_id: str
    object_type: str
    stored_id: str | None = None
    answer_id: str | None = field(default=None, compare=False)
    """Stripe's `Request-Id` of the call, where its answer is at hand. The ledger does not keep it."""


Past = Literal["untried", "held", "used", "unrecorded", "unverified"]
"""What the ledger knows about a token that it grants.

untried: nobody has called with it. held: an earlier claim was not given back, so a call may have been made. used:
Stripe has called it used, and nobody knows by whom. unrecorded: the ledger has no record of the token, because it was
made elsewhere, or because the store was wiped. unverified: its record was not written by a worker, so it says nothing.
"""

ScopePart = Literal["platform", "mode", "account", "kind"]


@dataclass(frozen=True)
class Lease:
    """One claim on a token. A later claim has a higher *fence*, and the ledger ignores holders of a lower one."""

    by: str
    """The attach id of the order."""
    fence: int


@dataclass(frozen=True)
class Granted(Lease):
    """The order may spend the token, until its lease ends."""

    past: Past = "untried"
    made_at: int | None = None
    """When the token was made, in Unix milliseconds. None: the ledger has no record of it."""
    recorded: tuple[str, ...] = field(default=(), repr=False, compare=False)
    """What the ledger's record of the making says, as its tag covers it. Empty: there is no record."""


@dataclass(frozen=True)
class Held:
    """Another order, or a newer delivery of this one, has the token in hand."""

    by: str


@dataclass(frozen=True)
class Spent(Lease):
    """The order *by* has spent the token. *became*: None where the ledger does not know it."""

    became: Became | None = None


@dataclass(frozen=True)
class Burnt(Lease):
    """The card or account was declined for the order *by*, which counts as used up."""

    recorded: bool = True
    """False where the ledger has no record of the token's making: an earlier order may have spent it."""


@dataclass(frozen=True)
class Expired:
    """The token is too old, and was never tried."""

    by: str


@dataclass(frozen=True)
class InDoubt:
    """The order *by* may have spent the token. Nobody else can find out."""

    by: str


@dataclass(frozen=True)
class Misfit:
    """The token belongs to another scope than the order says. *part* is the first difference."""

    part: ScopePart


@dataclass(frozen=True)
class HasOutcome:
    """The order has its outcome (JSON of a result) already, and spends nothing any more."""

    outcome: str


@dataclass(frozen=True)
class Superseded:
    """A later generation of the order has begun: this one spends nothing any more."""


Claim = Granted | Held | Spent | Burnt | Expired | InDoubt | Misfit | HasOutcome | Superseded
"""The ledger's answer to an order that wants to spend a token."""


class Hold(Protocol):
    """A lease that is renewed."""

    async def holds(self) -> bool:
        """True as long as the lease counts: the store was not wiped, and no later delivery has taken over."""
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
        generation: int = 1,
    ) -> Claim:
        """Take the token for *lease* seconds. The order that holds it gets it again, with a new fence.

        *lost*: the fence of the lease that this delivery has lost. While a later lease lives, the answer is `Held`.
        *journaled*: the order has an entry in the journal of orders. Then the ledger looks for its outcome first, and
        whether *generation* still counts.
        """
        ...

    def keeping(self, token: str, lease: Lease, *, seconds: float) -> AbstractAsyncContextManager[Hold]:
        """Renew the lease, for *seconds* each time, while the block runs."""
        ...

    async def close(
        self,
        token: str,
        lease: Lease,
        state: Ending,
        became: Became | None = None,
        *,
        used_by_unknown: bool = False,
        outcome: str | None = None,
        ours: bool = False,
    ) -> bool:
        """Leave the token in *state*. False where a later lease has taken over.

        *used_by_unknown*: Stripe called it used, and nobody knows by whom. *outcome* is recorded in the same moment
        (for *ours* see `Journal.record`), so that no other delivery of the order finds the token free and no outcome.
        """
        ...

    def writing(self, object_id: str | None, *, lease: float) -> AbstractAsyncContextManager[None]:
        """Let nobody else in the fleet write to *object_id* while the block runs. None: a new object needs no lock."""
        ...
