"""A worker that cannot reach anything yet answers its probes and obeys its signals all the same."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from e2e.house import House, Worker, is_alive, until

pytestmark = pytest.mark.parametrize("house", ["embedded"], indirect=True)


@pytest.fixture
def nowhere(house: House) -> Iterator[str]:
    """A configuration whose broker and endpoint accept every connection and never say a word."""
    with ExitStack() as stack:
        holes = [stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=200)) for _ in range(2)]
        broker, endpoint = (f"127.0.0.1:{hole.getsockname()[1]}" for hole in holes)
        path = house.configure("nowhere.toml", broker=f"amqp://guest:guest@{broker}//", endpoint=f"http://{endpoint}")
        path.write_text(path.read_text().replace("[worker]\n", '[worker]\nhealth = "127.0.0.1:0"\n'))
        yield path.name


def port_of(worker: Worker) -> int:
    said = until(lambda: re.search(r"/live and /ready on port (\d+)", worker.said()), "an open port")
    return int(said[1])


def probe(port: int, path: str) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_it_answers_its_probes_before_it_has_reached_anything(house: House, nowhere: str) -> None:
    worker = house.worker(config=nowhere, ready=False, real=True)
    port = port_of(worker)
    assert probe(port, "/live")[0] == 200
    status, health = probe(port, "/ready")
    assert (status, health["phase"], health["why"]) == (503, "starting", ["starting"])
    assert worker.children() == []
    until(lambda: "Stripe is out of reach: it " in worker.said(), "one platform")
    # Both are asked together: one after another would take ten seconds more.
    until(lambda: worker.said().count("Stripe is out of reach") == 2, "the other one", 60.0)
    assert worker.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT], ids=lambda number: number.name)
def test_a_signal_ends_it_at_once(house: House, nowhere: str, number: signal.Signals) -> None:
    worker = house.worker(config=nowhere, ready=False, real=number == signal.SIGTERM)
    port_of(worker)
    assert worker.stop(number, seconds=10.0) == 0


def test_as_the_first_process_of_a_container_it_hears_signals_too(house: House, nowhere: str) -> None:
    """The kernel keeps from that process every signal for which it has no handler."""
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs to be allowed to make a process namespace")
    command = [sys.executable, "-m", "tokenferry.cli", "worker", "--config", str(house.folder / nowhere)]
    outside = house.start([*unshare, *command], "container", Worker)
    assert isinstance(outside, Worker)
    port_of(outside)
    (first,) = outside.children()
    assert Path(f"/proc/{first}/status").read_text().split("NSpid:")[1].split()[1] == "1"
    os.kill(first, signal.SIGTERM)
    until(lambda: not is_alive(first), "the end of the first process", 60.0)
    assert outside.process.wait(30) == 0
