"""Snapshots in Prometheus' text format 0.0.4."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any, Final

from tokenferry_worker.metrics.names import METRICS, Metric
from tokenferry_worker.metrics.registry import Labels, Snapshot

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def exposition(snapshot: Snapshot) -> str:
    """Return *snapshot* as a page. A metric that has counted nothing yet is named all the same."""
    return "".join(line + "\n" for metric in METRICS for line in _lines(metric, snapshot))


def _lines(metric: Metric, snapshot: Snapshot) -> Iterator[str]:
    yield f"# HELP {metric.name} {metric.help}"
    yield f"# TYPE {metric.name} {metric.kind}"
    series = snapshot.get(metric.name, {})
    if not series and not metric.labels and metric.kind == "counter":
        series = {(): 0}
    for labels, value in sorted(series.items()):
        if metric.kind == "histogram":
            yield from _histogram(metric, labels, value)
        else:
            yield f"{metric.name}{_labels(metric.labels, labels)} {value!r}"


def _histogram(metric: Metric, labels: Labels, value: Any) -> Iterator[str]:
    *counts, total = value
    bounds = [*(f"{bound:g}" for bound in metric.buckets), "+Inf"]
    for bound, count in zip(bounds, accumulate(counts), strict=True):
        yield f"{metric.name}_bucket{_labels((*metric.labels, 'le'), (*labels, bound))} {count}"
    yield f"{metric.name}_sum{_labels(metric.labels, labels)} {total!r}"
    yield f"{metric.name}_count{_labels(metric.labels, labels)} {sum(counts)}"


def _labels(names: Labels, values: Labels) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
