"""One final outcome per request or order: the journal's protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from tokenferry_worker.limits.backpressure import Slot
from tokenferry_worker.tokens.ledger import TokenScope


@dataclass(frozen=True)
class Begun:
    """What the journal knows when a delivery begins."""

    deliveries: int
    """Deliveries so far, this one included."""
    epoch: int
    """Generation of the idempotency key."""
    outcome: str | None
    """The recorded final outcome (JSON of a result), if there is one."""
    born: int = field(default=0, compare=False)
    """When the store began, in Unix milliseconds. 0: unknown, or accepted by an operator."""
    content: str = ""
    """The mark of the content that the outcome is about. Empty: none was recorded."""
    doubted: bool = False
    """True if the entry had an outcome that no worker had written: nobody knows what an earlier delivery did."""


@dataclass(frozen=True)
class About:
    """What an outcome is about: recorded in the same step."""

    content: str = ""
    """The mark of the content. Empty: nobody has opened it, or there is no key to mark it with."""
    generation: int = 1


NOTHING: Final = About()


class Journal(Protocol):
    """One final outcome per id, whatever happens."""

    async def begin(self, id_: str, of: str = "", *, generation: int = 1) -> Begun:
        """Count a delivery, and return what is known. *of*: a digest of what the id stands for.

        The generation after the recorded one begins the id again, where that one has left nothing behind. Raises
        `Reused` where the id stands for something else, or the generation is not the one that counts.
        """
        ...

    async def next_generation(self, id_: str, generation: int, outcome: str) -> int | None:
        """Return the generation that may begin *id_* again after *generation* came to *outcome*. None: none may."""
        ...

    async def uncount(self, id_: str) -> None:
        """Take back the count of a delivery that was cancelled or parked: only a crash counts towards poison."""
        ...

    async def record(
        self,
        id_: str,
        outcome: str,
        *,
        about: About = NOTHING,
        ours: bool = False,
        leaving: Sequence[Slot] = (),
    ) -> str:
        """Write *outcome* unless there is one already. Return the one that counts.

        *ours*: the outcome is a failure of ours and not Stripe's. If the entry is gone since `begin`, the requester may
        have had a better outcome, so this one raises `Forgotten`. *leaving*: the slots that the request gives up.
        Raises `Reused` where the outcome that counts is about other content, or a later generation has begun.
        """
        ...

    async def record_token(
        self, id_: str, outcome: str, token: str, scope: TokenScope, *, at: int, about: About = NOTHING
    ) -> str:
        """Record an outcome with a *token*. In the same moment the token becomes available in the ledger.

        *at*: when it was made, in Unix milliseconds. Raises `Reused` as `record` does.
        """
        ...

    async def retokenize(self, id_: str, token: str, places: Sequence[Slot]) -> bool:
        """Let request *id_* make another token, if it has made *token*, which expired without being tried.

        A repeated call returns the same and does nothing more. False where the token is not expired.
        """
        ...

    async def next_epoch(self, id_: str, after: int) -> int:
        """Begin the generation that follows *after*, once, however many ask for it. Return the current one."""
        ...
