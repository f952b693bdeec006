"""What an outbox promises: accepted is on the disk, sealed; it reaches the broker; it is forgotten once its outcome is
known, and not before."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import secrets
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import forking
import pytest
import redis
from click.testing import CliRunner, Result
from e2e import cargo
from e2e.brokers import OnRedis, kill_synced
from e2e.house import until
from result_signing import signed

from tokenferry import (
    AsyncProducer,
    BrokerUnavailable,
    CardRequest,
    CvcUpdateRequest,
    Order,
    Outbox,
    OutboxFailed,
    OutboxFull,
    Producer,
    Results,
    TokenResult,
    UnusableOutbox,
)
from tokenferry.broker import embedded
from tokenferry.broker.publishing import BrokerFull, Outgoing, Publisher, PublishError
from tokenferry.cli import main
from tokenferry.configuration import Broker, Configuration, KeySettings, Platform
from tokenferry.configuration import OutboxSettings as Settings
from tokenferry.contract.targets import CustomerCreate
from tokenferry.outbox import OutboxLimits, Sender, SenderLock
from tokenferry.outbox import outbox as outbox_module
from tokenferry.outbox.store import AFTERMATH, READ, OutboxStore

NUMBER, CVC = "4242424242424242", "987"
HOUR = 3_600_000
DAY = 24 * HOUR
NOW = outbox_module.now_ms()


def card(**more: str) -> CardRequest:
    return CardRequest(number=NUMBER, exp_month="12", exp_year="2044", **more)


def sealed(id_: str, *, queue: str = "tokenize.bulk.main", route: str | None = None, life: int = 3 * DAY) -> Outgoing:
    """A message as a producer hands it over; what is in it nobody here could read anyway."""
    message = Outgoing.task(queue, "tokenferry.tokenize.v1", id_, "sealed")
    return Outgoing(
        message.queue, message.body, message.headers, message.properties, reply_to=route, expires_at=NOW + life
    )


class OneRedis(OnRedis):
    """A Valkey that others use as well: every desk has a platform of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = redis.Redis.from_url(url)


@dataclass
class Desk:
    """A broker, a platform nobody else uses, and a file for an outbox."""

    url: str
    keys: KeySettings
    folder: Path
    platform: str = field(default_factory=lambda: f"p{secrets.token_hex(6)}")
    max_waiting: int = 1_000_000
    resend_after: float = 600.0

    @property
    def path(self) -> Path:
        return self.folder / "outbox.db"

    @property
    def configuration(self) -> Configuration:
        return self.configured(self.url)

    def configured(self, url: str, **outbox: Any) -> Configuration:
        return Configuration(
            broker=Broker(url=url, publish_timeout=5.0, max_waiting=self.max_waiting),
            outbox=Settings(path=self.path, resend_after=self.resend_after, **outbox),
            keys=self.keys,
            platforms={self.platform: Platform()},
        )

    @property
    def queue(self) -> str:
        return f"tokenize.bulk.{self.platform}"

    def arrived(self) -> list[str]:
        """Ids of what is in the queue, oldest first, taken off it."""
        return [
            json.loads(json.loads(body)[0][0])["header"]["request_id"] for body in OneRedis(self.url).take(self.queue)
        ]

    def status(self) -> dict[str, Any]:
        book = OutboxStore(self.path, durable=False)
        try:
            return book.status(now=NOW)
        finally:
            book.close()

    def file(self) -> Path:
        """The configuration as a file, for the command line and for other processes."""
        path = self.folder / "tokenferry.toml"
        path.write_text(
            f'[broker]\nurl = "{self.url}"\npublish_timeout = 5.0\n[outbox]\npath = "{self.path}"\n'
            f'resend_after = {self.resend_after}\n[keys]\nrecipient = "{self.keys.recipient}"\n'
            f'producer_signing_key = "{self.keys.producer_signing_key}"\n'
            f'result_signers = "{self.keys.result_signers}"\n[platforms.{self.platform}]\n'
        )
        return path

    def command(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["outbox", *arguments, "--config", str(self.file())])

    def python(self, program: str, *arguments: str, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
        return forking.start(
            [sys.executable, "-c", program, str(self.file()), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=before,
        )


@pytest.fixture(scope="session")
def keys(key_folder: Any) -> KeySettings:
    return KeySettings(
        recipient=key_folder.recipient,
        producer_signing_key=key_folder.producer,
        result_signing_key=key_folder.result,
        result_signers=key_folder.result_signers,
    )


@pytest.fixture
def desk(valkey: Any, keys: KeySettings, tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(valkey.redis_url, keys, tmp_path)
    yield desk
    OneRedis(valkey.redis_url).take(desk.queue)


@pytest.fixture
def dead(desk: Desk) -> Iterator[Configuration]:
    """The same, on a broker that is not there."""
    with socket.socket() as bound:  # bound and not listening: nobody else can open it meanwhile
        bound.bind(("127.0.0.1", 0))
        yield desk.configured(f"redis://127.0.0.1:{bound.getsockname()[1]}")


@pytest.fixture
def book(tmp_path: Path) -> Iterator[OutboxStore]:
    book = OutboxStore(tmp_path / "outbox.db", durable=True)
    yield book
    book.close()


# -- what is accepted


def test_a_send_is_accepted_while_the_broker_is_away_and_delivered_once_it_is_there(
    desk: Desk, dead: Configuration
) -> None:
    with Producer(dead) as producer:
        accepted = [producer.send(card()) for _ in range(5)]
    assert desk.status()["waiting"] == 5
    with Producer(desk.configuration):
        until(lambda: desk.status()["waiting"] == 0, "the delivery of what another producer accepted")
    assert desk.arrived() == accepted


@contextlib.contextmanager
def careless() -> Iterator[None]:
    """A process whose umask lets everybody read and write what it makes."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def test_nothing_in_the_file_can_be_read_and_nobody_else_may_read_it(desk: Desk, dead: Configuration) -> None:
    with careless(), Producer(dead) as producer:
        producer.send(card(name="Wilhelmina Quagmire"), attach=CustomerCreate(email="w@example.com"))
        until((desk.folder / "outbox.db.sender").exists, "the sender")
        files = [path for path in desk.folder.iterdir() if path.name.startswith("outbox.db")]
        assert {path.name for path in files} == {f"outbox.db{end}" for end in ("", "-wal", "-shm", ".sender")}
        for path in files:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        everything = b"".join(path.read_bytes() for path in files)
    for secret in (NUMBER, NUMBER[:12], "Quagmire", "w@example.com"):
        assert secret.encode() not in everything


@pytest.mark.parametrize("request_", [card(cvc=CVC), CvcUpdateRequest(cvc=CVC)], ids=["card", "cvc_update"])
def test_a_verification_code_never_rests_on_a_disk(desk: Desk, dead: Configuration, request_: CardRequest) -> None:
    with Producer(dead) as producer:
        with pytest.raises(BrokerUnavailable) as caught:
            producer.send(request_, timeout=3.0)
        assert caught.value.request_id is not None
    assert desk.status()["queues"] == {}
    with Outbox(desk.path) as outbox, pytest.raises(ValueError, match="must not be kept"):
        outbox.submit(Outgoing.task("tokenize.realtime.main", "task", "req-1", "sealed", keep_seconds=120.0))


def test_an_order_to_spend_a_token_goes_to_the_broker_itself(desk: Desk, dead: Configuration) -> None:
    result = TokenResult(
        outcome_id="o", request_id="req-1", kind="card", platform=desk.platform, token="tok_1", settled_at=1
    )
    with Producer(dead) as producer, pytest.raises(BrokerUnavailable):
        producer.attach(result, CustomerCreate(email="w@example.com"), timeout=3.0)
    assert desk.status()["queues"] == {}


def test_without_an_outbox_nothing_changes(desk: Desk, dead: Configuration) -> None:
    with Producer(dead, outbox=False) as producer, pytest.raises(BrokerUnavailable):
        producer.send(card(), timeout=3.0)
    assert not desk.path.exists()


def test_the_same_id_is_one_request_and_the_first_one_counts(desk: Desk, dead: Configuration) -> None:
    with Producer(dead) as producer:
        assert producer.send(card(), request_id="req-mine") == "req-mine"
        assert producer.send(card(), request_id="req-mine") == "req-mine"
    assert desk.status()["waiting"] == 1


def test_many_tasks_at_once_are_accepted_and_the_loop_goes_on_while_the_file_is_in_other_hands(
    desk: Desk, dead: Configuration
) -> None:
    async def send() -> list[str]:
        async with AsyncProducer(dead) as producer:
            other = sqlite3.connect(desk.path, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            sending = asyncio.gather(*(producer.send(card(), request_id=f"req-{n}") for n in range(200)))
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert not sending.done()
            other.execute("COMMIT")
            ids = await sending
            return [*ids, *[id_ async for id_ in producer.send_many([Order(card(), request_id="last")])]]

    assert asyncio.run(send()) == [*(f"req-{n}" for n in range(200)), "last"]
    assert desk.status()["waiting"] == 201


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_outbox_that_another_process_holds_is_what_the_error_speaks_of_when_time_is_up(
    desk: Desk, dead: Configuration, asynchronous: bool
) -> None:
    async def send() -> None:
        async with AsyncProducer(dead) as producer:
            try:
                await producer.send(card(), request_id="req-1", timeout=0.0)
            finally:
                other.execute("COMMIT")

    Outbox(desk.path).close()
    with contextlib.closing(sqlite3.connect(desk.path, isolation_level=None)) as other:
        if asynchronous:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(OutboxFailed, match="another process holds it") as caught:
                asyncio.run(send())
        else:
            with Producer(dead) as producer:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(OutboxFailed, match="another process holds it") as caught:
                    producer.send(card(), request_id="req-1", timeout=0.0)
                other.execute("COMMIT")
    assert (caught.value.request_id, caught.value.maybe_sent) == ("req-1", True)
    assert desk.status()["waiting"] == 1


# -- processes that die

SEND_MANY = """
import sys
from pathlib import Path
from tokenferry import CardRequest, Producer
producer = Producer(Path(sys.argv[1]))
for n in range(int(sys.argv[2])):
    print(producer.send(CardRequest(number="4242424242424242", exp_month=12, exp_year=2044)), flush=True)
"""


@pytest.mark.parametrize("after", [20, 150])
def test_every_id_that_a_killed_process_returned_reaches_the_broker(desk: Desk, after: int) -> None:
    process = desk.python(SEND_MANY, "1000")
    assert process.stdout is not None
    returned = [process.stdout.readline().strip() for _ in range(after)]
    process.kill()
    returned += process.stdout.read().split()
    process.wait(30)
    assert after <= len(returned) < 1000

    done = desk.command("send", "--once")

    assert done.exit_code == 0, done.output
    assert done.stdout.endswith(" 0 left\n")
    arrived = Counter(desk.arrived())
    assert set(returned) <= set(arrived)
    # What was returned and not printed, or committed and not returned: the one that was under way.
    assert len(set(arrived) - set(returned)) <= 1
    assert max(arrived.values()) <= 2


def test_a_broker_that_is_killed_in_the_middle_costs_nothing_that_was_accepted(
    keys: KeySettings, tmp_path: Path
) -> None:
    server = embedded.ensure(tmp_path / "data", owner=True)
    desk = Desk(server.redis_url, keys, tmp_path)
    try:
        with Producer(desk.configuration) as producer:
            accepted = [producer.send(card()) for _ in range(100)]
            kill_synced(server.pid, server.redis_url)
            accepted += [producer.send(card()) for _ in range(100)]
            embedded.ensure(tmp_path / "data")
            until(lambda: desk.status()["waiting"] == 0, "the delivery of everything")
        assert set(desk.arrived()) == set(accepted)
    finally:
        embedded.stop(tmp_path / "data")


def no_room(size: int = 0) -> None:
    """From now on no file of this process may grow beyond *size* bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


HOLD_THE_LOCK = """
import sys
from pathlib import Path
from tokenferry.outbox import SenderLock
lock = SenderLock(Path(sys.argv[2]))
print(lock.take(), flush=True)
sys.stdin.read()
"""


def test_one_process_sends_and_another_takes_over_when_it_dies(desk: Desk) -> None:
    holder = desk.python(HOLD_THE_LOCK, str(desk.path))
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    with Producer(desk.configuration) as producer:
        accepted = [producer.send(card()) for _ in range(3)]
        assert SenderLock(desk.path).holder() == holder.pid
        assert "another process is sending" in desk.command("send", "--once").stderr
        assert desk.arrived() == []
        holder.kill()
        until(lambda: desk.status()["waiting"] == 0, "the delivery by the one that waited")
    assert desk.arrived() == accepted
    holder.communicate()


FORK_HOLDING_THE_LOCK = """
import os, signal, sys
from pathlib import Path
from tokenferry.outbox import SenderLock
lock = SenderLock(Path(sys.argv[2]))
lock.take()
reader, writer = os.pipe()
if os.fork():
    os.read(reader, 1)
    if sys.argv[3] == "released":
        lock.release()
    print("forked", flush=True)
    signal.pause()
os.write(writer, b"!")  # a process of its own now, and no longer about to be one
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["released", "killed"])
def test_a_child_of_the_one_that_sent_does_not_keep_others_from_sending(desk: Desk, how: str) -> None:
    parent = desk.python(FORK_HOLDING_THE_LOCK, str(desk.path), how)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "forked\n"
    lock = SenderLock(desk.path)
    if how == "killed":
        assert not lock.take()
        parent.kill()
        parent.wait(30)
    assert lock.take()
    lock.release()
    parent.kill()
    parent.communicate(timeout=60)  # its input ends, and the child with it


def test_who_cannot_write_down_that_it_sends_sends_all_the_same(desk: Desk) -> None:
    holder = desk.python(HOLD_THE_LOCK, str(desk.path), before=no_room)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    assert SenderLock(desk.path).holder() == 0
    holder.communicate(timeout=60)


SEND_BEFORE_AND_AFTER_A_FORK = """
import os, sys
from pathlib import Path
from tokenferry import CardRequest, Producer
request = CardRequest(number="4242424242424242", exp_month=12, exp_year=2044)
outbox = None if sys.argv[2] == "outbox" else False
with Producer(Path(sys.argv[1]), outbox=outbox) as producer:
    print(producer.send(request), flush=True)
    if (child := os.fork()) == 0:
        with producer:
            try:
                producer.send(request)
            except RuntimeError as error:
                print(error, file=sys.stderr)
        with Producer(Path(sys.argv[1]), outbox=outbox) as own:
            print(own.send(request), flush=True)
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0
    print(producer.send(request))
"""


@pytest.mark.parametrize("kept", ["outbox", "none"])
def test_a_producer_belongs_to_the_process_that_made_it_and_a_forked_one_is_told_so(desk: Desk, kept: str) -> None:
    process = desk.python(SEND_BEFORE_AND_AFTER_A_FORK, kept)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "made before a fork" in err
    desk.command("send", "--once")
    assert len(out.split()) == 3
    assert set(desk.arrived()) == set(out.split())


def test_processes_that_share_an_outbox_do_not_get_into_each_others_way(desk: Desk) -> None:
    processes = [desk.python(SEND_MANY, "30") for _ in range(2)]
    said = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    returned = " ".join(out for out, _ in said).split()
    assert len(set(returned)) == 60
    desk.command("send", "--once")
    assert set(desk.arrived()) == set(returned)


class HoldingTheFile:
    """A publisher; from its first message on, another process holds the outbox."""

    def __init__(self, publisher: Publisher, path: Path) -> None:
        self._publisher = publisher
        self.process = sqlite3.connect(path, isolation_level=None)

    def submit(self, message: Outgoing, *, timeout: float | None = None) -> Future[None]:
        if not self.process.in_transaction:
            self.process.execute("BEGIN IMMEDIATE")
        return self._publisher.submit(message, timeout=5.0)


def test_a_confirmation_that_could_not_be_recorded_is_recorded_before_anything_else_is_sent(desk: Desk) -> None:
    with Outbox(desk.path) as outbox, Publisher.to(desk.configuration) as publisher:
        outbox.submit(sealed("req-1", queue=desk.queue)).result(30)
        holding = HoldingTheFile(publisher, desk.path)
        sender = sender_with(desk, holding, publish_timeout=0.1)
        until(lambda: sender.round() and sender.sent == 1, "the confirmation")
        for _ in range(3):
            sender.round()
        assert "another process holds the outbox for too long" in str(sender.trouble)
        holding.process.execute("COMMIT")
        sender.round()
        sender.close()
    assert desk.status()["confirmed"] == 1
    assert OneRedis(desk.url).client.llen(desk.queue) == 1
    OneRedis(desk.url).take(desk.queue)


# -- when there is no room


def test_a_full_outbox_takes_no_more_and_says_so(desk: Desk, dead: Configuration) -> None:
    with Outbox(desk.path, limits=OutboxLimits(rows=3)) as outbox, Producer(dead, outbox=outbox) as producer:
        for _ in range(3):
            producer.send(card())
        with pytest.raises(OutboxFull, match="max_rows is 3") as caught:
            producer.send(card(), request_id="req-4")
        assert (caught.value.request_id, caught.value.maybe_sent) == ("req-4", False)
        assert desk.status()["waiting"] == 3
    with Outbox(desk.path, limits=OutboxLimits(bytes=1000)) as outbox, pytest.raises(OutboxFull):
        outbox.submit(sealed("req-5")).result(30)


def test_a_stream_waits_for_room_instead_of_failing(desk: Desk, dead: Configuration) -> None:
    with (
        Outbox(desk.path, limits=OutboxLimits(rows=3)) as outbox,
        Producer(dead, outbox=outbox, full_pause=0.02) as producer,
    ):
        ids = producer.send_many(Order(card(), request_id=f"req-{n}") for n in range(5))
        assert [next(ids) for _ in range(3)] == ["req-0", "req-1", "req-2"]
        threading.Timer(0.1, lambda: [outbox.settled(f"req-{n}") for n in range(3)]).start()
        assert list(ids) == ["req-3", "req-4"]
        refused = producer.send_many((Order(card(), request_id=f"more-{n}") for n in range(5)), patience=0.05)
        with pytest.raises(OutboxFull) as caught:
            list(refused)
        assert caught.value.request_id == "more-1"


def test_confirmed_requests_that_nobody_here_hears_of_make_room_for_new_ones(book: OutboxStore) -> None:
    few = OutboxLimits(rows=3)
    assert book.append([sealed(f"req-{n}") for n in range(3)], now=NOW, limits=few) == [True] * 3
    book.confirm([entry.seq for entry in book.to_send(2, besides=())], now=NOW, resend_after=1)
    assert book.append([sealed(f"more-{n}") for n in range(3)], now=NOW, limits=few) == [True, True, False]
    assert [entry.message.id for entry in book.to_send(9, besides=())] == ["req-2", "more-0", "more-1"]


def test_a_full_disk_accepts_nothing_and_the_outbox_goes_on_when_there_is_room_again(desk: Desk) -> None:
    with Outbox(desk.path) as outbox:
        outbox.submit(sealed("req-1")).result(30)
        connection = outbox._store._connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        big = Outgoing("q", "x" * 50_000, {"task": "t"}, {"correlation_id": "req-2"}, expires_at=NOW)
        with pytest.raises(OutboxFull, match="the disk is full"):
            outbox.submit(big).result(30)
        connection.execute("PRAGMA max_page_count = 1000000")
        assert desk.status()["waiting"] == 1
        outbox.submit(big).result(30)
    assert desk.status()["waiting"] == 2


WRITE_UNTIL_REFUSED = """
import sys
from pathlib import Path
from tokenferry import CardRequest, OutboxFailed, Producer
producer = Producer(Path(sys.argv[1]))
try:
    for n in range(1000):
        print(producer.send(CardRequest(number="4242424242424242", exp_month=12, exp_year=2044)), flush=True)
except OutboxFailed as error:
    print(type(error).__name__, error, file=sys.stderr)
"""


def test_a_file_that_may_not_grow_is_one_typed_error_and_what_was_accepted_is_there(desk: Desk) -> None:
    process = desk.python(WRITE_UNTIL_REFUSED, before=lambda: no_room(200_000))
    out, err = process.communicate(timeout=60)
    assert "\nOutboxF" in f"\n{err}", err
    assert str(desk.path) in err
    assert NUMBER not in err
    returned = out.split()
    assert 0 < len(returned) < 1000
    desk.command("send", "--once")
    assert set(returned) <= set(desk.arrived())


# -- files that are none


def damaged(path: Path) -> None:
    with Outbox(path) as outbox:
        for n in range(200):
            outbox.submit(sealed(f"req-{n}"))
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)


def text(path: Path) -> None:
    path.write_bytes(b"number,exp_month\n" * 1000)


def anothers(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (a)")


def a_map(path: Path) -> None:
    """A GeoPackage: also one of those who say what a file is for."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA application_id = 0x47504B47")


def newer(path: Path) -> None:
    Outbox(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (text, "is not an outbox"),
        (anothers, "is another program's database"),
        (a_map, "is another program's database"),
        (newer, "format 99"),
        (Path.mkdir, "cannot be opened"),
        (damaged, "is damaged"),
    ],
    ids=["text", "another program's", "a map", "newer", "folder", "damaged"],
)
def test_a_file_that_is_no_outbox_is_refused_by_name_and_with_what_to_do_untouched(
    desk: Desk, make: Callable[[Path], object], says: str
) -> None:
    make(desk.path)
    desk.path.chmod(0o775)
    before = desk.path.read_bytes() if desk.path.is_file() else b""
    if make is not damaged:  # that shows where it is damaged
        with pytest.raises(UnusableOutbox, match=says):
            Producer(desk.configuration)
    done = desk.command("status")
    assert done.exit_code == 2
    assert says in done.stderr
    assert str(desk.path) in done.stderr
    if make is not damaged:
        assert (desk.path.read_bytes() if desk.path.is_file() else b"") == before
        assert stat.S_IMODE(desk.path.stat().st_mode) == 0o775
        assert [path.name for path in desk.folder.iterdir() if path.name.startswith("outbox.db-")] == []


def test_an_outbox_that_others_could_read_is_for_its_owner_only_once_it_is_opened(desk: Desk) -> None:
    Outbox(desk.path).close()
    desk.path.chmod(0o664)
    with Outbox(desk.path) as outbox:
        outbox.submit(sealed("req-1")).result(30)
        for end in ("", "-wal", "-shm"):
            assert stat.S_IMODE(desk.path.with_name(f"outbox.db{end}").stat().st_mode) == 0o600


OPEN_AT_ONCE = """
import sys
from pathlib import Path
from tokenferry.outbox import Outbox
print("ready", flush=True)
for folder in sys.stdin.readline().split():
    Outbox(Path(folder) / "new.db").close()
"""


def test_many_processes_may_open_an_outbox_that_is_not_there_yet(desk: Desk) -> None:
    folders = [desk.folder / str(n) for n in range(40)]
    for folder in folders:
        folder.mkdir()
    processes = [desk.python(OPEN_AT_ONCE) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(" ".join(map(str, folders)) + "\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said


def test_a_damaged_outbox_is_a_typed_error_to_whoever_sends(desk: Desk, dead: Configuration) -> None:
    damaged(desk.path)
    with pytest.raises((UnusableOutbox, OutboxFailed), match="damaged"), Producer(dead) as producer:
        producer.send(card())


def test_the_commands_say_when_no_outbox_is_configured_or_none_is_there(desk: Desk) -> None:
    done = desk.command("status")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "there is no outbox yet" in done.stderr
    config = desk.folder / "none.toml"
    config.write_text("")
    done = CliRunner().invoke(main, ["outbox", "send", "--config", str(config)])
    assert done.exit_code == 2
    assert "no outbox is configured" in done.stderr


# -- until the outcome is known


def accepted(book: OutboxStore, *messages: Outgoing, at: int = NOW) -> None:
    assert all(book.append(messages, now=at, limits=OutboxLimits()))


def confirmed(book: OutboxStore, *, at: int = NOW, resend_after: int = 600_000) -> list[str]:
    entries = book.to_send(1000, besides=())
    book.confirm([entry.seq for entry in entries], now=at, resend_after=resend_after)
    return [entry.message.id for entry in entries]


def test_a_request_is_kept_until_its_result_has_been_dealt_with(desk: Desk) -> None:
    route = f"r{secrets.token_hex(6)}"
    with Producer(desk.configuration) as producer, Results(route, desk.configuration) as results:
        ids = [producer.send(card(), reply_to=route) for _ in range(3)]
        until(lambda: desk.status()["confirmed"] == 3, "the delivery")
        for id_ in ids:
            result = TokenResult(
                outcome_id=f"o-{id_}", request_id=id_, kind="card", platform=desk.platform, token="tok_1", settled_at=1
            )
            producer.publisher.publish(
                signed(f"results.{route}", result.model_dump_json(), desk.keys.result_signing_key)
            )
        assert results.take(5).request_id == ids[0]  # type: ignore[union-attr]
        assert desk.status()["confirmed"] == 3  # it is still being dealt with
        assert results.take(5).request_id == ids[1]  # type: ignore[union-attr]
        assert desk.status()["confirmed"] == 2
    assert desk.status()["confirmed"] == 1


def test_the_outcome_of_the_same_id_in_another_group_deletes_nothing(desk: Desk) -> None:
    route = f"r{secrets.token_hex(6)}"
    settings = desk.configuration.producer.model_copy(update={"group": "shop"})
    ours = desk.configuration.model_copy(update={"producer": settings})
    with Producer(ours) as producer, Results(route, ours) as results:
        id_ = producer.send(card(), reply_to=route)
        until(lambda: desk.status()["confirmed"] == 1, "the delivery")
        for group, left in (("mail/", 1), ("", 1), ("shop/", 0)):
            result = TokenResult(
                outcome_id=f"{group}{id_}:token",
                request_id=id_,
                kind="card",
                platform=desk.platform,
                token="tok_1",
                settled_at=1,
            )
            producer.publisher.publish(
                signed(f"results.{route}", result.model_dump_json(), desk.keys.result_signing_key)
            )
            assert results.take(5) == result
            results.take(0.0)  # the one before is dealt with
            assert desk.status()["confirmed"] == left, group


def test_a_request_sent_again_after_its_result_was_dealt_with_waits_for_no_other(desk: Desk) -> None:
    route = f"r{secrets.token_hex(6)}"
    with Producer(desk.configuration) as producer, Results(route, desk.configuration) as results:
        for sending in range(2):
            producer.send(card(), request_id="req-again", reply_to=route)
            until(lambda: desk.status()["confirmed"] == 1, "the delivery")
            result = TokenResult(
                outcome_id="o", request_id="req-again", kind="card", platform=desk.platform, token="tok_1", settled_at=1
            )
            producer.publisher.publish(
                signed(f"results.{route}", result.model_dump_json(), desk.keys.result_signing_key)
            )
            assert bool(results.take(0.5)) == (sending == 0), "shown once"
            results.take(0.0)
            assert desk.status()["confirmed"] == 0


def test_an_outcome_that_is_faster_than_the_confirmation_is_not_forgotten(book: OutboxStore) -> None:
    accepted(book, sealed("req-1"))
    (entry,) = book.to_send(1, besides=())
    book.settle("req-1")
    book.confirm([entry.seq], now=NOW, resend_after=1000)
    assert book.status(now=NOW)["queues"] == {}


def test_what_waits_is_sent_in_order_and_a_queue_that_takes_no_more_holds_up_no_other(book: OutboxStore) -> None:
    accepted(book, *(sealed(f"req-{n}", queue=f"q{n % 2}") for n in range(6)))
    assert [entry.message.id for entry in book.to_send(2, besides={"q0"})] == ["req-1", "req-3"]
    assert confirmed(book) == [f"req-{n}" for n in range(6)]
    assert book.to_send(1, besides=()) == []


def test_what_comes_out_is_what_went_in(book: OutboxStore) -> None:
    message = sealed("req-1", route="onboarding")
    accepted(book, message)
    (entry,) = book.to_send(1, besides=())
    assert entry.message == message


def test_only_what_is_no_longer_in_its_queue_is_sent_again_the_oldest_first(book: OutboxStore) -> None:
    book.read_route("read", now=NOW)
    accepted(book, *(sealed(f"req-{n}", route="read") for n in range(5)), sealed("deaf", route="elsewhere"))
    confirmed(book)
    later = NOW + 600_001
    assert book.unanswered(now=NOW + 1) == {}
    assert book.unanswered(now=later) == {"tokenize.bulk.main": 5}
    assert book.send_again("tokenize.bulk.main", 5 - 7, now=later) == 0  # others wait there as well
    assert book.send_again("tokenize.bulk.main", 5 - 3, now=later) == 2
    assert confirmed(book, at=later) == ["req-0", "req-1"]


def test_each_further_send_waits_four_times_as_long(book: OutboxStore) -> None:
    book.read_route("read", now=NOW)
    accepted(book, sealed("req-1", route="read", life=300 * DAY))
    now, pauses = NOW, []
    for _ in range(5):
        book.read_route("read", now=now)
        confirmed(book, at=now)
        (due,) = book._select("SELECT due_at FROM messages", ())[0]
        pauses.append(due - now)
        assert book.send_again("tokenize.bulk.main", 1, now=due - 1) == 0
        assert book.send_again("tokenize.bulk.main", 1, now=due) == 1
        now = due
    assert pauses == [600_000 * 4**n for n in range(5)]


def sent_while_there_is_no_outcome(book: OutboxStore, *, in_their_queue: bool) -> list[int]:
    """The hours at which a hundred requests are all sent, from the first time until they are given up."""
    book.read_route("read", now=NOW)
    accepted(book, *(sealed(f"req-{n}", route="read") for n in range(100)))
    hours = []
    waiting = 0
    for now in range(NOW, NOW + 4 * DAY, 60_000):
        book.tidy(now=now, keep=HOUR, horizon=int(3.5 * DAY))
        for queue, without in book.unanswered(now=now).items():
            book.send_again(queue, without - waiting, now=now)
        if sent := confirmed(book, at=now):
            assert len(sent) == 100
            hours.append((now - NOW) // HOUR)
            waiting += 100 if in_their_queue else 0
    return hours


def test_what_waits_in_its_queue_for_workers_that_are_down_is_sent_once_more_at_half_its_life(
    book: OutboxStore,
) -> None:
    assert sent_while_there_is_no_outcome(book, in_their_queue=True) == [0, 36]


def test_what_waits_where_nobody_asks_is_sent_half_a_dozen_times_and_no_more(book: OutboxStore) -> None:
    """Parked at an open circuit, or handed on to be attached."""
    assert sent_while_there_is_no_outcome(book, in_their_queue=False) == [0, 0, 0, 3, 14, 56]


def test_a_short_life_is_not_slept_through_and_half_of_it_gone_is_reason_enough_once(book: OutboxStore) -> None:
    book.read_route("read", now=NOW)
    accepted(book, sealed("req-1", route="read", life=900_000))
    confirmed(book)
    assert book.send_again("tokenize.bulk.main", 0, now=NOW + 440_000) == 0
    assert book.send_again("tokenize.bulk.main", 0, now=NOW + 450_000) == 1
    confirmed(book, at=NOW + 450_000)
    assert book.send_again("tokenize.bulk.main", 0, now=NOW + DAY) == 0


def test_an_outcome_that_never_comes_is_counted_and_given_up_half_a_day_after_the_end(book: OutboxStore) -> None:
    tidy = {"keep": HOUR, "horizon": 300 * DAY}
    end = NOW + 3 * DAY + AFTERMATH
    accepted(book, sealed("req-1", route="read"))
    confirmed(book)
    book.read_route("read", now=end)
    assert book.tidy(now=end - 1, **tidy) == 0
    assert book.tidy(now=end, **tidy) == 1
    assert (book.status(now=end)["given_up"], book.status(now=end)["confirmed"]) == (1, 0)


def test_nothing_is_sent_again_when_workers_may_have_forgotten_its_outcome(book: OutboxStore) -> None:
    book.read_route("read", now=NOW)
    accepted(book, sealed("req-1", route="read", life=300 * DAY), sealed("new", route="read", life=300 * DAY))
    book.confirm([book.to_send(1, besides=())[0].seq], now=NOW, resend_after=1)
    book.send_again("tokenize.bulk.main", 1, now=NOW + DAY)
    assert book.tidy(now=NOW + 4 * DAY, keep=HOUR, horizon=int(3.5 * DAY)) == 1
    assert [entry.message.id for entry in book.to_send(9, besides=())] == ["new"]


def test_where_nobody_here_hears_of_outcomes_a_confirmed_request_is_kept_for_an_hour(book: OutboxStore) -> None:
    tidy = {"keep": HOUR, "horizon": 300 * DAY}
    accepted(book, sealed("silent"), sealed("elsewhere", route="elsewhere"), sealed("waits"))
    book.confirm([entry.seq for entry in book.to_send(2, besides=())], now=NOW, resend_after=1)
    assert book.unanswered(now=NOW + DAY) == {}
    book.tidy(now=NOW + HOUR - 1, **tidy)
    assert book.older(NOW) == 2
    book.tidy(now=NOW + HOUR, **tidy)
    assert book.older(NOW) == 0
    assert [entry.message.id for entry in book.to_send(9, besides=())] == ["waits"]


def test_a_route_that_nobody_has_read_for_a_week_is_not_waited_for(book: OutboxStore) -> None:
    book.read_route("read", now=NOW)
    accepted(book, sealed("req-1", route="read", life=300 * DAY))
    confirmed(book)
    assert book.unanswered(now=NOW + READ - 1) != {}
    assert book.unanswered(now=NOW + READ) == {}


def test_a_broker_that_forgets_everything_gets_it_again(desk: Desk) -> None:
    desk.resend_after = 1.0
    route = f"r{secrets.token_hex(6)}"
    with Results(route, desk.configuration), Outbox(desk.path) as outbox:
        with Producer(desk.configured(desk.url), outbox=outbox) as producer:
            ids = [producer.send(card(), reply_to=route) for _ in range(20)]
            until(lambda: desk.status()["waiting"] == 0, "the delivery")
        assert desk.arrived() == ids  # taken away by nobody who would answer
        with Publisher.to(desk.configuration) as publisher:
            sender = Sender(desk.path, publisher, desk.configuration)
            until(lambda: _swept(sender) == 20, "the second delivery", seconds=15.0)
            sender._sweep_at = 0.0
            sender.round()
            assert sender.sent == 20  # they wait in their queue: nothing is missing
            sender.close()
    assert desk.arrived() == ids


def _swept(sender: Sender) -> int:
    sender._sweep_at = 0.0
    sender.round()
    return sender.sent


def test_reconcile_sends_what_has_no_outcome_again_the_same_bytes_under_the_same_id(desk: Desk) -> None:
    with Producer(desk.configuration) as producer:
        ids = [producer.send(card()) for _ in range(3)]
        until(lambda: desk.status()["waiting"] == 0, "the delivery")
    first = OneRedis(desk.url).take(desk.queue)

    dry = desk.command("reconcile", "--older-than", "0s", "--dry-run", "--json")
    assert json.loads(dry.stdout) == {"found": 3, "dry_run": True, "left": 0, "trouble": None}
    assert desk.command("reconcile", "--older-than", "1h").stdout == "0 requests without an outcome\n"
    assert desk.arrived() == []
    with Outbox(desk.path) as outbox:
        outbox.settled(ids[0])
    done = desk.command("reconcile", "--older-than", "0s")

    assert (done.exit_code, done.stdout) == (0, "2 requests without an outcome\n")
    assert OneRedis(desk.url).take(desk.queue) == first[1:]
    assert desk.command("reconcile", "--older-than", "soon").exit_code == 2


# -- the sender


class Scripted:
    """A publisher that answers by queue, and remembers what it was asked."""

    def __init__(self, **answers: PublishError) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def submit(self, message: Outgoing, *, timeout: float | None = None) -> Future[None]:
        self.asked.append(message.id)
        future: Future[None] = Future()
        error = self.answers.get(message.queue)
        if error:
            future.set_exception(error)
        else:
            future.set_result(None)
        return future


def sender_with(
    desk: Desk,
    publisher: Scripted | HoldingTheFile,
    *,
    publish_timeout: float = 5.0,
    sender: type[Sender] = Sender,
    **collaborators: Any,
) -> Sender:
    configuration = desk.configuration
    broker = configuration.broker.model_copy(update={"publish_timeout": publish_timeout})
    configuration = configuration.model_copy(update={"broker": broker})
    return sender(desk.path, publisher, configuration, **collaborators)  # type: ignore[arg-type]


def test_a_full_queue_is_left_alone_for_a_while_and_the_others_go_on(desk: Desk) -> None:
    publisher = Scripted(full=BrokerFull("the queue full is full", maybe_sent=False))
    with Outbox(desk.path) as outbox:
        for queue in ("full", "other") * 3:
            outbox.submit(sealed(f"{queue}-{secrets.token_hex(4)}", queue=queue)).result(30)
    sender = sender_with(desk, publisher)
    assert sender.round() == 0.0
    sender.round()
    assert Counter(id_.partition("-")[0] for id_ in publisher.asked) == {"full": 3, "other": 3}
    assert desk.status()["queues"]["full"] == {"waiting": 3, "confirmed": 0}
    assert desk.status()["trouble"] == "the queue full is full"
    sender._blocked.clear()
    publisher.answers = {}
    sender.round()
    assert desk.status()["waiting"] == 0
    sender.round()
    assert desk.status()["trouble"] is None
    sender.close()


def test_a_broker_that_is_away_is_tried_again_after_ever_longer_pauses(desk: Desk) -> None:
    publisher = Scripted(q=BrokerUnavailable("the broker could not be reached", maybe_sent=False))
    with Outbox(desk.path) as outbox:
        outbox.submit(sealed("req-1", queue="q")).result(30)
    sender = sender_with(desk, publisher)
    pauses = [sender.round() for _ in range(9)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.5, 30.0)
    assert desk.status()["waiting"] == 1
    publisher.answers = {}
    assert sender.round() == 0.0
    sender.close()


def test_what_is_refused_until_half_a_day_after_its_end_is_given_up_and_makes_room(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = Scripted(gone=PublishError("the broker refused the message", maybe_sent=False))
    end = outbox_module.now_ms() - AFTERMATH
    with Outbox(desk.path, limits=OutboxLimits(rows=2)) as outbox:
        for id_, expires_at in (("past", end - 1000), ("late", end + HOUR)):
            outbox.submit(replace(sealed(id_, queue="gone"), expires_at=expires_at)).result(30)
        sender = sender_with(desk, publisher)
        sender.round()
        assert publisher.asked == ["past", "late"]  # also what has expired is tried: a worker would answer `expired`
        assert desk.status()["queues"] == {"gone": {"waiting": 1, "confirmed": 0}}
        assert desk.status()["given_up"] == 1
        assert "1 requests could not be sent" in caplog.text
        outbox.submit(sealed("new", queue="other")).result(30)
        sender.round()
        assert publisher.asked[2:] == ["new"]
        sender.close()


def test_a_sender_goes_on_when_it_cannot_write_down_what_the_trouble_is_and_writes_it_later(desk: Desk) -> None:
    """A backup, a VACUUM or a full disk, in the very moment in which the broker goes away."""
    other = sqlite3.connect(desk.path, isolation_level=None)

    class Meanwhile(Scripted):
        def submit(self, message: Outgoing, *, timeout: float | None = None) -> Future[None]:
            if not self.asked:
                other.execute("BEGIN IMMEDIATE")
            return super().submit(message, timeout=timeout)

    with Outbox(desk.path) as outbox:
        outbox.submit(sealed("req-1", queue="q")).result(30)
    publisher = Meanwhile(q=BrokerUnavailable("the broker could not be reached", maybe_sent=False))
    sender = sender_with(desk, publisher, publish_timeout=0.1)

    assert sender.round() == 0.5
    assert sender.trouble == "the broker could not be reached"
    other.execute("COMMIT")
    assert desk.status()["trouble"] is None
    sender.round()
    assert desk.status()["trouble"] == "the broker could not be reached"
    publisher.answers = {}
    sender.round()
    assert (desk.status()["trouble"], desk.status()["waiting"]) == (None, 0)
    sender.close()


def test_a_sender_outlives_an_embedded_server_whose_files_cannot_be_used(desk: Desk) -> None:
    def fail(_: Configuration) -> None:
        raise PermissionError(13, "Permission denied")

    publisher = Scripted(q=BrokerUnavailable("the broker could not be reached", maybe_sent=False))
    with Outbox(desk.path) as outbox:
        outbox.submit(sealed("req-1", queue="q")).result(30)
    sender = sender_with(desk, publisher, keep_server=fail)
    assert sender.round() == 0.5
    assert sender.trouble == "the broker could not be reached"
    sender.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_sender_that_ends_however_lets_another_one_send(desk: Desk) -> None:
    class Ending(Sender):
        def round(self) -> float:
            assert not SenderLock(desk.path).take()
            raise SystemError

    sender = sender_with(desk, Scripted(), sender=Ending)
    sender.start()
    assert sender._thread is not None
    sender._thread.join(30)
    assert SenderLock(desk.path).take()


# -- the command line


def test_status_says_what_waits_since_when_and_why(desk: Desk, dead: Configuration) -> None:
    with Producer(dead) as producer:
        producer.send(card())
        until(lambda: desk.status()["trouble"], "the first failed try")
        done = desk.command("status")
        assert f"sender: process {os.getpid()}" in done.stdout
    assert done.exit_code == 0
    assert "1 to be sent, 0 with the broker" in done.stdout
    assert "the broker could not be reached" in done.stdout
    assert desk.queue in done.stdout
    found = json.loads(desk.command("status", "--json").stdout)
    assert (found["waiting"], found["sender"], found["queues"]) == (
        1,
        None,
        {desk.queue: {"waiting": 1, "confirmed": 0}},
    )


def test_send_once_ends_with_1_while_the_broker_is_away(desk: Desk, dead: Configuration) -> None:
    with Producer(dead) as producer:
        producer.send(card())
    desk.url = dead.broker.url
    done = desk.command("send", "--once", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["left"] == 1
    assert "could not be reached" in done.stderr


SEND_FOR_EVER = """
import sys
from tokenferry.cli import main
main(["outbox", "send", "--config", sys.argv[1], "--json"])
"""


def test_send_delivers_what_comes_later_until_it_is_stopped(desk: Desk) -> None:
    daemon = desk.python(SEND_FOR_EVER)
    lock = SenderLock(desk.path)
    until(lambda: lock.path.exists() and lock.holder() == daemon.pid, "a sender")
    with Producer(desk.configuration) as producer:
        ids = [producer.send(card()) for _ in range(10)]
    until(lambda: desk.status()["waiting"] == 0, "the delivery by the daemon")
    daemon.send_signal(signal.SIGTERM)
    out, err = daemon.communicate(timeout=60)
    assert (daemon.returncode, json.loads(out)["sent"]) == (0, 10), err
    assert desk.arrived() == ids


def test_no_command_repeats_a_value(desk: Desk, dead: Configuration) -> None:
    with Producer(dead) as producer:
        for request in cargo.one_of_every_kind():
            try:
                producer.send(request, timeout=3.0)
            except BrokerUnavailable:
                assert request.carries_cvc
    everything = desk.command("status").output + desk.command("status", "--json").output
    for secret in (NUMBER, "000123456789", "222222222", "Quagmire"):
        assert secret not in everything
