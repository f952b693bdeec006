"""The command: how it starts, ends and complains."""

import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from click.testing import CliRunner

from tokenferry_emulator.command import emulator as command
from tokenferry_emulator.testing import CARD, EmulatorProcess


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_ends_with_0(number: int) -> None:
    process = EmulatorProcess()
    assert httpx.get(f"{process.url}/_health").status_code == 200
    assert process.stop(number) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{process.url}/_health")


def test_it_ends_although_a_call_still_hangs() -> None:
    process = EmulatorProcess("--fault", "hang=1")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{process.url}/v1/tokens", timeout=0.1)
    assert process.stop() == 0


def test_it_listens_on_the_port_it_is_told(emulator: EmulatorProcess) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    result = subprocess.Popen(
        [sys.executable, "-m", "tokenferry_emulator", "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    with result:
        assert result.stdout is not None
        assert result.stdout.readline() == f"listening on http://127.0.0.1:{port}\n"
        result.send_signal(signal.SIGTERM)
    assert result.returncode == 0


def test_a_port_in_use_is_one_clear_message_and_exit_code_2(emulator: EmulatorProcess) -> None:
    port = emulator.url.rpartition(":")[2]
    result = CliRunner().invoke(command, ["--port", port])
    assert result.exit_code == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--port", "x"],
        ["--port", "70000"],
        ["--port", "0", "--rate", "0"],
        ["--port", "0", "--rate", "nan"],
        ["--port", "0", "--latency-ms", "inf"],
        ["--port", "0", "--latency-ms", "-1"],
        ["--port", "0", "--fault", "earthquake=1"],
        ["--port", "0", "--fault", "hang=often"],
        ["--port", "0", "--fault", "hang=3"],
        ["--port", "0", "--faults", "{not json"],
        ["--port", "0", "--faults", '{"script": 3}'],
        ["--port", "0", "--raw-cards", "maybe"],
        ["--port", "0", "--unknown"],
        ["--port", "0", "stray"],
    ],
)
def test_a_wrong_option_is_a_clear_message_and_exit_code_2(options: list[str]) -> None:
    result = CliRunner().invoke(command, options)
    assert result.exit_code == 2
    assert "Error:" in result.output
    assert "Traceback" not in result.output


def test_a_rate_given_at_the_start_holds_under_load() -> None:
    options = ("--rate", "20", "--burst", "2")
    with EmulatorProcess(*options) as process, httpx.Client(base_url=process.url) as client:

        def call(_: int) -> int:
            return client.post("/v1/tokens", data=CARD, auth=("sk_test_alpha", "")).status_code

        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(call, range(60)))
        ledger = client.get("/_ledger").json()
    assert set(statuses) == {200, 429}
    assert ledger["peak_admitted_per_second"]["tokens"] <= 22
    assert ledger["rate_limited"] == statuses.count(429)
    assert ledger["tokens_created"] == statuses.count(200)


def test_what_is_counted_changes_while_running_and_a_slip_is_refused(fresh: httpx.Client) -> None:
    before = fresh.get("/_limits").json()
    assert before["count_by"] == "operation"
    assert fresh.post("/_limits", json={"count_by": "resource"}).json()["count_by"] == "resource"
    wrong = fresh.post("/_limits", json={"count_by": "path"})
    assert (wrong.status_code, wrong.json()["error"]) == (400, "count_by must be operation or resource")
    assert fresh.post("/_limits", json=before).json() == before


def test_limits_are_read_and_changed_while_running(fresh: httpx.Client) -> None:
    before = fresh.get("/_limits").json()
    assert fresh.post("/_limits", json={"endpoint_rate": 0.01, "burst": 1}).json()["endpoint_rate"] == 0.01
    assert [fresh.post("/v1/tokens", data=CARD).status_code for _ in range(2)] == [200, 429]
    assert fresh.post("/_limits", json=before).json() == before
    for wrong in ({"speed": 1}, {"global_rate": 0}, {"burst": None}, {"endpoint_rate": "fast"}, 3):
        assert fresh.post("/_limits", json=wrong).status_code == 400


def test_no_option_is_needed_to_ask_for_help() -> None:
    result = CliRunner().invoke(command, ["--help"])
    assert result.exit_code == 0
    assert "--latency-ms" in result.output
