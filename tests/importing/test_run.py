"""The import as a user runs it, on a real Valkey, with a stand-in for the workers."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess

import pytest

from tokenferry.broker import embedded

from .conftest import House, StandIn, interrupt, write_configuration
from .taking import eventually

HEADER = "key,kind,number,exp_month,exp_year,id_number,attach.to,attach.email\n"


def cards(count: int, *, attach: str = ",") -> str:
    return HEADER + "".join(f"card-{n},card,4242424242424242,12,2034,,{attach}\n" for n in range(1, count + 1))


def test_every_row_ends_in_the_results_file_under_its_own_key(house: House, worker: StandIn) -> None:
    file = house.file(cards(40, attach="customer_create,z@example.com") + "p-1,pii,,,,000000000,,\n")

    done = house.run(file, "--json", "--quiet")

    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["rows"], summary["tokenized"], summary["attached"], summary["unfinished"]) == (41, 41, 40, 0)
    assert {line["key"]: line["status"] for line in house.lines()} == {
        **{f"card-{n}": "attached" for n in range(1, 41)},
        "p-1": "tokenized",
    }
    assert {line["row"] for line in house.lines()} == set(range(2, 43))
    assert all(line["request_id"].startswith("key-") and line["token"] for line in house.lines())


def test_results_and_rejects_are_readable_by_their_owner_only(house: House, worker: StandIn) -> None:
    house.results.touch(0o644)
    house.run(house.file(cards(1)), "--quiet")

    assert stat.S_IMODE(house.results.stat().st_mode) == 0o600
    assert stat.S_IMODE(house.rejects.stat().st_mode) == 0o600


def test_rows_refused_here_and_rows_refused_there_are_both_counted_and_told_apart(house: House) -> None:
    content = cards(3) + "bad,card,4242424242424243,12,2034,,,\n" + "p-1,pii,,,,000000000,,\n"
    with StandIn(house.configuration(), house.platform, lambda header: "no_luck" if header.kind == "pii" else None):
        done = house.run(house.file(content), "--json", "--quiet")

    assert done.exit_code == 1
    summary = json.loads(done.stdout)
    assert (summary["rows"], summary["refused"], summary["tokenized"], summary["failed"]) == (5, 1, 3, 1)
    assert summary["failures_by_code"] == {"no_luck": 1}
    assert [row[:3] for row in house.refused()] == [["5", "bad", "card.number"]]
    failed = next(line for line in house.lines() if line["status"] == "declined")
    assert failed["failure"]["endpoint_request_id"] == "req_1"


def test_a_token_that_cannot_be_attached_is_a_failed_row_with_its_token(house: House) -> None:
    with StandIn(house.configuration(), house.platform, attach_failure=lambda header: "card_declined"):
        done = house.run(house.file(cards(2, attach="customer_create,z@example.com")), "--json", "--quiet")

    summary = json.loads(done.stdout)
    assert (summary["tokenized"], summary["attached"], summary["failed"], done.exit_code) == (2, 0, 2, 1)
    assert all(line["token"] and line["failure"]["decline_code"] for line in house.lines())


def test_no_more_rows_are_under_way_than_the_window_allows(house: House) -> None:
    with StandIn(house.configuration(), house.platform, answers=0) as silent:
        done = house.run(house.file(cards(50)), "--json", "--quiet", "--window", "5", "--give-up-after", "1")

    assert (len({header.request_id for header in silent.taken}), done.exit_code) == (5, 1)
    summary = json.loads(done.stdout)
    assert (summary["rows"], summary["unfinished"], summary["read_to_the_end"]) == (5, 5, False)
    assert "no result for 1 s" in done.stderr
    assert "the rows after row 6 were not read" in done.stderr


def test_rows_come_from_a_pipe_as_well(house: House, worker: StandIn) -> None:
    rows = b'{"key": 7, "kind": "card", "card": {"number": "4242424242424242", "exp_month": 12, "exp_year": 2034}}\n'
    done = house.run("-", "--format", "jsonl", "--quiet", input=rows)

    assert done.exit_code == 0, done.output
    assert [line["key"] for line in house.lines()] == ["7"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_reading_and_says_what_is_unfinished(house: House, number: signal.Signals) -> None:
    with StandIn(house.configuration(), house.platform, answers=3) as worker:
        process = house.start(*house.arguments("-"), "--json", "--quiet", stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(cards(10))
        process.stdin.flush()  # and left open: the import waits for the next row
        eventually(lambda: len(worker.taken) == 10 and house.results.exists() and len(house.lines()) == 3)
        process.send_signal(number)
        process.wait(60)
        out, err = process.stdout.read(), process.stderr.read()  # type: ignore[union-attr]

    summary = json.loads(out)
    assert process.returncode == 1
    assert (summary["tokenized"], summary["unfinished"], summary["last_row_read"]) == (3, 7, 11)
    assert "interrupted" in err
    assert "7 rows have no result yet" in err
    assert "tokenferry results import-" in err
    unfinished = [line for line in house.lines() if line["status"] == "pending"]
    assert {line["request_id"] for line in unfinished} == {header.request_id for header in worker.taken[3:]}
    assert {line["handed_over"] for line in unfinished} == {"yes"}


def test_a_second_ctrl_c_does_not_wait(house: House) -> None:
    process = house.start(*house.arguments(house.file(cards(10))), "--quiet")
    eventually(lambda: house.results.exists())
    eventually(lambda: process.poll() is None and _waits(house))
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.0)
    interrupt(process)

    assert process.returncode == 1
    assert [line["status"] for line in house.lines()] == ["pending"] * 10


def _waits(house: House) -> bool:
    """Whether all ten rows are in the queue."""
    with StandIn(house.configuration(), house.platform, answers=0) as looker:
        try:
            eventually(lambda: len(looker.taken) == 10, seconds=2.0)
        except AssertionError:
            return False
        return True


def test_a_broker_that_is_down_is_one_message_and_no_file(offline: House) -> None:
    done = offline.run(offline.file(cards(3)), "--json")

    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert "the broker could not be reached" in done.stderr
    assert not offline.results.exists()
    assert not offline.rejects.exists()


def test_a_broker_that_never_answers_is_one_message_within_the_deadline(offline: House) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hole:
        port = hole.getsockname()[1]
        write_configuration(offline, f"[broker]\nurl = 'redis://127.0.0.1:{port}/0'\npublish_timeout = 1.0")
        done = offline.run(offline.file(cards(3)))

    assert done.exit_code == 1
    assert done.stderr == "tokenferry: the broker did not answer within 1 s; see [broker] url\n"
    assert not offline.results.exists()


def test_a_broker_that_dies_on_the_way_leaves_every_row_written_down(offline: House, tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    server = tmp_path_factory.mktemp("mortal")
    server.chmod(0o700)
    process = None
    with embedded.running(server):
        port_free_socket = embedded.ensure(server).redis_url
        write_configuration(offline, f"[broker]\nurl = '{port_free_socket}'\npublish_timeout = 1.0")
        options = ("--json", "--quiet", "--give-up-after", "15")
        process = offline.start(*offline.arguments("-"), *options, stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(cards(5))
        process.stdin.flush()
        eventually(lambda: offline.results.exists())
        with StandIn(offline.configuration(), offline.platform, answers=2):
            eventually(lambda: len(offline.lines()) == 2)
    process.stdin.write(cards(5).removeprefix(HEADER).replace("card-", "late-"))
    process.stdin.flush()
    out, err = process.communicate(timeout=90)

    assert process.returncode == 1
    assert "waiting: the broker could not be reached" in err
    assert "no result for 15 s, and the broker could not be reached" in err
    lines = offline.lines()
    assert [line["status"] for line in lines].count("tokenized") == 2
    assert {line["key"] for line in lines} >= {f"card-{n}" for n in range(1, 6)}
    assert json.loads(out)["unfinished"] == len(lines) - 2
    assert json.loads(out)["rows"] == len(lines)
