"""A small fault campaign, and proof that its checker would notice. The large one is `make faults` (docs/faults.md)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from e2e.house import BrokerKind
from faults import mutants, plans
from faults.parts import LONG_LEASE, STEADY, frozen_while_idle, long_call, recovery
from faults.rounds import play
from faults.scene import scene

BROKERS = ("embedded", "own-rabbitmq")
REQUESTS = 2500
"""Accepted on each broker, at least."""
pytestmark = [pytest.mark.timeout(400), pytest.mark.campaign]


@pytest.mark.parametrize("kind", BROKERS)
def test_in_a_storm_of_faults_every_accepted_request_has_exactly_one_true_outcome(
    kind: BrokerKind, tmp_path: Path
) -> None:
    # Half a round's requests at half its rate: each trouble meets the work, as in a whole one.
    plan = replace(plans.storm(kind, 20, REQUESTS, steps=4), per_second=150.0)
    with scene(tmp_path / "house", kind, seed=20) as opened:
        report, _ = play(opened, plan, seed=20)
    counts, diary = report.verdict.counts, "\n".join(report.diary)
    assert report.verdict.findings == (), diary
    assert counts["accepted"] >= REQUESTS
    assert counts["requests called for more than once"] > 50, "the faults did not meet the work"
    server = "RabbitMQ" if kind == "own-rabbitmq" else "Valkey"
    assert all(f"restarted {server} with {signal}" in diary for signal in ("SIGTERM", "SIGKILL"))
    assert all(f"killed a {who}" in diary for who in ("producer", "producer with an outbox", "reader of results"))
    assert sum(report.troubles.values()) == len(plan.troubles)
    assert len(report.steps) == 4, "a worker was stopped at each of these steps"


def test_orders_delivered_twice_to_dying_workers_spend_each_token_once(tmp_path: Path) -> None:
    with scene(tmp_path / "house", "rabbitmq", seed=21) as opened:
        report, facts = play(opened, plans.duplicates(300), seed=21)
    assert report.verdict.findings == (), report.diary
    assert report.verdict.counts["told again"] > 200, "each was delivered twice"
    assert report.verdict.counts["uses"] == len(facts.uses) > 250


def test_what_an_idle_worker_was_handed_while_it_was_frozen_comes_back(tmp_path: Path) -> None:
    with scene(tmp_path / "house", "embedded", seed=22) as opened:
        part = frozen_while_idle(opened, rounds=5, seed=22)
    assert part.verdict.findings == ()
    assert part.verdict.counts["outcomes"] == 25


def test_calls_that_a_death_cut_short_are_made_again_by_a_peer_within_seconds(tmp_path: Path) -> None:
    with scene(tmp_path / "house", "embedded", seed=23, latency_ms=400, configuration=STEADY) as opened:
        part = recovery(opened, kills=2, seed=23)
    assert part.verdict.findings == ()
    assert part.figures["calls cut short"] > 2
    assert part.figures["max"] < 10.0


def test_a_call_that_outlasts_its_lease_many_times_is_begun_by_nobody_else(tmp_path: Path) -> None:
    with scene(tmp_path / "house", "embedded", seed=24, configuration=LONG_LEASE) as opened:
        part = long_call(opened, seconds=18.0, seed=24)
    assert part.verdict.findings == ()


@pytest.mark.parametrize("mutation", ["early-ack", "random-key", "no-fence", "no-renewal", "stock-transport"])
def test_the_checker_notices_workers_that_are_broken_on_purpose_and_accuses_no_sound_ones(
    mutation: str, tmp_path: Path
) -> None:
    proof = mutants.prove(mutation, "embedded", 25, tmp_path)
    assert proof.control.findings == ()
    assert proof.holds, proof.mutated.counts
