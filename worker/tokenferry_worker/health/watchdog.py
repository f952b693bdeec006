"""Ends a worker process that lives but does nothing, and logs why: such a process is worse than a dead one.

It looks six times per `watchdog_seconds`. Each look asks both threads to answer, and asks over a separate connection
how many messages wait. Looks are counted, not seconds: after SIGSTOP, or on a laptop that wakes up, one look is late.

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
"""Bad looks in a row that end the process. There are six in the time, because the first may come one interval late."""
EXIT_CODE: Final = 70
"""EX_SOFTWARE of sysexits.h: the exit code of a process that its watchdog has ended."""
REPORT_EVERY: Final = 1.0
"""Seconds between two reports to the supervisor."""


@dataclass(frozen=True)
class Signs:
    """What one look saw of the time since the look before."""

    consumer: bool = True
    """The thread that holds the broker connection has answered."""
    loop: bool = True
    """The thread that carries deliveries has answered."""
    deaf: frozenset[str] = frozenset()
    """Queues in which messages wait and from which this process took none, though it has room and a connection."""


def verdict(looks: Sequence[Signs]) -> str | None:
    """Return why a process with these latest looks should end, or None where it should not.

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
    """Return the queues whose messages wait only because this process does not take them.

    *waiting*: messages in each queue; None: the broker was not asked or did not answer. *taken* counts deliveries, now
    and *before*. *reading*: the consumer is connected and not refused by the broker; if not, it has logged that.
    *full*: whether the held messages of a queue leave no room for more bytes.
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
    """The pool, as the watchdog sees it."""

    started: bool
    stopping: bool
    turns: int
    loop_turns: int
    taken: Mapping[str, int]
    held: Mapping[str, int]

    def answer(self) -> None:
        """Ask both threads to show that they run."""
        ...


class Witness(Protocol):
    """Counts waiting messages over its own connection."""

    def ask(self) -> None:
        """Begin to count. Returns at once."""
        ...

    @property
    def waiting(self) -> Mapping[str, int] | None:
        """Messages in each queue, by the latest count; None while it goes on, or where it failed."""
        ...


class Watchdog(threading.Thread):
    """Looks at the process, reports to the supervisor, and ends the process when it must."""

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
        log_seconds: float = 2.0,
    ) -> None:
        """*seconds*: how long nothing must happen before *end* is called. *concurrency*: deliveries per queue at most.

        *full*: whether the held messages of a queue leave no room for more bytes. *log_seconds*: how long the log may
        take to accept the reason; a thread that hangs may hold its lock, or nobody may read its output.
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
        self._log_seconds = log_seconds
        self._looks: list[Signs] = []
        self._seen: tuple[int, int, dict[str, int]] | None = None
        self._over = threading.Event()

    def run(self) -> None:
        rounds = max(1, round(self._every / REPORT_EVERY))
        self._safely(self._report)  # at once: a process that has not reported yet gets more time
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
            # Whatever it was: nobody would miss a watchdog that has died.
            log.error("watchdog: could not look or report (%s)", type(error).__name__)

    def _watch(self) -> None:
        self._looks = [*self._looks[1 - LOOKS :], self.look()]
        if why := verdict(self._looks):
            self._end_process(why)

    def stop(self) -> None:
        """Stop looking: the process ends by itself."""
        self._over.set()

    def look(self) -> Signs:
        """Return what has happened since the last look, and ask both threads and the broker for the next one."""
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

    def _end_process(self, why: str) -> None:
        message = "watchdog: %s; this process ends, and another one gets its deliveries"
        logging_ = threading.Thread(target=log.critical, args=(message, why), daemon=True)
        logging_.start()
        logging_.join(self._log_seconds)
        self._end(EXIT_CODE)
