"""The sum over the processes of a worker. What a dead process has counted stays, so no counter ever falls."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from tokenferry_worker.metrics.names import BY_NAME
from tokenferry_worker.metrics.registry import Series, Snapshot


class Totals:
    """Holds the latest snapshot of each process. Safe for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: dict[int, Snapshot] = {}
        self._dead: Snapshot = {}
        """Counters and histograms of dead processes, summed."""

    def note(self, pid: int, snapshot: Snapshot) -> None:
        """Take the latest snapshot of process *pid*."""
        with self._lock:
            self._latest[pid] = snapshot

    def retire(self, pid: int) -> None:
        """Process *pid* has ended: keep what it counted, and forget its gauges."""
        with self._lock:
            last = self._latest.pop(pid, {})
            counted = {name: series for name, series in last.items() if BY_NAME[name].kind != "gauge"}
            self._dead = merged([self._dead, counted])

    def now(self) -> Snapshot:
        """Return the sum."""
        with self._lock:
            return merged([self._dead, *self._latest.values()])


def merged(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return the sum of *snapshots*.

    >>> merged([{"tokenferry_in_flight": {("main",): 1}}, {"tokenferry_in_flight": {("main",): 2}}])
    {'tokenferry_in_flight': {('main',): 3}}
    """
    total: Snapshot = {}
    for snapshot in snapshots:
        for name, series in snapshot.items():
            _add(total.setdefault(name, {}), series)
    return total


def since(now: Snapshot, before: Snapshot) -> Snapshot:
    """Return what the counters and histograms have counted between two snapshots of one process."""
    grown: Snapshot = {}
    for name, series in now.items():
        if BY_NAME[name].kind == "gauge":
            continue
        was = before.get(name, {})
        more = {labels: _less(value, was.get(labels)) for labels, value in series.items()}
        grown[name] = {
            labels: value for labels, value in more.items() if (sum(value[:-1]) if isinstance(value, list) else value)
        }
    return grown


def _less(value: object, was: object) -> object:
    if isinstance(value, list):
        return [a - b for a, b in zip(value, was, strict=True)] if isinstance(was, list) else value
    return value - (was or 0)  # type: ignore[operator]


def _add(total: Series, more: Series) -> None:
    for labels, value in more.items():
        known = total.get(labels)
        if isinstance(value, list):
            total[labels] = [a + b for a, b in zip(known, value, strict=True)] if known is not None else list(value)
        else:
            total[labels] = (known or 0) + value
