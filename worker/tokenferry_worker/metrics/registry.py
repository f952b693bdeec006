"""The registry of one process: numbers in dictionaries. It costs less than a microsecond per count.

prometheus_client's mode for several processes writes one file per process and metric kind, chooses that mode by an
environment variable when it is imported, and keeps the files of dead processes for ever. The supervisor hears from
every process anyway, so it sums what they report (`totals`).
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tokenferry_worker.metrics.names import BY_NAME, MOST_SERIES, OTHER, Metric

Labels = tuple[str, ...]
Series = dict[Labels, Any]
Snapshot = dict[str, Series]
"""By metric and labels: a number; for a histogram the counts of its buckets, the last one open, and the sum."""


class Meters:
    """Counts. Each method may be called from any thread, but one metric is changed by one thread only."""

    def __init__(self) -> None:
        self._series: dict[Metric, Series] = {}
        self._asked: list[Callable[[], Iterable[tuple[Metric, Labels, float]]]] = []

    def count(self, metric: Metric, *labels: str, by: float = 1) -> None:
        """Add *by* to a counter or gauge."""
        series = self._series.get(metric)
        if series is None:
            series = self._series[metric] = {}
        if labels in series:
            series[labels] += by
        else:
            labels = _bounded(series, labels)
            series[labels] = series.get(labels, 0) + by

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Add one value, in seconds, to a histogram."""
        series = self._series.get(metric)
        if series is None:
            series = self._series[metric] = {}
        counts = series.get(labels)
        if counts is None:
            counts = series.setdefault(_bounded(series, labels), [0] * (len(metric.buckets) + 1) + [0.0])
        counts[bisect_left(metric.buckets, value)] += 1
        counts[-1] += value

    def ask(self, source: Callable[[], Iterable[tuple[Metric, Labels, float]]]) -> None:
        """Let *source* say numbers that another part keeps, whenever a snapshot is taken. From any thread."""
        self._asked.append(source)

    def snapshot(self) -> Snapshot:
        """Return all numbers of now."""
        taken: Snapshot = {}
        for metric, series in list(self._series.items()):
            copied = dict(series)
            taken[metric.name] = {k: list(v) for k, v in copied.items()} if metric.buckets else copied
        for source in self._asked:
            for metric, labels, value in source():
                _series = taken.setdefault(metric.name, {})
                _series[_bounded(_series, labels)] = value
        return taken


class NoMeters(Meters):
    """Counts nothing."""

    def count(self, metric: Metric, *labels: str, by: float = 1) -> None:
        """Do nothing."""

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Do nothing."""


def to_line(snapshot: Snapshot) -> bytes:
    """Return *snapshot* as one line of JSON."""
    return json.dumps({name: [[*pair] for pair in series.items()] for name, series in snapshot.items()}).encode()


def from_line(line: bytes) -> Snapshot | None:
    """Return the snapshot in *line*, or None where it is incomplete."""
    try:
        read: Mapping[str, Any] = json.loads(line)
        return {name: {tuple(k): v for k, v in series} for name, series in read.items() if name in BY_NAME}
    except (ValueError, TypeError, AttributeError):
        return None


def _bounded(series: Series, labels: Labels) -> Labels:
    return labels if labels in series or len(series) < MOST_SERIES else (OTHER,) * len(labels)
