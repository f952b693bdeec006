"""What a process tree has used, and how figures of several rounds are summed up."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.processes import NotMeasured, fields_of_stat, tree

TICKS = os.sysconf("SC_CLK_TCK")
CPUCLOCK_SCHED = 2
READINGS = 20
"""Readings of a tree that changes under our eyes before it is given up."""


def process_cpu(pid: int) -> float:
    """CPU seconds (user and system) of all threads of one process, dead ones too, to the nanosecond.

    The clock id is what clock_getcpuclockid(3) makes of a process id. Raises OSError where there is no such process.
    """
    return time.clock_gettime((~pid << 3) | CPUCLOCK_SCHED)


def tree_cpu(root: int) -> float:
    """CPU seconds of *root* and its descendants, of those too that have ended and whose parents are still there."""
    for _ in range(READINGS):
        try:
            before = tree(root)
            # Of the dead the kernel tells ticks (10 ms); of the living, nanoseconds.
            dead = sum(int(ticks) for pid in before for ticks in fields_of_stat(pid)[13:15]) / TICKS
            living = sum(process_cpu(pid) for pid in before)
        except OSError:
            continue
        if tree(root) == before:
            return dead + living
    raise NotMeasured("its processes came and went too fast to be counted")


def tree_pss(root: int) -> float:
    """Megabytes of memory of a tree: proportional set size, so that a shared page counts once in all."""
    total = 0
    for pid in tree(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


@dataclass(frozen=True)
class Spread:
    """The median of some values, the least and the greatest."""

    median: float
    least: float
    greatest: float


def spread(values: Sequence[float]) -> Spread | None:
    """Sum up the figures of some rounds; None where there is none.

    >>> spread([3.0, 1.0, 8.0])
    Spread(median=3.0, least=1.0, greatest=8.0)
    """
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def ratios(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
    """Our figure over theirs, for each round that has both. What a machine does to a round, it does to both.

    >>> ratios({0: 1.0, 1: 2.0}, {1: 8.0})
    [0.25]
    """
    return [ours[number] / theirs[number] for number in sorted(ours) if theirs.get(number)]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which *share* of all lie.

    >>> percentile(range(1, 101), 0.99)
    99
    """
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, round(share * len(ordered)) - 1))]
