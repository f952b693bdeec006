"""What one process has moved out of the way, in numbers. Other threads read them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class SetAsideCounts:
    """Messages that were not ours or not readable, since the start of the process."""

    by_reason: Counter[str] = field(default_factory=Counter)
    clear_text: int = 0
    """Those with what looks like a card number or a verification code in clear. An alarm."""
    dropped: int = 0
    """Those of which not even a note was written, because there are too many."""
