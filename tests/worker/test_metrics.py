"""Metrics: what is counted, how processes are added up, and that names in files and pages exist."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tokenferry.configuration import Configuration
from tokenferry_worker.circuits.scopes import Circuit, CircuitSnapshot
from tokenferry_worker.engine.supervisor import Child
from tokenferry_worker.fleet.gauges import MetricsPage, gauges
from tokenferry_worker.fleet.queues import QueueState
from tokenferry_worker.fleet.view import FleetView, StoreView
from tokenferry_worker.health.reporter import ProcessRecord
from tokenferry_worker.health.vitals import ReportLine, Vitals
from tokenferry_worker.metrics import names
from tokenferry_worker.metrics.names import BY_NAME, METRICS, MOST_SERIES
from tokenferry_worker.metrics.registry import Meters, from_line, to_line
from tokenferry_worker.metrics.text import exposition
from tokenferry_worker.metrics.totals import Totals, since
from tokenferry_worker.on_redis.controls import State

ROOT = Path(__file__).parent.parent.parent


def busy() -> Meters:
    """A process that has counted something of every sort."""
    meters = Meters()
    meters.count(names.OUTCOMES, "main", "bulk", "card", "none", by=3)
    meters.count(names.IN_FLIGHT, "main", by=2)
    meters.observe(names.CALLS, 0.21, "main", "POST /v1/tokens", "2xx")
    meters.observe(names.CALLS, 500.0, "main", "POST /v1/tokens", "none")
    return meters


# One process


def test_a_page_is_what_prometheus_reads_with_types_help_and_cumulative_buckets() -> None:
    families = {family.name: family for family in text_string_to_metric_families(exposition(busy().snapshot()))}
    assert len(families) == len(METRICS)
    calls = families["tokenferry_provider_seconds"]
    assert (calls.type, bool(calls.documentation)) == ("histogram", True)
    told = {
        (sample.name.rpartition("_")[2], sample.labels.get("le"), sample.labels["status"]): sample.value
        for sample in calls.samples
    }
    assert told["bucket", "0.2", "2xx"] == 0
    assert told["bucket", "0.3", "2xx"] == told["bucket", "+Inf", "2xx"] == told["count", None, "2xx"] == 1
    assert told["bucket", "80", "none"] == 0
    assert told["bucket", "+Inf", "none"] == 1
    assert told["sum", None, "none"] == 500.0


def test_a_number_is_printed_whole_however_great_it_is() -> None:
    meters = Meters()
    meters.count(names.DEATHS, by=1_234_567)
    meters.count(names.AWAY, "store", by=1234.5678)
    page = exposition(meters.snapshot())
    assert "\ntokenferry_process_deaths_total 1234567\n" in page
    assert 'server="store"} 1234.5678\n' in page


def test_a_label_cannot_break_its_line() -> None:
    meters = Meters()
    meters.count(names.DELIVERIES, 'a"b\\c\nd')
    (family,) = [
        each
        for each in text_string_to_metric_families(exposition(meters.snapshot()))
        if each.samples and each.name == "tokenferry_deliveries"
    ]
    assert family.samples[0].labels == {"queue": 'a"b\\c\nd'}


def test_there_is_an_end_to_different_labels_and_nothing_is_lost_beyond_it() -> None:
    meters = Meters()
    for number in range(3 * MOST_SERIES):
        meters.count(names.RATE_LIMITED, "main", f"reason_{number}")
        meters.observe(names.PERMIT_WAIT, 1.0, "main", f"lane_{number}")
    counted, waited = (meters.snapshot()[metric.name] for metric in (names.RATE_LIMITED, names.PERMIT_WAIT))
    assert len(counted) == len(waited) == MOST_SERIES + 1
    assert counted["other", "other"] == 2 * MOST_SERIES
    assert sum(counted.values()) == sum(sum(value[:-1]) for value in waited.values()) == 3 * MOST_SERIES


def test_a_snapshot_stays_as_it_was_taken() -> None:
    meters = busy()
    before = meters.snapshot()
    meters.observe(names.CALLS, 0.2, "main", "POST /v1/tokens", "2xx")
    meters.count(names.OUTCOMES, "main", "bulk", "card", "none")
    grown = since(meters.snapshot(), before)
    assert grown["tokenferry_outcomes_total"] == {("main", "bulk", "card", "none"): 1}
    assert sum(grown["tokenferry_provider_seconds"]["main", "POST /v1/tokens", "2xx"][:-1]) == 1
    assert "tokenferry_in_flight" not in grown


# All processes


def test_a_snapshot_survives_its_journey_and_half_of_one_is_none() -> None:
    snapshot = busy().snapshot()
    line = to_line(snapshot)
    assert from_line(line) == snapshot
    assert b"\n" not in line
    assert from_line(line[:-3]) is from_line(b"[]") is from_line(b"") is None


def test_the_dead_keep_what_they_counted_and_leave_no_gauge() -> None:
    totals = Totals()
    totals.note(1, busy().snapshot())
    totals.note(2, busy().snapshot())
    assert totals.now()["tokenferry_in_flight"] == {("main",): 4}
    before = totals.now()["tokenferry_provider_seconds"]
    totals.retire(1)
    totals.retire(1)  # twice is as once
    assert totals.now()["tokenferry_in_flight"] == {("main",): 2}
    assert totals.now()["tokenferry_provider_seconds"] == before
    totals.note(3, busy().snapshot())
    assert totals.now()["tokenferry_outcomes_total"] == {("main", "bulk", "card", "none"): 9}


def test_a_line_that_the_supervisor_takes_in_pieces_arrives_whole() -> None:
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    meters = Meters()
    for number in range(400):
        meters.count(names.RATE_LIMITED, "main", f"a_rather_long_reason_{number}")
    line, report = ReportLine(theirs.fileno()), Vitals("all").report()
    ours.setblocking(False)
    child: Any = Child.__new__(Child)
    child.socket, child._half, child.report, child.numbers = ours, b"", None, None
    for _ in range(100):
        line.send(report, to_line(meters.snapshot()))
        child.listen()
        if child.numbers is not None:
            break
    assert child.report == report
    assert child.numbers == meters.snapshot()
    ours.close()
    line.send(report, to_line(meters.snapshot()))  # nobody listens any more, and nothing happens
    theirs.close()


# The fleet


def fleet(*, queues: bool = True) -> FleetView:
    budgets = [
        State("main:global", 100, 50, 0.5, 0.0, None),
        State("main:endpoint:tokens", 25, 25, 1.0, 0.0, "support asked", until=1.0, by="ana@host"),
    ]
    open_ = {"main/kind/card": Circuit("main/kind/card", 402, "raw_card_data_refused", "req_1", 1.0, 3, 0.0)}
    record = ProcessRecord(
        host="a",
        pid=1,
        role="all",
        phase="working",
        since=1.0,
        in_hand=3,
        taken=9,
        broker=True,
        rates={"main:global": 12.5},
        waiting={"permit": 2},
        failures={"card_declined": 4},
        latency=0.2,
    )
    states = [
        QueueState("tokenize.bulk.main", 70, 61.4),
        QueueState("attach.bulk.main", 0),
        QueueState("parked.main.12345678", 5, 7.0),
        QueueState("dead-letters", 2, 9.0),
        QueueState("quarantine", 1),
    ]
    return FleetView(StoreView(budgets, CircuitSnapshot(open_, {}), [record, record]), states if queues else None)


CONFIGURATION = Configuration.model_validate({"platforms": {"main": {"secret_key": {"env": "X"}}}})


def test_the_gauges_of_the_fleet_say_what_store_and_broker_know() -> None:
    page = exposition(gauges(fleet(), CONFIGURATION))
    for line in (
        'tokenferry_queue_depth{queue="tokenize.bulk.main"} 70',
        'tokenferry_queue_oldest_seconds{queue="tokenize.bulk.main"} 61.4',
        'tokenferry_queue_oldest_seconds{queue="attach.bulk.main"} 0.0',
        'tokenferry_parked_messages{platform="main"} 5',
        "tokenferry_dead_letters 2",
        "tokenferry_quarantined 1",
        'tokenferry_budget_allowed{budget="main:endpoint:tokens"} 0.0',
        'tokenferry_budget_factor{budget="main:global"} 0.5',
        'tokenferry_budget_used{budget="main:global"} 25.0',
        'tokenferry_circuits_open{platform="main",sort="kind"} 1',
        'tokenferry_fleet_processes{role="all"} 2',
        "tokenferry_useful_workers 1",
    ):
        assert f"\n{line}\n" in page


def test_what_cannot_be_measured_is_left_out_and_the_rest_of_the_page_is_there() -> None:
    def away(_: Configuration) -> FleetView:
        raise ConnectionError

    page = MetricsPage(CONFIGURATION, busy().snapshot, away)()
    assert 'tokenferry_in_flight{platform="main"} 2' in page
    assert "tokenferry_queue_depth{" not in page
    assert "tokenferry_useful_workers 1" not in exposition(gauges(fleet(queues=False), CONFIGURATION))


def test_the_fleet_is_asked_once_however_often_the_page_is_read() -> None:
    asked = []

    def look(_: Configuration) -> FleetView:
        asked.append(1)
        return fleet()

    page = MetricsPage(CONFIGURATION, busy().snapshot, look)
    assert page() == page() == page()
    assert len(asked) == 1


# Names


def names_in(text: str) -> set[str]:
    found = set(re.findall(r"\btokenferry_[a-z_0-9]+", text)) - {"tokenferry_worker", "tokenferry_emulator"}
    return {re.sub("_(bucket|sum|count)$", "", name) for name in found}


def labels_in(expression: str) -> set[str]:
    grouped = re.findall(r"\bby \(([^)]*)\)", expression)
    chosen = re.findall(r"(\w+)\s*[!=]~?\s*\"", expression)
    return {label.strip() for group in grouped for label in group.split(",")} | set(chosen)


def expressions() -> list[str]:
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "tokenferry.json").read_text())
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return panels + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("expression", expressions())
def test_dashboard_and_alerts_name_metrics_and_labels_that_exist(expression: str) -> None:
    used = names_in(expression)
    assert used <= BY_NAME.keys()
    assert used
    labels = {"le"}.union(*(BY_NAME[name].labels for name in used))
    assert labels_in(expression) <= labels
    if "sum(" in expression or "sum by" in expression:
        # The gauges of the fleet are the same on every worker: a sum would count them twice.
        assert not [name for name in used if "not sum" in BY_NAME[name].help and f"sum({name}" in expression]


def test_the_dashboard_shows_every_metric_that_is_no_part_of_another_panel() -> None:
    shown = names_in(" ".join(expressions()))
    assert BY_NAME.keys() - shown <= {
        "tokenferry_deliveries_total",
        "tokenferry_budget_calls_total",
        "tokenferry_budget_configured",
        "tokenferry_failed_attempts_total",
        "tokenferry_dead_lettered_total",
        "tokenferry_parked_total",
        "tokenferry_fleet_processes",
    }


def test_the_page_lists_every_metric_with_its_labels_and_buckets_and_no_other() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "-"
        assert f"| `{metric.name}` | {metric.kind} | {labels} |" in text
        assert metric.help in re.sub(r"\s+", " ", text)
        assert ", ".join(f"{bound:g}" for bound in metric.buckets) in re.sub(r"\s+", " ", text)
    assert names_in(text) <= BY_NAME.keys()


def test_no_metric_has_a_label_that_could_hold_an_id() -> None:
    bounded = {"platform", "lane", "kind", "code", "queue", "operation", "status", "cause", "budget", "reason", "state"}
    bounded |= {"server", "sort", "role"}
    assert {label for metric in METRICS for label in metric.labels} <= bounded
