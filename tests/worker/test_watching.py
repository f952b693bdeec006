"""What is remembered for people: attempts, processes, changes of budgets, the line of a minute, and its JSON form."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import KeyFolder
from redis.asyncio import Redis

from tokenferry import Producer
from tokenferry.broker import connecting
from tokenferry.broker.embedded import Embedded
from tokenferry.broker.publishing import Outgoing, Publisher
from tokenferry.cli import main
from tokenferry.configuration import Configuration, Platform
from tokenferry.contract.queues import DEAD_LETTERS, TOKENIZE_TASK
from tokenferry.import_notes import ImportNote, notes, noting, request_ids_of_key
from tokenferry.testing import card
from tokenferry_worker.fleet.queues import look
from tokenferry_worker.fleet.tracing import Waiting, find
from tokenferry_worker.fleet.useful import Work, useful_processes
from tokenferry_worker.health.activity import Activity, in_words
from tokenferry_worker.health.reporter import ProcessRecord, Reporter
from tokenferry_worker.health.vitals import Vitals
from tokenferry_worker.limits.pacing import Budget
from tokenferry_worker.log_fields import fields
from tokenferry_worker.logs import JsonLines
from tokenferry_worker.metrics import names
from tokenferry_worker.metrics.registry import Meters
from tokenferry_worker.on_redis.attempts import MOST, RedisAttempts
from tokenferry_worker.on_redis.budget_watch import BudgetWatch, changes
from tokenferry_worker.on_redis.circuits import RedisCircuits
from tokenferry_worker.on_redis.controls import Controls, State
from tokenferry_worker.on_redis.journal import RedisJournal
from tokenferry_worker.on_redis.ledger import RedisLedger
from tokenferry_worker.on_redis.lookup import Lookup
from tokenferry_worker.on_redis.processes import RedisProcesses
from tokenferry_worker.on_redis.store import Store
from tokenferry_worker.provider.noted import NotedAttempt
from tokenferry_worker.tokens.ledger import Became, Granted, TokenScope

from .conftest import DATABASE

pytestmark = pytest.mark.anyio

SCOPE = TokenScope("main", "test", "", "card")
GLOBAL = Budget("main:global", 100.0, scope="platform")


def attempt(number: int) -> NotedAttempt:
    return NotedAttempt(1_795_000_000_000 + number, "tokens", 500, "api_error", f"req_{number}")


# The attempts of a request


async def test_the_latest_ten_attempts_are_kept_in_their_order_as_long_as_the_journal(
    store: Store, client: Redis
) -> None:
    attempts = RedisAttempts(store, days=2)
    for number in range(MOST + 3):
        await attempts.note("req-1", attempt(number))
    assert await attempts.of("req-1") == [attempt(number) for number in range(3, MOST + 3)]
    assert 0 < await client.pttl(store.keys.attempts("req-1")) <= 2 * 86_400_000
    assert await attempts.of("req-2") == []


async def test_an_attempt_that_is_told_twice_is_one_attempt(store: Store) -> None:
    attempts = RedisAttempts(store)
    for number in (1, 1, 2):
        await attempts.note("req-1", attempt(number))
    assert await attempts.of("req-1") == [attempt(1), attempt(2)]


# From a token or an object to its request


async def test_request_order_token_and_object_all_lead_to_one_story(store: Store) -> None:
    journal, orders = (RedisJournal(store, subject, days=1) for subject in ("request", "attach"))
    ledger, lookup = RedisLedger(store, "main", days=1), Lookup(store)
    await journal.begin("req-1")
    await journal.record_token("req-1", '{"token": "tok_1", "settled_at": 1}', "tok_1", SCOPE, at=1)
    assert await lookup.ids_of("tok_1") == ["req-1"]
    await orders.begin("att-1")
    lease = await ledger.claim("tok_1", "att-1", lease=5.0, scope=SCOPE)
    assert isinstance(lease, Granted)
    assert await ledger.close("tok_1", lease, "spent", Became("cus_1", "customer"))
    await orders.record("att-1", '{"token": "tok_1", "object_id": "cus_1"}')
    assert await lookup.ids_of("tok_1") == await lookup.ids_of("cus_1") == ["req-1", "att-1"]
    assert await lookup.ids_of("req-1") == ["req-1"]
    known = await lookup.of("att-1")
    assert known.order is not None
    assert (known.order.deliveries, known.ledger["object"], known.ledger["by"]) == (1, "cus_1", "att-1")
    assert not await lookup.of("req-2")


# The processes of the fleet


def test_a_waiting_message_is_found_under_the_prefix_of_the_broker(valkey: Embedded, prefix: str) -> None:
    broker = {"url": valkey.database(DATABASE).redis_url, "prefix": prefix}
    configuration = Configuration.model_validate({"broker": broker, "platforms": {"main": Platform()}})
    with Publisher.to(configuration) as publisher:
        for id_ in ("req-1", "req-2"):
            publisher.publish(Outgoing.task("tokenize.bulk.main", TOKENIZE_TASK, id_, "sealed"))
        publisher.publish(Outgoing(DEAD_LETTERS, json.dumps({"at": 1})))
    try:
        assert find(configuration, "req-2", ["tokenize.bulk.main"]) == Waiting("tokenize.bulk.main", 2)
        states = {each.name: each for each in look(configuration, []) if each.waiting}
        assert {name: state.waiting for name, state in states.items()} == {"tokenize.bulk.main": 2, DEAD_LETTERS: 1}
        assert states[DEAD_LETTERS].oldest is not None
    finally:
        with connecting.connect(configuration) as connection:
            channel = connection.default_channel
            channel.bare_client.delete(*map(channel.key_of, ("tokenize.bulk.main", DEAD_LETTERS)))


async def test_the_id_of_a_group_leads_to_the_story_of_that_group(
    store: Store, valkey: Embedded, prefix: str, tmp_path: Path
) -> None:
    journal = RedisJournal(store, "request", days=1)
    for key, token in (("req-1", "tok_1"), ("shop:req-1", "tok_2")):
        await journal.begin(key)
        await journal.record(key, json.dumps({"type": "token", "token": token}))
    url = valkey.database(DATABASE).redis_url
    configuration = tmp_path / "tokenferry.toml"
    configuration.write_text(
        f'[broker]\nurl = "{url}"\nprefix = "{prefix}-b"\n[store]\nurl = "{url}"\nprefix = "{prefix}"\n'
        "[platforms.main]\n"
    )
    for group, token in (("legacy", "tok_1"), ("shop", "tok_2")):
        words = ["show", f"{group}/req-1", "--json", "--config", str(configuration)]
        done = await asyncio.to_thread(CliRunner().invoke, main, words)
        (story,) = json.loads(done.output)
        assert story["token"] == token


def record(pid: int = 1) -> ProcessRecord:
    return ProcessRecord(host="a", pid=pid, role="all", phase="working", since=1.0, in_hand=0, taken=0, broker=True)


async def test_every_process_is_listed_until_it_has_been_silent_for_a_while(store: Store, client: Redis) -> None:
    processes = RedisProcesses(store)
    for pid in (2, 1, 1):
        await processes.report(f"a:{pid}", record(pid).model_dump_json())
    assert [each.pid for each in await processes.all()] == [1, 2]
    assert 0 < await client.pttl(store.keys.processes) <= 20_000
    told = await client.hget(store.keys.processes, "a:1")
    at, _, rest = told.partition(" ")
    await client.hset(store.keys.processes, "a:1", f"{int(at) - 20_001} {rest}")
    await client.hset(store.keys.processes, "a:3", f"{at} of another version")
    assert [each.pid for each in await processes.all()] == [2]
    assert not await client.hexists(store.keys.processes, "a:1")


def test_a_process_reports_rates_of_the_last_minute_and_failures_of_the_last_five() -> None:
    now, vitals = [0.0], Vitals("all")
    activity = Activity(vitals.meters, lambda: now[0])
    for minute in range(8):
        vitals.meters.count(names.BUDGET_CALLS, "main:global", by=60 * (minute + 1))
        vitals.meters.count(names.OUTCOMES, "main", "bulk", "card", "none", by=10)
        vitals.meters.count(names.OUTCOMES, "main", "bulk", "card", "card_declined")
        now[0] += 60
        activity.look()
    told = Reporter(vitals, RedisProcesses.__new__(RedisProcesses), 100).record(activity)
    assert (told.rates, told.outcomes, told.failures) == ({"main:global": 8.0}, 11, {"card_declined": 5})


# The log line of a minute


def work(meters: Meters) -> None:
    meters.count(names.TOKENS, "main", "available", by=15)
    meters.count(names.TOKENS, "main", "spent", by=14)
    meters.count(names.OUTCOMES, "main", "bulk", "card", "none", by=14)
    meters.count(names.OUTCOMES, "main", "bulk", "card", "card_declined", by=2)
    meters.observe(names.CALLS, 0.2, "main", "POST /v1/tokens", "2xx")
    meters.observe(names.CALLS, 0.4, "main", "POST /v1/tokens", "429")
    meters.observe(names.PERMIT_WAIT, 1.5, "main", "bulk")
    meters.count(names.RATE_LIMITED, "main", "global_rate")
    meters.count(names.IN_HAND, "tokenize.bulk.main", by=7)
    meters.count(names.WAITING, "permit", by=5)


def test_the_line_of_a_minute_says_what_a_process_did_and_what_it_waits_for() -> None:
    now, meters = [0.0], Meters()
    activity = Activity(meters, lambda: now[0])
    work(meters)
    now[0] = 60.0
    activity.look()
    assert in_words(activity.last(60.0)) == (
        "in 60 s: 15 tokens, 14 used, 2 failed (card_declined 2), 0 refused, 0 parked, 2 calls of 0.30 s, 1 answers of "
        "429, 0 failed attempts, waited for permits of 1.50 s, 7 in hand (waiting: permit 5)"
    )


async def test_a_process_logs_each_minute_of_work_and_its_idleness_once(caplog: pytest.LogCaptureFixture) -> None:
    vitals, told = Vitals("all"), asyncio.Event()

    class Fleet:
        reports = 0

        async def report(self, process: str, record: str) -> None:
            self.reports += 1
            if self.reports == 1:
                vitals.meters.count(names.OUTCOMES, "main", "bulk", "card", "none")
            elif self.reports == 6:
                told.set()

    with caplog.at_level(logging.INFO, "tokenferry.worker"):
        task = asyncio.create_task(Reporter(vitals, Fleet(), 100, every=0.01, minute=0.01).run())
        await asyncio.wait_for(told.wait(), 20)
        task.cancel()
    said = [line.message for line in caplog.records]
    assert [line for line in said if line.startswith("in ")], said
    assert said.count("nothing to do") == 2  # before the work, and after it
    assert {line.levelname for line in caplog.records} == {"INFO"}


def test_a_json_line_has_the_documented_fields_and_no_text_of_an_error() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "logs.md").read_text()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    more = fields("req-1", "main", code="api_error", attempt=2, trace=trace)
    try:
        raise ValueError("4000000000000002")
    except ValueError as error:
        kind = (type(error), error, error.__traceback__)
    line = logging.LogRecord("tokenferry.worker", logging.INFO, "", 1, "done with %s", ("it",), kind)
    line.__dict__.update(more)
    text = JsonLines().format(line)
    read = json.loads(text)
    assert "4000" not in text
    assert "\n" not in text
    assert read["trace"] == "0af7651916cd43dd8448eb211c80319c"
    assert (read["message"], read["level"], read["error"], read["attempt"]) == ("done with it", "info", "ValueError", 2)
    assert read.keys() == {
        "time",
        "level",
        "logger",
        "pid",
        "message",
        "request",
        "platform",
        "code",
        "attempt",
        "trace",
        "error",
    }
    assert [name for name in read if f"| `{name}` |" not in page] == []


# Changes of budgets


USUAL = State("main:global", 100, 100, 1.0, 0.0, None)
PAUSED = replace(USUAL, paused="support asked", until=1_795_000_000.0, by="ana@host")


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (USUAL, USUAL, []),
        (None, USUAL, []),
        (None, replace(USUAL, factor=0.5), []),
        (
            USUAL,
            PAUSED,
            ["paused by ana@host until 2026-11-18T11:06:40+00:00: support asked; its requests wait in their queues"],
        ),
        (PAUSED, PAUSED, []),
        (PAUSED, USUAL, ["no longer paused"]),
        (replace(USUAL, factor=0.9), USUAL, ["back at its full rate after Stripe's 429s"]),
        (replace(USUAL, set_to=5.0), USUAL, ["no longer set by an operator"]),
    ],
)
def test_each_change_of_a_budget_is_one_sentence(before: State | None, now: State, said: list[str]) -> None:
    assert changes(before, now) == said


async def test_one_process_of_the_fleet_logs_a_change_once_and_each_knows_the_pause(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    controls, circuits = Controls(store), RedisCircuits(store)
    watches = [BudgetWatch(controls, circuits, [GLOBAL]) for _ in range(2)]
    for round_ in range(2):
        for watch in watches:
            await watch.look()
        if not round_:
            await controls.command("pause", GLOBAL, who="ana@host", why="support asked", lasts=60.0)
    await watches[0].look()
    assert [watch.paused for watch in watches] == [["main:global"], ["main:global"]]
    (line,) = [line for line in caplog.records if line.name == "tokenferry.worker"]
    assert line.message.startswith("budget main:global: paused by ana@host until 2")
    assert line.levelname == "WARNING"


async def test_who_has_changed_a_budget_and_until_when_is_known_and_for_how_long_it_was_to_hold(store: Store) -> None:
    controls = Controls(store)
    began = time.time()
    await controls.command("set", GLOBAL, who="ana@host", why="slower", rate=5.0, lasts=7200.0)
    state = await controls.look(GLOBAL)
    assert (state.by, state.set_to) == ("ana@host", 5.0)
    assert state.until == pytest.approx(began + 7200, abs=30)
    await controls.command("reset", GLOBAL, who="ben@host", why="done")
    state = await controls.look(GLOBAL)
    assert (state.by, state.until, state.set_to) == (None, None, None)
    assert [each.lasts for each in await controls.history(5)] == [None, 7200.0]


# Useful processes


@pytest.mark.parametrize(
    ("work", "latency", "wanted"),
    [
        ([Work(0, 100)], 0.5, 0),
        ([Work(10_000, 0)], 0.5, 1),
        ([Work(10_000, 1000)], 0.5, 5),
        ([Work(10_000, 1000)], 0.01, 4),  # bound by the processor
        ([Work(150, 1000)], 0.5, 2),  # bound by the messages
        ([Work(10_000, 500), Work(10_000, 500), Work(0, 5000)], None, 5),
    ],
)
def test_no_more_processes_are_useful_than_rate_processor_and_messages_keep_busy(
    work: list[Work], latency: float | None, wanted: int
) -> None:
    assert useful_processes(work, latency=latency, concurrency=100) == wanted


# Imports


def note(state: str = "running", **changed: object) -> ImportNote:
    counts = dict.fromkeys(("rows", "sealed", "tokenized", "attached", "failed", "rejected", "unfinished"), 0)
    values = {"name": "abc", "file": "a.csv", "results": None, "started": 1.0, "noted": time.time(), "state": state}
    return ImportNote(**{**values, "counts": counts, **changed})  # type: ignore[arg-type]


def test_an_import_notes_how_far_it_is_and_how_it_ended(tmp_path: Path) -> None:
    with noting(tmp_path, note, lambda: {"4711": "abc-2"}) as ended:
        assert [each.state for each in notes(tmp_path)] == ["running"]
        assert request_ids_of_key(tmp_path, "4711") == [("abc-2", "")]
        assert request_ids_of_key(tmp_path, "471") == []
        ended("finished")
    assert [each.state for each in notes(tmp_path)] == ["finished"]
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "imports").iterdir()} == {0}


def test_an_import_that_was_killed_is_called_dead(tmp_path: Path) -> None:
    with noting(tmp_path, lambda state: note("running", noted=time.time() - 60), dict):
        assert [each.state for each in notes(tmp_path)] == ["dead"]


def test_a_key_leads_through_the_results_file_to_its_request_and_broken_lines_are_passed_over(tmp_path: Path) -> None:
    results = tmp_path / "out.jsonl"
    results.write_text(
        '{"key": "4711", "request_id": "abc-7"}\n{"key": "47111", "request_id": "abc-8"}\n"4711"\n{"4711"'
    )
    with noting(tmp_path, lambda state: note(state, results=str(results)), dict):
        pass
    (tmp_path / "imports" / "broken.json").write_text("{")
    assert request_ids_of_key(tmp_path, "4711") == [("abc-7", str(results))]


def test_a_data_folder_that_cannot_be_written_stops_no_import(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with noting(tmp_path / "file", note, dict) as ended:
        ended("finished")
    assert notes(tmp_path / "file") == []


# The commands without a server


@pytest.mark.parametrize("words", [("status",), ("status", "--json"), ("show", "req-1"), ("status", "--watch")])
def test_where_no_embedded_server_runs_the_commands_say_so_start_none_and_end_with_2(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "tokenferry.toml").write_text('data = "data"\n[platforms.main]\nsecret_key = { env = "X" }\n')
    done = CliRunner().invoke(main, [*words, "--config", str(tmp_path / "tokenferry.toml")])
    assert done.exit_code == 2
    assert "no embedded server runs with the data folder" in done.output
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("words", [("show",), ("show", "req-1", "--key", "1"), ("show", "4242 4242 4242 4242")])
def test_what_is_no_question_is_refused_without_repeating_it(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "tokenferry.toml").write_text('data = "data"\n')
    done = CliRunner().invoke(main, [*words, "--config", str(tmp_path / "tokenferry.toml")])
    assert done.exit_code == 2
    assert "4242" not in done.output


# A request that no worker has had yet


def fleet(folder: Path, valkey: Embedded, key_folder: KeyFolder, *, envelope: int) -> Path:
    """The configuration of a fleet with a prefix of its own on a shared server."""
    url = f"url = {json.dumps(valkey.redis_url)}"
    path = folder / "tokenferry.toml"
    path.write_text(
        f"[broker]\n{url}\nprefix = '{folder.name}'\n[store]\n{url}\nprefix = '{folder.name}-store'\n"
        + f"[producer]\nenvelope = {envelope}\n"
        + f"[keys]\nrecipient = '{key_folder.recipient}'\nproducer_signing_key = '{key_folder.producer}'\n"
        + "[platforms.main]\nsecret_key = { env = 'X' }\n"
    )
    return path


@pytest.mark.parametrize("envelope", [1, 2])
def test_a_request_is_found_in_the_queue_of_a_fleet_with_a_prefix(
    tmp_path: Path, valkey: Embedded, key_folder: KeyFolder, envelope: int
) -> None:
    path = fleet(tmp_path, valkey, key_folder, envelope=envelope)
    with Producer(path) as producer:
        ids = [producer.send(card(), request_id=f"prefixed-{at}") for at in range(3)]
    done = CliRunner().invoke(main, ["show", ids[1], "--json", "--config", str(path)])
    assert done.exit_code == 0, done.output
    (story,) = json.loads(done.output)
    assert (story["id"], story["group"], story["state"]) == (ids[1], "legacy", "waiting")
    assert story["waiting"] == {"queue": "tokenize.bulk.main", "place": 2}
