"""`tokenferry onboard` where no worker runs: checks, refusals, an interruption. With workers: tests/e2e."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forking
import pytest
from click.testing import CliRunner, Result
from importing.taking import Taker, eventually
from result_signing import signed

from tokenferry import InvalidRequest, OnboardingResult, Producer, Results, load, onboarding_from
from tokenferry.broker import embedded
from tokenferry.broker.embedded import Embedded
from tokenferry.broker.publishing import Publisher
from tokenferry.cli import main
from tokenferry.contract.envelope import MAX_ENVELOPE_BYTES
from tokenferry.contract.onboarding import MAX_DOCUMENT_BYTES, Onboarding, OnboardingEnvelope
from tokenferry.contract.queues import ONBOARD_TASK, onboard_queue, results_queue
from tokenferry.contract.results import OnboardingProgress, StepResult
from tokenferry_worker.keys.identities import Signers, load_identities
from tokenferry_worker.keys.opening import Opener

ROOT = Path(__file__).parents[2]
GOOD = {"reference": "seller-1", "account": {"country": "US", "type": "custom"}}
SECRET = "Wilhelmina"


@pytest.fixture
def folder(tmp_path: Path, key_folder: Any, valkey: Embedded) -> Path:
    """A folder with a configuration whose broker is there, and no worker."""
    (tmp_path / "tokenferry.toml").write_text(
        f'[broker]\nurl = "{valkey.database(9).redis_url}"\npublish_timeout = 3.0\n'
        f'[keys]\nrecipient = "{key_folder.recipient}"\nproducer_signing_key = "{key_folder.producer}"\n'
        f'result_signing_key = "{key_folder.result}"\nresult_signers = "{key_folder.result_signers}"\n'
        "[platforms.main]\n"
    )
    return tmp_path


def arguments(folder: Path, *more: str) -> list[str]:
    outputs = ["--results", str(folder / "o.jsonl"), "--rejects", str(folder / "r.csv")]
    return ["onboard", *outputs, "--config", str(folder / "tokenferry.toml"), *more]


def run(folder: Path, *more: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, arguments(folder, *more), input=stdin)


def write(folder: Path, *documents: Any) -> str:
    (folder / "a.jsonl").write_text("".join(json.dumps(each) + "\n" for each in documents))
    return str(folder / "a.jsonl")


def test_a_dry_run_checks_everything_and_sends_nothing(folder: Path) -> None:
    person = {"reference": "p", "person": {"first_name": SECRET}}
    ran = run(folder, write(folder, GOOD, {**GOOD, "reference": "seller-2", "persons": [person]}), "--dry-run")
    assert ran.exit_code == 1
    assert "2 accounts read, 1 can be sent, 1 rejected; nothing was sent" in ran.output
    assert "2,seller-2,persons[0].person.last_name," in (folder / "r.csv").read_text()
    assert not (folder / "o.jsonl").exists()
    assert SECRET not in ran.output + (folder / "r.csv").read_text()


def test_a_good_file_passes_a_dry_run_from_standard_input(folder: Path) -> None:
    ran = run(folder, "-", "--dry-run", "--json", stdin=json.dumps([GOOD]))
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["read"] == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["missing.jsonl"], "cannot be read"),
        (["--platform", "other", "a.jsonl"], "platform 'other' is not configured"),
        (["empty.jsonl"], "the file is empty"),
        (["table.csv"], "begins neither with an object nor with an array"),
    ],
)
def test_what_cannot_begin_says_why_and_ends_with_2(
    folder: Path, in_folder: Callable[[Path], None], more: list[str], said: str
) -> None:
    in_folder(folder)
    write(folder, GOOD)
    (folder / "empty.jsonl").touch()
    (folder / "table.csv").write_text(f"name\n{SECRET}\n")
    ran = run(folder, *more)
    assert ran.exit_code == 2
    assert said in ran.output
    assert SECRET not in ran.output
    assert not (folder / "o.jsonl").exists()


def test_it_wants_to_know_where_to_write(folder: Path) -> None:
    ran = CliRunner().invoke(main, ["onboard", write(folder, GOOD)])
    assert ran.exit_code == 2
    assert "--results and --rejects" in ran.output


def test_results_that_are_there_are_not_overwritten(folder: Path) -> None:
    (folder / "o.jsonl").write_text("precious\n")
    ran = run(folder, write(folder, GOOD), "--timeout", "1")
    assert ran.exit_code == 2
    assert "--force" in ran.output
    assert (folder / "o.jsonl").read_text() == "precious\n"


def test_ctrl_c_says_what_is_where_and_how_to_go_on(folder: Path) -> None:
    documents = [{**GOOD, "reference": f"seller-{number}"} for number in range(3)]
    program = started(folder, write(folder, *documents), "--quiet")
    eventually(lambda: (folder / "o.jsonl").exists())
    time.sleep(0.5)  # it waits for workers now
    program.send_signal(signal.SIGINT)
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=60)
    assert program.returncode == 1, err
    assert "3 unfinished" in out
    assert "run it again with the same file: what is done is not done again" in err
    lines = [json.loads(line) for line in (folder / "o.jsonl").read_text().splitlines()]
    assert [(line["key"], line["status"], line["handed_over"]) for line in lines] == [
        (f"seller-{number}", "unfinished", "yes") for number in range(3)
    ]


def test_without_any_result_it_gives_up_when_told_to(folder: Path) -> None:
    ran = run(folder, write(folder, GOOD), "--give-up-after", "0.5", "--json", "--quiet")
    assert ran.exit_code == 1
    summary = json.loads(ran.stdout.splitlines()[0])
    assert (summary["unfinished"], summary["stopped_because"]) == (1, "no result for 0.5 s")


def test_a_broker_that_is_away_is_said_before_anything_is_written(folder: Path) -> None:
    text = (folder / "tokenferry.toml").read_text()
    (folder / "tokenferry.toml").write_text(
        "\n".join('url = "redis://127.0.0.1:1/0"' if line.startswith("url") else line for line in text.splitlines())
    )
    ran = run(folder, write(folder, GOOD))
    assert ran.exit_code == 1
    assert "broker" in ran.output
    assert not (folder / "o.jsonl").exists()


class Onboarder(Taker):
    """Makes every account complete, and opens none."""

    def queues(self) -> tuple[str, ...]:
        return (onboard_queue(self.platform),)

    def answer(self, delivery: Any) -> None:
        header = self.argument(delivery)["header"]
        id_ = header["request_id"]
        self.taken.append(id_)
        about = {"request_id": id_, "platform": self.platform, "settled_at": 1}
        self.reply(header["reply_to"], OnboardingResult(outcome_id=f"{id_}:onboarding", complete=True, **about))
        delivery.ack()


def test_each_account_is_told_of_step_by_step_to_whoever_wants_it(folder: Path) -> None:
    class Talkative(Onboarder):
        def answer(self, delivery: Any) -> None:
            header = self.argument(delivery)["header"]
            about = {"request_id": header["request_id"], "onboarding_id": "seller-1"}
            step = StepResult(step="account", status="done", object_id="acct_1")
            word = OnboardingProgress(**about, step=step, taken=1, done=1, steps=2)
            self.reply(header["reply_to"], word)
            super().answer(delivery)

    text = (folder / "tokenferry.toml").read_text().replace("platforms.main", "platforms.talkative")
    (folder / "tokenferry.toml").write_text(text)
    program = started(folder, write(folder, GOOD), "--verbose", "--quiet")
    with Talkative(load(folder / "tokenferry.toml"), "talkative"):
        _, err = program.communicate(timeout=60)
    assert program.returncode == 0, err
    assert [line for line in err.splitlines() if "seller-1" in line] == [
        "tokenferry: seller-1: account done, 1 of 2 steps done",
        "tokenferry: seller-1: complete",
    ]


def started(folder: Path, *more: str) -> subprocess.Popen[str]:
    return forking.start(
        [sys.executable, "-m", "tokenferry.cli", *arguments(folder, *more)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def waits(program: subprocess.Popen[str]) -> str:
    """What it says it waits for."""
    assert program.stderr is not None
    while not (line := program.stderr.readline()).startswith("tokenferry: waiting: "):
        assert line, "it ended"
    return line


@pytest.mark.parametrize(
    ("bound", "said", "again"),
    [
        ("max_waiting = 2\n", "the queue onboard.full is full: 2 messages wait", "the broker takes requests again"),
        ('[outbox]\npath = "outbox.db"\nmax_rows = 2\n', "the outbox is full", "the outbox takes requests again"),
    ],
    ids=["queue", "outbox"],
)
def test_what_is_full_is_waited_for_and_each_account_is_sent_once(
    folder: Path, bound: str, said: str, again: str
) -> None:
    text = (folder / "tokenferry.toml").read_text().replace("platforms.main", "platforms.full")
    (folder / "tokenferry.toml").write_text(text.replace("[keys]", f"{bound}[keys]"))
    documents = [{**GOOD, "reference": f"seller-{number}"} for number in range(5)]
    program = started(folder, write(folder, *documents), "--quiet")
    assert said in waits(program)
    with Onboarder(load(folder / "tokenferry.toml"), "full") as worker:
        out, err = program.communicate(timeout=60)
    assert program.returncode == 0, err
    assert "5 complete" in out
    assert again in err
    assert len(worker.taken) == len(set(worker.taken)) == 5


def test_a_broker_that_is_killed_and_started_again_only_delays_it(folder: Path, tmp_path: Path) -> None:
    server = tmp_path / "mortal"
    running = embedded.ensure(server, owner=True)
    text = (folder / "tokenferry.toml").read_text().splitlines()
    text = [f'url = "{running.redis_url}"' if line.startswith("url") else line for line in text]
    (folder / "tokenferry.toml").write_text("\n".join(text).replace("= 3.0", "= 1.0"))
    try:
        program = started(folder, "-", "--quiet")
        assert program.stdin is not None
        program.stdin.write(json.dumps({**GOOD, "reference": "early"}) + "\n")
        program.stdin.flush()
        eventually(lambda: (folder / "o.jsonl").exists())
        os.kill(running.pid, signal.SIGKILL)
        program.stdin.write(json.dumps({**GOOD, "reference": "late"}) + "\n")
        program.stdin.close()
        program.stdin = None
        assert "Ctrl-C ends it" in waits(program)
        embedded.ensure(server)
        with Onboarder(load(folder / "tokenferry.toml"), "main"):
            _, err = program.communicate(timeout=90)
    finally:
        embedded.stop(server)
    assert program.returncode == 0, err
    assert err.count("results: the broker could not be reached") <= 1  # it is said once, and not every second
    lines = [json.loads(line) for line in (folder / "o.jsonl").read_text().splitlines()]
    assert sorted((line["key"], line["status"]) for line in lines) == [("early", "complete"), ("late", "complete")]


# -- from Python


def test_steps_are_told_beside_the_results_and_only_to_whoever_asked(folder: Path) -> None:
    configuration = load(folder / "tokenferry.toml")
    step = StepResult(step="account", status="done", object_id="acct_1")
    word = OnboardingProgress(request_id="req-1", onboarding_id="seller-1", step=step, taken=1, steps=3)
    last = OnboardingResult(outcome_id="req-1:onboarding", request_id="req-1", platform="main", settled_at=1)
    for route, asked in (("asked", True), ("silent", False)):
        publisher = Publisher.to(configuration)
        for message in (word, last, word):
            body, key = message.model_dump_json(exclude_none=True), configuration.keys.result_signing_key
            publisher.publish(signed(results_queue(route), body, key))
        publisher.close()
        told: list[OnboardingProgress] = []
        with Results(route, configuration, on_progress=told.append if asked else None) as results:
            assert results.take(timeout=10.0) == last
            assert results.take(timeout=0.2) is None
        assert told == ([word, word] if asked else [])


def test_the_id_is_the_reference_or_what_is_asked_for_or_a_new_one(folder: Path) -> None:
    nameless = onboarding_from({"account": GOOD["account"]})
    with Producer(load(folder / "tokenferry.toml")) as producer:
        assert producer.onboard(onboarding_from(GOOD)) == "seller-1"
        assert producer.onboard(nameless, onboarding_id="chosen-7") == "chosen-7"
        new = producer.onboard(nameless)
        assert new.startswith("onb-")
        assert new != producer.onboard(nameless)


def test_what_is_sent_is_sealed_names_its_task_and_says_nothing(folder: Path, key_folder: Any) -> None:
    person = {"reference": "p", "person": {"first_name": SECRET, "last_name": "Quagmire"}}
    document = onboarding_from({**GOOD, "persons": [person]})
    with Producer(load(folder / "tokenferry.toml")) as producer:
        id_, request_id, message = producer.sealer.onboarding_message(document, reply_to="route")
    assert (id_, message.queue, message.headers["task"]) == ("seller-1", "onboard.main", ONBOARD_TASK)
    assert SECRET not in f"{message}"
    body = json.loads(message.body)[0][0]
    opener = Opener(load_identities(key_folder.identities), Signers.load(key_folder.signers))
    envelope = opener.read_onboarding(body)
    assert isinstance(envelope, OnboardingEnvelope)
    assert (envelope.header.request_id, envelope.header.reply_to) == (request_id, "route")
    assert opener.open_onboarding(envelope) == document


def test_an_id_that_could_be_a_number_of_somebody_is_refused_and_not_repeated(folder: Path) -> None:
    with Producer(load(folder / "tokenferry.toml")) as producer, pytest.raises(InvalidRequest) as caught:
        producer.onboard(onboarding_from(GOOD), onboarding_id="4242424242424242")
    assert str(caught.value).startswith("document.reference: must contain letters")
    assert "4242" not in str(caught.value)


def test_the_longest_document_fits_into_an_envelope_and_is_measured_with_its_id(folder: Path) -> None:
    aliases = {"full_name_aliases": ["x" * 100] * 9}
    persons = [{"reference": f"p{n}", "person": {"first_name": "A", "last_name": "B", **aliases}} for n in range(95)]

    def described(length: int) -> Onboarding:
        account = {**GOOD["account"], "business_profile": {"product_description": "x" * length}}
        return onboarding_from({"reference": "r", "account": account, "persons": persons, "progress": False})

    left = MAX_DOCUMENT_BYTES - len(described(1).model_dump_json(exclude_none=True))
    with Producer(load(folder / "tokenferry.toml")) as producer:
        _, _, message = producer.sealer.onboarding_message(described(1 + left))
        assert len(json.loads(message.body)[0][0]) <= MAX_ENVELOPE_BYTES
        with pytest.raises(InvalidRequest, match="is longer than"):
            producer.onboard(described(1 + left), onboarding_id="rr")


def test_a_message_does_not_wait_longer_than_what_it_makes_is_remembered(folder: Path) -> None:
    with Producer(load(folder / "tokenferry.toml")) as producer:
        producer.onboard(onboarding_from(GOOD), keep_seconds=365 * 86_400.0)
        with pytest.raises(InvalidRequest, match=r"keep_seconds: .*onboarding_days is 365"):
            producer.onboard(onboarding_from(GOOD), keep_seconds=366 * 86_400.0)


def test_a_document_with_a_fault_is_refused_before_it_is_sealed(folder: Path) -> None:
    with Producer(load(folder / "tokenferry.toml")) as producer, pytest.raises(InvalidRequest) as caught:
        producer.onboard(onboarding_from({"account": {"type": "custom"}}))
    assert str(caught.value) == "account.country: is required: it can never be changed later"
