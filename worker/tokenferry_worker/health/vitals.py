"""What a worker process reports to its supervisor: states, counts and names, no secrets."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from tokenferry_worker.health.set_aside import SetAsideCounts

Phase = Literal["starting", "working", "stopping"]


class ProcessReport(BaseModel):
    """The state of one process at one moment. Seconds are counted back from that moment."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    pid: int
    role: str
    since: float
    """Unix seconds."""
    phase: Phase
    in_hand: int
    """Deliveries that have begun and are not acknowledged yet."""
    taken: int
    """Deliveries since the start."""
    last_taken: float | None
    """Seconds since work was last taken; None: never."""
    last_empty: float | None
    """Seconds since all queues were last seen empty; None: never."""
    broker: bool
    """True if the broker is connected and answers."""
    store: bool
    policy: str | None = None
    """Why there is no policy, or why its file cannot be used. None: all is well."""
    circuits: tuple[str, ...] = ()
    """Scopes of open circuits."""
    set_aside: int = 0
    """Messages moved to the quarantine since the start: not ours, or not readable."""
    clear_text: int = 0
    """How many of them held what looks like a card number or a verification code in clear."""
    dropped: int = 0
    """How many of them were only counted, because the quarantine has enough notes."""
    quarantine_full: bool = False
    """True if the quarantine is more than half full of sealed messages whose signer is not known."""
    refused_to_reap: bool = False
    """True if the broker refuses to give back what lost workers had in hand."""

    @classmethod
    def read(cls, line: bytes) -> ProcessReport | None:
        """Return the report in *line*, or None where it is incomplete."""
        try:
            return cls.model_validate_json(line)
        except ValidationError:
            return None

    @property
    def trouble(self) -> str | None:
        """Why it does no work; None where it works."""
        if self.phase != "working":
            return self.phase
        away = [name for name, reached in (("broker", self.broker), ("store", self.store)) if not reached]
        if away:
            return f"{' and '.join(away)} away"
        if self.refused_to_reap:
            return "the broker refuses to give back what lost workers had in hand"
        if self.quarantine_full:
            return "the quarantine is more than half full (`tokenferry dead-letters list --quarantine`)"
        return f"policy: {self.policy}" if self.policy is not None else None


class Pool(Protocol):
    """What the report needs of the pool, once it has started."""

    started: bool
    stopping: bool

    @property
    def in_hand(self) -> int: ...

    @property
    def taken(self) -> Any: ...


class Vitals:
    """Collects the state of the parts of a process for `report`. Safe to read from any thread.

    The attributes are filled in by the parts, because Celery makes the pool and the consumer after this.
    """

    def __init__(self, role: str) -> None:
        self.role = role
        self.since = time.time()
        self.ready = False
        """True once the consumer has begun to read the queues."""
        self.pool: Pool | None = None
        self.connected: Callable[[], bool] = lambda: False
        """True if the consumer is connected and the broker does not refuse it."""
        self.refused_to_reap: Callable[[], bool] = lambda: False
        self.reached: Callable[[], bool | None] = lambda: None
        self.empty_at: Callable[[], float | None] = lambda: None
        self.store_away: Callable[[], bool] = lambda: False
        self.policy_trouble: Callable[[], str | None] = lambda: None
        self.open_circuits: Callable[[], Sequence[str]] = lambda: ()
        self.aside = SetAsideCounts()
        self.set_aside: Counter[str] = self.aside.by_reason
        """Messages moved to the quarantine, by reason."""
        self.quarantine_full: Callable[[], bool] = lambda: False
        """True if the quarantine is more than half full of sealed messages."""
        self.noted: Mapping[str, int] = {}
        """Messages that the transport itself moved there, by reason."""
        self._taken = 0
        self._taken_at: float | None = None

    def report(self) -> ProcessReport:
        """Return the state of now."""
        now = time.monotonic()
        pool = self.pool if self.pool is not None and self.pool.started else None
        taken = sum(list(pool.taken.values())) if pool is not None else 0
        if taken != self._taken:
            self._taken, self._taken_at = taken, now
        empty_at = self.empty_at()
        stopping = pool is not None and pool.stopping
        return ProcessReport(
            pid=os.getpid(),
            role=self.role,
            since=self.since,
            phase="stopping" if stopping else "working" if self.ready else "starting",
            in_hand=pool.in_hand if pool is not None else 0,
            taken=taken,
            last_taken=_ago(self._taken_at, now),
            last_empty=_ago(empty_at, now),
            broker=self.connected() and self.reached() is not False,
            store=not self.store_away(),
            policy=self.policy_trouble(),
            circuits=tuple(sorted(self.open_circuits())),
            refused_to_reap=self.refused_to_reap(),
            set_aside=sum(list(self.set_aside.values())) + sum(list(self.noted.values())),
            clear_text=self.aside.clear_text,
            dropped=self.aside.dropped,
            quarantine_full=self.quarantine_full(),
        )


class ReportLine:
    """Sends reports to the supervisor, over the socket that the process has as standard input."""

    def __init__(self, descriptor: int = 0) -> None:
        try:
            self._socket: socket.socket | None = socket.socket(fileno=os.dup(descriptor))
        except OSError:
            self._socket = None  # started by hand, without a supervisor

    def send(self, report: ProcessReport) -> None:
        """Send *report*, or drop it: a supervisor that does not read must not hold the process up."""
        if self._socket is not None:
            try:
                self._socket.send(report.model_dump_json().encode() + b"\n", socket.MSG_DONTWAIT)
            except OSError:
                pass


def _ago(at: float | None, now: float) -> float | None:
    return None if at is None else round(now - at, 1)
