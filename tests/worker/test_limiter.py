"""The rate of the fleet, as Lua on the server's clock, held against the arithmetic it must equal."""

from __future__ import annotations

import asyncio
import random
import time
from itertools import pairwise
from typing import Any

import pytest
from redis.asyncio import Redis

from tokenferry.contract.names import LANES, Lane
from tokenferry_worker.limits.pacing import Budget, cut, recovered, take
from tokenferry_worker.on_redis.controls import Controls
from tokenferry_worker.on_redis.keys import StoreKeys
from tokenferry_worker.on_redis.limiter import MICROSECONDS, NEW_GATES, SHARED, RedisLimiter, numbers
from tokenferry_worker.on_redis.store import Script, Store

pytestmark = pytest.mark.anyio


def on_a_clock_of_ours(script: Script) -> Script:
    """The same script, told the time in its last two arguments instead of asking the server."""
    told = script.source.replace("redis.call('TIME')", "{ARGV[#ARGV - 1], ARGV[#ARGV]}")
    assert told != script.source
    script.source = told
    return script


async def arrival(client: Redis, key: str) -> float:
    """The theoretical arrival time a budget holds, in seconds."""
    return int(await client.hget(key, "at") or 0) / MICROSECONDS


@pytest.mark.parametrize("seed", range(5))
async def test_the_script_takes_exactly_what_the_arithmetic_takes(client: Redis, store: Store, seed: int) -> None:
    dice = random.Random(seed)
    permit = on_a_clock_of_ours(Script("permit", after=SHARED))
    compared = 0
    for schedule in range(12):
        budgets = [
            Budget(f"{schedule}-{n}", dice.choice([0.5, 5, 25, 30, 100, 333]), dice.randint(1, 5))
            for n in range(dice.randint(1, 3))
        ]
        keys = [store.keys.budget(budget.name) for budget in budgets]
        now = dice.randint(1_000, 2_000) * MICROSECONDS
        for _ in range(15):
            now += dice.choice([0, 0, 1, dice.randint(0, 20_000), dice.randint(0, 3_000_000)])
            lane, more = dice.choice(LANES), dice.choice([0, 1])
            before = [await arrival(client, key) for key in keys]
            rates = [x for budget in budgets for x in numbers(budget, lane)]
            clock = [now // MICROSECONDS, now % MICROSECONDS]
            line = f"{store.keys.prefix}:line:{schedule}"
            granted, again = await store.run(permit, [line, *keys], [more, lane, "", 0, *rates, *clock])
            after = [await arrival(client, key) for key in keys]
            expected, wait = take(before, budgets, lane, now=now / MICROSECONDS)
            if granted != (wait == 0.0):
                # Only where the moment falls on the microsecond: intervals are rounded up, so as to be late, not early.
                assert max(wait, 0 if granted else int(again) / MICROSECONDS) <= 10e-6
                continue
            compared += 1
            assert after == pytest.approx(expected, abs=3e-6)
            if not granted:
                assert int(again) / MICROSECONDS >= wait - 3e-6
                if lane == "realtime":
                    assert int(again) / MICROSECONDS == pytest.approx(wait, abs=10e-6)
    assert compared > 150


async def call(limiter: RedisLimiter, budget: Budget, lane: Lane = "bulk") -> None:
    """One call that ends at once."""
    async with limiter.permit([budget], lane):
        pass


async def waits(limiter: RedisLimiter, budgets: list[Budget]) -> float:
    """How long a realtime request would wait now; where it would not, it takes the call."""
    reply = await limiter.ask(budgets, "realtime", False)
    assert reply.granted == (reply.ask_again == 0.0)
    return reply.ask_again


async def test_the_server_keeps_the_time_and_books_nothing_ahead(client: Redis, store: Store) -> None:
    limiter = RedisLimiter(store)
    budget = Budget("main:global", per_second=0.1, burst=1)
    assert await waits(limiter, [budget]) == 0.0
    told = [await waits(limiter, [budget]) for _ in range(3)]
    assert 0 < told[-1] <= told[0] <= 10
    seconds, micros = await client.time()
    assert await arrival(client, store.keys.budget(budget.name)) - (int(seconds) + int(micros) / MICROSECONDS) <= 10


async def test_everybody_who_is_refused_gets_a_turn_of_its_own(store: Store) -> None:
    limiter = RedisLimiter(store)
    budget = Budget("main:global", per_second=0.05, burst=1)
    assert (await limiter.ask([budget], "bulk", False)).granted
    replies = [await limiter.ask([budget], "bulk", False) for _ in range(4)]
    assert not any(reply.granted for reply in replies)
    turns = [reply.ask_again for reply in replies]
    assert 10 < turns[0] <= 20
    assert all(10 < later - earlier <= 20 for earlier, later in pairwise(turns))


async def test_realtime_does_not_stand_in_line(store: Store) -> None:
    limiter = RedisLimiter(store)
    budget = Budget("main:global", per_second=2, burst=2)
    while (await limiter.ask([budget], "bulk", True)).granted:
        pass
    assert (await limiter.ask([budget], "realtime", False)).granted


async def test_two_workers_together_keep_one_budget(client: Redis, prefix: str) -> None:
    fleet = [RedisLimiter(Store(client, prefix)) for _ in range(2)]
    budget = Budget("main:endpoint:tokens", per_second=100, burst=2)
    began, made = time.monotonic(), []

    async def call(limiter: RedisLimiter) -> None:
        async with limiter.permit([budget], "bulk"):
            made.append(time.monotonic() - began)

    await asyncio.gather(*(call(limiter) for limiter in fleet for _ in range(15)))
    assert len(made) == 30
    # Never early: call n may be made when n minus the burst intervals have passed.
    early = [n for n, at in enumerate(sorted(made)) if at < (n + 1 - budget.burst) * budget.interval - 0.002]
    assert early == []
    assert max(made) < 2.0


async def test_the_tightest_of_several_budgets_decides_and_nothing_is_taken_by_halves(store: Store) -> None:
    limiter = RedisLimiter(store)
    wide, tight = Budget("wide", per_second=0.1, burst=1), Budget("tight", per_second=0.01, burst=1)
    assert await waits(limiter, [wide, tight]) == 0.0
    assert 90 < await waits(limiter, [wide, tight]) <= 100
    # Only the one call that was made counts against the wide budget, not the one that was refused.
    assert await waits(limiter, [wide]) <= 10


async def test_after_a_push_back_nobody_calls_for_that_long(store: Store) -> None:
    limiter = RedisLimiter(store)
    budget = Budget("main:global", per_second=100, burst=5)
    await limiter.back_off(budget, 9)
    assert 4 < await waits(limiter, [budget]) <= 9


async def test_a_hundred_refusals_at_once_are_one_piece_of_news(store: Store) -> None:
    limiter = RedisLimiter(store)
    budget = Budget("main:global", per_second=100, burst=5)
    await asyncio.gather(*(limiter.back_off(budget, 9) for _ in range(100)))
    assert 2 < await waits(limiter, [budget]) <= 9


async def test_a_push_back_never_brings_a_call_forward(store: Store) -> None:
    limiter = RedisLimiter(store)
    budget = Budget("slow", per_second=0.01, burst=1)
    await waits(limiter, [budget])
    await limiter.back_off(budget, 0.1)
    assert 50 < await waits(limiter, [budget]) <= 100


async def test_a_push_back_is_heard_by_the_whole_fleet(client: Redis, prefix: str) -> None:
    one, other = RedisLimiter(Store(client, prefix)), RedisLimiter(Store(client, prefix))
    budget = Budget("main:global", per_second=100, burst=2)
    began = time.monotonic()
    await one.back_off(budget, 0.15)
    await call(other, budget, "realtime")
    assert time.monotonic() - began >= 0.14


class Clock:
    """Scripts told the time, so that minutes pass in a line."""

    def __init__(self, store: Store, budget: Budget) -> None:
        self.now = 1_000.0
        self.store, self.budget = store, budget
        self.key, self.changes = store.keys.budget(budget.name), store.keys.changes
        self.push_back, self.look = (on_a_clock_of_ours(Script(name, after=SHARED)) for name in ("push_back", "look"))

    def time(self) -> list[int]:
        micros = round(self.now * MICROSECONDS)
        return [micros // MICROSECONDS, micros % MICROSECONDS]

    async def refused(self) -> None:
        arguments = [0, *numbers(self.budget, "realtime")[:2], self.budget.name, "test", *self.time()]
        await self.store.run(self.push_back, [self.key, self.changes], arguments)

    async def share(self) -> float:
        arguments = [*numbers(self.budget, "realtime")[:2], *self.time()]
        per_second, *_ = await self.store.run(self.look, [self.key], arguments)
        return float(per_second) / self.budget.per_second


@pytest.mark.parametrize("seed", range(5))
async def test_the_fleet_slows_down_and_probes_its_way_back_as_the_arithmetic_says(store: Store, seed: int) -> None:
    dice, clock = random.Random(seed), Clock(store, Budget("main:global", per_second=100, burst=1))
    factor, since, cuts = 1.0, 0.0, 0
    for _ in range(60):
        clock.now += dice.choice([0.1, 0.9, 3.0, dice.uniform(0, 60)])
        now_share = recovered(factor, clock.now - since)
        assert await clock.share() == pytest.approx(now_share, rel=2e-3)
        if dice.random() < 0.5:
            await clock.refused()
            if clock.now - since >= 1.0:
                (factor, cuts), since = cut(now_share, clock.now - since, cuts), clock.now


async def test_a_limit_halved_without_notice_is_found_within_seconds_and_used_again_within_a_minute(
    store: Store,
) -> None:
    clock, true_limit = Clock(store, Budget("main:global", per_second=100, burst=1)), 0.5

    async def a_second() -> tuple[float, bool]:
        clock.now += 1.0
        used = await clock.share()
        if refused := used > true_limit:
            await clock.refused()
        return used, refused

    search = [await a_second() for _ in range(5)]
    assert search[-1][0] <= true_limit
    lasting = [await a_second() for _ in range(120)]
    assert sum(refused for _, refused in lasting) <= 10
    assert sum(used for used, _ in lasting) / 120 >= 0.9 * true_limit
    true_limit = 1.0
    for _ in range(60):
        used, _ = await a_second()
    assert used >= 0.95


async def test_an_endpoint_that_refuses_everything_is_asked_ever_more_rarely_but_never_given_up(store: Store) -> None:
    clock = Clock(store, Budget("main:global", per_second=100, burst=1))
    for _ in range(100):
        clock.now += 1.1
        await clock.refused()
    assert 0.01 < await clock.share() < 0.03


async def test_an_operators_word_is_in_force_at_once_ends_by_itself_and_is_written_down(store: Store) -> None:
    limiter, controls, budget = RedisLimiter(store), Controls(store), Budget("main:global", per_second=100, burst=1)
    await controls.command("set", budget, who="ada@host", why="the account was cut", rate=0.02, lasts=3600)
    assert (await controls.look(budget)).now == 0.02
    assert await waits(limiter, [budget]) == 0.0
    assert 40 < await waits(limiter, [budget]) <= 50
    await controls.command("pause", budget, who="ada@host", why="maintenance", lasts=3600)
    assert (await controls.look(budget)).paused == "maintenance"
    assert await waits(limiter, [budget]) == 1.0
    await controls.command("resume", budget, who="bob@host", why="over")
    assert (await controls.look(budget)).paused is None
    await controls.command("reset", budget, who="bob@host", why="back to normal")
    assert (await controls.look(budget)).now == 100.0
    await controls.command("set", budget, who="ada@host", why="for a moment", rate=2.0, lasts=0.0)
    assert (await controls.look(budget)).now == 100.0
    changes = await controls.history(10)
    assert [(change.who, change.why) for change in changes][::-1] == [
        ("ada@host", "the account was cut"),
        ("ada@host", "maintenance"),
        ("bob@host", "over"),
        ("bob@host", "back to normal"),
        ("ada@host", "for a moment"),
    ]
    assert all(change.budget == "main:global" for change in changes)


async def test_while_the_store_is_away_a_process_goes_on_with_a_small_share_and_then_with_the_fleet() -> None:
    class Away:
        """A store that is away until it is said to be back."""

        away = True
        keys = StoreKeys("test")

        async def run_unless_away(self, *_: object) -> list[int] | None:
            return None if self.away else [1, 0]

    store = Away()
    limiter, budget = RedisLimiter(store, alone=0.1), Budget("main:global", per_second=100, burst=3)  # type: ignore[arg-type]
    replies = [await limiter.ask([budget], "realtime", True) for _ in range(20)]
    assert 1 <= sum(reply.granted for reply in replies) <= 2
    assert 0.0 < replies[-1].ask_again <= 0.1
    store.away = False
    assert (await limiter.ask([budget], "realtime", True)).granted


class Leaving(Store):
    """A store that is away when it is told to be."""

    left = False

    async def run_unless_away(self, *asked: Any) -> Any:
        return None if self.left else await super().run_unless_away(*asked)


async def test_a_pause_holds_while_the_store_is_away_until_it_ends_by_itself(client: Redis, prefix: str) -> None:
    store = Leaving(client, prefix)
    limiter, other = RedisLimiter(store, alone=1.0), Budget("other:global", per_second=100)
    long, short = (Budget(f"main:endpoint:{name}", per_second=100) for name in ("tokens", "charges"))
    for budget, lasts in ((long, 3600.0), (short, 0.2)):
        await Controls(store).command("pause", budget, who="a test", why="a test", lasts=lasts)
        assert not (await limiter.ask([other, budget], "realtime", False)).granted

    store.left = True
    assert not (await limiter.ask([other, long], "realtime", False)).granted
    assert (await limiter.ask([other], "realtime", False)).granted
    await asyncio.sleep(0.3)
    assert (await limiter.ask([short], "realtime", False)).granted
    store.left = False
    await Controls(store).command("resume", long, who="a test", why="it is over")
    assert (await limiter.ask([long], "realtime", False)).granted
    store.left = True
    assert (await limiter.ask([long], "realtime", False)).granted, "the last that it was told"
    await store.aclose()


async def test_a_server_clock_that_is_set_back_an_hour_stops_nobody(client: Redis, store: Store) -> None:
    budget, permit = Budget("main:global", per_second=10, burst=2), on_a_clock_of_ours(Script("permit", after=SHARED))
    keys = [store.keys.line([budget]), store.keys.budget(budget.name)]

    async def ask(now: int) -> tuple[int, float]:
        arguments = [0, "bulk", "", 0, *numbers(budget, "bulk"), now, 0]
        granted, again = await store.run(permit, keys, arguments)
        return granted, int(again) / MICROSECONDS

    for _ in range(5):
        await ask(7200)
    assert (await ask(3600))[0] == 1
    assert (await ask(3600))[1] <= 1.0


async def test_a_store_that_is_wiped_in_the_middle_is_a_fresh_start_not_an_error(client: Redis, store: Store) -> None:
    limiter, budget = RedisLimiter(store), Budget("main:global", per_second=1, burst=1)
    assert await waits(limiter, [budget]) == 0.0
    assert await waits(limiter, [budget]) > 0.5
    await client.flushdb()
    await client.script_flush()
    assert await waits(limiter, [budget]) == 0.0


async def test_no_more_calls_are_under_way_than_a_budget_allows_and_one_that_is_done_makes_room(store: Store) -> None:
    limiter = RedisLimiter(store)
    budget = Budget("main:endpoint:accounts", per_second=1000, burst=50, in_flight=3)
    async with limiter.permit([budget], "bulk"), limiter.permit([budget], "bulk"):
        async with limiter.permit([budget], "bulk"):
            reply = await limiter.ask([budget], "realtime", False)
            assert not reply.granted
            assert reply.ask_again == 0.05
            waiting = asyncio.create_task(call(limiter, budget, "realtime"))
            await turns(5)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 30)


async def test_a_permit_is_given_back_however_its_block_ends(client: Redis, store: Store) -> None:
    limiter, budget = RedisLimiter(store), Budget("main:endpoint:accounts", per_second=1000, burst=50, in_flight=1)

    async def fail() -> None:
        async with limiter.permit([budget], "bulk"):
            assert await seats_taken(client, store, budget) == 1
            raise ValueError("the call has failed")

    with pytest.raises(ValueError, match="the call has failed"):
        await fail()
    assert await seats_taken(client, store, budget) == 0


async def test_a_call_whose_worker_died_makes_room_after_the_longest_a_call_can_take(store: Store) -> None:
    limiter = RedisLimiter(store, longest_call=0.2)
    budget = Budget("main:endpoint:accounts", per_second=1000, burst=50, in_flight=1)
    began = time.monotonic()
    for _ in range(3):
        while not (reply := await limiter.ask([budget], "bulk", False)).granted:
            await asyncio.sleep(reply.ask_again)
    assert time.monotonic() - began >= 0.35


async def seats_taken(client: Redis, store: Store, budget: Budget) -> int:
    return int(await client.zcard(store.keys.budget(f"{budget.name}:calls")))


async def turns(count: int) -> None:
    """Let the loop turn so often."""
    for _ in range(count):
        await asyncio.sleep(0)


class Slow(Store):
    """A store whose answers are on their way for some turns of the loop more, each for another number of them."""

    def __init__(self, client: Redis, prefix: str, dice: random.Random) -> None:
        super().__init__(client, prefix)
        self.dice = dice
        self.answered = asyncio.Event()

    async def _ask(self, *asked: Any) -> Any:
        answer = await super()._ask(*asked)
        self.answered.set()
        await turns(self.dice.choice([0, 0, 1, 5]))
        return answer


@pytest.mark.parametrize("seed", range(6))
async def test_however_those_who_wait_are_cancelled_no_call_counts_as_under_way_in_the_end(
    client: Redis, prefix: str, seed: int
) -> None:
    dice = random.Random(seed)
    store = Slow(client, prefix, dice)
    limiter = RedisLimiter(store)
    budget = Budget("main:endpoint:tokens", per_second=100_000, burst=50, in_flight=2)
    ended = []

    async def deliver() -> None:
        async with limiter.permit([budget], dice.choice(LANES)):
            await turns(dice.randint(0, 10))

    async def call_off(delivery: asyncio.Task[None]) -> None:
        """At any moment: before the permit is asked for, while its answer comes, in the call, and while that ends."""
        store.answered.clear()
        if dice.random() < 0.8:
            await store.answered.wait()
        for _ in range(dice.choice([1, 2])):
            await turns(dice.randint(0, 12))
            delivery.cancel()

    async with asyncio.timeout(90):
        for _ in range(60):
            deliveries = [asyncio.create_task(deliver()) for _ in range(dice.randint(1, 3))]
            await asyncio.gather(*(call_off(each) for each in deliveries if dice.random() < 0.8))
            # A call that counts as under way for two minutes would make the next ones wait as long.
            ended += await asyncio.gather(*deliveries, return_exceptions=True)
        await limiter.aclose()
    assert await seats_taken(client, store, budget) == 0
    assert {type(end) for end in ended} == {type(None), asyncio.CancelledError}
    await store.aclose()


async def test_a_call_whose_answer_came_too_late_is_given_back(client: Redis, prefix: str) -> None:
    class Late(Store):
        """Hears the first answer only when nobody waits for it any more."""

        late = True

        async def run_unless_away(self, *asked: Any) -> Any:
            answer = await super().run_unless_away(*asked)
            late, self.late = self.late, False
            return None if late else answer

    store = Late(client, prefix)
    limiter, budget = RedisLimiter(store), Budget("main:endpoint:tokens", per_second=1000, burst=9, in_flight=1)
    await limiter.ask([budget], "bulk", False)
    async with asyncio.timeout(60):
        await call(limiter, budget)
    await limiter.aclose()
    assert await seats_taken(client, store, budget) == 0
    await store.aclose()


class Granting:
    """A store that grants every call, or is away; for the limiter alone."""

    def __init__(self) -> None:
        self.away = False
        self.rest = 0
        """Microseconds until it is worth asking again."""
        self.go = asyncio.Event()
        self.go.set()

    keys = StoreKeys("test")

    async def run_unless_away(self, *_: object) -> list[int] | None:
        await self.go.wait()
        return None if self.away else [1, self.rest]


async def test_thousands_of_connected_accounts_leave_no_memory_behind() -> None:
    store = Granting()
    limiter = RedisLimiter(store, alone=1.0)  # type: ignore[arg-type]
    most = 0
    for number in range(8 * NEW_GATES):
        store.away = number % 2 == 1  # then the process keeps the arrivals itself
        await call(limiter, Budget(f"main:account:acct_{number}", per_second=100_000))
        most = max(most, len(limiter._gates), len(limiter._arrivals), len(limiter._paused))
    assert most <= 2 * NEW_GATES


async def test_a_gate_where_somebody_waits_or_a_rest_is_kept_is_never_forgotten() -> None:
    store = Granting()
    limiter = RedisLimiter(store)  # type: ignore[arg-type]
    waits, rests, idles = (Budget(f"main:account:{name}", per_second=5) for name in ("waits", "rests", "idles"))
    await call(limiter, idles)
    store.rest = 3_600_000_000
    await call(limiter, rests)
    store.go.clear()
    waiting = asyncio.create_task(call(limiter, waits))
    await asyncio.sleep(0)
    before = dict(limiter._gates)
    limiter._forget_at = 0
    limiter._forget()
    assert limiter._gates == {names: gate for names, gate in before.items() if names != (idles.name,)}
    assert len(limiter._gates) == 2
    store.go.set()
    await asyncio.wait_for(waiting, 30)
    for gate in limiter._gates.values():
        gate._serving.cancel()  # type: ignore[union-attr]
