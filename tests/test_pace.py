"""The time left, as measured: on simulated clocks, against what it then really took."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from tokenferry.bulk.pace import Pace

STEADY = {
    "the configured rate": [(90.0, 25.0)],
    "an hour": [(3600.0, 4.0)],
    "slowed down": [(60.0, 100.0), (90.0, 20.0)],
    "faster": [(60.0, 10.0), (90.0, 60.0)],
    "twice": [(45.0, 50.0), (45.0, 12.0), (60.0, 80.0)],
    "slow": [(300.0, 2.0)],
}
"""Phases: seconds, and outcomes per second."""


def arrivals(phases: list[tuple[float, float]], noise: random.Random) -> Iterator[float]:
    """When each outcome comes. Its distance to the one before varies by half."""
    now, end = 0.0, 0.0
    for seconds, rate in phases:
        end += seconds
        while now < end:
            now += noise.uniform(0.5, 1.5) / rate
            yield now


def throttled(seconds: float, limit: float, noise: random.Random) -> Iterator[float]:
    """Outcomes behind 429s: the rate is cut in half, and grows again until the next 429."""
    now, rate = 0.0, limit
    while now < seconds:
        now += noise.uniform(0.5, 1.5) / rate
        rate += limit * 0.1 / rate
        if rate > limit * 1.2:
            rate /= 2
        yield now


def within(
    times: list[float], factor: float, judged: Callable[[float, float], bool], pace: Pace | None = None
) -> float:
    """The share of readings, one each half second, that are within *factor* of what it then really takes.

    *judged*: takes the time of a reading and of the end, and says if the reading counts.
    """
    pace, end, good, readings = pace or Pace(0.0), times[-1], 0, 0
    coming = iter(enumerate(times))
    number, at = next(coming)
    now = 0.0
    while now < end:
        while at <= now:
            pace.note(at)
            number, at = next(coming, (len(times), end + 1))
        if judged(now, end):
            readings += 1
            left = pace.seconds_left(now, len(times) - number)
            good += left is not None and (end - now) / factor <= left <= (end - now) * factor
        now += 0.5
    assert readings > 20
    return good / readings


@pytest.mark.parametrize("phases", STEADY.values(), ids=STEADY)
@pytest.mark.parametrize("seed", range(5))
def test_from_ten_seconds_after_a_change_the_time_left_is_within_half_as_much_again(
    phases: list[tuple[float, float]], seed: int
) -> None:
    times = list(arrivals(phases, random.Random(seed)))
    last_change = sum(seconds for seconds, _ in phases[:-1])
    share = within(times, 1.5, lambda now, end: last_change + 10 <= now <= end - 5)
    assert share >= 0.95


@pytest.mark.parametrize("seed", range(5))
def test_behind_429s_the_time_left_is_within_a_factor_of_two(seed: int) -> None:
    times = list(throttled(120.0, 25.0, random.Random(seed)))
    assert within(times, 2.0, lambda now, end: 10 <= now <= end - 5) >= 0.95


class Configured(Pace):
    """An estimate by the configured rate, as it was once."""

    def seconds_left(self, now: float, outcomes: float) -> float | None:
        return outcomes / 100.0


def test_an_estimate_by_the_configured_rate_does_not_pass() -> None:
    times = list(arrivals([(90.0, 20.0)], random.Random(1)))
    assert within(times, 1.5, lambda now, end: 10 <= now <= end - 5, Configured(0.0)) == 0


def test_nothing_is_estimated_before_the_first_outcome_and_nothing_is_left_at_the_end() -> None:
    pace = Pace(100.0)
    assert pace.seconds_left(101.0, 5) is None
    pace.note(102.0, 4)
    assert pace.seconds_left(104.0, 4) == pytest.approx(4.0)
    assert pace.seconds_left(104.0, 0) == 0.0
    assert pace.recent(104.0) == pytest.approx(1.0)
    assert pace.seconds_left(300.0, 5) is None
