"""What a reader of results promises: each outcome at least once from the broker, once to its reader, none lost."""

from __future__ import annotations

import asyncio
import base64
import bz2
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import forking
import pytest
from broker.places import ABOVE, OneRedis, Place, place
from e2e import hostile
from e2e.brokers import RabbitMQ
from e2e.hostile import SHAPES, Hostile
from e2e.house import until
from result_signing import signed

from tokenferry import AsyncResults, AttachResult, Results, TokenResult
from tokenferry.broker import embedded
from tokenferry.broker.errors import QueueUnanswered
from tokenferry.broker.publishing import Publisher
from tokenferry.configuration import Broker, Configuration, KeySettings
from tokenferry.contract.queues import PRIVATE, PRIVATE_SECONDS, QUARANTINE, results_queue
from tokenferry_worker.dead_letters.record import DeadLetter

from .conftest import KeyFolder

LEASE = 1.0
REASONS = ("unverified result", "undecodable message", "longer than any message of ours")
PROMPT = 3.0
"""Seconds that something prompt may take on a busy machine."""


@pytest.fixture(scope="module", params=ABOVE)
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(request, tmp_path_factory, database=9) as broker:
        yield broker


@dataclass
class Route:
    """A result route that nobody else reads, and a hand that puts results on it."""

    broker: Place
    keys: KeyFolder
    name: str = field(default_factory=lambda: f"r{secrets.token_hex(6)}")

    @property
    def configuration(self) -> Configuration:
        return Configuration(
            broker=Broker(url=self.broker.url, lease_seconds=LEASE, publish_timeout=5.0),
            keys=KeySettings(result_signers=self.keys.result_signers),
        )

    @property
    def queue(self) -> str:
        return results_queue(self.name)

    def put(self, *bodies: str) -> None:
        with Publisher.to(self.configuration) as publisher:
            for body in bodies:
                publisher.publish(signed(self.queue, body, self.keys.result))

    def put_results(self, *outcome_ids: str) -> None:
        self.put(*map(outcome, outcome_ids))

    def reader(self, *, patience: float | None = None) -> Results:
        return Results(self.name, self.configuration, patience=patience)

    def async_reader(self) -> AsyncResults:
        return AsyncResults(self.name, self.configuration)

    def left(self) -> list[bytes]:
        """What nobody has dealt with, taken off the route once every reader is gone."""
        return self.broker.take(self.queue)


@pytest.fixture
def route(broker: Place, key_folder: KeyFolder) -> Iterator[Route]:
    route = Route(broker, key_folder)
    yield route
    route.left()


def outcome(outcome_id: str) -> str:
    return TokenResult(
        outcome_id=outcome_id, request_id=f"req-{outcome_id}", kind="card", platform="main", token="tok_1", settled_at=1
    ).model_dump_json(exclude_none=True)


def ids(results: list[TokenResult | AttachResult | None]) -> list[str | None]:
    return [result and result.outcome_id for result in results]


@contextlib.contextmanager
def promptly(seconds: float = PROMPT) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


# -- one reader


def test_results_of_both_kinds_are_read_in_their_order_and_are_gone_then(route: Route) -> None:
    attached = AttachResult(
        outcome_id="b",
        request_id="req-b",
        attach_id="att-b",
        kind="card",
        platform="main",
        to="customer_create",
        object_id="cus_1",
        settled_at=1,
    )
    route.put(outcome("a"), attached.model_dump_json(), outcome("c"))
    read = []
    with route.reader() as reader:
        for result in reader:
            read.append(result)
            if result.outcome_id == "c":
                break
    assert ids(read) == ["a", "b", "c"]
    assert read[1] == attached
    assert route.left() == []


def test_taking_from_an_empty_route_answers_none_when_time_is_up(route: Route) -> None:
    with route.reader() as reader:
        assert reader.take(0.0) is None
        began = time.monotonic()
        assert reader.take(1.2) is None
        assert 1.2 <= time.monotonic() - began < 1.2 + PROMPT


def test_taking_without_a_timeout_waits_for_the_next_result_until_it_is_stopped(route: Route) -> None:
    configuration = route.configuration.model_copy(
        update={"broker": route.configuration.broker.model_copy(update={"publish_timeout": 0.3})}
    )
    taken: list[TokenResult | AttachResult | None] = []
    waiting = threading.Event()
    with Results(route.name, configuration) as reader:

        def take_two() -> None:
            assert reader.take(1.0) is None  # longer than the deadline for publishing, which says nothing about reading
            waiting.set()
            taken.append(reader.take())
            taken.append(reader.take())

        thread = threading.Thread(target=take_two)
        thread.start()
        assert waiting.wait(30)
        route.put_results("a")
        until(lambda: taken, "the result", 60)
        with promptly():
            reader.stop()
            thread.join()
    assert ids(taken) == ["a", None]


def test_an_outcome_that_comes_twice_is_shown_once(route: Route) -> None:
    route.put_results("a", "a", "b", "a", "c")
    with route.reader() as reader:
        assert ids([reader.take(5.0) for _ in range(3)]) == ["a", "b", "c"]
        assert reader.take(0.1) is None
    assert route.left() == []


def test_garbage_is_noted_in_quarantine_without_content_and_the_rest_goes_on(route: Route) -> None:
    garbage = ["not json", '{"type": "token"}', "[]", f"{route.name} \u2603", '{"type": "else", "outcome_id": "x"}']
    route.put(outcome("a"), *garbage, outcome("b"))
    with route.reader() as reader:
        assert ids([reader.take(5.0), reader.take(5.0)]) == ["a", "b"]
    assert route.left() == []
    notes = [{"reason": "not a result", "message": "", "bytes": len(body.encode())} for body in garbage]
    kept = [json.loads(body) for body in route.broker.take(QUARANTINE)]
    assert all(note in kept for note in notes)
    assert route.name not in str(kept)


def test_bombs_and_foreign_bodies_cost_a_reader_no_memory_and_are_not_published_again(route: Route) -> None:
    shapes = [shape for shape in SHAPES.values() if shape.suits_amqp or isinstance(route.broker, OneRedis)]
    zeros = b'{"type": "token", "x": "' + b"0" * 32_000_000
    shapes.append(Hostile("", headers={"compression": "bzip2"}, body=bz2.compress(zeros), content_encoding="binary"))
    route.put_results("a")
    route.broker.take(QUARANTINE)
    if isinstance(route.broker, OneRedis):
        for shape in shapes:
            route.broker.client.lpush(route.queue, shape.item(route.queue))
        for item in hostile.items(7, 200, route.queue):
            route.broker.client.lpush(route.queue, item)
    else:
        with route.broker.channel() as channel:
            for message in [*(shape.message() for shape in shapes), *hostile.messages(7, 200)]:
                channel.basic_publish(message, exchange="", routing_key=route.queue)
            channel.queue_declare(route.queue, passive=True)
    route.put_results("b")
    tracemalloc.start()
    try:
        with route.reader() as reader:
            assert ids([reader.take(30.0), reader.take(30.0)]) == ["a", "b"]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16_000_000
    assert route.left() == []
    noted = route.broker.take(QUARANTINE)
    assert len(noted) >= len(shapes) + 200
    assert sum(map(len, noted)) < 1_000_000, "no content among them"
    for note in noted:
        assert (letter := DeadLetter.read(note.decode())).reason in REASONS, letter.reason
        assert letter.message == ""


def test_stopping_from_another_thread_ends_the_iteration_promptly(route: Route) -> None:
    route.put_results("a")
    read: list[TokenResult | AttachResult] = []
    with route.reader() as reader:
        thread = threading.Thread(target=lambda: read.extend(reader))
        thread.start()
        until(lambda: read, "the first result")
        with promptly():
            reader.stop()
            thread.join()
    assert ids(read) == ["a"]
    assert route.left() == []


def test_a_stopped_reader_has_acknowledged_what_was_dealt_with(route: Route) -> None:
    route.put_results("a", "b", "c")
    with route.reader() as reader:
        for result in reader:
            if result.outcome_id == "b":
                reader.stop()
    assert ids([TokenResult.model_validate_json(body) for body in route.left()]) == ["c"]


def test_a_deleted_route_is_gone_with_what_was_in_it(route: Route) -> None:
    route.put_results("a", "b")
    with route.reader() as reader:
        assert reader.take(5.0) is not None
        reader.delete()
    if isinstance(route.broker, RabbitMQ):
        assert route.queue not in route.broker.queues()
    with route.reader() as reader:
        assert reader.take(0.1) is None


# -- readers that fail

DIE_HOLDING_ONE = """
import sys
from tokenferry import Results
from tokenferry.configuration import Broker, Configuration, KeySettings
url, route, lease, signers = sys.argv[1:]
keys = KeySettings(result_signers=signers)
reader = Results(route, Configuration(broker=Broker(url=url, lease_seconds=float(lease)), keys=keys))
reader.take(10.0)
print(reader.take(10.0).outcome_id, flush=True)
sys.stdin.read()
"""


def test_a_reader_killed_with_a_result_in_hand_sees_it_again_and_not_the_one_before(route: Route) -> None:
    route.put_results("a", "b", "c")
    command = [sys.executable, "-c", DIE_HOLDING_ONE, route.broker.url, route.name, str(LEASE)]
    command.append(str(route.keys.result_signers))
    with forking.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "b\n"
        if not isinstance(route.broker, RabbitMQ):  # an acknowledgement is written a moment after it was given
            until(lambda: not _is_held(route, "a"), "the acknowledgement of the first")
        os.kill(process.pid, signal.SIGKILL)
    with route.reader() as reader:
        assert sorted(filter(None, ids([reader.take(10.0), reader.take(10.0)]))) == ["b", "c"]
        assert reader.take(0.1) is None


def _is_held(route: Route, outcome_id: str) -> bool:
    assert isinstance(route.broker, OneRedis)
    needle = f"req-{outcome_id}".encode()
    return any(
        route.queue.encode() in held and needle in base64.b64decode(json.loads(held)[0]["body"])
        for held in route.broker.client.hvals(f"unacked.{route.queue}")
    )


def fail(_: TokenResult | AttachResult) -> None:
    raise LookupError("the callback has no idea")


def test_a_callback_that_raises_gets_its_result_again_from_a_new_reader(route: Route) -> None:
    route.put_results("a")
    with route.reader() as reader, pytest.raises(LookupError):
        reader.run(fail)
    seen: list[str] = []
    with route.reader() as reader:

        def note(result: TokenResult | AttachResult) -> None:
            seen.append(result.outcome_id)
            reader.stop()

        reader.run(note)
    assert seen == ["a"]
    assert route.left() == []


def test_a_body_that_raises_has_not_dealt_with_its_last_result(route: Route) -> None:
    route.put_results("a", "b")

    def read_two_and_fail() -> None:
        with route.reader() as reader:
            assert ids([reader.take(5.0), reader.take(5.0)]) == ["a", "b"]
            raise LookupError

    with pytest.raises(LookupError):
        read_two_and_fail()
    with route.reader() as reader:
        assert ids([reader.take(5.0), reader.take(0.1)]) == ["b", None]


# -- brokers that fail


def test_a_server_killed_and_started_again_does_not_end_the_iteration(tmp_path: Path, key_folder: KeyFolder) -> None:
    server = embedded.ensure(tmp_path / "data")
    try:
        route = Route(OneRedis(server.redis_url), key_folder)
        route.put_results("a")
        with route.reader() as reader:
            results = iter(reader)
            assert next(results).outcome_id == "a"
            os.kill(server.pid, signal.SIGKILL)
            embedded.ensure(tmp_path / "data")
            route.put_results("b")
            assert next(results).outcome_id == "b"
    finally:
        embedded.stop(tmp_path / "data")


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_a_cut_connection_does_not_end_the_iteration_and_nothing_is_shown_twice(route: Route) -> None:
    route.put_results("a", "b")
    with route.reader() as reader:
        results = iter(reader)
        assert next(results).outcome_id == "a"
        assert isinstance(route.broker, RabbitMQ)
        route.broker.cut()
        assert next(results).outcome_id == "b"
        route.put_results("c")
        assert next(results).outcome_id == "c"
    assert route.left() == []


def cut(route: Route) -> None:
    """Cut the connections of everybody else on this broker, which is the tests' own."""
    if isinstance(route.broker, RabbitMQ):
        route.broker.cut()
        return
    client = route.broker.client
    mine = client.client_id()
    for other in [one["id"] for one in client.client_list() if int(one["id"]) != mine]:
        client.client_kill_filter(_id=other)


@pytest.mark.parametrize("broker", ["valkey", "rabbitmq"], indirect=True)
def test_taking_goes_on_after_a_cut_connection_which_is_one_error_at_most(route: Route) -> None:
    route.put_results("a", "b")
    with route.reader() as reader:
        assert ids([reader.take(10.0)]) == ["a"]
        cut(route)
        route.put_results("c")
        taken, errors = [], 0
        while len(taken) < 2 and errors < 2:
            try:
                taken.append(reader.take(10.0))
            except reader._connection_errors():
                errors += 1
        assert sorted(filter(None, ids(taken))) == ["b", "c"]
    assert route.left() == []


def hiccup(route: Route) -> None:
    """Let the route's queue be silent for a moment, from now on: RabbitMQ answers 541 to whoever wants to read it."""
    assert isinstance(route.broker, RabbitMQ)
    route.broker.stop_queue(route.queue)
    threading.Thread(target=route.broker.start_queue, args=(route.queue,)).start()


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
@pytest.mark.parametrize("trouble", [hiccup, cut])
def test_a_connection_that_rabbitmq_ends_is_no_error_and_nothing_is_shown_twice(
    route: Route, trouble: Callable[[Route], None]
) -> None:
    route.put_results("a", "b", "c")
    if trouble is hiccup:
        hiccup(route)
    with route.reader() as reader:
        first = reader.take(10.0)
        if trouble is cut:
            cut(route)
        assert sorted(filter(None, ids([first, reader.take(10.0), reader.take(10.0)]))) == ["a", "b", "c"]

        def is_empty() -> bool:
            # What was acknowledged over a connection that was already gone comes again, and is recognised.
            assert reader.take(0.2) is None
            assert isinstance(route.broker, RabbitMQ)
            return not route.broker.queues().get(route.queue)

        until(is_empty, "a route from which everything is taken")
    assert route.left() == []


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_a_route_that_cannot_be_read_for_long_is_said_and_can_be_read_later(
    route: Route,
) -> None:
    assert isinstance(route.broker, RabbitMQ)
    route.put_results("a")
    route.broker.stop_queue(route.queue)
    with route.reader(patience=0.2) as hasty, pytest.raises(QueueUnanswered, match=rf"the queue {route.queue} \(541\)"):
        hasty.take(0.1)
    route.broker.start_queue(route.queue)
    with route.reader() as reader:
        assert ids([reader.take(10.0)]) == ["a"]


# -- asyncio


@pytest.mark.parametrize("broker", ["valkey", "rabbitmq"], indirect=True)
def test_asyncio_goes_on_after_a_cut_connection(route: Route) -> None:
    async def read() -> list[str]:
        async with route.async_reader() as reader:
            seen = []
            async for result in reader:
                if not seen:
                    await asyncio.to_thread(cut, route)
                    await asyncio.to_thread(route.put_results, "c")
                seen.append(result.outcome_id)
                if len(seen) == 3:
                    reader.stop()
        return seen

    route.put_results("a", "b")
    assert sorted(asyncio.run(asyncio.wait_for(read(), 30))) == ["a", "b", "c"]
    assert route.left() == []


def test_asyncio_reads_in_order_and_stops(route: Route) -> None:
    route.put_results("a", "b", "c")

    async def read() -> list[str]:
        seen = []
        async with route.async_reader() as reader:
            async for result in reader:
                seen.append(result.outcome_id)
                if result.outcome_id == "c":
                    reader.stop()
        return seen

    assert asyncio.run(read()) == ["a", "b", "c"]
    assert route.left() == []


def test_a_wait_that_is_cancelled_overlooks_no_result(route: Route) -> None:
    async def read() -> list[str]:
        async with route.async_reader() as reader:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    async for _ in reader:
                        pytest.fail("there is none yet")
            await asyncio.to_thread(route.put_results, "a", "b")
            seen = []
            async for result in reader:
                seen.append(result.outcome_id)
                if result.outcome_id == "b":
                    return seen
        return seen

    assert asyncio.run(read()) == ["a", "b"]
    assert route.left() == []


def test_a_result_that_came_after_the_wait_was_cancelled_is_left_for_the_next_reader(route: Route) -> None:
    async def give_up() -> None:
        async with route.async_reader() as reader:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    async for _ in reader:
                        pytest.fail("there is none yet")
            await asyncio.to_thread(route.put_results, "a")
            taking = reader._taking
            assert taking is not None
            await asyncio.wait([taking], timeout=10)  # now it is in the reader's hand, and nobody has seen it

    asyncio.run(give_up())
    with route.reader() as reader:
        assert ids([reader.take(5.0)]) == ["a"]


def test_an_async_body_that_raises_has_not_dealt_with_its_last_result(route: Route) -> None:
    route.put_results("a")

    async def fail_at_once() -> None:
        async with route.async_reader() as reader:
            async for _ in reader:
                raise LookupError

    with pytest.raises(LookupError):
        asyncio.run(fail_at_once())
    with route.reader() as reader:
        assert ids([reader.take(5.0)]) == ["a"]


@pytest.mark.parametrize("broker", ["valkey"], indirect=True)
def test_many_readers_that_wait_do_not_starve_the_one_that_has_something(route: Route) -> None:
    async def read() -> str:
        async with contextlib.AsyncExitStack() as stack:
            idle = [await stack.enter_async_context(Route(route.broker, route.keys).async_reader()) for _ in range(40)]
            waiting = [asyncio.ensure_future(anext(aiter(reader), None)) for reader in idle]
            await asyncio.sleep(0)
            await asyncio.to_thread(route.put_results, "a")
            async with asyncio.timeout(30), route.async_reader() as reader:
                result = await anext(aiter(reader))
            for reader in idle:
                reader.stop()
            await asyncio.gather(*waiting)
        return result.outcome_id

    assert asyncio.run(read()) == "a"


@pytest.mark.parametrize("broker", ["valkey"], indirect=True)
def test_what_a_dead_reader_of_a_private_route_had_in_hand_ends_by_itself(route: Route) -> None:
    """Nobody else reads this route, so nobody would give it back."""
    private = Route(route.broker, route.keys, f"{PRIVATE}{route.name}")
    assert isinstance(route.broker, OneRedis)
    client = route.broker.client
    private.put_results("a", "b")
    reader = private.reader()
    assert reader.hold(5.0) is not None
    names = [f"{kind}.{private.queue}" for kind in ("unacked", "unacked_index")]
    assert all(0 < client.pttl(name) <= PRIVATE_SECONDS * 1000 for name in names)
    reader.close()  # gives back what it held
    assert 0 < client.pttl(private.queue) <= PRIVATE_SECONDS * 1000
    assert len(private.left()) == 2


@pytest.mark.parametrize("broker", ["valkey"], indirect=True)
def test_a_route_that_others_read_stays(route: Route) -> None:
    assert isinstance(route.broker, OneRedis)
    route.put_results("a")
    with route.reader() as reader:
        assert reader.hold(5.0) is not None
        assert route.broker.client.pttl(f"unacked.{route.queue}") == -1
    assert route.broker.client.pttl(route.queue) == -1


class TestAsyncTake:
    def test_waits_for_the_next_result_and_not_longer_than_it_is_told(self, route: Route) -> None:
        async def read() -> list[str | None]:
            async with route.async_reader() as results:
                assert await results.take(timeout=0.1) is None
                route.put_results("a", "b")
                return ids([await results.take(timeout=10), await results.take(timeout=10)])

        assert asyncio.run(read()) == ["a", "b"]
        assert route.left() == []

    def test_a_wait_that_is_cancelled_loses_nothing(self, route: Route) -> None:
        async def read() -> list[str | None]:
            async with route.async_reader() as results:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(results.take(), 0.05)
                route.put_results("a")
                return ids([await results.take(timeout=10)])

        assert asyncio.run(read()) == ["a"]

    def test_in_another_event_loop_it_says_what_to_do(self, route: Route) -> None:
        results = route.async_reader()
        assert asyncio.run(results.take(timeout=0.01)) is None
        with pytest.raises(RuntimeError, match="make one in each loop"):
            asyncio.run(results.take(timeout=0.01))
        asyncio.run(results.close())
