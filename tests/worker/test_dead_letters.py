"""What was given up on is found again, sent on its way again, or dropped; and on none of these ways it is lost."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import amqp
import forking
import pytest
from amqp.exceptions import AMQPError
from click.testing import CliRunner, Result
from conftest import KeyFolder, generated
from e2e.brokers import RabbitMQ
from e2e.house import until
from kombu import Connection
from redis import Redis

from tokenferry import CardRequest, Order, onboarding_from
from tokenferry.broker import connecting, queue_browser
from tokenferry.broker.embedded import Embedded
from tokenferry.broker.publishing import Outgoing, Publisher, PublishError
from tokenferry.broker.queue_browser import QueueBrowser, QueuedMessage
from tokenferry.cli import main
from tokenferry.configuration import Configuration, InvalidConfiguration, load
from tokenferry.contract.attach import AttachRequest, SignedAttach
from tokenferry.contract.envelope import Envelope, Header, signed_bytes
from tokenferry.contract.queues import DEAD_LETTERS, QUARANTINE
from tokenferry.contract.results import Failure, TokenResult
from tokenferry.contract.targets import Charge, CustomerCreate
from tokenferry.key_ring import KeyRing
from tokenferry.producer import Sealer
from tokenferry.sealing import Recipient, Signer, id_in, same_key, seal, sign_attach
from tokenferry_worker.commands.choosing import BrokerAccess
from tokenferry_worker.commands.dead_letters import dead_letters
from tokenferry_worker.commands.store import store as store_command
from tokenferry_worker.dead_letters.expiry import ExpirySweeper
from tokenferry_worker.dead_letters.record import FOREIGN, DeadLetter, DeadLetterFilter
from tokenferry_worker.dead_letters.retention import retained
from tokenferry_worker.keys.identities import Signers, load_identities
from tokenferry_worker.keys.opening import Opener, read_attach
from tokenferry_worker.on_redis.journal import RedisJournal
from tokenferry_worker.on_redis.store import Store

from .standins import MemoryCircuits, stores_clock

DATABASE = 9
NUMBER = "4242424242424242"
HOUR = 3600.0


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    broker = RabbitMQ(tmp_path_factory.mktemp("rabbit") / "data")
    yield broker
    broker.close()


class Office:
    """A broker of one's own, and whatever somebody needs to look after what was set aside there."""

    def __init__(self, folder: Path, keys: KeyFolder, broker: str, store: str) -> None:
        self.toml = folder / "tokenferry.toml"
        self.toml.write_text(
            f"""
[broker]
url = "{broker}"
publish_timeout = 30.0
[store]
url = "{store}"
prefix = "test-office"
[keys]
recipient = "{keys.recipient}"
producer_signing_key = "{keys.producer}"
identities = "{keys.identities}"
worker_signing_key = "{keys.worker}"
signers = "{keys.signers}"
[platforms.main]
[platforms.other]
"""
        )
        self.configuration: Configuration = load(self.toml)
        self.amqp = connecting.is_amqp(broker)
        self.publisher = Publisher.to(self.configuration)
        self.sealer = Sealer(self.configuration)

    def empty(self) -> None:
        with Redis.from_url(self.configuration.store.url) as store:
            store.flushdb()
        for queue in (
            DEAD_LETTERS,
            QUARANTINE,
            "tokenize.bulk.main",
            "tokenize.bulk.other",
            "attach.bulk.main",
            "onboard.main",
        ):
            self.take(queue)

    def close(self) -> None:
        self.publisher.close()

    # -- what rests there

    def sealed(self, id_: str, *, keep: float = HOUR, **options: Any) -> str:
        request = options.pop("request", None) or CardRequest(number=NUMBER, exp_month=12, exp_year=2044)
        order = Order(request, request_id=id_, keep_seconds=keep, **{"platform": "main", **options})
        return str(json.loads(self.sealer.message(order)[1].body)[0][0])

    def onboarding(self) -> tuple[str, str]:
        """A sealed document: its request id and the envelope."""
        document = {
            "reference": "seller-1",
            "account": {"country": "US", "type": "custom", "metadata": {"own": "7"}},
            "persons": [
                {"reference": "p1", "person": {"first_name": "Ada", "last_name": "L", "id_number": "111111111"}}
            ],
        }
        _, id_, message = self.sealer.onboarding_message(onboarding_from(document), platform="main", reply_to="shop")
        return id_, json.loads(message.body)[0][0]

    def order(self, id_: str, *, keep: float = HOUR, sealed: str | None = None) -> str:
        """An order to spend a token, signed by a worker, with the request it was made of where given."""
        signer = Signer.load(self.configuration.path(self.configuration.keys.worker_signing_key))
        now = int(time.time() * 1000)
        request = AttachRequest(
            attach_id=id_,
            request_id=id_,
            token="tok_1",
            kind="card",
            platform="main",
            target=CustomerCreate(email="ada@example.com"),
            token_created_at=now,
            attach_before=now + int(keep * 1000),
            signer_id=signer.signer_id,
            sealed=sealed,
        )
        return sign_attach(request, signer).model_dump_json()

    def lay(
        self, id_: str, code: str = "attempts_exhausted", *, ago: float = 0.0, body: str = "", **options: Any
    ) -> None:
        """Put a dead letter into its queue, as a worker did so many seconds *ago*."""
        at = time.time() - ago
        history = [{"at": int(at * 1000), "status": 503, "code": "api_error"}]
        known = {"outcome_id": f"{id_}:token", "attempts": 5, "history": history}
        self.put(DEAD_LETTERS, retained(body or self.sealed(id_, **options), code, at=at, **known))

    def put(self, queue: str, body: str) -> None:
        self.publisher.publish(Outgoing(queue, body))

    def resting(self, queue: str = DEAD_LETTERS) -> list[str | None]:
        """The ids of what rests there, as any number of looks find them."""
        with queue_browser.open_browser(self.configuration, queue) as browser:
            return [DeadLetter.read(item.body).id for item in browser]

    def bodies(self, queue: str) -> list[str]:
        """What rests there, word by word."""
        with queue_browser.open_browser(self.configuration, queue) as browser:
            return [item.body for item in browser]

    def take(self, queue: str) -> list[str]:
        """Everything in *queue*, for good."""
        with queue_browser.open_browser(self.configuration, queue) as browser:
            return [item.body for item in browser if browser.remove(item)]

    def on_their_way(self, queue: str = "tokenize.bulk.main") -> list[str]:
        """The envelopes in a work queue, taken out of it."""
        return [json.loads(body)[0][0] for body in self.take(queue)]

    def run(self, *arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(dead_letters, [*arguments, "--config", str(self.toml)], **options)

    def lines(self, *arguments: str) -> list[dict[str, Any]]:
        answer = self.run("list", "--json", *arguments)
        assert answer.exit_code == 0, answer.output
        return [json.loads(line) for line in answer.output.splitlines()]

    def journal(self, id_: str, outcome: TokenResult, subject: str = "request") -> None:
        """As a worker has recorded it."""
        self._ask(subject, lambda journal: journal.record(id_, outcome.model_dump_json(exclude_none=True)))

    def known(self, id_: str, subject: str = "request") -> Any:
        return self._ask(subject, lambda journal: journal.begin(id_))

    def _ask(self, subject: str, ask: Callable[[RedisJournal], Any]) -> Any:
        async def run() -> Any:
            store = Store.at(self.configuration.store.url, "test-office")
            try:
                return await ask(RedisJournal(store, subject, days=1))
            finally:
                await store.aclose()

        return asyncio.run(run())


@dataclass(frozen=True)
class Refusing:
    """A publisher whose broker takes nothing."""

    error: PublishError

    def submit(self, message: Outgoing, *, timeout: float | None = None) -> Future[None]:
        refused: Future[None] = Future()
        refused.set_exception(self.error)
        return refused


class CountingSweeper(ExpirySweeper):
    """A sweeper that notes how many it dropped of each queue."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.swept: dict[str, int] = {}
        self.both = threading.Event()

    def sweep(self, queue: str, now: float) -> int:
        assert queue not in self.swept
        self.swept[queue] = super().sweep(queue, now)
        if len(self.swept) == 2:
            self.both.set()
        return self.swept[queue]


def hiccup(rabbit: RabbitMQ, queue: str = DEAD_LETTERS) -> None:
    """Let *queue* be silent for a moment, from now on."""
    rabbit.stop_queue(queue)
    threading.Thread(target=rabbit.start_queue, args=(queue,)).start()


@pytest.fixture(params=["valkey", "rabbitmq"])
def office(request: pytest.FixtureRequest, valkey: Embedded, tmp_path: Path, key_folder: KeyFolder) -> Iterator[Office]:
    store = valkey.database(DATABASE).redis_url
    broker = request.getfixturevalue("rabbit").url if request.param == "rabbitmq" else store
    office = Office(tmp_path, key_folder, broker, store)
    office.empty()
    yield office
    office.empty()
    office.close()


@pytest.fixture
def here(valkey: Embedded, tmp_path: Path, key_folder: KeyFolder) -> Iterator[Office]:
    """An office on the private Valkey, for what has nothing to do with the broker."""
    url = valkey.database(DATABASE).redis_url
    office = Office(tmp_path, key_folder, url, url)
    office.empty()
    yield office
    office.empty()
    office.close()


def failed(code: str = "attempts_exhausted", *, source: Any = "tokenferry", status: int | None = 503) -> TokenResult:
    failure = Failure(code=code, source=source, status=status)
    return TokenResult(
        outcome_id="req-1:token", request_id="req-1", kind="card", platform="main", settled_at=1, failure=failure
    )


def made() -> TokenResult:
    return TokenResult(
        outcome_id="req-1:token", request_id="req-1", kind="card", platform="main", settled_at=1, token="tok_1"
    )


# -- what a note says


class TestNotes:
    def test_a_dead_letter_is_understood_by_its_clear_header(self, here: Office) -> None:
        here.lay("req-1", ago=HOUR, reply_to="shop")
        (line,) = here.lines()
        assert (line["id"], line["kind"], line["platform"], line["lane"]) == ("req-1", "card", "main", "bulk")
        assert (line["code"], line["attempts"], line["reply_to"]) == ("attempts_exhausted", 5, "shop")
        assert line["age_seconds"] >= HOUR
        assert line["ends"] is not None

    @pytest.mark.parametrize(
        "body",
        [
            "",
            "garbage",
            "[]",
            "{}",
            "null",
            '"text"',
            "[" * 5000,
            json.dumps({"message": 1}),
            json.dumps({"reason": NUMBER, "at": "yesterday", "attempts": "x", "history": 3, "message": NUMBER}),
            json.dumps({"reason": "\x1b[2J", "at": 1e99, "history": [{"at": 1, "code": NUMBER}, 3], "message": "[1]"}),
            json.dumps(
                {
                    "reason": "a",
                    "attempts": int(NUMBER),
                    "outcome_id": f"x:{NUMBER}",
                    "history": [{"at": int(NUMBER), "code": "a"}, {"at": 1, "status": int(NUMBER), "code": "a"}],
                    "message": "",
                }
            ),
            json.dumps({"reason": "a", "at": -1, "header": {"request_id": NUMBER}, "message": ""}),
        ],
    )
    def test_whatever_somebody_wrote_there_is_listed_without_repeating_it(self, here: Office, body: str) -> None:
        letter = DeadLetter.read(body)
        assert (letter.id, letter.platform, letter.at) == (None, None, None)
        here.put(QUARANTINE, body)
        for arguments in (("list", "--quarantine"), ("list", "--quarantine", "--json")):
            answer = here.run(*arguments)
            assert answer.exit_code == 0, answer.output
            assert NUMBER not in answer.output
            assert "\x1b" not in answer.output

    def test_a_message_that_the_broker_moved_by_itself_is_understood_too(self, here: Office) -> None:
        sealed = here.sealed("req-1")
        letter = DeadLetter.read(json.dumps([[sealed], {}, {"callbacks": None}]))
        assert (letter.id, letter.reason, letter.message, letter.at) == ("req-1", FOREIGN, sealed, None)

    def test_everything_that_is_said_must_fit(self, here: Office) -> None:
        letter = DeadLetter.read(retained(here.sealed("req-1"), "attempts_exhausted", at=time.time()))
        now = time.time()
        assert DeadLetterFilter(ids=["req-1"], platform="main", code="attempts_exhausted", kind="card").matches(
            letter, now
        )
        for wanted in (
            DeadLetterFilter(ids=["req-2"]),
            DeadLetterFilter(platform="other"),
            DeadLetterFilter(code="unopenable"),
            DeadLetterFilter(kind="pii", platform="main"),
            DeadLetterFilter(older_than=60.0),
        ):
            assert not wanted.matches(letter, now)
        assert DeadLetterFilter(older_than=60.0).matches(letter, now + 61.0)

    def test_what_nobody_has_dated_yet_is_not_old(self, here: Office) -> None:
        """The broker itself has moved it, perhaps a second ago."""
        letter = DeadLetter.read(json.dumps([[here.sealed("req-1")], {}, {"callbacks": None}]))
        assert letter.at is None
        assert not DeadLetterFilter(older_than=60.0).matches(letter, time.time())
        assert DeadLetterFilter(ids=["req-1"]).matches(letter, time.time())

    @pytest.mark.parametrize("words", ["redrive", "redrive --dry-run", "purge --yes", "purge --dry-run"])
    def test_an_id_that_is_not_there_is_said_and_ends_with_1(self, here: Office, words: str) -> None:
        here.put(DEAD_LETTERS, retained(here.sealed("req-1"), "attempts_exhausted", at=time.time()))
        answer = here.run(*words.split(), "--id", "req-l")
        assert answer.exit_code == 1
        assert "none of the dead letters has it" in answer.output
        assert [each["id"] for each in here.lines()] == ["req-1"]


# -- the journal forgets that it had given up


@pytest.mark.anyio
class TestReopening:
    @pytest.fixture
    def journal(self, store: Store) -> RedisJournal:
        return RedisJournal(store, "request", days=1)

    async def record(self, journal: RedisJournal, result: TokenResult) -> TokenResult:
        told = await journal.record("req-1", result.model_dump_json(exclude_none=True))
        return TokenResult.model_validate_json(told)

    async def test_what_was_given_up_on_begins_once_more_and_its_next_outcome_has_an_id_of_its_own(
        self, journal: RedisJournal
    ) -> None:
        for _ in range(4):
            await journal.begin("req-1")
        assert (await self.record(journal, failed())).outcome_id == "req-1:token"
        assert await journal.reopen("req-1", told=1) == "open"
        begun = await journal.begin("req-1")
        assert (begun.deliveries, begun.outcome) == (1, None)
        assert (await self.record(journal, made())).outcome_id == "req-1:token:2"
        again = (await journal.begin("req-1")).outcome
        assert again is not None
        assert TokenResult.model_validate_json(again).outcome_id == "req-1:token:2", "told the same, however often"

    @pytest.mark.parametrize("result", [made(), failed("card_declined", source="endpoint", status=402)])
    async def test_what_the_endpoint_has_decided_stays(self, journal: RedisJournal, result: TokenResult) -> None:
        await self.record(journal, result)
        assert await journal.reopen("req-1", told=1) == "done"
        begun = await journal.begin("req-1")
        assert begun.outcome is not None
        assert TokenResult.model_validate_json(begun.outcome) == result

    async def test_asked_twice_it_opens_one_round(self, journal: RedisJournal) -> None:
        await self.record(journal, failed(status=500))
        for _ in range(3):
            assert await journal.reopen("req-1", told=1) == "open"
        assert (await journal.begin("req-1")).epoch == 1
        assert (await self.record(journal, failed())).outcome_id == "req-1:token:2"
        await journal.reopen("req-1", told=1)  # an old copy of the first letter, found after the second failure
        assert (await self.record(journal, failed())).outcome_id == "req-1:token:3"

    async def test_a_slow_twin_of_an_earlier_round_is_heard_in_this_one(self, journal: RedisJournal) -> None:
        await self.record(journal, failed())
        await journal.reopen("req-1", told=1)
        assert (await self.record(journal, made())).outcome_id == "req-1:token:2"  # the twin's word
        assert (await self.record(journal, failed())).token == "tok_1", "the redriven delivery repeats it"

    async def test_a_journal_that_has_forgotten_the_request_does_not_reuse_an_outcome_id(
        self, journal: RedisJournal
    ) -> None:
        assert await journal.reopen("req-1", told=2) == "open"
        assert (await self.record(journal, made())).outcome_id == "req-1:token:3"

    async def test_one_that_nobody_has_been_told_of_is_in_its_first_round(self, journal: RedisJournal) -> None:
        await journal.begin("req-1")
        assert await journal.reopen("req-1", told=0) == "open"
        assert (await self.record(journal, made())).outcome_id == "req-1:token"

    @pytest.mark.parametrize(("status", "epoch"), [(500, 1), (503, 0), (None, 0)])
    async def test_only_a_stored_500_gets_a_new_key_because_it_would_be_repeated_for_ever(
        self, journal: RedisJournal, status: int | None, epoch: int
    ) -> None:
        await self.record(journal, failed(status=status))
        await journal.reopen("req-1", told=1)
        assert (await journal.begin("req-1")).epoch == epoch


# -- looking through a queue


class TestShelves:
    def test_looking_takes_nothing_away_however_often(self, office: Office) -> None:
        for n in range(3):
            office.lay(f"req-{n}")
        for _ in range(3):
            assert sorted(map(str, office.resting())) == ["req-0", "req-1", "req-2"]

    def test_the_oldest_come_first_and_only_what_is_removed_is_gone(self, office: Office) -> None:
        ids = [f"req-{n}" for n in range(450)]
        body = retained(office.sealed("req-x"), "unopenable", at=time.time())
        sent = [office.publisher.submit(Outgoing(DEAD_LETTERS, body.replace("req-x", id_)), timeout=90) for id_ in ids]
        for future in sent:
            future.result(90)
        with queue_browser.open_browser(office.configuration, DEAD_LETTERS) as browser:
            seen = []
            for n, item in enumerate(browser):
                seen.append(json.loads(json.loads(item.body)["message"])["header"]["request_id"])
                if n % 3:
                    assert browser.remove(item)
        assert seen == ids
        left = [json.loads(json.loads(body)["message"])["header"]["request_id"] for body in office.take(DEAD_LETTERS)]
        assert sorted(left) == sorted(ids[::3])

    def test_what_is_too_long_to_be_ours_is_not_read_and_can_be_removed(self, office: Office) -> None:
        """An older version has put whole foreign bodies there, and whoever may write to it still can."""
        office.lay("req-1")
        office.put(DEAD_LETTERS, "x" * 3_000_000)
        office.lay("req-2", body=office.sealed("req-2") + " " * 200_000)
        bodies = office.bodies(DEAD_LETTERS)
        assert len(bodies[1]) < 200
        assert DeadLetter.read(bodies[1]).id is None
        assert office.resting() == ["req-1", None, "req-2"]
        with queue_browser.open_browser(office.configuration, DEAD_LETTERS) as browser:
            assert all([browser.remove(item) for item in browser])
        assert office.resting() == []

    def test_what_comes_while_somebody_looks_waits_for_the_next_look(self, office: Office) -> None:
        office.lay("req-1")
        with queue_browser.open_browser(office.configuration, DEAD_LETTERS) as browser:
            for item in browser:
                office.lay("req-2")  # as a redriven request does that fails again at once
                browser.remove(item)
        assert office.resting() == ["req-2"]

    def test_whoever_fails_in_the_middle_leaves_the_rest_where_it_was(self, office: Office) -> None:
        for n in range(3):
            office.lay(f"req-{n}")

        def fail() -> None:
            with queue_browser.open_browser(office.configuration, DEAD_LETTERS) as browser:
                for item in browser:
                    browser.remove(item)
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fail()
        assert set(office.resting()) >= {"req-1", "req-2"}

    def test_a_queue_that_is_not_there_is_empty_and_is_not_made(self, office: Office) -> None:
        with queue_browser.open_browser(office.configuration, "not-there") as browser:
            assert list(browser) == []
        if office.amqp:
            with Connection(office.configuration.broker.url) as connection, pytest.raises(Exception, match="404"):
                connection.default_channel.queue_declare("not-there", passive=True)

    def test_a_look_right_after_another_sees_everything_in_its_order(self, office: Office) -> None:
        ids = [f"req-{n}" for n in range(5)]
        for id_ in ids:
            office.lay(id_)
        assert [office.resting() for _ in range(30)] == [ids] * 30

    def test_a_look_that_lasts_holds_nothing_for_longer_than_the_broker_allows(self, office: Office) -> None:
        for n in range(6):
            office.lay(f"req-{n}")
        seen = []
        given_back_after_each = 0.0
        with queue_browser.open_browser(office.configuration, DEAD_LETTERS, held_for=given_back_after_each) as browser:
            for item in browser:
                seen.append(DeadLetter.read(item.body).id)
                if len(seen) % 2:
                    assert browser.remove(item)
                    office.lay(f"late-{len(seen)}")
        assert seen == [f"req-{n}" for n in range(6)], "each once, and nothing that came meanwhile"
        assert office.resting() == ["req-1", "req-3", "req-5", "late-1", "late-3", "late-5"]

    def test_a_removal_that_the_broker_refuses_is_not_taken_for_done(
        self, rabbit: RabbitMQ, tmp_path: Path, valkey: Embedded, key_folder: KeyFolder
    ) -> None:
        office = Office(tmp_path, key_folder, rabbit.url, valkey.database(DATABASE).redis_url)
        office.empty()
        office.lay("req-1")

        def remove() -> None:
            with queue_browser.open_browser(office.configuration, DEAD_LETTERS) as browser:
                (item,) = browser
                channel, tag = item.handle
                browser.remove(QueuedMessage(item.body, (channel, tag + 1)))

        with pytest.raises(AMQPError, match="unknown delivery tag"):
            remove()
        until(lambda: office.resting() == ["req-1"], "the broker to give it back")
        office.empty()
        office.close()

    def test_what_two_find_at_once_is_removed_once(self, here: Office) -> None:
        here.lay("req-1")
        with (
            queue_browser.open_browser(here.configuration, DEAD_LETTERS) as one,
            queue_browser.open_browser(here.configuration, DEAD_LETTERS) as two,
        ):
            (mine,), (theirs,) = list(one), list(two)
            assert (one.remove(mine), two.remove(theirs)) == (True, False)


class TestHiccups:
    """RabbitMQ ends the connection of whoever wants a message from a queue that is busy or electing a leader (541)."""

    @pytest.fixture
    def office(self, rabbit: RabbitMQ, valkey: Embedded, tmp_path: Path, key_folder: KeyFolder) -> Iterator[Office]:
        office = Office(tmp_path, key_folder, rabbit.url, valkey.database(DATABASE).redis_url)
        office.empty()
        yield office
        office.empty()
        office.close()

    @pytest.mark.parametrize("trouble", [hiccup, RabbitMQ.cut])
    def test_a_look_that_is_interrupted_shows_each_once_and_removes_what_it_was_told(
        self, office: Office, rabbit: RabbitMQ, trouble: Callable[[RabbitMQ], object]
    ) -> None:
        ids = [f"req-{n}" for n in range(12)]
        for id_ in ids:
            office.lay(id_)
        seen = []
        with queue_browser.open_browser(office.configuration, DEAD_LETTERS) as browser:
            for n, item in enumerate(browser):
                seen.append(DeadLetter.read(item.body).id)
                if n % 4 == 1:
                    trouble(rabbit)
                if n % 2:
                    assert browser.remove(item)
                    if n % 4 == 3:
                        trouble(rabbit)
        assert sorted(map(str, seen)) == sorted(ids)
        until(lambda: sorted(map(str, office.resting())) == sorted(ids[::2]), "the rest, given back")

    def test_a_message_that_came_back_is_not_taken_for_another_one(self, office: Office, rabbit: RabbitMQ) -> None:
        for n in range(3):
            office.lay(f"req-{n}")
        with queue_browser.open_browser(office.configuration, DEAD_LETTERS) as browser:
            items = iter(browser)
            next(items)
            second = next(items)
            rabbit.cut()
            third = next(items)  # over another connection, where delivery tags count from 1 again
            assert DeadLetter.read(third.body).id == "req-2"
            assert browser.remove(second)
        assert set(office.resting()) == {"req-0", "req-2"}

    @pytest.mark.parametrize("command", [("list",), ("redrive", "--all"), ("purge", "--all", "--yes")])
    def test_a_command_asks_again_and_says_nothing_of_it(
        self, office: Office, rabbit: RabbitMQ, command: tuple[str, ...]
    ) -> None:
        for n in range(3):
            office.lay(f"req-{n}")
        hiccup(rabbit)
        answer = office.run(*command)
        assert answer.exit_code == 0, answer.output
        assert ("3 redriven" in answer.output) or ("3 dead letters" in answer.output)
        assert answer.stderr == ""

    def test_a_sweep_survives_too(self, office: Office, rabbit: RabbitMQ) -> None:
        for n in range(3):
            office.lay(f"req-{n}", ago=400 * 86_400)
        hiccup(rabbit)
        sweeper = ExpirySweeper(office.configuration, office.publisher, MemoryCircuits(), stores_clock)
        assert sweeper.sweep(DEAD_LETTERS, time.time()) == 3
        assert office.resting() == []

    def test_patience_ends_and_says_what_to_do(self, office: Office, rabbit: RabbitMQ) -> None:
        office.lay("req-1")
        rabbit.stop_queue(DEAD_LETTERS)
        answer = office.run("list", obj=BrokerAccess(partial(queue_browser.open_browser, patience=0.5)))
        rabbit.start_queue(DEAD_LETTERS)
        assert (answer.exit_code, answer.stdout) == (1, "")
        assert answer.stderr == (
            "Error: RabbitMQ could not answer for the queue dead-letters (541): it is busy or electing a leader; "
            "try again; nothing is lost\n"
        )
        until(lambda: office.resting() == ["req-1"], "the letter, where it was")

    def test_who_may_not_read_the_queue_is_not_told_that_it_is_empty(self, office: Office, rabbit: RabbitMQ) -> None:
        office.lay("req-1")
        rabbit.control("set_permissions", "-p", rabbit.vhost, "guest", ".*", ".*", "nothing")
        try:
            answer = office.run("list")
        finally:
            rabbit.control("set_permissions", "-p", rabbit.vhost, "guest", ".*", ".*", ".*")
        assert answer.exit_code == 1
        assert "does not allow this user to use the queue dead-letters" in answer.stderr


# -- nothing is kept for ever


class TestSweeping:
    @pytest.fixture
    def sweeper(self, office: Office) -> ExpirySweeper:
        return ExpirySweeper(office.configuration, office.publisher, MemoryCircuits(), stores_clock)

    def test_what_is_older_than_its_days_is_dropped_and_the_rest_stays(
        self, office: Office, sweeper: ExpirySweeper
    ) -> None:
        day = 86_400.0
        for id_, ago in (("req-1", 15 * day), ("req-2", 14 * day + 1), ("req-3", 13 * day), ("req-4", 0.0)):
            office.lay(id_, ago=ago)
        assert sweeper.sweep(DEAD_LETTERS, time.time()) == 2
        assert sweeper.sweep(DEAD_LETTERS, time.time()) == 0
        assert office.resting() == ["req-3", "req-4"]

    def test_what_nobody_has_dated_is_dated_and_ends_in_its_turn(self, office: Office, sweeper: ExpirySweeper) -> None:
        sealed = office.sealed("req-1")
        office.put(DEAD_LETTERS, json.dumps([[sealed], {}, {}]))
        assert sweeper.sweep(DEAD_LETTERS, time.time()) == 0
        (body,) = office.take(DEAD_LETTERS)
        letter = DeadLetter.read(body)
        assert (letter.id, letter.message, letter.reason) == ("req-1", sealed, FOREIGN)
        assert letter.at is not None
        assert abs(letter.at / 1000 - time.time()) < 60

    def test_a_date_in_the_future_holds_up_nothing(self, office: Office, sweeper: ExpirySweeper) -> None:
        office.lay("req-1", ago=-365 * 86_400.0)
        office.lay("req-2", ago=15 * 86_400.0)
        assert sweeper.sweep(DEAD_LETTERS, time.time()) == 1
        (body,) = office.take(DEAD_LETTERS)
        assert abs((DeadLetter.read(body).at or 0) / 1000 - time.time()) < 60

    @pytest.mark.anyio
    @pytest.mark.parametrize("days", [15, -15], ids=["forward", "back"])
    async def test_a_wall_clock_that_is_wrong_drops_nothing_and_changes_nothing(self, here: Office, days: int) -> None:
        """The store's clock, by which workers date what they set aside, is *days* behind the one of this machine."""
        behind = days * 86_400.0

        async def stores_clock() -> float:
            return time.time() - behind

        here.lay("req-1", ago=behind)
        here.put(QUARANTINE, retained(here.sealed("cvc-1", lane="realtime"), "not ours", at=await stores_clock()))
        before = [here.bodies(queue) for queue in (DEAD_LETTERS, QUARANTINE)]
        sweeper = CountingSweeper(here.configuration, here.publisher, MemoryCircuits(), stores_clock)
        working = asyncio.create_task(sweeper.run())
        await asyncio.to_thread(sweeper.both.wait, 30)
        working.cancel()
        assert sweeper.swept == {DEAD_LETTERS: 0, QUARANTINE: 0}
        assert [here.bodies(queue) for queue in (DEAD_LETTERS, QUARANTINE)] == before

    def test_one_that_cannot_be_dated_ends_no_sweep(self, office: Office) -> None:
        office.put(DEAD_LETTERS, json.dumps([[office.sealed("req-1")], {}, {}]))
        office.lay("req-2", ago=15 * 86_400.0)
        refusing = Refusing(PublishError("too large", maybe_sent=False))
        sweeper = ExpirySweeper(office.configuration, refusing, MemoryCircuits(), stores_clock)
        assert sweeper.sweep(DEAD_LETTERS, time.time()) == 1
        assert office.resting() == ["req-1"]

    def test_there_may_be_nothing_at_all(self, sweeper: ExpirySweeper) -> None:
        assert sweeper.sweep(QUARANTINE, time.time()) == 0

    @pytest.mark.anyio
    async def test_of_many_processes_one_sweeps(self, here: Office) -> None:
        circuits = MemoryCircuits()
        sweepers = [CountingSweeper(here.configuration, here.publisher, circuits, stores_clock) for _ in range(5)]
        tasks = [asyncio.create_task(sweeper.run()) for sweeper in sweepers]
        async with asyncio.timeout(30):
            while not any(sweeper.both.is_set() for sweeper in sweepers):
                await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert [set(sweeper.swept) for sweeper in sweepers if sweeper.swept] == [{DEAD_LETTERS, QUARANTINE}]


# -- the commands


class TestCommands:
    def test_the_list_tells_them_apart_and_counts_them_by_code(self, office: Office) -> None:
        office.lay("req-1", "attempts_exhausted", ago=3 * HOUR)
        office.lay("req-2", "unopenable", platform="other")
        office.lay("order-1", "outcome_unknown", body=office.order("order-1"))
        answer = office.run("list")
        assert answer.exit_code == 0, answer.output
        assert "3h" in answer.output
        assert "3 dead letters (1 attempts_exhausted, 1 unopenable, 1 outcome_unknown)" in answer.output
        assert [line["id"] for line in office.lines("--platform", "other")] == ["req-2"]
        assert [line["id"] for line in office.lines("--code", "outcome_unknown")] == ["order-1"]
        assert [line["id"] for line in office.lines("--older-than", "2h")] == ["req-1"]
        assert [line["id"] for line in office.lines("--id", "req-2", "--id", "req-1")] == ["req-1", "req-2"]
        assert len(office.lines("--limit", "2")) == 2
        assert office.lines("--quarantine") == []
        assert "no dead letters" in office.run("list", "--platform", "nobody").output

    def test_an_id_is_listed_in_full_whatever_the_width_of_the_window(self, here: Office) -> None:
        id_ = "req-" + "0123456789abcdef" * 3
        here.lay(id_, platform="other", reply_to="shop")
        for columns in ("40", "80", ""):
            first, *_ = here.run("list", env={"COLUMNS": columns}).output.splitlines()[1:]
            assert first.split()[:4] == [id_, "card", "other", "bulk"]

    def test_show_tells_every_attempt_and_nothing_that_is_sealed(self, here: Office) -> None:
        here.lay("req-1", reply_to="shop")
        here.lay("order-1", "outcome_unknown", body=here.order("order-1"))
        ciphertext = json.loads(here.sealed("req-1"))["ciphertext"][:8]
        answer = here.run("show", "req-1")
        assert answer.exit_code == 0, answer.output
        assert "503  api_error" in answer.output
        assert "reply_to:" in answer.output
        assert ciphertext not in answer.output
        assert json.loads(here.run("show", "req-1", "--json").output)["header"]["request_id"] == "req-1"
        order = here.run("show", "order-1", "--json").output
        assert json.loads(order)["sealed"] is None
        assert "ada@example.com" not in order
        assert here.run("show", "nobody").exit_code == 1

    def test_redriven_it_goes_to_its_own_queue_as_it_came_and_is_here_no_more(self, office: Office) -> None:
        sealed, order = office.sealed("req-1"), office.order("order-1", keep=-1.0)
        office.journal("req-1", failed())
        office.lay("req-1", body=sealed)
        office.lay("order-1", "outcome_unknown", body=order)
        answer = office.run("redrive", "--all", "--json")
        assert answer.exit_code == 0, answer.output
        assert json.loads(answer.output)["redriven"] == 2
        assert office.on_their_way() == [sealed]
        assert office.on_their_way("attach.bulk.main") == [order], "the same key finds out, however old the token is"
        assert office.resting() == []
        assert office.known("req-1").outcome is None

    def test_what_has_its_outcome_is_told_again(self, here: Office) -> None:
        here.journal("req-1", made())
        here.lay("req-1")
        answer = here.run("redrive", "--id", "req-1")
        assert (answer.exit_code, here.resting()) == (0, [])
        assert "1 had an outcome" in answer.output
        assert "tok_1" in here.known("req-1").outcome
        assert len(here.on_their_way()) == 1

    def test_what_cannot_succeed_stays_and_says_why(self, office: Office, tmp_path: Path) -> None:
        office.lay("late-1", keep=0.001)
        office.lay("order-1", "attempts_exhausted", body=office.order("order-1", keep=-1.0))
        forged = json.loads(office.sealed("forged-1"))
        forged["header"]["reply_to"] = "thief"
        office.journal("forged-1", failed())
        office.put(DEAD_LETTERS, retained(json.dumps(forged), "attempts_exhausted", at=time.time()))
        office.put(DEAD_LETTERS, retained("garbage", "not an envelope", at=time.time()))
        office.put(
            DEAD_LETTERS,
            retained(office.sealed("cvc-1", lane="realtime"), "not ours", at=time.time()),
        )
        office.lay("unknown-1", "unknown_platform", platform="other")
        office.toml.write_text(office.toml.read_text().replace("[platforms.other]\n", ""))
        for dry_run in (["--dry-run"], []):
            answer = office.run("redrive", "--all", "--json", *dry_run)
            assert answer.exit_code == 1
            report = json.loads(answer.output)
            assert report["redriven"] == report["told_again"] == 0
            assert report["not_redriven"] == {"expired": 2, "not_verified": 2, "not_kept": 1, "unknown_platform": 1}
        assert len(office.resting()) == 6
        assert office.known("forged-1").outcome is not None, "an outcome is not forgotten on a stranger's word"
        said = office.run("redrive", "--all").output
        assert "2 not redriven, expired" in said

    def test_quarantined_messages_go_as_soon_as_their_signature_is_known(self, here: Office, tmp_path: Path) -> None:
        here.put(QUARANTINE, retained(here.sealed("req-1"), "not signed by a known producer", at=time.time()))
        signers = here.configuration.keys.signers
        toml = here.toml.read_text()
        (tmp_path / "nobody").mkdir()
        (worker,) = signers.glob("worker-*.pem")
        (tmp_path / "nobody" / worker.name).write_bytes(worker.read_bytes())
        here.toml.write_text(toml.replace(f'signers = "{signers}"', f'signers = "{tmp_path}/nobody"'))
        assert here.run("redrive", "--quarantine", "--all").exit_code == 1
        assert here.resting(QUARANTINE) == ["req-1"]
        here.toml.write_text(toml)
        assert here.run("redrive", "--quarantine", "--all").exit_code == 0
        assert (here.resting(QUARANTINE), len(here.on_their_way())) == ([], 1)

    def test_a_dry_run_changes_nothing(self, office: Office) -> None:
        office.journal("req-1", failed())
        office.lay("req-1")
        assert "1 would be redriven" in office.run("redrive", "--all", "--dry-run").output
        assert "would purge 1 dead letter" in office.run("purge", "--all", "--dry-run").output
        assert office.resting() == ["req-1"]
        assert office.on_their_way() == []
        assert office.known("req-1").outcome is not None

    @pytest.mark.parametrize("command", ["redrive", "purge"])
    @pytest.mark.parametrize("options", [[], ["--limit", "3"], ["--all", "--code", "unopenable"]])
    def test_nothing_is_moved_by_accident(self, here: Office, command: str, options: list[str]) -> None:
        here.lay("req-1")
        answer = here.run(command, *options)
        assert answer.exit_code == 2
        assert "--all" in answer.output
        assert here.resting() == ["req-1"]

    def test_a_limit_counts_what_went_and_not_what_stayed(self, here: Office) -> None:
        here.lay("late-1", keep=0.001)
        for n in range(3):
            here.lay(f"req-{n}")
        answer = here.run("redrive", "--code", "attempts_exhausted", "--limit", "2", "--json", "--rate", "1000")
        assert json.loads(answer.output)["redriven"] == 2
        assert here.resting() == ["late-1", "req-2"]

    def test_purging_asks_first_and_drops_what_was_meant(self, office: Office) -> None:
        office.lay("req-1", "unopenable")
        office.lay("req-2", "attempts_exhausted")
        no = office.run("purge", "--code", "unopenable", input="n\n")
        assert no.exit_code == 1
        assert "Drop 1 dead letter (1 unopenable) for good?" in no.output
        assert sorted(map(str, office.resting())) == ["req-1", "req-2"]
        yes = office.run("purge", "--code", "unopenable", input="y\n")
        assert (yes.exit_code, office.resting()) == (0, ["req-2"])
        last = office.run("purge", "--all", "--yes", "--json")
        assert json.loads(last.output)["by_code"] == {"attempts_exhausted": 1}
        assert office.resting() == []

    def test_while_somebody_thinks_whether_to_purge_nothing_is_held_and_what_comes_then_is_not_meant(
        self, office: Office
    ) -> None:
        office.lay("req-1")

        class Thinking(io.BytesIO):
            """A person at the keyboard, who takes a while to answer."""

            def read1(self, size: int | None = -1) -> bytes:
                assert office.resting() == ["req-1"]
                office.lay("req-2")
                return b"y\n"

        assert json.loads(office.run("purge", "--all", "--json", input=Thinking()).stdout)["purged"] == 1
        assert office.resting() == ["req-2"]

    @pytest.mark.parametrize("command", [("redrive", "--all"), ("purge", "--all", "--yes")])
    def test_cut_off_in_the_middle_the_summary_tells_what_is_certain(
        self,
        rabbit: RabbitMQ,
        tmp_path: Path,
        valkey: Embedded,
        key_folder: KeyFolder,
        command: tuple[str, ...],
    ) -> None:
        office = Office(tmp_path, key_folder, rabbit.url, valkey.database(DATABASE).redis_url)
        office.empty()
        for n in range(3):
            office.lay(f"req-{n}")

        class CutOff:
            """A browser whose queue is silent from its second removal on."""

            def __init__(self, browser: QueueBrowser) -> None:
                self.browser = browser
                self.removed = 0

            def __iter__(self) -> Iterator[QueuedMessage]:
                return iter(self.browser)

            def remove(self, item: QueuedMessage) -> bool:
                if self.removed:
                    rabbit.stop_queue(DEAD_LETTERS)
                self.removed += 1
                return self.browser.remove(item)

            def elsewhere(self) -> str | None:
                return self.browser.elsewhere()

        @contextmanager
        def cut_off(configuration: Configuration, queue: str) -> Iterator[QueueBrowser]:
            with queue_browser.open_browser(configuration, queue, patience=0.0) as browser:
                yield CutOff(browser)

        answer = office.run(*command, "--json", obj=BrokerAccess(cut_off))
        assert answer.exit_code == 1
        report = json.loads(answer.stdout.splitlines()[0])
        if command[0] == "purge":
            assert report["purged"] == 1
        else:
            assert report["redriven"] == 2, "the second is on its way, and rests here still: redriven twice it is one"
            assert report["trouble"] == (
                "RabbitMQ could not answer for the queue dead-letters (541): it is busy or electing a leader; "
                "try again; nothing is lost"
            )
        rabbit.start_queue(DEAD_LETTERS)
        until(lambda: set(map(str, office.resting())) == {"req-1", "req-2"}, "the rest, given back")
        office.empty()
        office.close()

    def test_trouble_with_the_store_is_told_as_the_stores_and_what_went_before_is_told_too(self, here: Office) -> None:
        here.lay("req-1")
        here.lay("req-2")
        with Redis.from_url(here.configuration.store.url) as store:
            store.set("test-office:journal:request:req-2", "not an entry")
        answer = here.run("redrive", "--all", "--json")
        report = json.loads(answer.output)
        assert (answer.exit_code, report["redriven"]) == (1, 1)
        assert report["trouble"] == "the store cannot be used (ResponseError); see [store] url"
        assert here.resting() == ["req-2"]

    def test_what_somebody_else_removes_while_it_is_redriven_is_told(self, here: Office) -> None:
        here.lay("req-1")

        class Meanwhile:
            """A publisher beside which somebody else empties the queue."""

            def submit(self, message: Outgoing, *, timeout: float | None = None) -> Future[None]:
                here.take(DEAD_LETTERS)
                return here.publisher.submit(message, timeout=timeout)

        answer = here.run("redrive", "--all", obj=BrokerAccess(publisher=lambda _: nullcontext(Meanwhile())))
        said = "1 redriven, 1 of them redriven or purged by another command at the same time\n"
        assert (answer.exit_code, answer.output) == (0, said)

    def test_a_broker_that_is_away_is_said_in_one_line(self, here: Office) -> None:
        here.toml.write_text(
            here.toml.read_text().replace("[broker]\nurl =", '[broker]\nurl = "redis://127.0.0.1:1"\n#')
        )
        for command in (["list"], ["show", "req-1"], ["redrive", "--all"], ["purge", "--all", "--yes"]):
            answer = here.run(*command)
            assert answer.exit_code == 1
            assert "nothing is lost" in answer.output
            assert len(answer.output.splitlines()) == 1

    def test_a_store_that_is_away_is_said_at_once_and_leaves_the_letter_where_it_is(self, here: Office) -> None:
        here.lay("req-1")
        here.toml.write_text(here.toml.read_text().replace("[store]\nurl =", '[store]\nurl = "redis://127.0.0.1:1"\n#'))
        answer = here.run("redrive", "--all", "--json")
        assert answer.exit_code == 1
        assert json.loads(answer.stdout)["trouble"].startswith("the store could not be reached (Connection refused)")
        assert answer.stderr == ""
        assert here.resting() == ["req-1"]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    def test_ended_in_the_middle_nothing_is_in_no_place(self, office: Office, number: signal.Signals) -> None:
        ids = {f"req-{n}" for n in range(20)}
        for id_ in sorted(ids):
            office.lay(id_)
        command = [sys.executable, "-m", "tokenferry.cli", "dead-letters", "redrive", "--all", "--rate", "2", "--json"]
        program = forking.start(
            [*command, "--config", str(office.toml)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        went: set[str] = set()

        def look() -> bool:
            went.update(json.loads(envelope)["header"]["request_id"] for envelope in office.on_their_way())
            return bool(went)

        deadline = time.monotonic() + 30
        while not look():
            assert program.poll() is None, program.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        program.send_signal(number)
        said, _ = program.communicate(timeout=60)
        assert program.returncode == (1 if number != signal.SIGKILL else -9)
        if number != signal.SIGKILL:
            report = json.loads(said)
            assert "interrupted" in report["trouble"]
            assert report["redriven"] >= 1
        deadline = time.monotonic() + 20
        while went | set(office.resting()) != ids:  # RabbitMQ learns of a death a moment later
            look()
            assert time.monotonic() < deadline, ids - went
            time.sleep(0.05)


# -- sealed to a key that is to be retired

either_suite = pytest.mark.parametrize("rotated", [[], ["--post-quantum"]], indirect=True, ids=["classic", "quantum"])


class TestResealing:
    """The office seals to the key of yesterday; its configuration names that of today, and its ring has both."""

    @pytest.fixture
    def keys(self, tmp_path: Path) -> KeyFolder:
        return generated(tmp_path / "keys")

    @pytest.fixture
    def rotated(
        self, request: pytest.FixtureRequest, valkey: Embedded, tmp_path: Path, keys: KeyFolder
    ) -> Iterator[Office]:
        url = valkey.database(DATABASE).redis_url
        office = Office(tmp_path, keys, url, url)
        generated(keys.path, *getattr(request, "param", []))
        office.empty()
        yield office
        office.empty()
        office.close()

    def opener(self, keys: KeyFolder) -> Opener:
        """Of a worker that has the key of today alone."""
        today = Recipient.load(keys.recipient).key_id
        return Opener(KeyRing({today: load_identities(keys.identities)[today]}), Signers.load(keys.signers))

    def anew(self, before: Any, after: Any, keys: KeyFolder) -> None:
        """Whether the header *after* is the one *before* but for its keys."""
        today = Recipient.load(keys.recipient)
        names = {
            "key_id": id_in(before.version, today.key_id),
            "suite": today.suite,
            "producer_id": id_in(before.version, Signer.load(keys.producer).signer_id),
        }
        assert not same_key(before.key_id, today.key_id)
        assert after == before.model_copy(update=names)

    @either_suite
    @pytest.mark.parametrize("plan", [None, CustomerCreate(email="ada@example.com", metadata={"own": "7"})])
    def test_a_request_keeps_all_but_its_keys_and_opens_without_the_old_one(
        self, rotated: Office, keys: KeyFolder, plan: CustomerCreate | None
    ) -> None:
        rotated.journal("req-1", failed())
        sealed = rotated.sealed("req-1", attach=plan, reply_to="shop")
        rotated.lay("req-1", body=sealed)
        answer = rotated.run("redrive", "--all", "--reseal")
        assert (answer.exit_code, answer.output) == (0, "1 redriven, 1 of them sealed again\n")
        (body,) = rotated.on_their_way()
        opener = self.opener(keys)
        before, after = opener.read(sealed), opener.read(body)
        self.anew(before.header, after.header, keys)
        both = Opener(load_identities(keys.identities), opener.signers)
        assert opener.open(after) == both.open(before)
        assert opener.open(after).attach == plan
        assert (rotated.resting(), rotated.known("req-1").outcome) == ([], None)

    @either_suite
    def test_a_whole_document_too(self, rotated: Office, keys: KeyFolder) -> None:
        id_, sealed = rotated.onboarding()
        rotated.lay(id_, body=sealed)
        assert rotated.run("redrive", "--all", "--reseal").exit_code == 0
        (body,) = rotated.on_their_way("onboard.main")
        opener = self.opener(keys)
        before, after = opener.read_onboarding(sealed), opener.read_onboarding(body)
        self.anew(before.header, after.header, keys)
        both = Opener(load_identities(keys.identities), opener.signers)
        assert opener.open_onboarding(after) == both.open_onboarding(before)

    @either_suite
    def test_an_order_is_signed_anew_with_the_request_that_it_brings(self, rotated: Office, keys: KeyFolder) -> None:
        sealed = rotated.sealed("req-1", attach=CustomerCreate(email="ada@example.com"))
        order = rotated.order("req-1", sealed=sealed)
        rotated.lay("req-1", "attempts_exhausted", body=order)
        assert json.loads(rotated.run("redrive", "--all", "--reseal", "--json").output)["resealed"] == 1
        (body,) = rotated.on_their_way("attach.bulk.main")
        opener = self.opener(keys)
        before, after = (read_attach(each, opener.signers).request for each in (order, body))
        again = opener.read(after.sealed or "")
        assert opener.open(again).attach == before.target
        self.anew(opener.read(sealed).header, again.header, keys)
        signer = id_in(before.version, Signer.load(keys.producer).signer_id)
        assert after == before.model_copy(update={"sealed": after.sealed, "signer_id": signer})

    def test_what_is_not_sealed_to_an_earlier_key_goes_as_it_came(self, rotated: Office) -> None:
        rotated.sealer = Sealer(rotated.configuration)
        sealed, order = rotated.sealed("req-1"), rotated.order("order-1")
        brings = rotated.order("order-2", sealed=rotated.sealed("order-2"))
        rotated.lay("req-1", body=sealed)
        for id_, body in (("order-1", order), ("order-2", brings)):
            rotated.lay(id_, body=body)
        report = json.loads(rotated.run("redrive", "--all", "--reseal", "--json").output)
        assert (report["redriven"], report["resealed"]) == (3, 0)
        assert rotated.on_their_way() == [sealed]
        assert rotated.on_their_way("attach.bulk.main") == [order, brings]

    def test_a_dry_run_opens_nothing_and_tells_what_would_be_sealed_again(
        self, rotated: Office, keys: KeyFolder
    ) -> None:
        def unopenable(id_: str) -> str:
            """A request that its producer has signed, and that nobody can open."""
            sealed = Envelope.model_validate_json(rotated.sealed(id_))
            garbage = bytes(len(sealed.ciphertext))
            signature = Signer.load(keys.producer).sign(signed_bytes(sealed.header.canonical(), garbage))
            changed = {"ciphertext": garbage, "signature": signature}
            return sealed.model_copy(update=changed).model_dump_json()

        rotated.lay("req-1", body=unopenable("req-1"))
        rotated.lay("order-1", body=rotated.order("order-1", sealed=unopenable("order-1")))
        rotated.lay("order-2", body=rotated.order("order-2"))
        answer = rotated.run("redrive", "--all", "--reseal", "--dry-run")
        assert (answer.exit_code, answer.output) == (0, "3 would be redriven, 2 of them sealed again\n")
        assert rotated.resting() == ["req-1", "order-1", "order-2"]
        assert "2 not redriven, not_openable" in rotated.run("redrive", "--all", "--reseal").output

    def test_what_cannot_be_opened_here_stays_and_its_journal_does_too(self, rotated: Office, keys: KeyFolder) -> None:
        rotated.journal("req-1", failed())
        rotated.lay("req-1")
        rotated.lay("order-1", body=rotated.order("order-1", sealed=rotated.sealed("order-1")))
        (keys.identities / f"{rotated.sealer.recipient.key_id}.pem").unlink()
        for dry_run in (["--dry-run"], []):
            answer = rotated.run("redrive", "--all", "--reseal", *dry_run)
            assert answer.exit_code == 1
            assert "2 not redriven, not_openable: no private key here opens them" in answer.output
        assert rotated.resting() == ["req-1", "order-1"]
        assert rotated.known("req-1").outcome is not None
        assert rotated.run("redrive", "--all").exit_code == 0, "without --reseal it goes as it came"

    def test_what_its_own_key_does_not_open_stays(self, rotated: Office, keys: KeyFolder) -> None:
        old = rotated.sealer.recipient
        rotated.sealer.recipient = Recipient(
            old.key_id, old.suite, Recipient.load(generated(keys.path / "x").recipient).public
        )
        rotated.journal("req-1", failed())
        rotated.lay("req-1")
        answer = rotated.run("redrive", "--all", "--reseal", "--json")
        assert (answer.exit_code, json.loads(answer.output)["not_redriven"]) == (1, {"not_openable": 1})
        assert (rotated.resting(), rotated.on_their_way()) == (["req-1"], [])
        assert rotated.known("req-1").outcome is not None

    def test_nothing_that_a_stranger_sealed_gets_our_signature(self, rotated: Office, tmp_path: Path) -> None:
        ours = rotated.sealer.signer
        rotated.sealer.signer = Signer.load(generated(tmp_path / "strangers").producer)
        strange = rotated.sealed("req-1")
        rotated.sealer.signer = ours
        rotated.lay("req-1", body=strange)
        rotated.lay("order-1", body=rotated.order("order-1", sealed=strange))
        answer = rotated.run("redrive", "--all", "--reseal", "--json")
        assert json.loads(answer.output)["not_redriven"] == {"not_verified": 1, "not_openable": 1}
        assert rotated.resting() == ["req-1", "order-1"]

    def test_any_key_among_the_signers_may_sign_it_a_workers_too(
        self, rotated: Office, keys: KeyFolder, environment: dict[str, str]
    ) -> None:
        environment["TOKENFERRY_KEYS__PRODUCER_SIGNING_KEY"] = str(keys.worker)
        rotated.lay("req-1")
        assert rotated.run("redrive", "--all", "--reseal").exit_code == 0
        (body,) = rotated.on_their_way()
        assert self.opener(keys).read(body).header.producer_id == id_in(1, Signer.load(keys.worker).signer_id)

    def test_redriven_twice_it_is_one_request_with_one_content(self, rotated: Office, keys: KeyFolder) -> None:
        sealed = rotated.sealed("req-1")
        for _ in range(2):  # as when the first redrive died before it could remove the letter
            rotated.lay("req-1", body=sealed)
        assert rotated.run("redrive", "--all", "--reseal").exit_code == 0
        opener = self.opener(keys)
        one, two = map(opener.read, rotated.on_their_way())
        assert (one.header, opener.open(one)) == (two.header, opener.open(two))

    def test_where_the_broker_takes_nothing_the_letter_stays_as_it_came(self, rotated: Office) -> None:
        sealed = rotated.sealed("req-1")
        rotated.lay("req-1", body=sealed)
        refusing = Refusing(PublishError("not confirmed", maybe_sent=True))
        access = BrokerAccess(publisher=lambda _: nullcontext(refusing))
        answer = rotated.run("redrive", "--all", "--reseal", "--json", obj=access)
        assert (answer.exit_code, json.loads(answer.output)["trouble"]) == (1, "not confirmed")
        with queue_browser.open_browser(rotated.configuration, DEAD_LETTERS) as browser:
            assert [DeadLetter.read(item.body).message for item in browser] == [sealed]

    @pytest.mark.parametrize(
        ("broken", "words"),
        [
            ("recipient", "[keys] recipient: "),
            ("producer", "[keys] producer_signing_key: "),
            ("signers", "which is not in [keys] signers: workers would move resealed messages to quarantine"),
            ("identities", "holds no private key"),
        ],
    )
    def test_without_the_keys_it_needs_it_refuses_at_once_and_says_which(
        self, rotated: Office, keys: KeyFolder, broken: str, words: str
    ) -> None:
        rotated.lay("req-1")
        for path in {
            "recipient": [keys.recipient],
            "producer": [keys.producer],
            "signers": list(keys.signers.glob("producer-*.pem")),
            "identities": list(keys.identities.glob("*.pem")),
        }[broken]:
            path.unlink()
        command = ["dead-letters", "redrive", "--all", "--reseal", "--config", str(rotated.toml)]
        answer = CliRunner().invoke(main, command)
        assert answer.exit_code == 2
        assert words in answer.output
        assert len(answer.output.splitlines()) == 1
        assert rotated.resting() == ["req-1"]


# -- what the broker itself does


class TestRabbitMQ:
    def test_a_queue_that_an_older_version_declared_is_named_with_its_cure(
        self, rabbit: RabbitMQ, tmp_path: Path, valkey: Embedded, key_folder: KeyFolder
    ) -> None:
        office = Office(tmp_path, key_folder, rabbit.url, valkey.database(DATABASE).redis_url)
        with rabbit.channel() as channel:
            channel.queue_declare("attach.old", durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
        words = (
            "'attach.old' exists with other settings than ours .x-dead-letter-exchange: none.*delete_queue attach.old"
        )
        with pytest.raises(PublishError, match=words):
            office.put("attach.old", "at once, not after the deadline")
        office.put("attach.other", "the others go on")
        assert office.take("attach.other") == ["the others go on"]
        with pytest.raises(InvalidConfiguration, match=words):
            connecting.check(office.configuration, ["attach.other", "attach.old"])
        office.close()

    def test_a_message_that_no_client_library_can_read_is_no_obstacle(
        self, rabbit: RabbitMQ, tmp_path: Path, valkey: Embedded, key_folder: KeyFolder
    ) -> None:
        office = Office(tmp_path, key_folder, rabbit.url, valkey.database(DATABASE).redis_url)
        office.empty()
        office.put(QUARANTINE, "so that the queue is there")
        with rabbit.channel() as channel:
            headers = {"compression": "application/x-gzip"}
            strange = amqp.Message(b"\xff\xfe", application_headers=headers, content_encoding="nonsense")
            channel.basic_publish(strange, routing_key=QUARANTINE)
        deadline = time.monotonic() + 10
        while len(office.resting(QUARANTINE)) < 2:
            assert time.monotonic() < deadline
        assert "2 quarantined messages" in office.run("list", "--quarantine").output
        assert json.loads(office.run("purge", "--quarantine", "--all", "--yes", "--json").output)["purged"] == 2
        office.close()

    def test_the_definitions_say_what_the_program_declares(self) -> None:
        path = Path(__file__).parent.parent.parent / "deploy" / "rabbitmq" / "definitions.json"
        definitions = json.loads(path.read_text())
        (exchange,) = definitions["exchanges"]
        declared = connecting.queue(DEAD_LETTERS, amqp=True).exchange
        assert (exchange["name"], exchange["type"], exchange["durable"]) == (declared.name, declared.type, True)
        names = [queue["name"] for queue in definitions["queues"]]
        lanes = {f"{stage}.{lane}.main" for stage in ("tokenize", "attach") for lane in ("bulk", "realtime")}
        assert set(names) >= {*lanes, DEAD_LETTERS, QUARANTINE}
        for queue in definitions["queues"]:
            ours = connecting.queue(queue["name"], amqp=True)
            assert queue["arguments"] == ours.queue_arguments, queue["name"]
            assert (queue["durable"], queue["auto_delete"]) == (True, False)
        bound = {(b["source"], b["destination"], b["routing_key"]) for b in definitions["bindings"]}
        assert bound == {(declared.name, name, name) for name in names}

    def test_what_was_delivered_more_often_than_the_broker_allows_becomes_a_dead_letter(
        self, rabbit: RabbitMQ, tmp_path: Path, valkey: Embedded, key_folder: KeyFolder
    ) -> None:
        office = Office(tmp_path, key_folder, rabbit.url, valkey.database(DATABASE).redis_url)
        office.empty()
        office.put(DEAD_LETTERS, "so that the queue is there")
        office.take(DEAD_LETTERS)
        order = Order(CardRequest(number=NUMBER, exp_month=12, exp_year=2044), platform="main", request_id="req-1")
        office.publisher.publish(office.sealer.message(order)[1])
        deliveries = 0
        with connecting.connect(office.configuration) as connection:
            queue = connecting.queue("tokenize.bulk.main", amqp=True).bind(connection.default_channel)
            while (message := queue.get()) is not None:
                deliveries += 1
                message.reject(requeue=True)
        assert deliveries > connecting.DELIVERY_LIMIT
        deadline = time.monotonic() + 20
        while office.resting() != ["req-1"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert json.loads(office.run("redrive", "--all", "--json").output)["redriven"] == 1
        assert len(office.on_their_way()) == 1
        office.close()

    @pytest.mark.parametrize("queue", ["tokenize.realtime.main", "results.shop", DEAD_LETTERS, QUARANTINE])
    def test_what_must_not_be_set_aside_or_is_already_has_no_limit_and_no_way_out(self, queue: str) -> None:
        arguments = connecting.quorum_arguments(queue)
        assert "x-dead-letter-exchange" not in arguments
        assert arguments["x-delivery-limit"] >= 1_000_000


# -- what workers would refuse for its age


class TestLifetimes:
    """Redrive applies the rule of the workers, and says so before anything is sent."""

    @pytest.mark.parametrize(
        ("issued", "expires"), [(0, 4_102_444_800), (3_786_912_000, 3_786_912_060), (0, 90 * 86_400)]
    )
    @pytest.mark.parametrize("queue", [DEAD_LETTERS, QUARANTINE])
    def test_a_forged_lifetime_is_not_redriven(self, here: Office, queue: str, issued: int, expires: int) -> None:
        now, sealer = int(time.time()), here.sealer
        issued_at, expires_at = (moment if moment > 2_000_000_000 else now + moment for moment in (issued, expires))
        header = Header(
            suite=sealer.recipient.suite,
            key_id=sealer.recipient.key_id,
            request_id="req-1",
            kind="card",
            platform="main",
            lane="bulk",
            issued_at=issued_at * 1000,
            expires_at=expires_at * 1000,
            producer_id=sealer.signer.signer_id,
        )
        card = CardRequest(number=NUMBER, exp_month=12, exp_year=2044)
        body = seal(card, header, to=sealer.recipient, signer=sealer.signer).model_dump_json()
        here.put(queue, retained(body, "attempts_exhausted", at=time.time()))
        where = ("--quarantine",) if queue == QUARANTINE else ()
        for more in (("--dry-run",), ()):
            answer = here.run("redrive", "--all", *where, *more)
            assert answer.exit_code == 1
            assert "1 not redriven, invalid_lifetime" in answer.output
        assert here.resting(queue) == ["req-1"]
        assert here.on_their_way() == []

    def test_what_moves_money_and_is_older_than_the_store_stays_until_the_store_is_accepted(self, here: Office) -> None:
        order = SignedAttach.model_validate_json(here.order("req-1")).request
        order = order.model_copy(update={"target": Charge(amount=100, currency="usd")})
        signer = Signer.load(here.configuration.path(here.configuration.keys.worker_signing_key))
        here.lay("req-1", "store_is_younger", body=sign_attach(order, signer).model_dump_json())
        here.lay("req-2", "store_is_younger")
        prefix = here.configuration.store.prefix
        with Redis.from_url(here.configuration.store.url) as store:
            store.set(f"{prefix}:born", int(time.time() * 1000) + 1_000)
        answer = here.run("redrive", "--all")
        assert answer.exit_code == 1
        assert "2 not redriven, store_is_younger" in answer.output
        assert "tokenferry store accept" in " ".join(answer.output.split())
        assert here.resting() == ["req-1", "req-2"]
        said = CliRunner().invoke(store_command, ["accept", "--why", "on purpose", "--config", str(here.toml)])
        assert said.exit_code == 0, said.output
        assert here.run("redrive", "--all").exit_code == 0
        assert here.resting() == []
