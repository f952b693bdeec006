"""The asyncio pool between Celery's consumer and our handlers, with a hub of our own in Celery's place."""

from __future__ import annotations

import asyncio
import select
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from celery.exceptions import Reject

from tokenferry.broker.publishing import Publisher
from tokenferry_worker.deliveries.settling import Handler
from tokenferry_worker.engine import signals
from tokenferry_worker.engine.engine import Engine, EngineApp, OpenHandlers, Pauses
from tokenferry_worker.engine.pool import AsyncioPool
from tokenferry_worker.health.vitals import Vitals

from .standins import FlakyPublisher, quarantine_of

CANARY = "4000000000000002"


@dataclass
class Hub:
    """Celery's event loop, as far as a pool needs one: watches file descriptors in the main thread."""

    readers: dict[int, Callable[[], None]] = field(default_factory=dict)
    todo: set[Callable[[], None]] = field(default_factory=set)
    timers_fired: int = 0

    def _pop_ready(self) -> set[Callable[[], None]]:
        ready, self.todo = self.todo, set()
        return ready

    def fire_timers(self) -> None:
        self.timers_fired += 1
        raise ConnectionError

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        self.readers[fd] = callback

    def run_until(self, holds: Callable[[], bool], seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, "it did not happen in time"
            ready, _, _ = select.select(list(self.readers), [], [], 0.05)
            for fd in ready:
                self.readers[fd]()


@dataclass
class Opening:
    """Opens the handlers, and counts."""

    handlers: Mapping[str, Handler]
    opened: int = 0
    closed: int = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Mapping[str, Handler]]:
        self.opened += 1
        yield self.handlers
        self.closed += 1


def started(
    open_handlers: OpenHandlers, *, grace: float = 20.0, hold: float | None = None, pauses: Pauses | None = None
) -> AsyncioPool:
    """A pool that Celery would have made and started."""
    engine = Engine(
        open_handlers=open_handlers,
        publisher=_none,
        quarantine=quarantine_of(FlakyPublisher()),
        now=time.time,
        vitals=Vitals("all"),
        grace_seconds=grace,
        hold_seconds=hold,
        pauses=pauses or Pauses(),
    )
    pool = AsyncioPool(600, app=EngineApp(engine))
    pool.on_start()
    return pool


def _none() -> Publisher:
    raise AssertionError("the pool publishes nothing")


@dataclass
class Delivery:
    """One message handed to the pool, and what came back."""

    body: str
    accepted: int = 0
    ended: list[tuple[bool, Any, float]] = field(default_factory=list)
    thread: threading.Thread | None = None

    def callback(self, outcome: tuple[bool, Any, float]) -> None:
        self.ended.append(outcome)
        self.thread = threading.current_thread()

    def accept(self, _pid: int, _time: float) -> None:
        self.accepted += 1

    @property
    def acknowledged(self) -> bool:
        return [failed for failed, _, _ in self.ended] == [False]

    @property
    def given_back(self) -> bool:
        """Whether Celery is told to requeue it, exactly once."""
        ((failed, info, _),) = self.ended
        assert isinstance(info, ExceptionInfo)
        reason = getattr(info.exception, "exc", info.exception)  # billiard wraps it; Celery unwraps it likewise
        assert isinstance(reason, Reject)
        assert CANARY not in f"{info.traceback} {reason!r}"
        return failed and reason.requeue is True


@dataclass
class Bench:
    pool: AsyncioPool
    hub: Hub
    opening: Opening

    def deliver(self, body: str = "body", task: str = "task") -> Delivery:
        delivery = Delivery(body)
        self.pool.on_apply(
            None,
            (task, "id-1", {}, body, "json", "utf-8"),
            {},
            delivery.callback,
            delivery.accept,
            soft_timeout=None,
        )
        return delivery


Start = Callable[..., Bench]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a pool whose one task has this handler."""
    benches: list[Bench] = []

    def begin(handler: Handler, **settings: Any) -> Bench:
        opening = Opening({"task": handler})
        pool = started(opening.open, **settings)
        hub = Hub()
        pool.register_with_event_loop(hub)
        benches.append(Bench(pool, hub, opening))
        return benches[-1]

    yield begin
    for bench in benches:
        if bench.pool._thread.is_alive():
            bench.pool.on_terminate()
        assert not bench.pool._thread.is_alive()
        assert (bench.opening.opened, bench.opening.closed) == (1, 1)


def test_a_handled_delivery_is_acknowledged_in_celerys_own_thread(start: Start) -> None:
    bodies: list[tuple[str, threading.Thread]] = []

    async def handle(body: str, _queue: str) -> None:
        bodies.append((body, threading.current_thread()))

    bench = start(handle)
    delivery = bench.deliver("the envelope")
    bench.hub.run_until(lambda: bool(delivery.ended))
    assert delivery.acknowledged
    assert delivery.accepted == 1
    assert delivery.thread is threading.current_thread()
    ((body, thread),) = bodies
    assert body == "the envelope"
    assert thread is not threading.current_thread()


def test_five_hundred_deliveries_are_under_way_at_once(start: Start) -> None:
    inside, everybody = 0, asyncio.Event()

    async def handle(body: str, _queue: str) -> None:
        nonlocal inside
        inside += 1
        if inside == 500:
            everybody.set()
        await everybody.wait()

    bench = start(handle)
    deliveries = [bench.deliver() for _ in range(500)]
    bench.hub.run_until(lambda: all(delivery.ended for delivery in deliveries))
    assert all(delivery.acknowledged for delivery in deliveries)
    assert bench.pool.info["in-hand"] == 0


def test_a_delivery_for_which_memory_runs_out_goes_back_and_the_process_works_on(start: Start) -> None:
    async def handle(body: str, _queue: str) -> None:
        if body == "large":
            raise MemoryError

    bench = start(handle, pauses=Pauses(crashed=0.0))
    large, small = bench.deliver("large"), bench.deliver("small")
    bench.hub.run_until(lambda: bool(large.ended and small.ended))
    assert large.given_back
    assert small.acknowledged


def test_while_it_stops_it_acknowledges_at_once_and_keeps_the_connection_alive(start: Start) -> None:
    """Celery's hub, which does both, does not turn any more."""
    done = threading.Event()

    async def handle(body: str, _queue: str) -> None:
        while not done.is_set():
            await asyncio.sleep(0.005)

    bench = start(handle, pauses=Pauses(between_timers=0.01))
    bench.deliver()
    acknowledged = threading.Event()
    bench.hub.todo.add(acknowledged.set)

    def later() -> None:
        acknowledged.wait(30)
        until = time.monotonic() + 30
        while bench.hub.timers_fired < 2 and time.monotonic() < until:
            time.sleep(0.01)
        done.set()

    threading.Thread(target=later).start()
    bench.pool.on_stop()
    assert acknowledged.is_set()
    assert bench.hub.timers_fired >= 2  # and the first one's failure changed nothing


@pytest.mark.usefixtures("no_signal_yet")
def test_a_second_signal_cuts_the_grace_time_short(start: Start) -> None:
    bench = start(_for_ever, grace=600.0)
    delivery = bench.deliver()
    threading.Timer(0.2, signals.give_back).start()
    bench.pool.on_stop()
    assert delivery.given_back


def test_what_is_held_and_taken_is_counted_by_queue(start: Start) -> None:
    bench = start(_for_ever)
    delivery = Delivery("body")
    request = {"delivery_info": {"exchange": "", "routing_key": "tokenize.bulk.main", "priority": 0}}
    bench.pool.on_apply(None, ("task", "id-1", request, "body", "json", "utf-8"), {}, delivery.callback)
    assert (bench.pool.held, bench.pool.taken) == ({"tokenize.bulk.main": 1}, {"tokenize.bulk.main": 1})
    bench.pool.on_terminate()
    assert (bench.pool.held, bench.pool.taken) == ({"tokenize.bulk.main": 0}, {"tokenize.bulk.main": 1})


def test_a_crashed_delivery_goes_back_and_says_only_what_kind_of_error_and_where(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(body: str, _queue: str) -> None:
        raise ValueError(f"cannot make sense of {body}")

    bench = start(handle, pauses=Pauses(crashed=0.05))
    delivery = bench.deliver(CANARY)
    bench.hub.run_until(lambda: bool(delivery.ended))
    assert delivery.given_back
    assert delivery.ended[0][2] >= 0.05
    assert "ValueError at test_pool.py" in caplog.text
    assert CANARY not in caplog.text


def test_a_delivery_for_a_task_nobody_handles_goes_back(start: Start) -> None:
    async def handle(body: str, _queue: str) -> None:
        raise AssertionError

    bench = start(handle, pauses=Pauses(crashed=0.0))
    delivery = bench.deliver(task="another")
    bench.hub.run_until(lambda: bool(delivery.ended))
    assert delivery.given_back


def test_one_crash_disturbs_no_other_delivery(start: Start) -> None:
    async def handle(body: str, _queue: str) -> None:
        if body == "7":
            raise RuntimeError

    bench = start(handle, pauses=Pauses(crashed=0.0))
    deliveries = [bench.deliver(str(n)) for n in range(50)]
    bench.hub.run_until(lambda: all(delivery.ended for delivery in deliveries))
    assert [n for n, delivery in enumerate(deliveries) if not delivery.acknowledged] == [7]


async def _for_ever(body: str, _queue: str) -> None:
    await asyncio.Event().wait()


def test_at_a_warm_shutdown_what_finishes_in_the_grace_time_is_acknowledged_and_the_rest_goes_back(
    start: Start,
) -> None:
    cancelled: list[str] = []

    async def handle(body: str, _queue: str) -> None:
        if body == "quick":
            await asyncio.sleep(0.05)
            return
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(body)

    bench = start(handle, grace=3.0)
    quick, slow = bench.deliver("quick"), bench.deliver("slow")
    bench.pool.on_stop()
    assert quick.acknowledged
    assert slow.given_back
    assert cancelled == ["slow"]
    assert bench.opening.closed == 1


def test_a_cold_shutdown_gives_everything_back_at_once_even_what_has_not_begun(start: Start) -> None:
    bench = start(_for_ever, pauses=Pauses(cancelled=90.0))
    deliveries = [bench.deliver() for _ in range(20)]
    began = time.monotonic()
    bench.pool.on_terminate()
    assert time.monotonic() - began < 30
    assert all(delivery.given_back for delivery in deliveries)


def test_a_delivery_called_off_before_its_first_step_goes_back_too(start: Start) -> None:
    bench = start(_for_ever)
    delivery = Delivery("body")
    bench.pool._in_hand += 1

    def begin_and_cancel_in_one_turn_of_the_loop() -> None:
        bench.pool._begin("task", "id-1", "body", delivery.callback)
        bench.pool._cancel_all()

    bench.pool._loop.call_soon_threadsafe(begin_and_cancel_in_one_turn_of_the_loop)
    bench.hub.run_until(lambda: bool(delivery.ended))
    assert delivery.given_back


def test_a_delivery_held_too_long_goes_back_in_good_order_although_its_excuse_finds_no_store(start: Start) -> None:
    excused: list[str] = []

    async def handle(body: str, _queue: str) -> None:
        if body == "quick":
            return
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            excused.append(body)
            if body == "the store is away":
                await asyncio.Event().wait()
            raise

    bench = start(handle, hold=0.2, pauses=Pauses(cancelled=0.05))
    quick, waits, stuck = (bench.deliver(body) for body in ("quick", "waits", "the store is away"))
    bench.hub.run_until(lambda: all(delivery.ended for delivery in (quick, waits, stuck)))
    assert quick.acknowledged
    assert waits.given_back
    assert stuck.given_back
    assert excused == ["waits", "the store is away"]
    assert bench.pool.in_hand == 0


def test_a_crashed_delivery_that_waits_to_go_back_does_not_hold_up_a_shutdown(start: Start) -> None:
    crashed = threading.Event()

    async def handle(body: str, _queue: str) -> None:
        crashed.set()
        raise RuntimeError

    bench = start(handle, pauses=Pauses(crashed=90.0, cancelled=90.0))
    delivery = bench.deliver()
    assert crashed.wait(30)
    began = time.monotonic()
    bench.pool.on_terminate()
    assert time.monotonic() - began < 30
    assert delivery.given_back


def test_after_a_reconnect_the_new_hub_is_served(start: Start) -> None:
    async def handle(body: str, _queue: str) -> None:
        pass

    bench = start(handle)
    bench.hub = Hub()
    bench.pool.register_with_event_loop(bench.hub)
    delivery = bench.deliver()
    bench.hub.run_until(lambda: bool(delivery.ended))
    assert delivery.acknowledged


def test_handlers_that_cannot_be_opened_end_the_start_of_the_worker() -> None:
    class NoKeys(Exception):
        pass

    @asynccontextmanager
    async def fail() -> AsyncIterator[Mapping[str, Handler]]:
        raise NoKeys
        yield {}

    with pytest.raises(NoKeys):
        started(fail)
    for thread in threading.enumerate():
        if thread.name == "tokenferry-loop":
            thread.join(30)
            assert not thread.is_alive()


def pool_of(handler: Handler, *, closing: type[BaseException] | None = None) -> AsyncioPool:
    """A pool whose connections, or whatever its handlers hold, raise *closing* when they are closed."""

    @asynccontextmanager
    async def open_() -> AsyncIterator[Mapping[str, Handler]]:
        yield {"task": handler}
        if closing is not None:
            raise closing(f"no text of an error is told: {CANARY}")

    return started(open_, grace=0.0)


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError, SystemExit])
def test_what_is_raised_while_it_closes_is_told_and_known_to_whoever_says_how_the_process_ended(
    caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    pool = pool_of(_for_ever, closing=error)
    assert not pool.failed
    pool.on_stop()
    assert pool.failed
    (line,) = caplog.messages
    assert line.startswith(f"closing the connections failed ({error.__name__} at test_pool.py:")
    assert CANARY not in caplog.text


def test_a_pool_that_closes_well_has_not_failed(caplog: pytest.LogCaptureFixture) -> None:
    pool = pool_of(_for_ever)
    pool.on_stop()
    assert not pool.failed
    assert caplog.messages == []


@pytest.mark.usefixtures("no_signal_yet")
def test_a_loop_that_ends_while_it_should_work_is_told_and_ends_the_process(caplog: pytest.LogCaptureFixture) -> None:
    pool = pool_of(_for_ever)
    hub = Hub()
    pool.register_with_event_loop(hub)
    turned = pool.turns

    def end() -> None:
        raise SystemExit(f"no text of an error is told: {CANARY}")

    pool._loop.call_soon_threadsafe(end)
    hub.run_until(signals.at_once)
    hub.run_until(lambda: pool.turns > turned)  # an idle hub is woken, so that it looks
    pool._thread.join(30)
    assert pool.failed
    (line,) = caplog.messages
    assert line.startswith("the loop of the deliveries has ended (SystemExit at test_pool.py:")
    assert CANARY not in caplog.text
    pool.on_terminate()
