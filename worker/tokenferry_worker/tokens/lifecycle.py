"""The life of a token in the ledger: its states, and every step from one to another. Pure.

The Lua scripts take these steps, a test watches that they take no other, and `docs/state.md` shows the same table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

State = Literal["available", "leased", "spent", "burnt", "expired", "unknown"]
"""available: may be claimed. leased: one order has it in hand. spent: it became an object. burnt: the card or account
was declined, which counts as used up. expired: too old, and was never tried. unknown: a call may have spent it."""

Ending = Literal["spent", "burnt", "expired", "unknown", "available"]
"""How an order can leave the token it had in hand."""

ABSENT: Final = "absent"
"""Not in the ledger: made elsewhere, or the store was wiped. It can be claimed as if it were available."""


@dataclass(frozen=True)
class Transition:
    """One step: from a state, by an event, to another state."""

    before: str
    event: str
    after: str
    because: str


STEPS: Final[tuple[Transition, ...]] = (
    Transition(ABSENT, "made", "available", "a tokenize worker has recorded it, and whom it belongs to"),
    Transition(ABSENT, "claim", "leased", "an order for a token made elsewhere"),
    Transition(ABSENT, "close", "spent", "the store was wiped while the call was under way"),
    Transition(ABSENT, "close", "burnt", "the same"),
    Transition("available", "claim", "leased", "an order takes it in hand"),
    Transition("leased", "claim", "leased", "the same order again: its worker died, or the message came twice"),
    Transition("leased", "renew", "leased", "the order still waits or calls"),
    Transition("leased", "lapse", "unknown", "another order asks, and the holder's lease ran out in the middle"),
    Transition("leased", "close", "spent", "the call succeeded: by whom, and what the token became"),
    Transition("leased", "close", "burnt", "the card or account was declined"),
    Transition("leased", "close", "expired", "too old, and no call was made"),
    Transition("leased", "close", "available", "no call was made, or it was refused for another reason"),
    Transition("leased", "close", "unknown", "a call may have had its effect"),
    Transition(
        "unknown",
        "claim",
        "leased",
        "the same order, which finds out; any order, where nobody knows who used it",
    ),
    Transition("unknown", "renew", "leased", "its holder was only slow"),
    Transition("unknown", "close", "spent", "its holder was only slow, and reports it now"),
    Transition("unknown", "close", "burnt", "the same"),
    Transition("unknown", "close", "expired", "the same"),
    Transition("unknown", "close", "available", "the same"),
    Transition("available", "doubt", "unknown", "its record was not written by a worker, or was changed"),
    Transition("leased", "doubt", "unknown", "the same"),
    Transition("spent", "doubt", "unknown", "the same"),
    Transition("burnt", "doubt", "unknown", "the same"),
    Transition("expired", "doubt", "unknown", "the same"),
)
"""Every step there is. Spent, burnt and expired are final where the record verifies. Closing an unknown token as
unknown changes nothing.
"""
