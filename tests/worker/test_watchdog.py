"""When a process gives itself up, and when it must not: the decision, the looks, and a real pool that hangs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenferry.configuration import InvalidConfiguration, load
from tokenferry_worker.health.watchdog import EXIT_CODE, LOOKS, Signs, Watchdog, deaf, verdict
from tokenferry_worker.wiring import check

from .test_pool import Bench, Hub, Opening, started

WELL = Signs()
HUNG_CONSUMER = Signs(consumer=False)
HUNG_LOOP = Signs(loop=False)
DEAF = Signs(deaf=frozenset({"tokenize.bulk.main"}))


def any_signs() -> st.SearchStrategy[Signs]:
    queues = st.frozensets(st.sampled_from(["a", "b"]))
    return st.builds(Signs, consumer=st.booleans(), loop=st.booleans(), deaf=queues)


# The decision


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (HUNG_CONSUMER, "the thread that reads the broker hangs"),
        (HUNG_LOOP, "the thread that carries deliveries hangs"),
        (DEAF, "messages wait in tokenize.bulk.main, and none is taken"),
    ],
)
def test_enough_bad_looks_in_a_row_are_an_end_and_one_fewer_is_not(bad: Signs, why: str) -> None:
    assert verdict([bad] * LOOKS) == why
    assert verdict([bad] * (LOOKS - 1)) is None
    assert verdict([bad] * (LOOKS - 1) + [WELL]) is None
    assert verdict([bad] * 2 + [WELL] + [bad] * (LOOKS - 1)) is None


def test_queues_that_take_turns_in_waiting_are_work_not_deafness() -> None:
    other = Signs(deaf=frozenset({"attach.bulk.main"}))
    assert verdict([DEAF, other] * LOOKS) is None


@given(looks=st.lists(any_signs(), max_size=12))
def test_one_good_sign_of_each_kind_within_the_time_is_enough_to_live(looks: list[Signs]) -> None:
    last = looks[-LOOKS:]
    alive = any(s.consumer for s in last) and any(s.loop for s in last) and any(not s.deaf for s in last)
    if alive or len(last) < LOOKS:
        assert verdict(looks) is None


# What counts as deaf

NOTHING: Mapping[str, int] = {}


def hears(
    waiting: Mapping[str, int] | None,
    *,
    held: Mapping[str, int] = NOTHING,
    taken: Mapping[str, int] = NOTHING,
    reading: bool = True,
) -> bool:
    return not deaf(waiting, held=held, concurrency=10, taken=taken, before={"q": 3}, reading=reading)


def test_messages_that_wait_while_hands_are_free_and_nothing_is_taken_are_not_heard() -> None:
    assert not hears({"q": 1}, taken={"q": 3})
    assert not hears({"q": 1, "other": 0}, taken={"q": 3, "other": 7}, held={"q": 9})


@pytest.mark.parametrize(
    "story",
    [
        pytest.param({"waiting": {"q": 0}, "taken": {"q": 3}}, id="an empty queue"),
        pytest.param(
            {"waiting": {"q": 500}, "taken": {"q": 3}, "held": {"q": 10}}, id="full hands: permits, a circuit"
        ),
        pytest.param({"waiting": {"q": 500}, "taken": {"q": 4}}, id="something was taken"),
        pytest.param({"waiting": None, "taken": {"q": 3}}, id="a broker that does not answer the witness"),
        pytest.param({"waiting": {"q": 500}, "taken": {"q": 3}, "reading": False}, id="a consumer that reconnects"),
    ],
)
def test_whoever_has_a_reason_is_not_deaf(story: dict[str, object]) -> None:
    assert hears(**story)  # type: ignore[arg-type]


def test_whoever_holds_as_many_bytes_as_fit_is_not_deaf() -> None:
    for full, expected in (("q", frozenset()), ("other", frozenset({"q"}))):
        found = deaf(
            {"q": 1},
            held={"q": 3},
            concurrency=10,
            taken={"q": 3},
            before={"q": 3},
            reading=True,
            full=lambda queue, full=full: queue == full,
        )
        assert found == expected


# The looks


@dataclass
class Pool:
    """A pool of which a test decides what still turns."""

    started: bool = True
    stopping: bool = False
    turns: int = 0
    loop_turns: int = 0
    taken: Counter[str] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)
    consumer_turns: bool = True
    loop_turns_too: bool = True
    asked: int = 0

    def answer(self) -> None:
        self.asked += 1
        self.turns += self.consumer_turns
        self.loop_turns += self.loop_turns_too


@dataclass
class Crowd:
    """A witness who sees what a test puts there."""

    waiting: Mapping[str, int] | None = None
    asked: int = 0

    def ask(self) -> None:
        self.asked += 1


def dog(
    pool: Pool,
    witness: Crowd,
    *,
    seconds: float = 6.0,
    end: Callable[[int], None] = lambda code: None,
    log_seconds: float = 2.0,
) -> Watchdog:
    return Watchdog(
        pool,
        witness,
        seconds=seconds,
        concurrency=10,
        reading=lambda: True,
        report=lambda: None,
        end=end,
        log_seconds=log_seconds,
    )


def test_a_look_asks_for_what_the_next_one_wants_to_see() -> None:
    pool, witness = Pool(), Crowd()
    watchdog = dog(pool, witness)
    assert watchdog.look() == WELL
    assert (pool.asked, witness.asked) == (1, 1)
    pool.loop_turns_too = False
    assert watchdog.look() == WELL  # what was asked before has been answered
    assert watchdog.look() == HUNG_LOOP
    pool.loop_turns_too, pool.consumer_turns = True, False
    watchdog.look()
    assert watchdog.look() == HUNG_CONSUMER


def test_before_the_pool_has_started_there_is_nothing_to_see() -> None:
    pool, witness = Pool(started=False), Crowd()
    watchdog = dog(pool, witness)
    assert [watchdog.look() for _ in range(LOOKS)] == [WELL] * LOOKS
    assert pool.asked == 0


def test_messages_are_counted_against_what_was_taken_since_the_look_before() -> None:
    pool, witness = Pool(), Crowd({"q": 5})
    watchdog = dog(pool, witness)
    watchdog.look()
    assert watchdog.look().deaf == {"q"}
    pool.taken["q"] += 1
    assert watchdog.look() == WELL
    pool.held["q"] = 10
    assert watchdog.look() == WELL


def test_a_worker_that_stops_may_take_nothing_and_close_its_loop_but_may_not_hang() -> None:
    pool, witness = Pool(stopping=True, loop_turns_too=False), Crowd({"q": 5})
    watchdog = dog(pool, witness)
    watchdog.look()
    assert watchdog.look() == WELL
    pool.consumer_turns = False
    watchdog.look()
    assert watchdog.look() == HUNG_CONSUMER


def test_after_a_stop_of_the_whole_process_the_first_look_is_one_look_however_long_it_was() -> None:
    """SIGSTOP and SIGCONT: nobody has answered meanwhile, and the watchdog may be the first to run again."""
    pool, witness = Pool(), Crowd()
    watchdog = dog(pool, witness)
    looks = [watchdog.look() for _ in range(LOOKS)]
    pool.consumer_turns = pool.loop_turns_too = False
    watchdog.look()
    looks.append(watchdog.look())
    assert looks[-1] == Signs(consumer=False, loop=False)
    assert verdict(looks) is None


# The end


def test_it_says_why_and_ends_the_process_with_its_own_code(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[int] = []
    over = threading.Event()

    def end(code: int) -> None:
        ended.append(code)
        watchdog.stop()
        over.set()

    watchdog = dog(Pool(loop_turns_too=False), Crowd(), seconds=0.3, end=end)
    watchdog.start()
    assert over.wait(60)
    watchdog.join(30)
    assert ended == [EXIT_CODE] == [70]
    assert "watchdog: the thread that carries deliveries hangs" in caplog.text


class FullPipe(logging.Handler):
    """Takes nothing until it is told to, and holds its lock meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.emptied = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.emptied.wait(60)


@pytest.fixture
def full_pipe() -> Iterator[FullPipe]:
    handler, log = FullPipe(), logging.getLogger("tokenferry.worker")
    log.addHandler(handler)
    yield handler
    handler.emptied.set()
    log.removeHandler(handler)


@pytest.mark.usefixtures("full_pipe")
def test_a_log_that_nobody_takes_does_not_keep_it_from_ending() -> None:
    over = threading.Event()

    def end(code: int) -> None:
        watchdog.stop()
        over.set()

    watchdog = dog(Pool(consumer_turns=False), Crowd(), seconds=0.3, end=end, log_seconds=0.05)
    watchdog.start()
    assert over.wait(30)


def test_whatever_goes_wrong_in_a_look_or_a_report_it_looks_again(caplog: pytest.LogCaptureFixture) -> None:
    over = threading.Event()

    class Blind(Crowd):
        def ask(self) -> None:
            super().ask()
            if self.asked == 1:
                raise RuntimeError("4000000000000002")

    def report() -> None:
        raise OSError

    def end(code: int) -> None:
        watchdog.stop()
        over.set()

    watchdog = Watchdog(
        Pool(loop_turns_too=False),
        Blind(),
        seconds=0.3,
        concurrency=10,
        reading=lambda: True,
        report=report,
        end=end,
    )
    watchdog.start()
    assert over.wait(60)
    assert "could not look or report (RuntimeError)" in caplog.text
    assert "4000000000000002" not in caplog.text


def test_while_all_is_well_it_reports_and_does_nothing_else() -> None:
    reports = threading.Semaphore(0)
    ended: list[int] = []
    watchdog = Watchdog(
        Pool(),
        Crowd({"q": 0}),
        seconds=0.06,
        concurrency=10,
        reading=lambda: True,
        report=lambda: reports.release(),
        end=ended.append,
    )
    watchdog.start()
    for _ in range(3 * LOOKS):
        assert reports.acquire(timeout=10)
    watchdog.stop()
    watchdog.join(30)
    assert ended == []


# Settings


def test_a_time_in_which_an_ordinary_wait_for_the_broker_would_look_like_a_hang_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenferry.toml"
    platform = '[platforms.main]\nsecret_key = { env = "NOT_SET_HERE" }\n'
    path.write_text(f"{platform}[broker]\npublish_timeout = 16\n")
    with pytest.raises(InvalidConfiguration, match=r"\[worker\] watchdog_seconds .* write 32 or more"):
        check(load(path), "attach")
    path.write_text(f"{platform}[broker]\npublish_timeout = 16\n[worker]\nwatchdog_seconds = 32\n")
    with pytest.raises(InvalidConfiguration, match="NOT_SET_HERE"):
        check(load(path), "attach")
    path.write_text("[worker]\nwatchdog_seconds = 4\n")
    with pytest.raises(InvalidConfiguration, match="watchdog_seconds"):
        load(path)


# A pool that really hangs


def test_a_loop_that_one_delivery_blocks_stops_answering_and_a_busy_one_does_not() -> None:
    release, entered = threading.Event(), threading.Event()

    async def handle(body: str, queue: str) -> None:
        if body == "block":
            entered.set()
            release.wait(30)
        else:
            await asyncio.sleep(0.01)

    opening = Opening({"task": handle})
    pool = started(opening.open)
    hub = Hub()
    pool.register_with_event_loop(hub)
    bench = Bench(pool, hub, opening)
    try:
        busy = [bench.deliver("busy") for _ in range(50)]
        seen = pool.turns, pool.loop_turns
        pool.answer()
        hub.run_until(lambda: all(one.ended for one in busy) and pool.turns > seen[0] and pool.loop_turns > seen[1])
        assert pool.taken == {"": 50}
        assert pool.held[""] == 0
        blocked = bench.deliver("block")
        assert entered.wait(30)
        seen = pool.turns, pool.loop_turns
        pool.answer()
        hub.run_until(lambda: pool.turns > seen[0])
        assert pool.loop_turns == seen[1]
        assert pool.held[""] == 1
        release.set()
        hub.run_until(lambda: bool(blocked.ended) and pool.loop_turns > seen[1])
    finally:
        release.set()
        pool.on_terminate()
