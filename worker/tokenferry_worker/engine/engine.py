"""What Celery's pool and consumer get from the worker, and how they get it.

Celery makes both by itself, and gives them nothing of ours but its application. So the application carries one
`Engine`, and both read it from there: this is the only way from the configuration to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from celery import Celery

from tokenferry.broker.publishing import Publisher
from tokenferry_worker.dead_letters.quarantine import Quarantine
from tokenferry_worker.deliveries.settling import Handler
from tokenferry_worker.health.vitals import Vitals

OpenHandlers = Callable[[], AbstractAsyncContextManager[Mapping[str, Handler]]]
"""Opens what the handlers need inside the running loop, and closes it at the end."""


@dataclass(frozen=True)
class Pauses:
    """How long the pool waits, in seconds."""

    cancelled: float = 2.0
    """For deliveries to end after they were cancelled."""
    between_timers: float = 1.0
    """Between two rounds of the timers of Celery's hub (heartbeats), while the worker stops."""
    crashed: float = 1.0
    """Before a delivery whose handler crashed goes back: a poison message must not come back in a tight loop."""
    closed: float = 10.0
    """For the connections to the store and to Stripe to close."""


@dataclass(frozen=True)
class Engine:
    """What the pool and the consumer of one worker process need."""

    open_handlers: OpenHandlers
    publisher: Callable[[], Publisher]
    """Makes the publisher at the first call, and returns the same one afterwards."""
    quarantine: Quarantine
    now: Callable[[], float]
    """Unix seconds on the store's clock."""
    vitals: Vitals
    grace_seconds: float
    """How long a warm shutdown lets deliveries finish."""
    hold_seconds: float | None = None
    """How long one delivery may take before it is given back. None: without a limit."""
    pauses: Pauses = Pauses()


class EngineApp(Celery):
    """A Celery application that carries an `Engine`."""

    def __init__(self, engine: Engine) -> None:
        super().__init__("tokenferry", set_as_current=False)
        self.engine = engine
