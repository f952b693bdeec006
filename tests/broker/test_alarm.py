"""Few lines about work that fails again and again, but never none."""

from __future__ import annotations

import logging

import pytest

from tokenferry.broker.alarm import EVERY, Alarm


class Work:
    """Something that is tried again and again, on a clock of its own."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.now = 1000.0
        self.alarm = Alarm(logging.getLogger("work"), "the work", clock=lambda: self.now)
        self._caplog = caplog

    def fails(self, seconds: float, *, patience: float = 0.0) -> None:
        """Once a second, for so long."""
        for _ in range(round(seconds)):
            self.alarm.failed("out of order", patience=patience)
            self.now += 1.0

    @property
    def said(self) -> list[str]:
        return [f"{record.levelname} {record.getMessage()}" for record in self._caplog.records]


@pytest.fixture
def work(caplog: pytest.LogCaptureFixture) -> Work:
    return Work(caplog)


def test_the_first_failure_is_told_at_once_then_one_a_minute_and_the_end(work: Work) -> None:
    work.fails(1)
    assert work.said == ["WARNING the work: out of order"]
    work.fails(2 * EVERY)
    assert len(work.said) == 3
    work.alarm.worked()
    assert work.said[3:] == ["WARNING the work: works again, after 121 s"]


def test_work_that_never_fails_says_nothing(work: Work) -> None:
    work.alarm.worked()
    work.alarm.worked()
    assert work.said == []


def test_a_failure_within_the_patience_is_nobodys_business(work: Work) -> None:
    work.fails(5, patience=6.0)
    work.alarm.worked()
    work.fails(5, patience=6.0)
    assert work.said == []
    work.fails(3, patience=6.0)
    assert work.said == ["WARNING the work: out of order"]


def test_work_that_fails_and_works_in_turn_fills_no_log(work: Work) -> None:
    for _ in range(round(EVERY / 2)):
        work.fails(1)
        work.alarm.worked()
        work.now += 1.0
    assert len(work.said) == 2
