"""A fleet can be asked: metrics, status, show and logs say what happened, and nothing that is secret."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from e2e import cargo
from e2e.house import House, Route, until
from e2e.leaks import found
from e2e.test_e2e_secrets import CANARIES, ENDPOINT_SECRETS, orders
from prometheus_client.parser import text_string_to_metric_families

from tokenferry import Order
from tokenferry.cli import main
from tokenferry.contract.targets import CustomerCreate
from tokenferry_worker.metrics.names import BY_NAME

REQUESTS = 160
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def page(house: House) -> str:
    """The metrics of the one worker of this house, over its socket."""
    (path,) = (house.folder / "data" / "workers").glob("*.sock")
    connection = http.client.HTTPConnection("localhost", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.getheader("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
        return answer.read().decode()
    finally:
        connection.close()


def samples(text: str) -> Samples:
    """The page as Prometheus' own parser reads it."""
    families = list(text_string_to_metric_families(text))
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def total(read: Samples, name: str, **labels: str) -> float:
    return sum(value for (each, named), value in read.items() if each == name and labels.items() <= dict(named).items())


def is_counter(name: str) -> bool:
    metric = BY_NAME.get(name) or BY_NAME.get(re.sub("_(bucket|sum|count)$", "", name))
    assert metric is not None, f"{name} is not among the names"
    return metric.kind != "gauge"


@contextmanager
def scraping(house: House) -> Iterator[list[Samples]]:
    """Read the page again and again while the block runs."""
    pages: list[Samples] = []
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(0.1):
            pages.append(samples(page(house)))

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield pages
    finally:
        over.set()
        thread.join()


def assert_no_counter_fell(pages: list[Samples]) -> None:
    assert len(pages) > 3
    for before, after in itertools.pairwise(pages):
        fallen = [key for key, value in before.items() if is_counter(key[0]) and after.get(key, -1.0) < value]
        assert fallen == []


def load(house: House, route: Route) -> list[str]:
    return house.send(
        Order(cargo.card(at), platform="main", reply_to=route.name, attach=None if at % 4 else CustomerCreate())
        for at in range(REQUESTS)
    )


def ask(house: House, *words: str) -> tuple[int, str]:
    """Run a command of the house in this process."""
    done = CliRunner().invoke(main, [*words, "--config", str(house.folder / "tokenferry.toml")])
    return done.exit_code, done.output


@pytest.mark.parametrize("house", ["embedded", "rabbitmq"], indirect=True)
def test_the_sums_of_four_processes_equal_what_the_endpoint_saw_to_the_last_call(house: House) -> None:
    route = house.route()
    with house.working(processes=4), scraping(house) as pages:
        before = house.ledger()["calls"]["total"]
        load(house, route)
        route.gather(REQUESTS)
        house.until_all_is_done()
        calls = house.ledger()["calls"]["total"] - before
        assert calls == REQUESTS + REQUESTS // 4

        def is_complete() -> bool:
            counted = total(pages[-1], "tokenferry_provider_seconds_count") >= calls
            return counted and total(pages[-1], "tokenferry_fleet_processes") >= 4

        until(is_complete, "the last numbers of every process")
    last = pages[-1]
    assert total(last, "tokenferry_provider_seconds_count") == calls
    assert total(last, "tokenferry_provider_seconds_count", operation="POST /v1/tokens", status="2xx") == REQUESTS
    assert total(last, "tokenferry_outcomes_total", code="none") == REQUESTS
    assert total(last, "tokenferry_outcomes_total", platform="main", lane="bulk", kind="card") == REQUESTS
    assert total(last, "tokenferry_ledger_total", state="available") == REQUESTS
    assert total(last, "tokenferry_ledger_total", state="spent") == REQUESTS // 4
    assert total(last, "tokenferry_permit_wait_seconds_count") == calls
    assert total(last, "tokenferry_processes", state="working") == 4
    assert total(last, "tokenferry_fleet_processes") >= 4
    assert total(last, "tokenferry_in_flight") == total(last, "tokenferry_in_hand") == 0
    assert_no_counter_fell(pages)


@pytest.mark.parametrize("house", ["embedded"], indirect=True)
def test_no_counter_falls_when_processes_are_killed(house: House) -> None:
    route = house.route()
    worker = house.worker(processes=2)
    with scraping(house) as pages:
        load(house, route)
        for made in (30, 80):
            until(lambda made=made: house.ledger()["tokens_created"] >= made, f"{made} tokens")
            until(lambda: pages and total(pages[-1], "tokenferry_outcomes_total") > 0, "first numbers")
            os.kill(worker.children()[0], signal.SIGKILL)
        route.gather(REQUESTS)
        house.until_all_is_done()
        until(lambda: total(pages[-1], "tokenferry_process_deaths_total") == 2, "both deaths")
    assert_no_counter_fell(pages)
    assert worker.stop() == 0


@pytest.mark.parametrize("house", ["embedded"], indirect=True)
def test_from_the_command_line_alone_one_learns_how_far_it_is_and_what_happened_to_4711(
    house: House, tmp_path: Path
) -> None:
    config = ["--config", str(house.folder / "tokenferry.toml")]
    rows = ["key,kind,number,exp_month,exp_year,attach.to"]
    rows += [f"{4710 + at},card,{cargo.CARDS[at]},12,2044,customer_create" for at in range(3)]
    rows += [f"4800,card,{cargo.DECLINED_BY_CUSTOMERS},12,2044,customer_create"]
    (tmp_path / "rows.csv").write_text("\n".join(rows) + "\n")
    files = ["--results", str(tmp_path / "out.jsonl"), "--rejects", str(tmp_path / "no.csv")]
    command = ["import", str(tmp_path / "rows.csv"), *files, "--platform", "main"]
    import_ = house.start([sys.executable, "-m", "tokenferry.cli", *command, *config], "import")

    def waiting() -> int:
        code, said = ask(house, "status", "--json")
        assert code == 0, said
        return sum(queue["waiting"] for queue in json.loads(said)["queues"])

    until(lambda: waiting() == 4, "the rows in their queue")
    until(lambda: "import of rows.csv running: 4 rows read" in ask(house, "status")[1], "how far the import is")
    said = ask(house, "status")[1]
    assert re.search(r"^tokenize\.bulk\.main +4 +\d+ s", said, re.MULTILINE), said
    assert "workers: none reports to the store" in said
    code, said = ask(house, "show", "--key", "4711")
    assert code == 0, said
    for word in (": waiting", "waits in tokenize.bulk.main, at place 2", "no worker reports to the store"):
        assert word in said
    watching = [sys.executable, "-m", "tokenferry.cli", "status", "--watch", "--every", "0.1", *config]
    watch = house.start(watching, "watch")
    until(lambda: watch.said().count("tokenize.bulk.main") > 2, "the same again and again")
    assert watch.stop(signal.SIGINT) == 0
    assert ask(house, "limits", "pause", "main:global", "--why", "support asked us to")[0] == 0
    with house.working():
        until(lambda: "paused by " in ask(house, "status")[1], "the reason why")
        until(lambda: "paused budgets: main:global" in ask(house, "health")[1], "the pause in health")
        # A row that is to be attached waits before its token is made.
        until(lambda: "wait for a slot" in ask(house, "status")[1], "requests that wait for a slot")
        said = ask(house, "show", "--key", "4711")[1]
        assert "under way" in said
        assert "budget main:global: paused by" in said
        assert ask(house, "limits", "resume", "main:global", "--why", "done")[0] == 0
        assert import_.process.wait(60) == 1, "one row was declined"
        until(lambda: "card_declined 1" in ask(house, "status")[1], "the failure in the status")
    assert "import of rows.csv finished: 4 rows read, 4 tokenized, 3 attached, 1 failed" in ask(house, "status")[1]
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    good = next(line for line in lines if line["key"] == "4711")
    for words in (("--key", "4711"), (good["request_id"],), (good["token"],), (good["object_id"],)):
        code, said = ask(house, "show", *words)
        assert code == 0, said
        assert f"{good['request_id']}: attached" in said
        assert f"became {good['object_id']} (customer)" in said
    code, said = ask(house, "show", "--key", "4800")
    assert ": failed" in said
    assert "customers  402  card_declined  (req_" in said
    assert ask(house, "show", "req-unknown")[0] == ask(house, "show", "--key", "4999")[0] == 1


@pytest.mark.parametrize("house", ["embedded"], indirect=True)
def test_nothing_that_can_be_asked_shows_a_secret(house: House) -> None:
    route, pieces = house.route(), []
    request_ids = house.send(orders(route.name))
    faults = [{"kind": kind, "times": 2, "path": "/v1/tokens"} for kind in ("error_500", "truncated_json")]
    house.http.post("/_faults", json={"script": faults})
    arguments = ["--log-level", "debug", "--log-format", "json", "--config", str(house.folder / "tokenferry.toml")]
    worker = house.start([sys.executable, "-m", "tokenferry.cli", "worker", *arguments], "worker")

    def look() -> None:
        pieces.append(page(house).encode())
        for words in (("status",), ("status", "--json"), ("health", "--json"), ("limits", "show")):
            pieces.append(ask(house, *words)[1].encode())
        for request_id in request_ids:
            for words in (("show", request_id), ("show", request_id, "--json")):
                pieces.append(ask(house, *words)[1].encode())

    until(lambda: house.ledger()["calls"]["total"] >= 3, "calls under way")
    look()
    route.gather(len(request_ids))
    house.until_all_is_done()
    look()
    assert worker.stop() == 0
    said = [json.loads(line) for line in worker.said().splitlines()]
    attempts = [line for line in said if "attempt" in line]
    assert attempts, "each failed call has its line"
    assert {"time", "level", "logger", "pid", "message", "request", "platform", "code"} <= attempts[0].keys()
    pieces.append(worker.said().encode())
    assert any(b"attempts" in piece or b"calls that did not" in piece for piece in pieces)
    assert found(CANARIES, pieces) == set()
    assert found(ENDPOINT_SECRETS, pieces) == set()


@pytest.mark.parametrize("house", ["embedded"], indirect=True)
def test_an_idle_healthy_worker_says_nothing_at_warning(house: House) -> None:
    with house.working(processes=2) as worker:
        route = house.route()
        house.send(cargo.cards(5, route.name))
        route.gather(5)
        until(lambda: total(samples(page(house)), "tokenferry_outcomes_total") == 5, "their numbers")
    assert not re.search(" (WARNING|ERROR|CRITICAL) ", worker.said()), worker.said()
