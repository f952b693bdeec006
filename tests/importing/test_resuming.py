"""An import that was stopped, by whatever, goes on; in the end each row has one line and one token."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import redis
from e2e.brokers import kill_synced

from tokenferry.broker import embedded
from tokenferry.importing.checkpoint import Checkpoint
from tokenferry.importing.results_file import tidy

from .conftest import CANARY, House, StandIn, interrupt, write_configuration
from .taking import eventually

HEADER = "key,kind,number,exp_month,exp_year,attach.to,attach.email\n"


def cards(count: int, *, attach: str = ",") -> str:
    return HEADER + "".join(f"card-{n},card,{CANARY},12,2044,{attach}\n" for n in range(1, count + 1))


def memory(house: House) -> Path:
    return house.results.with_name("out.jsonl.resume")


def final(house: House) -> Counter[str]:
    """Rows by key and how often each has a last word."""
    assert all(line["status"] != "pending" for line in house.lines())
    return Counter(line["key"] for line in house.lines())


def killed_after(house: House, file: Path, lines: int, *more: str) -> None:
    process = house.start(*house.arguments(file, *more), "--quiet")
    eventually(lambda: house.results.exists() and len(house.results.read_bytes().splitlines()) >= lines)
    process.kill()
    process.communicate(timeout=90)


@pytest.mark.parametrize("attach", [",", "customer_create,z@example.com"], ids=["tokens", "attached"])
def test_killed_twice_and_resumed_every_row_has_one_line_and_one_request(house: House, attach: str) -> None:
    file = house.file(cards(150, attach=attach) + "bad,card,123,12,2044,,\n")
    with StandIn(house.configuration(), house.platform, pause=0.005) as worker:
        killed_after(house, file, 10, "--window", "40")
        early = {line["request_id"] for line in map(json.loads, house.results.read_bytes().splitlines()[:10])}
        killed_after(house, file, 60, "--window", "40", "--resume")
        done = house.run(file, "--quiet", "--json", "--resume")

    assert done.exit_code == 1, done.output  # one row is refused
    summary = json.loads(done.stdout)
    kind = "attached" if "@" in attach else "tokenized"
    assert (summary["rows"], summary["refused"], summary[kind], summary["unfinished"]) == (151, 1, 150, 0)
    assert summary["rows_of_earlier_runs"] >= 60
    assert final(house) == Counter({f"card-{n}": 1 for n in range(1, 151)})
    assert len(house.refused()) == 1
    sent = Counter(header.request_id for header in worker.taken)
    assert len(sent) == 150  # one id for each row, in every run
    assert {sent[request_id] for request_id in early} == {1}


def test_a_result_of_a_row_that_was_sent_and_not_noted_as_sent_is_not_lost(house: House) -> None:
    file = house.file(cards(20))
    process = house.start(*house.arguments(file), "--quiet")
    eventually(lambda: memory(house).exists() and memory(house).read_bytes().count(b"\n") == 21)
    process.kill()
    process.communicate(timeout=90)
    head = memory(house).read_bytes().splitlines(keepends=True)[0]
    memory(house).write_bytes(head)  # as if it had died between the broker's answer and its note
    with StandIn(house.configuration(), house.platform) as worker:
        eventually(lambda: len(worker.taken) == 20)
        done = house.run(file, "--quiet", "--resume", "--window", "1", "--timeout", "30")

    assert done.exit_code == 0, done.output
    assert final(house) == Counter({f"card-{n}": 1 for n in range(1, 21)})


def test_ctrl_c_and_resume_gives_the_unfinished_rows_their_line(house: House) -> None:
    file = house.file(cards(10))
    with StandIn(house.configuration(), house.platform, answers=4) as slow:
        process = house.start(*house.arguments(file), "--json", "--quiet")
        eventually(lambda: len(slow.taken) == 10 and house.results.exists() and len(house.lines()) == 4)
        out, err = interrupt(process)
    assert json.loads(out)["resumable"] is True
    assert "continue with the same command and --resume" in err
    assert Counter(line["status"] for line in house.lines()) == {"tokenized": 4, "pending": 6}

    with StandIn(house.configuration(), house.platform) as worker:
        done = house.run(file, "--quiet", "--resume")

    assert done.exit_code == 0, done.output
    assert final(house) == Counter({f"card-{n}": 1 for n in range(1, 11)})
    # They were in the broker's hands, and none was sent a second time.
    assert Counter(header.request_id for header in worker.taken) == Counter(
        header.request_id for header in slow.taken[4:]
    )


def test_results_that_came_between_two_runs_are_taken_in(house: House) -> None:
    file = house.file(cards(20))
    process = house.start(*house.arguments(file), "--quiet")
    eventually(lambda: memory(house).exists() and memory(house).read_bytes().count(b"\n") == 21)
    process.kill()
    process.communicate(timeout=90)
    with StandIn(house.configuration(), house.platform) as worker:
        eventually(lambda: len(worker.taken) == 20)

    done = house.run(file, "--quiet", "--resume")  # nobody works now: the answers are there

    assert done.exit_code == 0, done.output
    assert final(house) == Counter({f"card-{n}": 1 for n in range(1, 21)})


def test_a_broker_that_is_killed_and_started_again_only_delays_an_import(offline: House, tmp_path: Path) -> None:
    server = tmp_path / "mortal"
    running = embedded.ensure(server, owner=True)
    try:
        write_configuration(offline, f"[broker]\nurl = '{running.redis_url}'\npublish_timeout = 1.0")
        process = offline.start(*offline.arguments("-"), "--quiet", stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(cards(5))
        process.stdin.flush()
        eventually(lambda: offline.results.exists())
        kill_synced(running.pid, running.redis_url)
        process.stdin.write(cards(10).removeprefix(cards(5)))
        process.stdin.close()
        process.stdin = None
        assert process.stderr is not None
        while "waiting: the broker" not in process.stderr.readline():
            pass
        embedded.ensure(server)
        with StandIn(offline.configuration(), offline.platform):
            _, err = process.communicate(timeout=90)
    finally:
        embedded.stop(server)

    assert process.returncode == 0, err
    assert "the broker takes requests again" in err
    assert final(offline) == Counter({f"card-{n}": 1 for n in range(1, 11)})


def test_a_full_queue_is_waited_for_and_never_gets_longer(house: House) -> None:
    write_configuration(house, house.config.read_text().splitlines()[0] + "\n[broker]\nmax_waiting = 5")
    process = house.start(*house.arguments(house.file(cards(30))), "--quiet")
    assert process.stderr is not None
    assert "waiting: the queue tokenize.bulk" in process.stderr.readline()
    with redis.Redis.from_url(embedded.ensure(house.configuration().data).redis_url) as client:
        eventually(lambda: client.llen(f"tokenize.bulk.{house.platform}") == 5)  # those in flight arrive
    with StandIn(house.configuration(), house.platform):
        _, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    assert final(house) == Counter({f"card-{n}": 1 for n in range(1, 31)})


def test_messages_that_the_broker_lost_are_sent_again_after_a_silence(house: House) -> None:
    queue = f"tokenize.bulk.{house.platform}"
    file = house.file(cards(10))
    process = house.start(*house.arguments(file), "--quiet")
    eventually(lambda: memory(house).exists() and memory(house).read_bytes().count(b"\n") == 11)
    process.kill()
    process.communicate(timeout=90)
    with redis.Redis.from_url(embedded.ensure(house.configuration().data).redis_url) as client:
        assert client.delete(queue) == 1

    with StandIn(house.configuration(), house.platform) as worker:
        done = house.run(file, "--quiet", "--resume")

    assert done.exit_code == 0, done.output
    assert "10 rows have no result and are no longer in their queue" in done.stderr
    assert len(worker.taken) == 10
    assert final(house) == Counter({f"card-{n}": 1 for n in range(1, 11)})


def test_what_is_remembered_shows_nothing_of_the_file_and_is_its_owners_alone(house: House) -> None:
    file = house.file(cards(10))
    with StandIn(house.configuration(), house.platform, answers=4):
        killed_after(house, file, 4)
    text = memory(house).read_text()
    assert stat.S_IMODE(memory(house).stat().st_mode) == 0o600
    assert CANARY not in text
    for algorithm in ("md5", "sha1", "sha256", "sha512", "blake2b"):
        assert hashlib.new(algorithm, file.read_bytes()).hexdigest() not in text
    assert hashlib.blake2b(file.read_bytes(), digest_size=32).hexdigest() not in text


# -- what cannot go on


@pytest.fixture
def interrupted(house: House) -> House:
    """A house in which an import of ten rows was killed after four."""
    with StandIn(house.configuration(), house.platform, answers=4):
        killed_after(house, house.file(cards(10)), 4)
    return house


@pytest.mark.parametrize(
    ("content", "more", "says"),
    [
        (cards(11), ("--resume",), "the file is not the one this import began with"),
        (cards(10).replace("2044", "2045"), ("--resume",), "the file is not the one this import began with"),
        (cards(10), ("--resume", "--kind", "pii"), "--kind: differs from the run that began this import"),
        (cards(10), (), "was interrupted; continue with --resume, or start again with --force"),
        (cards(10), ("--resume", "--force"), "--resume continues with a file"),
    ],
    ids=["longer", "another expiry", "other options", "not said", "both"],
)
def test_an_import_goes_on_only_as_it_began(interrupted: House, content: str, more: tuple[str, ...], says: str) -> None:
    before = interrupted.results.read_bytes(), memory(interrupted).read_bytes()
    done = interrupted.run(interrupted.file(content), "--quiet", *more)
    assert done.exit_code == 2
    assert says in done.stderr
    assert CANARY not in done.stderr
    assert (interrupted.results.read_bytes(), memory(interrupted).read_bytes()) == before


def test_a_file_that_was_only_touched_is_the_same_file(interrupted: House) -> None:
    file = interrupted.file(cards(10))
    os.utime(file, (1, 1))
    with StandIn(interrupted.configuration(), interrupted.platform):
        assert interrupted.run(file, "--quiet", "--resume").exit_code == 0


def test_force_starts_anew_with_the_ids_of_the_same_keys(interrupted: House) -> None:
    with StandIn(interrupted.configuration(), interrupted.platform) as worker:
        done = interrupted.run(interrupted.file(cards(10)), "--quiet", "--force")
    assert done.exit_code == 0, done.output
    assert len({header.request_id for header in worker.taken}) == 10, "the same rows have the same ids"
    assert final(interrupted) == Counter({f"card-{n}": 1 for n in range(1, 11)})


def test_two_imports_do_not_write_into_one_file(house: House) -> None:
    file = house.file(cards(10))
    process = house.start(*house.arguments(file), "--quiet")
    eventually(lambda: memory(house).exists() and memory(house).read_bytes().count(b"\n") == 11)
    done = house.run(file, "--quiet", "--resume")
    assert done.exit_code == 2
    assert "another process is importing into it" in done.stderr
    process.kill()
    process.communicate(timeout=90)


def test_resume_is_for_the_first_run_as_well(house: House, worker: StandIn) -> None:
    file = house.file(cards(3))
    assert house.run(file, "--quiet", "--resume").exit_code == 0
    assert final(house) == Counter({f"card-{n}": 1 for n in range(1, 4)})
    before = house.results.read_bytes()
    again = house.run(file, "--quiet", "--resume")
    assert again.exit_code == 0
    assert "this import is finished: nothing was sent" in again.stdout
    assert "3 rows: 0 attached, 3 tokenized, 0 declined, 0 failed, 0 rejected, 0 pending" in again.stdout
    assert house.results.read_bytes() == before
    assert len(worker.taken) == 3


def test_standard_input_cannot_be_resumed(house: House) -> None:
    done = house.run("-", "--resume", input=b"")
    assert done.exit_code == 2
    assert "cannot be used with standard input" in done.stderr


def line(row: int, status: str, token: str | None = "tok_1", source: str = "endpoint") -> bytes:
    failure = {"code": "card_declined", "source": source} if status in ("failed", "declined") else None
    said = {"key": "k", "row": row, "status": status, "token": token, "failure": failure}
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"


def test_only_last_words_stay_in_a_results_file_that_is_written_on(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    kept = (
        line(2, "tokenized") + line(3, "attached") + line(4, "declined", None) + line(5, "failed", source="tokenferry")
    )
    path.write_bytes(kept + line(6, "pending", None) + line(2, "tokenized") + b"not json\n" + line(7, "declined")[:-9])
    done = tidy(path, Checkpoint())
    assert path.read_bytes() == kept
    assert list(done.rows) == [2, 3, 4, 5]
    counts = done.counts
    assert (counts.sealed, counts.tokenized, counts.attached, counts.failed, counts.declined) == (4, 3, 1, 2, 1)
    assert counts.failures_by_code == {"card_declined": 2}
    assert list(tmp_path.iterdir()) == [path]


def test_the_words_of_the_version_before_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(line(2, "failed") + line(3, "unfinished", None))
    assert list(tidy(path, Checkpoint()).rows) == [2]
    assert path.read_bytes() == line(2, "declined")
