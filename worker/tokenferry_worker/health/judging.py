"""Judges from the reports whether a worker is alive, and whether it works. The two have different remedies.

*live* is false only where a restart helps. *ready* is false wherever no work is done, whatever the reason. A broker
that is away makes a worker not ready, but a restart of the worker would not bring it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, computed_field

from tokenferry_worker.health.vitals import ProcessReport

UNKILLABLE: Final = 10.0
"""Seconds after which a killed process should be gone."""


class ProcessHealth(BaseModel):
    """One worker process, as its supervisor sees it."""

    model_config = ConfigDict(frozen=True)

    number: int
    pid: int | None
    """None: it has died, and another one will be started."""
    silent: float
    """Seconds since its latest report, or since its start."""
    report: ProcessReport | None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def trouble(self) -> str | None:
        """Why it does no work; None where it works."""
        if self.pid is None:
            return "died, to be replaced"
        return self.report.trouble if self.report is not None else "starting"


class Health(BaseModel):
    """The state of one worker: a supervisor and its processes."""

    model_config = ConfigDict(frozen=True)

    pid: int
    phase: Literal["starting", "working", "stopping"]
    live: bool
    ready: bool
    why: Sequence[str]
    """What is wrong; empty where nothing is."""
    processes: Sequence[ProcessHealth]


def starting(pid: int) -> Health:
    """Return the state of a worker that still checks broker and Stripe, before its first process starts."""
    return Health(pid=pid, phase="starting", live=True, ready=False, why=["starting"], processes=[])


def judge(
    pid: int, processes: Sequence[ProcessHealth], *, stopping: bool, supervised_ago: float, patience: float
) -> Health:
    """Return the state of a worker, from the states of its processes.

    *supervised_ago*: seconds since the supervisor last looked after its processes. *patience*: seconds of silence
    after which it kills one.
    """
    fatal = [f"the supervisor hangs for {supervised_ago:.0f} s"] if supervised_ago > patience else []
    fatal += [
        f"process {process.number} is silent for {process.silent:.0f} s and cannot be killed"
        for process in processes
        if process.pid is not None and process.report is not None and process.silent > patience + UNKILLABLE
    ]
    idle = ["stopping"] if stopping else []
    idle += [f"process {process.number}: {process.trouble}" for process in processes if process.trouble]
    return Health(
        pid=pid,
        phase="stopping" if stopping else "working",
        live=not fatal,
        ready=not fatal and not idle,
        why=[*fatal, *idle],
        processes=processes,
    )
