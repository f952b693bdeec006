"""A worker process that lives but does nothing is worse than a dead one. This one notices, says why, and dies.

Six looks per `watchdog_seconds`. A look asks both threads to answer, and an own connection how many messages wait.
Looks are counted, not seconds: a process that was stopped and goes on, or a laptop that wakes up, is behind by one.

Measured (docs/brokers.md): a Celery worker can stay alive and consume nothing after its broker was restarted.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

log = logging.getLogger("tokenferry.worker")

LOOKS: Final = 5
"""Bad looks in a row that are enough. They are a sixth of the time apart, because the first comes up to one late."""
EXIT_CODE: Final = 70
"""EX_SOFTWARE of sysexits.h: what a supervisor sees of a process that has given itself up."""
LAST_WORDS: Final = 2.0
"""Seconds for the log to take the reason: whoever hangs may hold its lock, or nobody may read it."""
REPORT_EVERY: Final = 1.0
"""Seconds between two reports to the supervisor."""


@dataclass(frozen=True)
class Signs:
    """What one look saw. Each is about the time since the look before."""

    consumer: bool = True
    """The thread that holds the broker connection has answered."""
    loop: bool = True
    """The thread that carries deliveries has answered."""
    deaf: frozenset[str] = frozenset()
    """Queues in which messages wait, of which we may take more and took none, though the connection seems well."""


def verdict(looks: Sequence[Signs]) -> str | None:
    """Why a process with these latest looks should end; None: it should not.

    >>> verdict([Signs(loop=False)] * 4)
    >>> verdict([Signs(loop=False)] * 5)
    'the thread that carries deliveries hangs'
    """
    last = looks[-LOOKS:]
    if len(last) < LOOKS:
        return None
    if not any(signs.loop for signs in last):
        return "the thread that carries deliveries hangs"
    if not any(signs.consumer for signs in last):
        return "the thread that reads the broker hangs"
    if deaf := frozenset.intersection(*(signs.deaf for signs in last)):
        return f"messages wait in {', '.join(sorted(deaf))}, and none is taken"
    return None


def deaf(
    waiting: Mapping[str, int] | None,
    *,
    held: Mapping[str, int],
    concurrency: int,
    taken: Mapping[str, int],
    before: Mapping[str, int],
    reading: bool,
    full: Callable[[str], bool] = lambda _: False,
) -> frozenset[str]:
    """Queues whose messages wait for nobody's reason but ours.

    *waiting*: messages in each queue; None: the broker was not asked or did not say. *taken* counts deliveries, now
    and *before*. *reading*: the consumer is connected, and the broker does not refuse it: otherwise it has said so.
    *full*: whether what it holds of a queue leaves no room for more bytes.
    """
    if waiting is None or not reading:
        return frozenset()
    return frozenset(
        queue
        for queue, count in waiting.items()
        if count > 0
        and held.get(queue, 0) < concurrency
        and taken.get(queue, 0) == before.get(queue, 0)
        and not full(queue)
    )


class Watched(Protocol):
    """The pool, as it is seen from here."""

    started: bool
    stopping: bool
    turns: int
    loop_turns: int
    taken: Mapping[str, int]
    held: Mapping[str, int]

    def answer(self) -> None:
        """Ask both threads to show that they turn."""
        ...


class Witness(Protocol):
    """Sees the queues over a connection of its own."""

    def ask(self) -> None:
        """Begin to look. Returns at once."""
        ...

    @property
    def waiting(self) -> Mapping[str, int] | None:
        """What the latest look found; None while it goes on, or where it failed."""
        ...


class Watchdog(threading.Thread):
    """Looks, reports, and ends the process when it must."""

    def __init__(
        self,
        pool: Watched,
        witness: Witness,
        *,
        seconds: float,
        concurrency: int,
        reading: Callable[[], bool],
        report: Callable[[], None],
        full: Callable[[str], bool] = lambda _: False,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        """*seconds*: after so long of nothing, *end* the process. *concurrency*: deliveries of one queue at most.

        *full*: whether the bytes that are held of a queue leave no room for more.
        """
        super().__init__(name="tokenferry-watchdog", daemon=True)
        self._pool = pool
        self._witness = witness
        self._every = seconds / (LOOKS + 1)
        self._concurrency = concurrency
        self._reading = reading
        self._report = report
        self._full = full
        self._end = end
        self._looks: list[Signs] = []
        self._seen: tuple[int, int, dict[str, int]] | None = None
        self._over = threading.Event()

    def run(self) -> None:
        rounds = max(1, round(self._every / REPORT_EVERY))
        self._safely(self._report)  # at once: a process that has never said a word gets more time
        while True:
            for _ in range(rounds):
                if self._over.wait(self._every / rounds):
                    return
                self._safely(self._report)
            self._safely(self._watch)

    def _safely(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            # Whatever it was: a watchdog that has died would never be missed.
            log.error("watchdog: could not look or report (%s)", type(error).__name__)

    def _watch(self) -> None:
        self._looks = [*self._looks[1 - LOOKS :], self.look()]
        if why := verdict(self._looks):
            self._bite(why)

    def stop(self) -> None:
        """Look no more: the process ends by itself."""
        self._over.set()

    def look(self) -> Signs:
        """What has happened since the last look; and ask for what the next one wants to see."""
        pool = self._pool
        if not pool.started:
            return Signs()
        now, before = (pool.turns, pool.loop_turns, dict(pool.taken)), self._seen
        self._seen = now
        signs = Signs()
        if before is not None:
            signs = Signs(
                consumer=now[0] > before[0],
                loop=now[1] > before[1] or pool.stopping,
                deaf=frozenset() if pool.stopping else self._deaf(before[2]),
            )
        self._witness.ask()
        pool.answer()
        return signs

    def _deaf(self, before: Mapping[str, int]) -> frozenset[str]:
        return deaf(
            self._witness.waiting,
            held=self._pool.held,
            concurrency=self._concurrency,
            taken=self._pool.taken,
            before=before,
            reading=self._reading(),
            full=self._full,
        )

    def _bite(self, why: str) -> None:
        words = ("watchdog: %s; this process ends, and what it holds goes to another one", why)
        speaker = threading.Thread(target=log.critical, args=words, daemon=True)
        speaker.start()
        speaker.join(LAST_WORDS)
        self._end(EXIT_CODE)
