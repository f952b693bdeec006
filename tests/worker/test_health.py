"""How a worker says that it lives and works: reports, the judgement, the probes, the command, and systemd."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from tokenferry.cli import main
from tokenferry.configuration import InvalidConfiguration, load
from tokenferry_worker.health import probes
from tokenferry_worker.health.judging import Health, ProcessHealth, judge
from tokenferry_worker.health.notifying import notify
from tokenferry_worker.health.vitals import ProcessReport, ReportLine, Vitals


def report(**changes: object) -> ProcessReport:
    well = {
        "pid": 7,
        "role": "tokenize",
        "since": 1_795_000_000.0,
        "phase": "working",
        "in_hand": 3,
        "taken": 1000,
        "last_taken": 0.4,
        "last_empty": 90.0,
        "broker": True,
        "store": True,
    }
    return ProcessReport.model_validate({**well, **changes})


def process(told: ProcessReport | None = None, **changes: object) -> ProcessHealth:
    return ProcessHealth.model_validate({"number": 0, "pid": 7, "silent": 0.5, "report": told or report(), **changes})


def health(*processes: ProcessHealth, stopping: bool = False, supervised_ago: float = 0.1) -> Health:
    return judge(6, processes or [process()], stopping=stopping, supervised_ago=supervised_ago, patience=60.0)


# The judgement


def test_a_worker_is_ready_when_every_process_works() -> None:
    assert (health().live, health().ready, health().why) == (True, True, [])


@pytest.mark.parametrize(
    ("story", "why"),
    [
        (process(report(phase="starting")), "process 0: starting"),
        (ProcessHealth(number=0, pid=7, silent=1.0, report=None), "process 0: starting"),
        (ProcessHealth(number=0, pid=None, silent=0.0, report=None), "process 0: died, to be replaced"),
        (process(report(phase="stopping")), "process 0: stopping"),
        (process(report(broker=False)), "process 0: broker away"),
        (process(report(broker=False, store=False)), "process 0: broker and store away"),
        (
            process(report(refused_to_reap=True)),
            "process 0: the broker refuses to give back what lost workers had in hand",
        ),
    ],
)
def test_one_that_could_not_work_is_not_ready_and_yet_no_restart_would_help(story: ProcessHealth, why: str) -> None:
    found = health(process(), story)
    assert (found.live, found.ready, found.why) == (True, False, [why])


def test_an_open_circuit_and_an_idle_hour_are_no_trouble() -> None:
    assert health(process(report(circuits=["main/kind/card"], last_taken=3600.0, in_hand=0))).ready


def test_a_worker_that_stops_is_live_and_not_ready() -> None:
    found = health(stopping=True)
    assert (found.live, found.ready, found.phase) == (True, False, "stopping")


def test_only_what_a_restart_cures_makes_it_not_live() -> None:
    assert not health(supervised_ago=61.0).live
    assert not health(process(silent=71.0)).live
    assert health(process(silent=69.0)).live  # its supervisor is about to kill it
    assert health(ProcessHealth(number=0, pid=None, silent=500.0, report=None)).live
    assert health(
        ProcessHealth(number=0, pid=7, silent=100.0, report=None)
    ).live  # a busy machine, and it is only starting


# Reports


def test_a_report_survives_its_journey_and_half_a_report_is_none() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ReportLine(theirs.fileno()).send(report())
        line = ours.recv(65_536)
    assert ProcessReport.read(line) == report()
    assert ProcessReport.read(line[:-9]) is None
    assert ProcessReport.read(b"") is None


def test_a_supervisor_that_does_not_listen_holds_nobody_up(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    line = ReportLine(theirs.fileno())
    for _ in range(5000):
        line.send(report())  # far more than the line holds
    ours.close()
    line.send(report())
    with (tmp_path / "no-line").open("wb") as file:
        ReportLine(file.fileno()).send(report())


def test_vitals_report_what_the_parts_know() -> None:
    pool = SimpleNamespace(started=True, stopping=False, in_hand=2, taken={"a": 3, "b": 4})
    vitals = Vitals("attach")
    assert (vitals.report().phase, vitals.report().broker) == ("starting", False)
    vitals.ready, vitals.pool, vitals.connected = True, pool, lambda: True
    told = vitals.report()
    assert (told.phase, told.in_hand, told.taken, told.last_taken) == ("working", 2, 7, 0.0)
    assert told.broker  # connected, and the witness has not said anything else
    vitals.reached = lambda: False
    vitals.store_away = lambda: True
    vitals.open_circuits = lambda: ["main", "main/kind/card"]
    told = vitals.report()
    assert (told.broker, told.store, told.circuits) == (False, False, ("main", "main/kind/card"))
    pool.stopping = True
    assert vitals.report().phase == "stopping"


# The probes


@contextmanager
def asking(port: int) -> Iterator[Callable[[str], tuple[int, bytes]]]:
    def get(path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", path)
        answer = connection.getresponse()
        try:
            return answer.status, answer.read()
        finally:
            connection.close()

    yield get


def test_the_probes_answer_200_or_503_and_say_why() -> None:
    now = [health()]
    with probes.on_port("127.0.0.1:0", lambda: now[0]) as port, asking(port) as get:
        assert get("/live")[0] == get("/ready")[0] == 200
        now[0] = health(process(report(broker=False)))
        status, body = get("/ready")
        assert (status, json.loads(body)["why"]) == (503, ["process 0: broker away"])
        assert get("/live")[0] == 200
        now[0] = health(supervised_ago=100.0)
        assert get("/live")[0] == get("/ready")[0] == 503
        assert get("/")[0] == get("/live/../etc")[0] == get("/live?x=1")[0] == 404
        with socket.create_connection(("127.0.0.1", port)) as rude:
            rude.sendall(b"\x00\xff nonsense\r\n\r\n")
            rude.recv(1000)
        assert get("/live")[0] == 503
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_they_listen_on_ipv6_too_and_a_port_in_use_is_an_error() -> None:
    with probes.on_port("[::1]:0", health) as port, pytest.raises(OSError), probes.on_port(f"[::1]:{port}", health):
        pass


def test_workers_are_found_in_the_data_folder_however_long_its_path_is(tmp_path: Path) -> None:
    data = tmp_path / ("long" * 20) / ("path" * 20)
    assert probes.ask(data) == []
    with probes.on_socket(data, health), probes.on_socket(data, lambda: health(stopping=True)):
        assert sorted(one.phase for one in probes.ask(data)) == ["stopping", "working"]
        assert (data.stat().st_mode & 0o077, (data / "workers").stat().st_mode & 0o077) == (0, 0)
    assert probes.ask(data) == []
    assert list((data / "workers").iterdir()) == []


def test_what_a_killed_worker_left_is_neither_asked_nor_kept(tmp_path: Path) -> None:
    folder = tmp_path / "workers"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "dead.sock"))
    assert probes.ask(tmp_path) == []
    with probes.on_socket(tmp_path, health) as ours:
        assert list(folder.iterdir()) == [ours]


# The command


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tokenferry.toml"
    path.write_text('data = "data"\n')
    return path


def asked(config: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["health", "--config", str(config), *words])
    return done.exit_code, done.output


def test_the_command_says_how_each_process_is(config: Path) -> None:
    busy = report(circuits=["main/kind/card"], set_aside=12)
    with probes.on_socket(config.parent / "data", lambda: health(process(busy))):
        code, said = asked(config)
    assert code == 0
    assert "worker (pid 6) works" in said
    for word in (
        "process 0 (pid 7, tokenize, for ",
        "3 running",
        "last one 0 s ago",
        "main/kind/card",
        "queues last seen empty",
        "12 set aside in quarantine",
    ):
        assert word in said


def test_its_exit_code_is_for_machines(config: Path) -> None:
    assert asked(config) == (
        1,
        f"no worker answers: none runs with the data folder {config.parent}/data, or not as this user\n",
    )
    now = health(process(report(broker=False)))
    with probes.on_socket(config.parent / "data", lambda: now):
        code, said = asked(config)
        assert (code, "not ready: process 0: broker away" in said) == (1, True)
        assert asked(config, "--live", "--quiet") == (0, "")
        code, said = asked(config, "--json")
        told = json.loads(said)
        assert (code, told["healthy"], told["workers"][0]["processes"][0]["trouble"]) == (1, False, "broker away")
        now = health(supervised_ago=100.0)
        assert asked(config, "--live", "-q") == (1, "")
        assert "broken: the supervisor hangs" in asked(config)[1]
    config.write_text("nonsense = 1\n")
    assert asked(config)[0] == 2


# Settings


@pytest.mark.parametrize("address", ["127.0.0.1:8081", "0.0.0.0:1", "[::1]:8081", "localhost:65535"])
def test_an_address_of_the_probes_is_host_and_port(config: Path, address: str) -> None:
    config.write_text(f'[worker]\nhealth = "{address}"\n')
    assert load(config).worker.health == address


@pytest.mark.parametrize("address", ["8081", "127.0.0.1", "::1:80:", "http://127.0.0.1:8081", "a b:1", ""])
def test_anything_else_is_refused_with_the_name_of_the_setting(config: Path, address: str) -> None:
    config.write_text(f'[worker]\nhealth = "{address}"\n')
    with pytest.raises(InvalidConfiguration, match=r"\[worker\] health"):
        load(config)


# systemd


def test_systemd_is_told_where_it_asks_and_nobody_else(tmp_path: Path, environment: dict[str, str]) -> None:
    environment.pop("NOTIFY_SOCKET", None)
    assert not notify("READY=1")
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        environment["NOTIFY_SOCKET"] = str(path)
        assert notify("READY=1", "STATUS=every process works")
        assert systemd.recv(1000) == b"READY=1\nSTATUS=every process works"
    assert not notify("WATCHDOG=1")  # gone
    environment["NOTIFY_SOCKET"] = "vsock:2:1234"
    assert not notify("READY=1")
