"""An outage of the provider costs no row, and one poisonous row fails alone. The long ones are `make outages`."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e.house import BrokerKind
from faults.outages import LIMITED, OBSERVED, play_outage
from faults.scene import scene

BROKERS = ("embedded", "rabbitmq")
ROWS = 200
pytestmark = [pytest.mark.timeout(300), pytest.mark.campaign, pytest.mark.parametrize("kind", BROKERS)]


def test_an_endpoint_that_nobody_can_reach_for_ten_seconds_costs_no_row(kind: BrokerKind, tmp_path: Path) -> None:
    with scene(tmp_path / "house", kind, seed=30, mutation=OBSERVED, configuration=LIMITED) as opened:
        report, _ = play_outage(opened, "refused", rows=ROWS, seconds=10.0, seed=30)
    assert report.verdict.findings == (), report.diary
    assert report.figures.rows == ROWS
    assert report.figures.calls_down > 0


def test_a_row_whose_calls_alone_fail_is_given_up_on_and_the_others_are_done(kind: BrokerKind, tmp_path: Path) -> None:
    with scene(tmp_path / "house", kind, seed=31, mutation=OBSERVED, configuration=LIMITED) as opened:
        report, _ = play_outage(opened, "poison", rows=ROWS, seconds=0.0, seed=31)
    assert report.verdict.findings == (), report.diary
    assert report.verdict.counts["failed: attempts_exhausted"] == report.verdict.counts["dead letters"] == 1
    assert report.verdict.counts["outcomes"] == ROWS
