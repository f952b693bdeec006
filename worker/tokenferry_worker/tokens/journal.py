"""One final outcome per request or order: the journal's protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tokenferry_worker.limits.backpressure import Slot
from tokenferry_worker.tokens.ledger import TokenScope


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

    async def begin(self, id_: str, of: str = "") -> Begun:
        """Count a delivery, and say what is known. *of*: a digest of what the id stands for.

        Raises `Reused` where it stands for something else.
        """
        ...

    async def uncount(self, id_: str) -> None:
        """Uncount a delivery that was given back in good order: only a death or a crash counts towards poison."""
        ...

    async def record(self, id_: str, outcome: str, *, ours: bool = False, leaving: Sequence[Slot] = ()) -> str:
        """Write *outcome* unless there is one already. Returns the one that counts.

        *ours*: it is our word and not the endpoint's: where the entry is gone since `begin`, a better one may have been
        told, and this one raises `Forgotten`. *leaving*: places where it counts as ahead no more.
        """
        ...

    async def record_token(self, id_: str, outcome: str, token: str, scope: TokenScope, *, at: int) -> str:
        """As `record`, of an outcome with a *token*: in the same moment the ledger has it as available.

        *at*: when it was made, in Unix milliseconds.
        """
        ...

    async def retokenize(self, id_: str, token: str, places: Sequence[Slot]) -> bool:
        """Let request *id_* make another token, if *token*, expired and never tried, is the one it has made.

        Asked again it says the same and does nothing more. False where the token is not expired.
        """
        ...

    async def next_epoch(self, id_: str, after: int) -> int:
        """Begin a new generation after *after*, once, whoever asks. Returns the current one."""
        ...
