"""The gauges of the whole fleet on /metrics. Store and broker are asked only while somebody reads them."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from tokenferry.broker import connecting
from tokenferry.configuration import Configuration
from tokenferry.contract.queues import DEAD_LETTERS, QUARANTINE
from tokenferry_worker.fleet import queues
from tokenferry_worker.fleet.view import FleetView, StoreView
from tokenferry_worker.metrics import names
from tokenferry_worker.metrics.names import Metric, sort_of
from tokenferry_worker.metrics.registry import Labels, Snapshot
from tokenferry_worker.metrics.text import exposition
from tokenferry_worker.metrics.totals import merged
from tokenferry_worker.on_redis.store import Store

log = logging.getLogger("tokenferry.worker")

FRESH: Final = 5.0
"""Seconds for which an answer is used."""
PATIENCE: Final = 3.0
"""Seconds that a reader waits for it. Without one, the page lacks these gauges."""
WITHIN: Final = 5.0
"""Seconds that the store gets to answer."""


def look(configuration: Configuration) -> FleetView:
    """Ask store and broker. Raises what their clients raise."""

    async def ask() -> StoreView:
        store = Store.at(connecting.store_url(configuration), configuration.store.prefix, patient=False)
        try:
            async with asyncio.timeout(WITHIN):
                return await StoreView.look(configuration, store)
        finally:
            await store.aclose()

    view = asyncio.run(ask())
    return FleetView(view, queues.look(configuration, list(view.circuits.parked)))


class MetricsPage:
    """Makes the page: what the processes count, and the gauges of the fleet."""

    def __init__(
        self,
        configuration: Configuration,
        processes: Callable[[], Snapshot],
        look: Callable[[Configuration], FleetView] = look,
    ) -> None:
        """*processes*: returns the sum over the processes of this worker."""
        self._configuration = configuration
        self._processes = processes
        self._look = look
        self._lock = threading.Lock()
        self._asking: threading.Thread | None = None
        self._asked_at = float("-inf")
        self._fleet: Snapshot = {}

    def __call__(self) -> str:
        """Return the page."""
        with self._lock:
            if time.monotonic() > self._asked_at + FRESH and (self._asking is None or not self._asking.is_alive()):
                self._asking = threading.Thread(target=self._ask, name="tokenferry-gauges", daemon=True)
                self._asking.start()
            asking = self._asking
        if asking is not None:
            asking.join(PATIENCE)
        return exposition(merged([self._processes(), self._fleet]))

    def _ask(self) -> None:
        try:
            self._fleet = gauges(self._look(self._configuration), self._configuration)
        except Exception as error:
            # The gauges disappear from the page, and `tokenferry_away` says which server is away.
            self._fleet = {}
            log.debug("the fleet cannot be measured (%s)", type(error).__name__)
        self._asked_at = time.monotonic()


def gauges(view: FleetView, configuration: Configuration) -> Snapshot:
    """Return what is known of the fleet as gauges."""
    store, taken = view.store, Gauges()
    used = store.used()
    for state in store.budgets:
        taken.set(names.BUDGET_CONFIGURED, state.configured, state.name)
        taken.set(names.BUDGET_ALLOWED, 0.0 if state.paused else state.now, state.name)
        taken.set(names.BUDGET_FACTOR, state.factor, state.name)
        taken.set(names.BUDGET_USED, round(used[state.name], 3), state.name)
    for (platform, sort), count in Counter(
        (scope.partition("/")[0], sort_of(scope)) for scope in store.circuits.open
    ).items():
        taken.set(names.CIRCUITS, count, platform, sort)
    for role, count in Counter(process.role for process in store.processes).items():
        taken.set(names.WORKERS, count, role)
    for queue in view.queues or ():
        _take_queue(taken, queue)
    if (useful := view.useful_processes(configuration)) is not None:
        taken.set(names.USEFUL, useful)
    return taken.snapshot


def _take_queue(taken: Gauges, queue: queues.QueueState) -> None:
    if queue.name == DEAD_LETTERS:
        taken.set(names.DEAD_LETTERS, queue.waiting)
    elif queue.name == QUARANTINE:
        taken.set(names.QUARANTINED, queue.waiting)
    elif queue.name.startswith("parked."):
        taken.add(names.PARKED, queue.waiting, queue.name.split(".")[1])
    else:
        taken.set(names.QUEUE_DEPTH, queue.waiting, queue.name)
        if queue.waiting == 0 or queue.oldest is not None:
            taken.set(names.QUEUE_AGE, round(queue.oldest or 0.0, 1), queue.name)


class Gauges:
    """A snapshot that is being made."""

    def __init__(self) -> None:
        self.snapshot: Snapshot = {}

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        """Set one gauge."""
        self.snapshot.setdefault(metric.name, {})[labels] = value

    def add(self, metric: Metric, value: float, *labels: str) -> None:
        """Add to one gauge."""
        series: dict[Labels, float] = self.snapshot.setdefault(metric.name, {})
        series[labels] = series.get(labels, 0) + value
