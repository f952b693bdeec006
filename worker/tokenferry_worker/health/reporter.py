"""Reports what a process does: to the store every few seconds, and to the log once a minute."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from dataclasses import dataclass, field
from typing import Final, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from tokenferry_worker.health.activity import Activity, in_words, rates
from tokenferry_worker.health.vitals import Vitals
from tokenferry_worker.metrics.names import CALLS, IN_FLIGHT, OUTCOMES, WAITING

log = logging.getLogger("tokenferry.worker")

EVERY: Final = 5.0
"""Seconds between two reports to the store."""
MINUTE: Final = 60.0
LATELY: Final = 300.0
"""Seconds for which failures are counted in a report."""


class ProcessRecord(BaseModel):
    """What one process of the fleet reported last. Names, numbers and codes only."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    host: str
    pid: int
    role: str
    phase: str
    since: float
    """Unix seconds of its start."""
    in_hand: int
    taken: int
    broker: bool
    trouble: str | None = None
    paused: tuple[str, ...] = ()
    waiting: dict[str, int] = {}
    """Requests in hand that wait, by cause."""
    in_flight: int = 0
    rates: dict[str, float] = {}
    """Calls per second in the last minute, by budget."""
    outcomes: int = 0
    """Of the last minute."""
    failures: dict[str, int] = {}
    """Of the last five minutes, by code."""
    latency: float | None = None
    """Mean seconds of a call in the last minute."""
    concurrency: int = 0

    @classmethod
    def read(cls, line: str) -> ProcessRecord | None:
        """Return the record in *line*. None: it is of another version."""
        try:
            return cls.model_validate_json(line)
        except ValidationError:
            return None


class FleetRecords(Protocol):
    """Where all processes of the fleet report."""

    async def report(self, process: str, record: str) -> None:
        """Take the latest record of *process*."""
        ...


@dataclass
class Reporter:
    """Reports for this process."""

    vitals: Vitals
    fleet: FleetRecords
    concurrency: int
    every: float = EVERY
    minute: float = MINUTE
    host: str = field(default_factory=socket.gethostname)
    _idle: bool = False

    async def run(self) -> None:
        """Report for ever."""
        activity = Activity(self.vitals.meters)
        due, pause = time.monotonic() + self.minute, min(1.0, self.every)
        while True:
            await asyncio.sleep(pause)
            pause = self.every
            activity.look()
            if time.monotonic() >= due:
                due = time.monotonic() + self.minute
                self._log(activity)
            await self.fleet.report(f"{self.host}:{os.getpid()}", self.record(activity).model_dump_json())

    def record(self, activity: Activity) -> ProcessRecord:
        """Return what is reported to the store."""
        minute, report = activity.last(MINUTE), self.vitals.last or self.vitals.report()
        return ProcessRecord(
            host=self.host,
            pid=report.pid,
            role=report.role,
            phase=report.phase,
            since=report.since,
            in_hand=report.in_hand,
            taken=report.taken,
            broker=report.broker,
            trouble=report.trouble,
            paused=report.paused,
            waiting=minute.gauge(WAITING),
            in_flight=sum(minute.gauge(IN_FLIGHT).values()),
            rates=rates(minute),
            outcomes=minute.total(OUTCOMES),
            failures=dict(activity.last(LATELY).failures),
            latency=minute.mean(CALLS),
            concurrency=self.concurrency,
        )

    def _log(self, activity: Activity) -> None:
        words = in_words(activity.last(self.minute))
        if words is not None:
            log.info("%s", words)
        elif not self._idle:
            log.info("nothing to do")
        self._idle = words is None
