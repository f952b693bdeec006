"""`tokenferry results` and `tokenferry attach --from-route`: looking takes nothing, taking loses nothing."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import signal
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import forking
import pytest
from broker.places import KINDS, OneRedis, Place, place
from click.testing import CliRunner, Result
from e2e.brokers import RabbitMQ
from e2e.house import until
from result_signing import signed

from tokenferry import AttachResult, Results, TokenResult
from tokenferry.broker.publishing import Publisher
from tokenferry.bulk.interrupting import Interruption
from tokenferry.cli import main
from tokenferry.commands.result_file import ResultFile
from tokenferry.commands.taking import batches
from tokenferry.configuration import Configuration, load
from tokenferry.contract.queues import QUARANTINE, attach_queue, results_queue
from tokenferry.contract.results import Failure, OnboardingProgress, StepResult

from .conftest import KeyFolder

LEASE = 1.0
ONLY_LOOKS = "tokenferry: `results` now only looks: nothing was taken off the route; use --out FILE to take\n"


@pytest.fixture(scope="module", params=KINDS)
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(request, tmp_path_factory, database=7) as broker:
        yield broker


@dataclass
class Route:
    """A result route that nobody else uses, a folder to work in, and a hand that puts results on the route."""

    broker: Place
    folder: Path
    keys: KeyFolder
    name: str = field(default_factory=lambda: f"r{secrets.token_hex(6)}")

    def __post_init__(self) -> None:
        self.platform = f"p{secrets.token_hex(6)}"
        self.config.write_text(
            f'[broker]\nurl = "{self.broker.url}"\nlease_seconds = {LEASE}\npublish_timeout = 5.0\n'
            f'[keys]\nrecipient = "{self.keys.recipient}"\nproducer_signing_key = "{self.keys.producer}"\n'
            f'result_signers = "{self.keys.result_signers}"\n'
            f"[platforms.{self.platform}]\n"
        )

    @property
    def config(self) -> Path:
        return self.folder / "tokenferry.toml"

    @property
    def out(self) -> Path:
        return self.folder / "out.jsonl"

    @property
    def rejects(self) -> Path:
        return self.folder / "rejects.jsonl"

    @property
    def configuration(self) -> Configuration:
        return load(self.config)

    def put(self, *bodies: str) -> None:
        with Publisher.to(self.configuration) as publisher:
            messages = [signed(results_queue(self.name), body, self.keys.result) for body in bodies]
            for future in [publisher.submit(message, timeout=60) for message in messages]:
                future.result(60)

    def put_tokens(self, *names: str) -> None:
        self.put(*(self.token(name) for name in names))

    def token(self, name: str, **changed: Any) -> str:
        """The result of the request called *name*."""
        about: dict[str, Any] = {"outcome_id": name, "request_id": f"req-{name}", "platform": self.platform}
        about |= {"kind": "card", "token": f"tok_{name}", "settled_at": 1}
        return TokenResult(**{**about, **changed}).model_dump_json(exclude_none=True)

    def arguments(self, *words: str) -> list[str]:
        return [*words, "--config", str(self.config)]

    def look(self, *more: str) -> Result:
        return CliRunner().invoke(main, self.arguments("results", self.name, *more))

    def take(self, *more: str, out: Path | None = None) -> Result:
        return self.look("--out", str(out or self.out), *more)

    def attach(self, *more: str) -> Result:
        target = ("--to", "customer_create") if not {"--to", "--target-json"} & {*more} else ()
        words = ("attach", "--from-route", self.name, "--rejects", str(self.rejects), *target, *more)
        return CliRunner().invoke(main, self.arguments(*words))

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tokenferry", *self.arguments(*words)]
        return forking.start(command, text=True, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options})

    def is_settled(self) -> bool:
        """Whether nothing of the route is left, in a queue or in anybody's hand."""
        seen = self.look()
        return seen.stdout == "" and "another reader" not in seen.stderr

    def left(self) -> list[str]:
        """The outcome ids of what is on the route when nobody has it in hand, taken off it for good."""
        return [json.loads(body)["outcome_id"] for body in self.broker.take(results_queue(self.name))]

    def orders(self) -> list[dict[str, Any]]:
        """The attach orders that wait for a worker, taken off their queue."""
        bodies = self.broker.take(attach_queue("bulk", self.platform))
        return [json.loads(json.loads(body)[0][0])["request"] for body in bodies]


@pytest.fixture
def route(broker: Place, tmp_path: Path, key_folder: KeyFolder) -> Iterator[Route]:
    route = Route(broker, tmp_path, key_folder)
    yield route
    route.left()
    route.orders()


def ids(text: str) -> list[str]:
    """The outcome ids of results as lines of JSON."""
    return [json.loads(line)["outcome_id"] for line in text.splitlines()]


NAMES = [f"n{number}" for number in range(20)]

# -- looking


def test_looking_shows_what_waits_as_often_as_one_looks_and_takes_nothing(route: Route) -> None:
    route.put_tokens("a", "b", "c")
    for _ in range(3):
        seen = route.look()
        assert (seen.exit_code, ids(seen.stdout), seen.stderr) == (0, ["a", "b", "c"], ONLY_LOOKS)
    limited = route.look("--limit", "2", "--json")
    assert (limited.exit_code, ids(limited.stdout)) == (0, ["a", "b"])
    assert route.left() == ["a", "b", "c"]


def test_head_sees_some_results_and_loses_none(route: Route) -> None:
    route.put_tokens(*NAMES)
    command = forking.stand_in("-m", "tokenferry", *route.arguments("results", route.name))
    for _ in range(3):
        done = subprocess.run(f"{command} | head -n 1", shell=True, capture_output=True, text=True, check=True)
        assert ids(done.stdout) == ["n0"]
        assert "Traceback" not in done.stderr
    until(lambda: ids(route.look().stdout) == NAMES, "the broker to have all of them back")


def test_an_empty_route_is_said_to_be_empty(route: Route) -> None:
    seen = route.look()
    assert (seen.exit_code, seen.stdout) == (0, "")
    assert seen.stderr == f"tokenferry: nothing waits on route {route.name}\n{ONLY_LOOKS}"
    if isinstance(route.broker, RabbitMQ):
        assert results_queue(route.name) not in route.broker.queues(), "looking makes no queue"


def test_looking_shows_an_outcome_once_and_neither_progress_nor_what_is_no_result(route: Route) -> None:
    progress = OnboardingProgress(
        request_id="req-1", onboarding_id="on-1", step=StepResult(step="account", status="done"), taken=1, steps=2
    )
    route.put(route.token("a"), progress.model_dump_json(), "no result", route.token("a"), route.token("b"))
    seen = route.look()
    assert ids(seen.stdout) == ["a", "b"]
    assert "1 on the route is no result" in seen.stderr
    assert QUARANTINE in seen.stderr
    assert len(route.broker.take(results_queue(route.name))) == 5


def test_looking_says_that_another_reader_has_results_in_hand(route: Route) -> None:
    route.put_tokens("a")
    with Results(route.name, route.configuration) as reader:
        assert reader.hold(10.0) is not None
        seen = route.look()
        assert seen.stdout == ""
        if isinstance(route.broker, RabbitMQ):
            assert "another reader is connected" in seen.stderr
        else:
            assert "1 more is in the hand of another reader" in seen.stderr
    assert ids(route.look().stdout) == ["a"]


# -- taking


def test_taking_moves_results_into_a_file_that_grows(route: Route) -> None:
    route.put_tokens("a", "b")
    taken = route.take()
    assert (taken.exit_code, taken.stderr) == (0, "")
    assert taken.stdout == f"2 results of route {route.name} taken into {route.out}\n"
    assert stat.S_IMODE(route.out.stat().st_mode) == 0o600
    route.put_tokens("c", "d")
    taken = route.take("--json", "--limit", "1")
    assert json.loads(taken.stdout) == {"route": route.name, "taken": 1, "out": str(route.out)}
    assert ids(route.out.read_text()) == ["a", "b", "c"]
    assert route.left() == ["d"]


def test_more_results_than_a_reader_can_hold_are_taken_in_one_run(route: Route) -> None:
    names = [f"n{number}" for number in range(450)]
    route.put_tokens(*names)
    assert route.take().exit_code == 0
    assert ids(route.out.read_text()) == names
    assert route.left() == []


def test_a_line_that_was_cut_off_is_mended_and_a_result_that_comes_again_is_left_out(route: Route) -> None:
    """As after kill -9 in the middle of a write: nothing of that batch was acknowledged."""
    route.out.write_text(f"{route.token('a')}\n{route.token('b')}\n{route.token('c')[:40]}")
    route.put_tokens("b", "c", "d")
    taken = route.take()
    assert (taken.exit_code, taken.stdout.split()[0]) == (0, "2")
    assert ids(route.out.read_text()) == ["a", "b", "c", "d"]
    assert route.left() == []


WRITE_AND_DIE_BEFORE_ACKNOWLEDGING = """
import sys
from pathlib import Path
from tokenferry import Results
from tokenferry.commands.result_file import ResultFile
from tokenferry.commands.taking import take_out
from tokenferry.configuration import load
from tokenferry.bulk.interrupting import Interruption

class Pausing(ResultFile):
    def append(self, results):
        super().append(results)
        print("written", flush=True)
        sys.stdin.read()

config, route, out = sys.argv[1:]
with Pausing(Path(out)) as file, Interruption() as interruption:
    take_out(Results(route, load(Path(config))), file, interruption)
"""


def test_killed_after_the_write_and_before_the_acknowledgement_nothing_is_lost_or_doubled(route: Route) -> None:
    route.put_tokens(*NAMES)
    command = [sys.executable, "-c", WRITE_AND_DIE_BEFORE_ACKNOWLEDGING, str(route.config), route.name, str(route.out)]
    with forking.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        written = ids(route.out.read_text())
        assert written
        process.kill()
    if not isinstance(route.broker, RabbitMQ):
        assert f"{len(NAMES)} more are in the hand of another reader" in route.look().stderr
    until(lambda: route.take().exit_code == 0 and route.is_settled(), "the broker to have all of them back", 30.0)
    assert sorted(ids(route.out.read_text())) == sorted(NAMES)
    assert route.left() == []


def test_follow_takes_what_arrives_until_ctrl_c_and_that_is_no_failure(route: Route) -> None:
    process = route.start("results", route.name, "--out", str(route.out), "--follow")
    try:
        route.put_tokens("a")
        until(lambda: route.out.exists() and ids(route.out.read_text()) == ["a"], "the first result", 30.0)
        route.put_tokens("b")
        until(lambda: ids(route.out.read_text()) == ["a", "b"], "the second result", 30.0)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out) == (0, f"2 results of route {route.name} taken into {route.out}\n")
    assert err == f"tokenferry: results of route {route.name} go to {route.out}, until Ctrl-C\n"
    assert route.left() == []


def test_interrupted_before_the_first_batch_nothing_is_taken(route: Route) -> None:
    route.put_tokens("a")
    with Interruption() as interruption, Results(route.name, route.configuration) as reader:
        os.kill(os.getpid(), signal.SIGINT)
        assert list(batches(reader, interruption, follow=True)) == []
    assert route.left() == ["a"]


@pytest.mark.parametrize("broker", ["valkey"], indirect=True)
def test_a_file_that_takes_no_more_leaves_the_results_on_the_route(route: Route) -> None:
    route.put_tokens(*NAMES)
    command = [sys.executable, "-m", "tokenferry", *route.arguments("results", route.name, "--out", str(route.out))]
    script = ["bash", "-c", 'ulimit -f 1; exec "$@"', "bash", *command]
    done = subprocess.run(script, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"tokenferry: {route.out}: cannot be written (File too large)\n"
    assert route.out.read_bytes() == b""
    until(lambda: sorted(ids(route.look().stdout)) == sorted(NAMES), "all of them on the route", 30.0)


@pytest.mark.parametrize("broker", ["valkey"], indirect=True)
class TestAFileThatCannotBeUsed:
    """Each time nothing is taken, the file stays as it is, and the command ends with 2."""

    def refused(self, route: Route, out: Path, reason: str) -> None:
        route.put_tokens("a")
        taken = route.take(out=out)
        assert (taken.exit_code, taken.stdout) == (2, "")
        assert reason in taken.stderr
        assert route.left() == ["a"]

    @pytest.mark.parametrize(
        "content",
        ["precious", "precious\n", '{"key": "1", "row": 2, "status": "tokenized"}\n', '{"a": 1', "{}\n"],
    )
    def test_because_it_holds_something_else(self, route: Route, content: str) -> None:
        route.out.write_text(content)
        self.refused(route, route.out, "holds something other than results; name another file")
        assert route.out.read_text() == content

    def test_because_it_is_a_pipe(self, route: Route) -> None:
        pipe = route.folder / "pipe"
        os.mkfifo(pipe)
        self.refused(route, pipe, "is not a regular file")

    def test_because_it_is_a_folder_or_in_none(self, route: Route) -> None:
        self.refused(route, route.folder, "is not a regular file")
        self.refused(route, route.folder / "none" / "out.jsonl", "its folder does not exist")

    def test_because_another_process_writes_to_it(self, route: Route) -> None:
        with ResultFile(route.out):
            self.refused(route, route.out, "another process writes to it")


@pytest.mark.parametrize("broker", ["valkey"], indirect=True)
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--follow"], "add --out FILE"),
        (["--out", "-"], "may never be read"),
        (["--out", "-", "--follow"], "may never be read"),
    ],
)
def test_taking_without_a_file_is_wrong_usage(route: Route, options: list[str], reason: str) -> None:
    done = route.look(*options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert reason in " ".join(done.stderr.split())


# -- attaching what is on a route


def test_the_tokens_of_a_route_are_ordered_and_what_has_none_is_kept_in_a_file(route: Route) -> None:
    declined = Failure(code="card_declined", source="endpoint")
    spent = AttachResult(
        outcome_id="x",
        request_id="req-x",
        attach_id="x",
        kind="card",
        platform=route.platform,
        to="charge",
        settled_at=1,
    )
    route.put(
        route.token("a"),
        route.token("f", token=None, failure=declined),
        spent.model_dump_json(),
        route.token("k", kind="pii"),
        route.token("p", platform="elsewhere"),
        route.token("b", connected_account="acct_1"),
    )
    done = route.attach("--json")
    assert done.exit_code == 1
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["token"] for line in said if line["status"] == "sent"} == {"tok_a", "tok_b"}
    assert [line["reason"] for line in said if line["status"] == "refused"] == [
        "request req-f has no token (card_declined)",
        "request req-x: is the result of an attach, which has used its token already",
        "request req-k: customer_create takes bank_account or card tokens; choose another target",
        "request req-p: platform: is not configured",
    ]
    assert sorted(ids(route.rejects.read_text())) == ["f", "k", "p", "x"]
    assert stat.S_IMODE(route.rejects.stat().st_mode) == 0o600
    assert route.left() == []
    orders = {order["token"]: order for order in route.orders()}
    assert {order["request_id"] for order in orders.values()} == {"req-a", "req-b"}
    assert orders["tok_b"]["connected_account"] == "acct_1"


def test_killed_after_orders_were_sent_it_sends_the_same_orders_again_and_loses_none(route: Route) -> None:
    """It is killed while it cannot say what was sent, because nobody reads its output: nothing is acknowledged yet."""
    names = [f"n{number}" for number in range(120)]
    route.put_tokens(*names)
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)  # some forty lines
    words = ("attach", "--from-route", route.name, "--rejects", str(route.rejects), "--to", "customer_create", "--json")
    process = route.start(*words, stdout=writing)
    first: list[dict[str, Any]] = []
    try:
        until(lambda: first.extend(route.orders()) or len(first) >= 100, "the first orders", 60.0)
    finally:
        process.kill()
        process.communicate()
        os.close(reading)
        os.close(writing)
    again: list[dict[str, Any]] = []

    def finished() -> bool:
        assert route.attach().exit_code == 0
        again.extend(route.orders())
        return route.is_settled()

    until(finished, "the broker to have all of them back", 30.0)
    assert Counter(order["token"] for order in again) == Counter({f"tok_{name}": 1 for name in names})
    attach_ids = {order["token"]: order["attach_id"] for order in again}
    assert {order["token"]: order["attach_id"] for order in first}.items() <= attach_ids.items()
    assert len(set(attach_ids.values())) == len(names)
    assert route.left() == []


def test_where_the_broker_refuses_the_order_its_result_stays_on_the_route(route: Route) -> None:
    queue = attach_queue("bulk", route.platform)
    route.put_tokens("a", "b")
    with spoilt(route.broker, queue):
        done = route.attach()
    assert done.exit_code == 1
    assert "its result stays on the route" in done.stderr
    assert route.left() == ["a", "b"]


@contextlib.contextmanager
def spoilt(broker: Place, queue: str) -> Iterator[None]:
    """A broker whose *queue* takes no messages."""
    if isinstance(broker, OneRedis):
        broker.client.set(queue, "no list")
        yield
        broker.client.delete(queue)
        return
    with broker.channel() as channel:
        channel.queue_declare(queue, durable=True, auto_delete=False)
    yield
    with broker.channel() as channel:
        channel.queue_delete(queue)


@pytest.mark.parametrize("broker", ["valkey"], indirect=True)
class TestOrders:
    def test_an_empty_route_is_said_to_be_empty(self, route: Route) -> None:
        done = route.attach()
        assert (done.exit_code, done.stdout, done.stderr) == (
            0,
            "",
            f"tokenferry: nothing waits on route {route.name}\n",
        )

    def test_again_gives_another_id_and_without_it_the_id_is_the_same(self, route: Route) -> None:
        for _ in range(2):
            route.put_tokens("a")
            assert route.attach().exit_code == 0
        route.put_tokens("a")
        assert route.attach("--again").exit_code == 0
        first, second, third = [order["attach_id"] for order in route.orders()]
        assert first == second != third

    def test_results_that_are_looked_at_and_piped_into_attach_twice_are_one_order(self, route: Route) -> None:
        """The way of earlier versions, which took the results: now they stay on the route."""
        route.put_tokens("a")
        words = route.arguments("attach", "--to", "customer_create")
        for _ in range(2):
            assert CliRunner().invoke(main, words, input=route.look().stdout).exit_code == 0
        assert route.left() == ["a"]
        orders = route.orders()
        assert [order["token"] for order in orders] == ["tok_a", "tok_a"]
        assert len({order["attach_id"] for order in orders}) == 1

    def test_what_is_in_the_rejects_file_can_be_read_again(self, route: Route) -> None:
        route.put_tokens("a")
        topup = ("--to", "topup", "--set", "amount=100", "--set", "currency=usd")
        assert route.attach(*topup).exit_code == 1
        words = route.arguments("attach", "--file", str(route.rejects), "--to", "customer_create")
        assert CliRunner().invoke(main, words).exit_code == 0
        assert [order["token"] for order in route.orders()] == ["tok_a"]

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            (["tok_1"], "leave out TOKEN"),
            (["--file", "x"], "leave out --file"),
            (["--kind", "card"], "leave out --kind"),
            (["--attach-id", "x"], "leave out --attach-id"),
            (["--platform", "x"], "leave out --platform"),
            (["--rejects", "-"], "--rejects must be a file"),
            (["--target-json", "x", "--to", "charge"], "give --target-json, or --to with --set, not both"),
            (["--to", "customer_create", "--set", "description=4242424242424242"], "looks like a card number"),
        ],
    )
    def test_wrong_usage_ends_with_2_and_takes_nothing(self, route: Route, options: list[str], reason: str) -> None:
        route.put_tokens("a")
        done = route.attach(*options)
        assert (done.exit_code, done.stdout) == (2, "")
        assert reason in " ".join(done.stderr.split())
        assert "4242" not in done.output
        assert (route.left(), route.orders()) == (["a"], [])

    def test_it_needs_a_file_for_rejects_a_target_and_another_route_for_outcomes(self, route: Route) -> None:
        for words, reason in (
            (("--to", "customer_create"), "--from-route needs --rejects FILE"),
            (("--rejects", "x"), "--from-route needs a target"),
            (("--rejects", "x", "--to", "charge", "--reply-to", route.name), "must be another route"),
        ):
            done = CliRunner().invoke(main, route.arguments("attach", "--from-route", route.name, *words))
            assert done.exit_code == 2
            assert reason in " ".join(done.stderr.split())
        assert CliRunner().invoke(main, route.arguments("attach", "tok_1", "--rejects", "x")).exit_code == 2
