"""Which requests of this process wait, for what, and whom a notice may tell. Nothing here waits or calls."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, Protocol

from tokenferry_worker.limits.pacing import Budget

MOST_PARKED: Final = 100
"""Routes that are remembered for each circuit because messages of theirs were parked. More of them are not told."""


class Asks(Protocol):
    """A header or an order."""

    @property
    def answer_version(self) -> int: ...
    @property
    def platform(self) -> str: ...
    @property
    def reply_to(self) -> str | None: ...


@dataclass(frozen=True)
class Asker:
    """Who is told: a reply route that a request of version 2 named."""

    route: str
    platform: str


@dataclass(frozen=True)
class Wait:
    """One call that waits: for open circuits, or for a permit of its budgets."""

    asker: Asker
    since: float
    """Monotonic seconds."""
    scopes: Sequence[str] = ()
    budgets: Sequence[Budget] = ()


@dataclass
class Waits:
    """The waits of one process. A delivery enters by `of`, its calls by `on`."""

    monotonic: Callable[[], float] = time.monotonic
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at the end of a wait while `watched`: whoever was told of it is to hear of the end before its result."""
    watched: bool = False
    in_hand: Counter[Asker] = field(default_factory=Counter)
    """Deliveries in hand, by who is to be told."""
    parked: dict[str, set[Asker]] = field(default_factory=dict)
    """By circuit: askers whose messages this process has moved to its queue."""
    _entries: dict[int, Wait] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @contextmanager
    def of(self, message: Asks) -> Iterator[None]:
        """Around the work on a delivery. Nobody is told of one of version 1, or without a reply route."""
        if message.answer_version == 1 or message.reply_to is None:
            yield
            return
        asker = Asker(message.reply_to, message.platform)
        self.in_hand[asker] += 1
        mark = _ASKER.set(asker)
        try:
            yield
        finally:
            _ASKER.reset(mark)
            self.in_hand[asker] -= 1
            if not self.in_hand[asker]:
                del self.in_hand[asker]

    @contextmanager
    def on(self, *, scopes: Sequence[str] = (), budgets: Sequence[Budget] = ()) -> Iterator[None]:
        """Around a wait of the delivery that this task works on."""
        asker = _ASKER.get()
        if asker is None:
            yield
            return
        number = next(self._numbers)
        self._entries[number] = Wait(asker, self.monotonic(), scopes, budgets)
        try:
            yield
        finally:
            del self._entries[number]
            if self.watched:
                self.changed.set()

    def note_parked(self, scope: str, message: Asks) -> None:
        """Remember that *message* waits in the queue of *scope*."""
        askers = self.parked.setdefault(scope, set())
        if message.answer_version != 1 and message.reply_to is not None and len(askers) < MOST_PARKED:
            askers.add(Asker(message.reply_to, message.platform))

    def current(self) -> list[Wait]:
        """Return the waits of now, oldest first."""
        return list(self._entries.values())


_ASKER: ContextVar[Asker | None] = ContextVar("asker", default=None)
"""Who asks for what the current task does. A delivery is one task, and its calls are made far below its header."""
