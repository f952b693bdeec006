"""A small one of the long imports that `make million` measures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenferry.broker import embedded

from .million import Answering, Report, Sample, house_in, killed, report

ROWS = 2_000

pytestmark = pytest.mark.campaign


def test_killed_again_and_again_no_row_is_lost_and_none_is_doubled(tmp_path: Path) -> None:
    server = tmp_path / "data"
    server.mkdir(0o700)
    with embedded.running(server):
        house = house_in(tmp_path, server)
        with Answering(house.configuration(), house.platform) as worker:
            counted = killed(house, ROWS, 3, seed=1)
    assert (len(counted), counted.total()) == (ROWS, ROWS)
    assert len({header.request_id for header in worker.taken}) == ROWS


def test_the_judge_sees_memory_and_time_that_grow_with_the_rows() -> None:
    def samples(*, more: int, slower: float) -> list[Sample]:
        cpu, found = 0.0, []
        for rows in range(0, 100_001, 500):
            cpu += 0.5 * (slower if rows > 50_000 else 1.0)
            found.append(Sample(rows, cpu, 50_000_000 + more * rows))
        return found

    def judged(**what: float) -> Report:
        return report(samples(**what), 100_000, 1.0)  # type: ignore[arg-type]

    assert judged(more=190, slower=1.05).is_flat
    assert not judged(more=210, slower=1.0).is_flat
    assert not judged(more=0, slower=1.2).is_flat
