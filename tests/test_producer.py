"""What a producer promises: checked, sealed, confirmed, and nothing in clear that must not be."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import os
import secrets
import shutil
import socket
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from broker.places import ABOVE, OneRedis, Place, place
from e2e import cargo
from e2e.brokers import RabbitMQ

from tokenferry import (
    AsyncProducer,
    BrokerFull,
    BrokerUnavailable,
    CardRequest,
    CvcUpdateRequest,
    InvalidInput,
    InvalidRequest,
    Order,
    Producer,
    Results,
    TokenResult,
    load,
    onboarding_from,
)
from tokenferry.broker.errors import StillQueued
from tokenferry.broker.publishing import Outgoing, Publisher, PublishError, PublishTimeout
from tokenferry.bulk.outputs import masked
from tokenferry.configuration import Broker, Configuration, InvalidConfiguration, KeySettings, Platform
from tokenferry.contract.attach import SignedAttach
from tokenferry.contract.envelope import Envelope, Header
from tokenferry.contract.names import new_id
from tokenferry.contract.targets import CustomerCreate, CustomerSource, InvalidTarget, digest
from tokenferry.producer import WINDOW, Sealer
from tokenferry.sealing import UnusableKey

NUMBER, CVC = "4242424242424242", "987"
MISTYPED = cargo.WRONG_NUMBER


@pytest.fixture(scope="module", params=ABOVE)
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(request, tmp_path_factory, database=10) as broker:
        yield broker


on_valkey = pytest.mark.parametrize("broker", ["valkey"], indirect=True)


@pytest.fixture(scope="session")
def keys(key_folder: Any) -> KeySettings:
    """What a producer holds: a public key and a signature of its own."""
    return KeySettings(recipient=key_folder.recipient, producer_signing_key=key_folder.producer)


def configured(
    url: str, keys: KeySettings, *platforms: str, timeout: float = 10.0, max_waiting: int = 1_000_000
) -> Configuration:
    return Configuration(
        broker=Broker(url=url, publish_timeout=timeout, max_waiting=max_waiting),
        keys=keys,
        platforms={name: Platform() for name in platforms},
    )


@dataclass
class Desk:
    """A broker, and a platform on it that no other test uses."""

    broker: Place
    keys: KeySettings
    platform: str = field(default_factory=lambda: f"p{secrets.token_hex(6)}")

    @property
    def configuration(self) -> Configuration:
        return configured(self.broker.url, self.keys, self.platform)

    def bodies(self, lane: str) -> list[bytes]:
        return self.broker.take(f"tokenize.{lane}.{self.platform}")

    def headers(self, lane: str) -> list[Header]:
        """The headers of the envelopes that wait in *lane*, oldest first, taken off the queue."""
        return [Envelope.model_validate_json(json.loads(body)[0][0]).header for body in self.bodies(lane)]

    def header(self, lane: str) -> Header:
        (one,) = self.headers(lane)
        return one

    def order(self) -> SignedAttach:
        (body,) = self.broker.take(f"attach.bulk.{self.platform}")
        return SignedAttach.model_validate_json(json.loads(body)[0][0])

    def raw(self, lane: str) -> tuple[dict[str, object], bytes]:
        """The Celery headers of the one message in *lane*, and every byte of it; it stays there."""
        queue = f"tokenize.{lane}.{self.platform}"
        if isinstance(self.broker, RabbitMQ):
            with self.broker.channel() as channel:
                message = channel.basic_get(queue)
                everything = json.dumps([message.properties, message.delivery_info, str(message.body)], default=str)
                return message.properties["application_headers"], everything.encode()
        (payload,) = self.broker.client.lrange(queue, 0, -1)
        return json.loads(payload)["headers"], payload


@pytest.fixture
def desk(broker: Place, keys: KeySettings) -> Iterator[Desk]:
    desk = Desk(broker, keys)
    yield desk
    for queue in ("tokenize.realtime", "tokenize.bulk", "attach"):
        broker.take(f"{queue}.{desk.platform}")


@pytest.fixture
def dead(keys: KeySettings) -> Iterator[Configuration]:
    """The configuration of a broker that is not there."""
    with socket.socket() as bound:  # bound and not listening: nobody else can open it meanwhile
        bound.bind(("127.0.0.1", 0))
        yield configured(f"redis://127.0.0.1:{bound.getsockname()[1]}", keys, "main", timeout=3.0)


@pytest.fixture
def silent(keys: KeySettings) -> Iterator[Configuration]:
    """The configuration of a broker that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as hole:
        yield configured(f"redis://127.0.0.1:{hole.getsockname()[1]}", keys, "main", timeout=2.0)


def card(**more: str) -> CardRequest:
    return CardRequest(number=NUMBER, exp_month="12", exp_year="2044", **more)


def token(desk: Desk, **changed: object) -> TokenResult:
    known = {"outcome_id": "out-1", "request_id": "req-1", "kind": "card", "platform": desk.platform, "settled_at": 1}
    return TokenResult(**{**known, "token": "tok_1", "created": int(time.time()), **changed})


# -- what is sent


def test_a_request_goes_in_bulk_to_the_only_platform_and_nobody_is_told(desk: Desk) -> None:
    with Producer(desk.configuration) as producer:
        request_id = producer.send(card())
    header = desk.header("bulk")
    assert header.request_id == request_id
    assert (header.kind, header.platform, header.lane, header.reply_to) == ("card", desk.platform, "bulk", None)
    assert (header.connected_account, header.attach_digest) == (None, None)
    assert header.expires_at - header.issued_at == pytest.approx(3 * 86_400_000, abs=2)


def test_what_is_said_about_a_request_is_in_its_header(desk: Desk) -> None:
    target = CustomerCreate(name="Wilhelmina Quagmire")
    with Producer(desk.configuration) as producer:
        producer.send(
            card(),
            platform=desk.platform,
            connected_account="acct_1",
            lane="realtime",
            reply_to="onboarding",
            attach=target,
            request_id="req-mine",
            keep_seconds=60.0,
        )
    header = desk.header("realtime")
    assert (header.request_id, header.connected_account, header.reply_to) == ("req-mine", "acct_1", "onboarding")
    assert header.attach_digest == digest(target)
    assert header.expires_at - header.issued_at == pytest.approx(60_000, abs=2)


@pytest.mark.parametrize("request_", [card(cvc=CVC), CvcUpdateRequest(cvc=CVC)], ids=["card", "cvc_update"])
def test_a_verification_code_travels_in_realtime_for_two_minutes_at_most(desk: Desk, request_: CardRequest) -> None:
    with Producer(desk.configuration) as producer:
        producer.send(request_)
        producer.send(request_, keep_seconds=900.0)
        producer.send(request_, keep_seconds=5.0)
    lives = [header.expires_at - header.issued_at for header in desk.headers("realtime")]
    assert lives == [pytest.approx(seconds, abs=2) for seconds in (120_000, 120_000, 5_000)]


@pytest.mark.parametrize(
    "wrong", [0, 0.0, -5.0, float("nan"), float("inf"), float("-inf"), 10**400, True, "60", 1e11], ids=str
)
def test_a_time_to_wait_that_is_no_time_is_refused_and_nothing_is_sent(desk: Desk, wrong: Any) -> None:
    with Producer(desk.configuration) as producer:
        for send in (
            lambda: producer.send(card(), keep_seconds=wrong),
            lambda: producer.send(card(cvc=CVC), keep_seconds=wrong),
            lambda: list(producer.send_many([Order(card(), keep_seconds=wrong)])),
            lambda: producer.onboard(onboarding_from({"account": {"country": "US"}}), keep_seconds=wrong),
        ):
            with pytest.raises(InvalidRequest) as caught:
                send()
            (problem,) = caught.value.problems
            assert problem.field == "keep_seconds"
            assert "a number of seconds above 0" in problem.reason
    assert desk.headers("bulk") == desk.headers("realtime") == []


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_rabbitmq_itself_drops_a_verification_code_that_nobody_read(desk: Desk) -> None:
    with Producer(desk.configuration) as producer:
        producer.send(card(cvc=CVC), keep_seconds=900.0)
        producer.send(card(), lane="bulk")
    assert b'"expiration": "180000"' in desk.raw("realtime")[1]
    assert b'"expiration"' not in desk.raw("bulk")[1]


def test_no_byte_on_the_wire_shows_what_was_sealed(desk: Desk) -> None:
    with Producer(desk.configuration) as producer:
        request_id = producer.send(card(name="Wilhelmina Quagmire"))
    headers, everything = desk.raw("bulk")
    assert headers["argsrepr"] == "(***)"
    assert headers["kwargsrepr"] == "{}"
    assert headers["task"] == "tokenferry.tokenize.v1"
    assert headers["id"] == request_id
    (body,) = desk.bodies("bulk")
    for secret in (NUMBER, NUMBER[:12], "Quagmire"):
        assert secret.encode() not in everything
        assert secret.encode() not in body


# -- what is not sent


@on_valkey
@pytest.mark.parametrize(
    ("request_", "options", "field_"),
    [
        (card(cvc=CVC), {"lane": "bulk"}, "card.cvc"),
        (CardRequest(customer="cus_1"), {}, "card.customer"),
        (CardRequest(number=MISTYPED, exp_month="12", exp_year="2044"), {}, "card.number"),
        (CardRequest(number=NUMBER, exp_month="12", exp_year="2001"), {}, "card.exp_year"),
    ],
    ids=["code in bulk", "clone without account", "mistyped", "expired"],
)
def test_an_impossible_request_is_refused_by_field_and_without_its_value(
    desk: Desk, request_: CardRequest, options: dict[str, str], field_: str
) -> None:
    with Producer(desk.configuration) as producer, pytest.raises(InvalidRequest) as caught:
        producer.send(request_, **options)
    assert [problem.field for problem in caught.value.problems] == [field_]
    for value in (MISTYPED, NUMBER, CVC, "2001", "cus_1"):
        assert value not in str(caught.value)
    assert desk.headers("bulk") == desk.headers("realtime") == []


@on_valkey
def test_a_saved_card_is_cloned_for_a_connected_account(desk: Desk) -> None:
    with Producer(desk.configuration) as producer:
        producer.send(CardRequest(customer="cus_1"), connected_account="acct_1")
    assert desk.header("bulk").connected_account == "acct_1"


@on_valkey
def test_a_platform_must_be_known_and_named_where_there_are_several(desk: Desk) -> None:
    with Producer(configured(desk.broker.url, desk.keys, "one", "two")) as producer:
        with pytest.raises(InvalidConfiguration, match="one, two"):
            producer.send(card())
        with pytest.raises(InvalidConfiguration, match="three"):
            producer.send(card(), platform="three")


@on_valkey
def test_a_token_is_not_ordered_to_be_spent_where_its_kind_cannot_be(desk: Desk) -> None:
    with Producer(desk.configuration) as producer, pytest.raises(InvalidTarget):
        producer.send(cargo.pii(), attach=CustomerCreate())
    assert desk.headers("bulk") == []


LOST = "4242424242424242"
"""A card number in a place that is meant for a name or an id."""


def astray(error: BaseException, *fields: str) -> None:
    """*error* names *fields* and says what belongs there; pydantic's own error, which keeps the value, is not in it."""
    assert isinstance(error, InvalidRequest)
    assert [problem.field for problem in error.problems] == [*fields]
    assert error.__cause__ is error.__context__ is None
    assert LOST not in "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize("field_", ["platform", "connected_account", "lane", "reply_to", "request_id"])
def test_a_card_number_given_for_something_else_is_refused_by_field_and_never_repeated(
    dead: Configuration, field_: str
) -> None:
    order = Order(card(), **{field_: LOST})  # type: ignore[arg-type]

    async def send() -> None:
        async with AsyncProducer(dead) as producer:
            await producer.send(card(), **{field_: LOST})

    with Producer(dead) as producer:
        for sending in (
            lambda: producer.send(card(), **{field_: LOST}),
            lambda: list(producer.send_many([order])),
            lambda: producer.submit(order),
            lambda: asyncio.run(send()),
        ):
            with pytest.raises(InvalidRequest) as caught:
                sending()
            astray(caught.value, field_)


@pytest.mark.parametrize(
    ("field_", "named"),
    [("platform", "platform"), ("reply_to", "reply_to"), ("onboarding_id", "document.reference")],
)
def test_a_card_number_given_for_something_else_about_an_account_is_never_repeated(
    dead: Configuration, field_: str, named: str
) -> None:
    document = onboarding_from({"account": {"country": "DE", "type": "custom"}})
    with Producer(dead) as producer:
        with pytest.raises(InvalidRequest) as caught:
            producer.onboard(document, **{field_: LOST})
        astray(caught.value, named)


@pytest.mark.parametrize("field_", ["token", "request_id", "platform", "connected_account"])
def test_a_card_number_in_a_result_whose_token_is_to_be_spent_is_never_repeated(
    dead: Configuration, keys: KeySettings, field_: str
) -> None:
    result = token(Desk(OneRedis("redis://127.0.0.1"), keys, "main")).model_copy(update={field_: LOST})
    with Producer(dead) as producer, pytest.raises(InvalidRequest) as caught:
        producer.attach(result, CustomerCreate())
    astray(caught.value, field_)


@pytest.mark.parametrize("field_", ["attach_id", "reply_to"])
def test_a_card_number_in_an_order_to_spend_a_token_is_never_repeated(
    dead: Configuration, keys: KeySettings, field_: str
) -> None:
    result = token(Desk(OneRedis("redis://127.0.0.1"), keys, "main"))

    async def attach() -> None:
        async with AsyncProducer(dead) as producer:
            await producer.attach(result, CustomerCreate(), **{field_: LOST})

    with Producer(dead) as producer:
        for attaching in (
            lambda: producer.attach(result, CustomerCreate(), **{field_: LOST}),
            lambda: asyncio.run(attach()),
        ):
            with pytest.raises(InvalidRequest) as caught:
                attaching()
            astray(caught.value, field_)


def test_a_card_number_in_a_target_is_never_repeated_and_never_signed(dead: Configuration, keys: KeySettings) -> None:
    result = token(Desk(OneRedis("redis://127.0.0.1"), keys, "main"))
    target = CustomerSource(customer="cus_1").model_copy(update={"customer": LOST})
    with Producer(dead) as producer:
        for spending in (lambda: producer.attach(result, target), lambda: producer.send(card(), attach=target)):
            with pytest.raises(InvalidTarget, match=r"customer_source\.customer: ") as caught:
                spending()
            assert LOST not in "".join(traceback.format_exception(caught.value)) + repr(caught.value)


@pytest.mark.parametrize("given", ["cus_1", "pm_1", "tok-1", "not a token"])
def test_what_is_no_token_id_is_refused_with_a_word_on_what_one_looks_like(
    dead: Configuration, keys: KeySettings, given: str
) -> None:
    result = token(Desk(OneRedis("redis://127.0.0.1"), keys, "main")).model_copy(update={"token": given})
    with Producer(dead) as producer, pytest.raises(InvalidRequest, match="a token id looks like tok_") as caught:
        producer.attach(result, CustomerCreate())
    assert given not in str(caught.value)
    assert [problem.field for problem in caught.value.problems] == ["token"]


def test_a_request_that_is_to_be_kept_for_centuries_is_refused_by_the_option_that_says_so(dead: Configuration) -> None:
    with Producer(dead) as producer, pytest.raises(InvalidRequest, match="keep_seconds"):
        producer.send(card(), keep_seconds=1e12)


def test_who_asks_for_a_longer_life_than_workers_allow_is_told_the_setting(dead: Configuration) -> None:
    with (
        Producer(dead) as producer,
        pytest.raises(InvalidRequest, match=r"6 days, because \[store\] journal_days is 7"),
    ):
        producer.send(card(), keep_seconds=6 * 86_400 + 1)


# -- when it is not known whether it was sent


def test_a_failed_send_names_the_id_and_sending_under_it_again_is_the_same_request(
    desk: Desk, dead: Configuration
) -> None:
    with Producer(dead) as producer, pytest.raises(BrokerUnavailable) as caught:
        producer.send(card())
    request_id = caught.value.request_id
    assert request_id is not None
    with Producer(desk.configuration) as producer:
        assert producer.send(card(), request_id=request_id) == request_id
    assert desk.header("bulk").request_id == request_id


def test_each_of_many_failed_sends_names_its_own_id(dead: Configuration) -> None:
    async def send() -> list[str | BaseException]:
        async with AsyncProducer(dead) as producer:
            sending = (producer.send(card(), request_id=f"req-{at}") for at in range(20))
            return await asyncio.gather(*sending, return_exceptions=True)

    errors = asyncio.run(send())
    assert [error.request_id for error in errors if isinstance(error, PublishError)] == [f"req-{n}" for n in range(20)]


def test_a_stream_that_fails_names_the_order_it_failed_at(dead: Configuration) -> None:
    async def send() -> None:
        async with AsyncProducer(dead) as producer:
            async for _ in producer.send_many([Order(card(), request_id="req-async")]):
                pytest.fail("confirmed by nobody")

    with pytest.raises(BrokerUnavailable) as caught:
        asyncio.run(send())
    assert caught.value.request_id == "req-async"
    with Producer(dead) as producer, pytest.raises(BrokerUnavailable) as caught:
        list(producer.send_many([Order(card(), request_id="req-here")]))
    assert caught.value.request_id == "req-here"


def test_a_failed_attach_names_the_attach_id(dead: Configuration, keys: KeySettings) -> None:
    result = token(Desk(OneRedis("redis://127.0.0.1"), keys, "main"))
    with Producer(dead) as producer, pytest.raises(BrokerUnavailable) as caught:
        producer.attach(result, CustomerCreate(), attach_id="att-1")
    assert caught.value.request_id == "att-1"


def test_asyncio_waits_no_longer_than_it_was_told_for_a_broker_that_never_answers(silent: Configuration) -> None:
    async def send() -> None:
        producer = AsyncProducer(silent)
        began = time.monotonic()
        with pytest.raises((PublishTimeout, BrokerUnavailable)):
            await producer.send(card(), timeout=0.2)
        assert time.monotonic() - began < 0.2 + 1.5
        producer.publisher.close(timeout=0.0)

    asyncio.run(send())


# -- many at once


class Counted:
    """A publisher that remembers how many messages were with it unconfirmed, at most."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._unconfirmed: deque[Future[None]] = deque()
        self.peak = 0

    def submit(self, message: Outgoing, *, timeout: float | None = None) -> Future[None]:
        while self._unconfirmed and self._unconfirmed[0].done():
            self._unconfirmed.popleft()
        self._unconfirmed.append(self._publisher.submit(message, timeout=timeout))
        self.peak = max(self.peak, len(self._unconfirmed))
        return self._unconfirmed[-1]

    def close(self) -> None:
        self._publisher.close()


class Slow:
    """A publisher that had no time for every second message at first, because of those before it."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._begun: set[str] = set()

    def submit(self, message: Outgoing, *, timeout: float | None = None) -> Future[None]:
        if message.body in self._begun or len(self._begun) % 2 == 0:
            self._begun.add(message.body)
            return self._publisher.submit(message, timeout=timeout)
        self._begun.add(message.body)
        future: Future[None] = Future()
        future.set_exception(StillQueued("others were before it", maybe_sent=False))
        return future

    def close(self) -> None:
        self._publisher.close()


@on_valkey
def test_a_stream_goes_on_at_the_pace_of_a_slow_broker_and_one_message_alone_does_not_wait(desk: Desk) -> None:
    with Producer(desk.configuration) as producer:
        producer.publisher = Slow(producer.publisher)  # type: ignore[assignment]
        sent = list(producer.send_many(Order(card()) for _ in range(7)))
        with pytest.raises(PublishTimeout, match="others were before it"):
            producer.send(card())
    assert sorted(header.request_id for header in desk.headers("bulk")) == sorted(sent)
    assert len(set(sent)) == 7


class OneSeal:
    """Seals one order and sends it under every id: twenty thousand seals would take the test ten seconds."""

    def __init__(self, sealer: Sealer, order: Order) -> None:
        _, self._message = sealer.message(order)

    def message(self, order: Order) -> tuple[str, Outgoing]:
        assert order.request_id is not None
        return order.request_id, self._message


@on_valkey
def test_a_long_stream_is_sent_in_order_with_a_window_of_unconfirmed_ones(desk: Desk) -> None:
    count = 4 * WINDOW
    drawn = itertools.count()
    request = card()
    orders = (Order(request, request_id=f"req-{next(drawn)}") for _ in range(count))
    with Producer(desk.configuration) as producer:
        producer.sealer = OneSeal(producer.sealer, Order(request))  # type: ignore[assignment]
        producer.publisher = counted = Counted(producer.publisher)  # type: ignore[assignment]
        for at, request_id in enumerate(producer.send_many(orders)):
            assert request_id == f"req-{at}"
    assert next(drawn) == count
    assert 1 < counted.peak <= WINDOW
    assert isinstance(desk.broker, OneRedis)
    assert int(desk.broker.client.llen(f"tokenize.bulk.{desk.platform}")) == count
    desk.broker.client.delete(f"tokenize.bulk.{desk.platform}")


def test_a_stream_arrives_in_order_on_every_broker(desk: Desk) -> None:
    with Producer(desk.configuration) as producer:
        sent = list(producer.send_many(Order(card()) for _ in range(300)))
    assert [header.request_id for header in desk.headers("bulk")] == sent


MIXED = [Order(card()), Order(card()), Order(CardRequest(number=MISTYPED, exp_month="12", exp_year="2044"))]


def test_a_refused_order_ends_the_stream_after_all_before_it_were_confirmed(desk: Desk) -> None:
    with Producer(desk.configuration) as producer:
        stream = producer.send_many(MIXED)
        sent = [next(stream), next(stream)]
        with pytest.raises(InvalidRequest):
            next(stream)
    assert [header.request_id for header in desk.headers("bulk")] == sent


class ByName:
    """A publisher that answers nothing before it has every request, and then those that it has an answer for."""

    def __init__(self, **answers: PublishError | None) -> None:
        self.answers = answers
        self.futures: dict[str, Future[None]] = {}

    def orders(self, *others: str) -> Iterator[Order]:
        return (Order(card(), request_id=id_) for id_ in (*self.answers, *others))

    def submit(self, message: Outgoing, *, timeout: float | None = None) -> Future[None]:
        self.futures[message.id] = future = Future()
        if message.id == "waits":
            for id_, answer in self.answers.items():
                self.futures[id_].set_running_or_notify_cancel()
                if answer is not None:
                    self.futures[id_].set_exception(answer)
                elif id_ != "underway":
                    self.futures[id_].set_result(None)
        return future

    def close(self) -> None: ...


def with_publisher(producer: Producer, publisher: ByName) -> None:
    producer.publisher.close()
    producer.publisher = publisher  # type: ignore[assignment]


@on_valkey
def test_a_stream_that_fails_takes_back_what_it_can_and_names_what_it_cannot(desk: Desk) -> None:
    fails, refused, unsure = (BrokerUnavailable("cut", maybe_sent=maybe) for maybe in (False, False, True))
    publisher = ByName(accepted=None, fails=fails, later=None, refused=refused, unsure=unsure, underway=None)
    sent: list[str] = []
    with Producer(desk.configuration) as producer:
        with_publisher(producer, publisher)
        with pytest.raises(BrokerUnavailable) as caught:
            sent.extend(producer.send_many(publisher.orders("waits")))
    assert sent == ["accepted"]
    assert (caught.value.request_id, caught.value.others) == ("fails", ("later", "unsure", "underway"))
    assert publisher.futures["waits"].cancelled()


@on_valkey
def test_a_stream_that_nobody_reads_on_takes_back_what_it_can(desk: Desk) -> None:
    publisher = ByName(accepted=None)
    with Producer(desk.configuration) as producer:
        with_publisher(producer, publisher)
        stream = producer.send_many(publisher.orders("waits"))
        assert next(stream) == "accepted"
        stream.close()  # type: ignore[attr-defined]
    assert publisher.futures["waits"].cancelled()


def test_asyncio_sends_two_hundred_at_once(desk: Desk) -> None:
    async def send() -> list[str]:
        async with AsyncProducer(desk.configuration) as producer:
            return await asyncio.gather(*(producer.send(card()) for _ in range(200)))

    sent = asyncio.run(send())
    assert len(set(sent)) == 200
    assert {header.request_id for header in desk.headers("bulk")} == set(sent)


def test_asyncio_streams_in_order_and_refuses_in_turn(desk: Desk) -> None:
    sent = []

    async def send() -> None:
        async with AsyncProducer(desk.configuration) as producer:
            async for request_id in producer.send_many([Order(card()) for _ in range(WINDOW + 50)] + MIXED):
                sent.append(request_id)

    with pytest.raises(InvalidRequest):
        asyncio.run(send())
    assert len(sent) == WINDOW + 52
    assert [header.request_id for header in desk.headers("bulk")] == sent


# -- when the queue is long enough


def test_a_queue_at_its_limit_takes_no_more_at_once_and_says_how_long_it_would_take(desk: Desk) -> None:
    few = configured(desk.broker.url, desk.keys, desk.platform, timeout=60.0, max_waiting=5)
    with Producer(few) as producer:
        for _ in range(5):
            producer.send(card())
        with pytest.raises(BrokerFull) as caught:
            producer.send(card(), request_id="req-6")  # at once: nothing here waits for a minute
        assert (caught.value.request_id, caught.value.maybe_sent) == ("req-6", False)
        assert "5 messages wait, [broker] max_waiting is 5; at 25 per second" in str(caught.value)
        producer.send(card(), lane="realtime")  # another queue, with room of its own
    assert len(desk.headers("bulk")) == 5


def test_a_queue_that_others_have_filled_is_full_as_well(desk: Desk) -> None:
    with Producer(desk.configuration) as producer:
        sent = list(producer.send_many(Order(card()) for _ in range(20)))
    few = configured(desk.broker.url, desk.keys, desk.platform, max_waiting=20)
    with Producer(few) as producer, pytest.raises(BrokerFull, match="20 messages wait"):
        producer.send(card())
    with Producer(configured(desk.broker.url, desk.keys, desk.platform, max_waiting=0)) as producer:
        sent.append(producer.send(card()))
    assert [header.request_id for header in desk.headers("bulk")] == sent


def test_a_stream_waits_for_a_full_queue_and_keeps_no_more_than_it_may_in_it(desk: Desk) -> None:
    few = configured(desk.broker.url, desk.keys, desk.platform, max_waiting=10)
    read: list[str] = []
    done = threading.Event()

    def work() -> None:
        while not done.is_set() or len(read) < 50:
            found = [header.request_id for header in desk.headers("bulk")]
            assert len(found) <= 10
            read.extend(found)
            time.sleep(0.05)

    reader = threading.Thread(target=work)
    reader.start()
    with Producer(few, full_pause=0.05) as producer:
        sent = list(producer.send_many(Order(card()) for _ in range(50)))
    done.set()
    reader.join(30)
    assert sorted(read) == sorted(sent)


def test_a_stream_that_waits_in_vain_says_why(desk: Desk) -> None:
    few = configured(desk.broker.url, desk.keys, desk.platform, max_waiting=3)

    async def send() -> None:
        async with AsyncProducer(few, full_pause=0.05) as producer:
            async for _ in producer.send_many([Order(card()) for _ in range(5)], patience=0.2):
                pass

    with pytest.raises(BrokerFull, match="run more workers"):
        asyncio.run(send())
    assert len(desk.headers("bulk")) == 3


# -- spending a token


def test_an_order_to_spend_a_token_is_signed_and_can_be_repeated_under_its_id(desk: Desk) -> None:
    result = token(desk, connected_account="acct_1")
    with Producer(desk.configuration) as producer:
        attach_id = producer.attach(result, CustomerCreate(name="x"), reply_to="back")
        order = desk.order()
        assert producer.attach(result, CustomerCreate(name="x"), attach_id=attach_id) == attach_id
        signer = producer.sealer.signer.signer_id
    request = order.request
    assert (request.attach_id, request.request_id, request.token) == (attach_id, "req-1", "tok_1")
    assert (request.connected_account, request.reply_to, request.signer_id) == ("acct_1", "back", signer[:17])
    assert request.attach_before - request.token_created_at == 600_000
    assert desk.order().request.attach_id == attach_id


@on_valkey
def test_what_is_no_token_or_the_wrong_one_is_not_ordered_to_be_spent(desk: Desk) -> None:
    with Producer(desk.configuration) as producer:
        with pytest.raises(ValueError, match="req-1"):
            producer.attach(token(desk, token=None), CustomerCreate())
        with pytest.raises(InvalidTarget):
            producer.attach(token(desk, kind="pii"), CustomerCreate())
    assert desk.broker.take(f"attach.bulk.{desk.platform}") == []


def test_asyncio_orders_a_token_to_be_spent(desk: Desk) -> None:
    async def attach() -> str:
        async with AsyncProducer(desk.configuration) as producer:
            return await producer.attach(token(desk), CustomerCreate())

    attach_id = asyncio.run(attach())
    assert desk.order().request.attach_id == attach_id


# -- opening and closing


def publishers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "tokenferry-publisher"}


def test_nothing_of_a_closed_producer_is_left_running(desk: Desk) -> None:
    before = publishers()
    with Producer(desk.configuration) as producer:
        producer.send(card())
        assert len(publishers() - before) == 1

    async def send() -> None:
        async with AsyncProducer(desk.configuration) as producer:
            await producer.send(card())

    asyncio.run(send())
    assert publishers() == before


@pytest.fixture
def own_keys(keys: KeySettings, tmp_path: Path) -> KeySettings:
    """A copy of the producer's two files, to be spoilt."""
    recipient, signing = (shutil.copy2(path, tmp_path) for path in (keys.recipient, keys.producer_signing_key))
    return KeySettings(recipient=recipient, producer_signing_key=signing)


@pytest.mark.parametrize("producer_of", [Producer, AsyncProducer])
@pytest.mark.parametrize("spoilt", ["recipient missing", "signing key missing", "signing key open to others"])
def test_a_producer_without_its_keys_does_not_begin(
    own_keys: KeySettings, producer_of: type[Producer | AsyncProducer], spoilt: str
) -> None:
    match spoilt:
        case "recipient missing":
            named = own_keys.recipient
            named.unlink()
        case "signing key missing":
            named = own_keys.producer_signing_key
            named.unlink()
        case _:
            named = own_keys.producer_signing_key
            named.chmod(0o644)
    before = publishers()
    with pytest.raises(UnusableKey, match=named.name):
        producer_of(configured("redis://127.0.0.1:1", own_keys, "main"))
    assert publishers() <= before


def test_no_id_of_ours_looks_like_a_number_gone_astray() -> None:
    """It would be masked in the very line that tells what to repeat."""
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert not [id_ for id_ in ids if masked(id_) != id_]


class TestWhatPeopleHave:
    """Paths, dicts and numbers in the places where a newcomer puts them."""

    def test_the_path_of_a_configuration_may_be_text(self, tmp_path: Path) -> None:
        (tmp_path / "t.toml").write_text("[platforms.main]\n")
        assert list(load(str(tmp_path / "t.toml")).platforms) == ["main"]
        for make in (Producer, lambda path: Results("shop", path)):
            with pytest.raises(UnusableKey):  # read, and the keys are the next thing it needs
                make(str(tmp_path / "t.toml"))

    @on_valkey
    def test_a_dict_is_answered_with_what_makes_a_request_of_it(self, desk: Desk) -> None:
        with Producer(desk.configuration) as producer:
            for call, name in (
                (lambda: producer.send({"number": NUMBER}), "request: must be a TokenRequest, not a dict"),  # type: ignore[arg-type]
                (lambda: producer.send(card(), attach={"to": "charge"}), "attach: must be a Target, not a dict"),  # type: ignore[arg-type]
                (lambda: producer.attach({"token": "tok_1"}, CustomerCreate()), "result: must be a TokenResult"),  # type: ignore[arg-type]
                (lambda: producer.onboard({"reference": "a"}), "document: must be a Onboarding"),  # type: ignore[arg-type]
            ):
                with pytest.raises(InvalidInput, match=name) as refusal:
                    call()
                assert NUMBER not in str(refusal.value)

    def test_a_month_is_a_number_or_digits(self) -> None:
        numbers = CardRequest(number=NUMBER, exp_month=7, exp_year=2040)
        assert numbers == CardRequest(number=NUMBER, exp_month="7", exp_year="2040")

    def test_what_is_made_wrong_raises_what_is_sent_wrong(self) -> None:
        with pytest.raises(InvalidInput) as refusal:
            CardRequest(number=MISTYPED + "x", exp_month=7)  # type: ignore[call-arg]
        assert [problem.field for problem in refusal.value.problems] == ["card.number"]
        assert MISTYPED not in "".join(traceback.format_exception(refusal.value))
        with pytest.raises(InvalidTarget) as target:
            CustomerSource(customer="4242424242424242")
        assert [problem.field for problem in target.value.problems] == ["customer_source.customer"]


class TestMisuse:
    @on_valkey
    def test_a_request_in_an_event_loop_says_what_to_use_there(self, desk: Desk) -> None:
        with Producer(desk.configuration) as producer:

            async def ask() -> None:
                producer.request(card())

            with pytest.raises(RuntimeError, match=r"await producer.request.* with an AsyncProducer"):
                asyncio.run(ask())

            async def send() -> None:
                producer.send(card())

            with pytest.warns(RuntimeWarning, match="use AsyncProducer"):
                asyncio.run(send())

    @on_valkey
    def test_a_producer_of_before_a_fork_says_where_to_make_one(self, desk: Desk) -> None:
        with Producer(desk.configuration) as producer:
            producer.send(card())
            reading, writing = os.pipe()
            if (child := os.fork()) == 0:
                try:
                    producer.request(card(), timeout=5)
                except BaseException as error:
                    os.write(writing, str(error).encode())
                os._exit(0)
            os.waitpid(child, 0)
            os.close(writing)
            with os.fdopen(reading) as said:
                assert "gunicorn's post_fork" in said.read()


PUBLIC = sorted(name for name in dir(Producer) if not name.startswith("_") and callable(getattr(Producer, name)))


@pytest.mark.parametrize("name", PUBLIC)
def test_both_producers_have_the_same_methods_each_explained_where_it_is(name: str) -> None:
    """A docstring that only names the other class helps nobody in an editor."""
    plain, for_asyncio = getattr(Producer, name), getattr(AsyncProducer, name)
    assert list(inspect.signature(plain).parameters) == list(inspect.signature(for_asyncio).parameters)
    for method in (plain, for_asyncio):
        said = inspect.getdoc(method) or ""
        assert len(said) > 60
        assert "; see `" not in said
        assert not said.startswith("As `")
