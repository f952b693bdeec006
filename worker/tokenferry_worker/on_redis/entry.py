"""What a journal entry says, and whether a worker wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tokenferry_worker.keys.state_tags import StateTags

SHARED: Final = ("entry",)
"""The file that comes before every script on the outcome of a journal entry."""
FACTS: Final = 5
"""of, content, epoch, generation, round."""
UNKNOWN_FACTS: Final = ("",) * FACTS
"""Facts that no entry has: the first write under a key learns the right ones."""


@dataclass(frozen=True)
class Told:
    """The outcome of an entry, as the function `told` of `entry.lua` returns it. Empty *outcome*: there is none."""

    outcome: str
    round: int
    content: str
    tag: str
    facts: tuple[str, ...]

    @classmethod
    def of(cls, answer: Sequence[Any]) -> Told:
        """Read the answer of a script."""
        outcome, round_, content, tag, *facts = answer
        return cls(outcome, round_, content, tag, tuple(facts))

    @property
    def generation(self) -> int:
        """The generation that the entry is about."""
        return int(self.facts[3])

    def is_authentic(self, name: str, tags: StateTags) -> bool:
        """True if a worker wrote it, or there is no outcome. *name*: the entry's key in the store."""
        return not self.outcome or tags.is_authentic(self.tag, "journal", name, *self.facts, self.outcome)


class ExpectedFacts:
    """What the entries of running deliveries said when they began. Only a guess: the store has the last word."""

    def __init__(self, most: int = 4096) -> None:
        self._facts: dict[str, tuple[str, ...]] = {}
        self._most = most

    def note(self, name: str, facts: tuple[str, ...]) -> None:
        """Remember the facts of the entry *name*, and forget the oldest where there are too many."""
        self._facts.pop(name, None)
        self._facts[name] = facts
        if len(self._facts) > self._most:
            del self._facts[next(iter(self._facts))]

    def facts(self, name: str, *, content: str, generation: int) -> tuple[str, ...]:
        """Return what the entry will say beside an outcome about *content*. It is forgotten here then."""
        of, known_content, epoch, known_generation, round_ = self._facts.pop(name, UNKNOWN_FACTS)
        return (of, content or known_content, epoch, str(generation) if generation > 1 else known_generation, round_)


@dataclass
class OutcomeTag:
    """The tag of an outcome that is to be written. It covers facts that only the store knows for certain."""

    name: str
    outcome: str
    tags: StateTags
    facts: tuple[str, ...] = UNKNOWN_FACTS
    doubted: str = ""
    """An outcome that is there, and that no worker wrote."""

    def args(self) -> list[str]:
        """Return tag, expected facts and doubted outcome, as the scripts take them."""
        tag = self.tags.tag("journal", self.name, *self.facts, self.outcome)
        return [tag, "\n".join(self.facts), self.doubted]

    def has_learnt(self, answer: Sequence[Any] | None) -> bool:
        """True if *answer* says that the entry has other facts: then the script runs once more."""
        if answer is None or len(answer) != FACTS:
            return False
        self.facts = tuple(answer)
        return True
