"""What a worker process reports to its supervisor: states, counts and names, no secrets."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from tokenferry_worker.metrics.names import AWAY, DELIVERIES, IN_HAND, SET_ASIDE, Metric, bounded
from tokenferry_worker.metrics.registry import Meters

Phase = Literal["starting", "working", "stopping"]
NUMBERS: Final = b"#"
"""How the line of a report begins that holds the numbers of the metrics."""


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
    state: str | None = None
    """What in the store no worker wrote. None: nothing, for an hour."""
    circuits: tuple[str, ...] = ()
    """Scopes of open circuits."""
    set_aside: int = 0
    """Messages moved to the quarantine since the start: not ours, or not readable."""
    paused: tuple[str, ...] = ()
    """Budgets that an operator has paused, as far as the process has met them."""
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
        return f"policy: {self.policy}" if self.policy is not None else self.state


class Pool(Protocol):
    """What the report needs of the pool, once it has started."""

    started: bool
    stopping: bool

    @property
    def in_hand(self) -> int: ...

    @property
    def taken(self) -> Any: ...

    @property
    def held(self) -> Any: ...


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
        self.state_trouble: Callable[[], str | None] = lambda: None
        self.open_circuits: Callable[[], Sequence[str]] = lambda: ()
        self.paused_budgets: Callable[[], Sequence[str]] = lambda: ()
        self.meters = Meters()
        self.meters.ask(self._numbers)
        self.last: ProcessReport | None = None
        """The latest report."""
        self.set_aside: Counter[str] = Counter()
        """Messages moved to the quarantine, by reason."""
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
        self.last = ProcessReport(
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
            state=self.state_trouble(),
            circuits=tuple(sorted(self.open_circuits())),
            paused=tuple(self.paused_budgets()),
            refused_to_reap=self.refused_to_reap(),
            set_aside=sum(list(self.set_aside.values())) + sum(list(self.noted.values())),
        )
        return self.last

    def _numbers(self) -> Iterator[tuple[Metric, tuple[str, ...], float]]:
        """Yield what other parts count already."""
        if self.pool is not None and self.pool.started:
            for metric, by_queue in ((DELIVERIES, self.pool.taken), (IN_HAND, self.pool.held)):
                yield from ((metric, (queue,), count) for queue, count in dict(by_queue).items())
        aside = Counter(dict(self.set_aside)) + Counter(dict(self.noted))
        yield from ((SET_ASIDE, (bounded(reason.lower().replace(" ", "_")),), count) for reason, count in aside.items())
        if self.last is not None:
            yield AWAY, ("broker",), int(not self.last.broker)
            yield AWAY, ("store",), int(not self.last.store)


class ReportLine:
    """Sends reports to the supervisor, over the socket that the process has as standard input."""

    def __init__(self, descriptor: int = 0) -> None:
        try:
            self._socket: socket.socket | None = socket.socket(fileno=os.dup(descriptor))
        except OSError:
            self._socket = None  # started by hand, without a supervisor
        self._rest = b""
        """The end of a line that the supervisor has not taken yet."""

    def send(self, report: ProcessReport, numbers: bytes = b"") -> None:
        """Send *report* and the line *numbers*, or drop them: a supervisor that does not read must not hold us up."""
        lines = [report.model_dump_json().encode(), *([NUMBERS + numbers] if numbers else [])]
        if self._rest and not self._is_sent(self._rest):
            return
        for line in lines:
            if not self._is_sent(line + b"\n"):
                return

    def _is_sent(self, piece: bytes) -> bool:
        """Send *piece*. Where only its beginning was sent, the rest comes before anything else."""
        if self._socket is None:
            return False
        try:
            sent = self._socket.send(piece, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError:  # the supervisor is gone
            self._rest = b""
            return False
        self._rest = piece[sent:] if sent or piece is self._rest else b""
        return sent == len(piece)


def _ago(at: float | None, now: float) -> float | None:
    return None if at is None else round(now - at, 1)
