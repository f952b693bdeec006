"""An outage of the provider fails no request, and a request that fails alone is no outage. In quick time."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenferry.configuration import Platform
from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.codes import Code
from tokenferry.contract.requests import Kind
from tokenferry.contract.results import AttachResult, Display, OnboardingResult, TokenResult
from tokenferry.contract.targets import CustomerSource
from tokenferry_worker.circuits.breaker import CircuitBreaker
from tokenferry_worker.circuits.outages import CALLS, WINDOW, UnansweredCalls
from tokenferry_worker.circuits.scopes import Park
from tokenferry_worker.errors import Blocked, Declined, Unavailable
from tokenferry_worker.limits.budgets import Budgets
from tokenferry_worker.provider.answers import Answer, Greeting
from tokenferry_worker.provider.attempts import KEY_IS_SAFE, Caller
from tokenferry_worker.provider.platforms import PlatformContext
from tokenferry_worker.tokens.creating import TokenCall, TokenCreator
from tokenferry_worker.tokens.grouped_ids import GroupedId
from tokenferry_worker.tokens.spending import Spender

from .quick_time import QuickWorld, played
from .standins import (
    NOW,
    MemoryCircuits,
    MemoryJournal,
    MemoryLedger,
    MemoryLimiter,
    blocked,
    elsewhere,
    no_such_token,
    not_connected,
    out_of_order,
    rate_limited,
    replayed_error,
    server_error,
    timed_out,
    token,
    watched,
)
from .test_onboarding import DOCUMENT, AccountsEndpoint, House

HOUR = 3600.0
LOOK_EVERY = 5.0
"""Seconds between two looks at the circuits: more than in a worker, for the six hours of each story to pass sooner."""
SILENCES: dict[str, Callable[[], Unavailable]] = {
    "503": out_of_order,
    "reset": lambda: Unavailable("ReadError"),
    "time-out": timed_out,
    "refused": not_connected,
}


# -- counting


class TestWhatMakesAnOutage:
    def test_five_calls_of_three_requests_within_ten_seconds_and_no_answer(self) -> None:
        unanswered = UnansweredCalls()
        failed = [("a", 503), ("b", None), ("a", 503), ("c", 502), ("b", None)]
        said = [unanswered.failed("tokens", who, status, NOW + 2 * at) for at, (who, status) in enumerate(failed)]
        assert said == [False] * 4 + [True]
        assert unanswered.told("tokens") == (Counter({503: 2, 0: 2, 502: 1}), NOW)

    @pytest.mark.parametrize("who", ["aaaaaaaa", "abababab", "abcc"])
    def test_not_the_calls_of_two_requests_and_not_four_calls(self, who: str) -> None:
        unanswered = UnansweredCalls()
        assert not any([unanswered.failed("tokens", each, 503, NOW) for each in who])

    def test_not_what_is_longer_ago_than_ten_seconds(self) -> None:
        unanswered = UnansweredCalls()
        assert not any([unanswered.failed("tokens", str(at), 503, NOW + at * (WINDOW / 4 + 0.1)) for at in range(20)])

    def test_not_what_fails_on_different_paths(self) -> None:
        unanswered = UnansweredCalls()
        assert not any([unanswered.failed(f"path-{at % 2}", str(at), 503, NOW) for at in range(8)])

    def test_not_with_an_answer_between_them(self) -> None:
        unanswered = UnansweredCalls()
        for at in range(20):
            assert not unanswered.failed("tokens", str(at), 503, NOW)
            if at % 4 == 3:
                unanswered.answered("tokens", "z")

    def test_not_what_happened_before_the_clock_was_put_back(self) -> None:
        unanswered = UnansweredCalls()
        for at in range(4):
            unanswered.failed("tokens", str(at), 503, NOW)
        assert not unanswered.failed("tokens", "e", 503, NOW - HOUR)

    def test_not_again_those_requests_beside_which_others_were_answered(self) -> None:
        unanswered = UnansweredCalls()
        for who in "abcab":
            unanswered.failed("tokens", who, 503, NOW)
        unanswered.blame("tokens")
        unanswered.answered("tokens", "z")
        assert not any([unanswered.failed("tokens", who, 503, NOW) for who in "abcabcabc"])
        others = [unanswered.failed("tokens", who, 503, NOW) for who in "defde"]
        assert others[-1], "an outage is one all the same"
        unanswered.answered("tokens", "a")
        assert [unanswered.failed("tokens", who, 503, NOW) for who in "abcab"][-1], "one of them was answered after all"

    def test_a_new_story_begins_after_five_minutes_without_a_failure(self) -> None:
        unanswered = UnansweredCalls()
        unanswered.failed("tokens", "a", 502, NOW)
        unanswered.failed("tokens", "b", 503, NOW + HOUR)
        assert unanswered.told("tokens") == (Counter({503: 1}), NOW + HOUR)

    @given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0, 4), st.booleans()), max_size=40))
    def test_it_agrees_with_its_definition(self, calls: list[tuple[str, float, bool]]) -> None:
        unanswered, now, failed = UnansweredCalls(), NOW, list[tuple[float, str]]()
        for who, pause, answered in calls:
            now += pause
            if answered:
                unanswered.answered("tokens", "z")
                failed = []
                continue
            failed.append((now, who))
            lately = [each for at, each in failed if now - at <= WINDOW]
            expected = len(lately) >= CALLS and len(set(lately)) >= 3
            assert unanswered.failed("tokens", who, 503, now) is expected


# -- living through one


class Provider:
    """Makes tokens and spends them once each, repeats its answer under the same key, and has outages."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.silence: Callable[[], Unavailable] | None = None
        """How every call ends, a greeting too."""
        self.ill: dict[str, Callable[[], Exception]] = {}
        """How calls end that hold this word in path, form or key."""
        self.loses = False
        """Whether calls take effect during an outage and only their answer is lost."""
        self.stored: dict[str, Answer] = {}
        self.used: dict[str, str] = {}
        self.calls: list[tuple[float, str]] = []
        """When, and under which key."""
        self.greeted = 0

    def by_key(self) -> Counter[str]:
        """How many calls there were under each key."""
        return Counter(key for _, key in self.calls)

    async def greet(self) -> Greeting:
        self.greeted += 1
        await asyncio.sleep(0.1)
        refusal = self.silence() if self.silence else no_such_token()
        if isinstance(refusal, Unavailable) and refusal.status is None:
            raise refusal
        return Greeting(refusal.status or 0, refusal, None, 0.1)  # type: ignore[union-attr]

    async def create_token(
        self, kind: Kind, form: str, *, idempotency_key: str, connected_account: str | None = None
    ) -> Answer:
        return await self._answer(idempotency_key, "/v1/tokens", lambda: token(f"tok_{len(self.stored)}"))

    async def post(self, path: str, form: str, *, idempotency_key: str, connected_account: str | None = None) -> Answer:
        def spend() -> Answer:
            spent = dict(parse_qsl(form))["source"]
            if spent in self.used:
                raise Declined(400, "token_already_used", "invalid_request_error")
            self.used[spent] = f"card_{spent}"
            return Answer("card", f"card_{spent}", {"id": f"card_{spent}", "object": "card"})

        return await self._answer(idempotency_key, path, spend)

    async def get(self, path: str, *, connected_account: str | None = None) -> Answer:
        await asyncio.sleep(0.1)
        if self.silence is not None:
            raise self.silence()
        id_ = path.rpartition("/")[2]
        if path.startswith("/v1/tokens/"):
            return Answer("token", id_, {"used": id_ in self.used})
        if id_ not in self.used.values():
            raise Declined(404, "resource_missing", "invalid_request_error", "id")
        return Answer("card", id_, {})

    async def _answer(self, key: str, path: str, make: Callable[[], Answer]) -> Answer:
        self.calls.append((self.loop.time(), key))
        await asyncio.sleep(0.1)
        for word, trouble in self.ill.items():
            if word in f"{path} {key}":
                raise trouble()
        silence = self.silence
        if (silence is None or self.loses) and key not in self.stored:
            self.stored[key] = make()
        if silence is not None:
            await asyncio.sleep(80.0 if silence is timed_out else 0.0)
            raise silence()
        return self.stored[key]


@dataclass
class Fleet:
    """Worker processes that share a store, before one provider."""

    provider: Provider
    book: MemoryCircuits
    world: QuickWorld
    processes: list[tuple[CircuitBreaker, PlatformContext]]
    journal: MemoryJournal = field(default_factory=MemoryJournal)
    limiter: MemoryLimiter = field(default_factory=MemoryLimiter)
    opened: list[tuple[float, str]] = field(default_factory=list)
    probes: list[str] = field(default_factory=list)
    """Who probed, in this order."""

    def __post_init__(self) -> None:
        self.ledger = MemoryLedger(self.world.now)
        loop = asyncio.get_running_loop()
        open_, ask = self.book.open, self.book.admit

        async def opening(scope: str, status: int, code: str, request_id: str) -> bool:
            first = await open_(scope, status, code, request_id)
            if first:
                self.opened.append((loop.time(), scope))
            return first

        async def asking(scopes: Any, by: str = "", *, tried: bool = False) -> Any:
            word = await ask(scopes, by, tried=tried)
            if word == "probe":
                self.probes.append(by)
            return word

        self.book.open, self.book.admit = opening, asking  # type: ignore[method-assign]

    async def tokenize(self, request: str, *, process: int = 0, days: float = 5.0) -> TokenResult:
        switchboard, desk = self.processes[process]
        maker = TokenCreator(self.journal, Caller(self.limiter, switchboard, self.world, attempts=8), self.world)
        wanted = TokenCall(
            GroupedId(request), "card", "main", None, "bulk", int((NOW + days * 24 * HOUR) * 1000), may_park=False
        )
        begun = await self.journal.begin(request)
        return await maker.create(desk, wanted, begun.epoch, remembered=False)

    async def attach(self, order: str, *, process: int = 0, seconds: float = 90 * HOUR) -> AttachResult:
        switchboard, desk = self.processes[process]
        spender = Spender({"main": self.ledger}, Caller(self.limiter, switchboard, self.world, 8), self.world)
        now = int(self.world.now() * 1000)
        request = AttachRequest(
            attach_id=order,
            request_id=order,
            token=f"tok_{order}",
            kind="card",
            platform="main",
            target=CustomerSource(customer="cus_1"),
            token_created_at=now,
            attach_before=now + int(seconds * 1000),
            signer_id="worker",
            display=Display(object_id=f"card_tok_{order}"),
        )
        self.ledger.locks.clear()  # of these orders, one need not wait for the other
        while True:
            try:
                return await spender.spend(desk, request)
            except Park:
                await asyncio.sleep(20.0)  # parked, and carried back

    @property
    def scopes(self) -> list[str]:
        """What was opened, in this order."""
        return [scope for _, scope in self.opened]


@asynccontextmanager
async def fleet(processes: int = 1) -> AsyncIterator[Fleet]:
    """A fleet with the times of a real one."""
    provider, loop = Provider(), asyncio.get_running_loop()
    book = MemoryCircuits(first=5.0, longest=60.0, lasts=60.0, others=3.0, now=loop.time)
    platform = Platform(mode="test", base_url="https://api.example")
    boards = [CircuitBreaker(book, look_every=LOOK_EVERY) for _ in range(processes)]
    desks = [(board, PlatformContext("main", provider, Budgets("main", platform), False)) for board in boards]
    async with AsyncExitStack() as stack:
        for board in boards:
            await stack.enter_async_context(watched(board))
        yield Fleet(provider, book, QuickWorld(), desks)


async def outage(provider: Provider, kind: str, *, after: float, hours: float, loses: bool = False) -> None:
    """Silence, from *after* seconds on."""
    await asyncio.sleep(after)
    provider.silence, provider.loses = SILENCES[kind], loses
    await asyncio.sleep(hours * HOUR)
    provider.silence, provider.loses = None, False


async def later(seconds: float, work: Coroutine[Any, Any, Any]) -> Any:
    await asyncio.sleep(seconds)
    return await work


@pytest.mark.parametrize("kind", SILENCES)
@pytest.mark.parametrize("loses", [False, True], ids=["nothing took effect", "everything took effect"])
def test_six_hours_without_an_answer_fail_no_request_and_each_ends_once_under_its_own_key(
    kind: str, loses: bool
) -> None:
    async def story() -> None:
        async with fleet(processes=2) as world:
            down = asyncio.create_task(outage(world.provider, kind, after=1.0, hours=6.0, loses=loses))
            many = [later(at * 0.1, world.tokenize(f"req-{at}", process=at % 2)) for at in range(30)]
            many += [later(at * 0.1, world.attach(f"order_{at}", process=at % 2)) for at in range(30)]
            many += [later(HOUR * (1 + at), world.tokenize(f"late-{at}", process=at % 2)) for at in range(5)]
            results = await asyncio.gather(*many)
            await down
            assert all(result.ok for result in results), Counter(r.failure.code for r in results if r.failure)
            tokens, cards = [r.token for r in results if r.type == "token"], len(world.provider.used)
            assert (len(set(tokens)), cards) == (35, 30)
            assert all(key.endswith(":0") for key in world.provider.by_key() if ":req-" in key), "no key was changed"
            assert world.scopes == ["main/outage"]
            during = [at for at, _ in world.provider.calls if 200.0 < at < 6 * HOUR]
            assert len(during) <= 6 * 62, "one probe a minute for the whole fleet"

    played(story())


class Unreachable(AccountsEndpoint):
    """Makes whole accounts, and has outages."""

    silence: Callable[[], Unavailable] | None = None

    async def _post(self, what: str, form: str, key: str, make: Callable[[], Answer]) -> Answer:
        await asyncio.sleep(0.1)
        if self.silence is not None:
            raise self.silence()
        return await super()._post(what, form, key, make)

    async def get(self, path: str, *, connected_account: str | None = None) -> Answer:
        await asyncio.sleep(0.1)
        if self.silence is not None:
            raise self.silence()
        return await super().get(path, connected_account=connected_account)


def each_with_each(kinds: Iterable[str], moments: Iterable[int]) -> list[Any]:
    """Every kind of outage at every moment. What pairs each moment with one kind is quick, the rest is a campaign."""
    return [
        pytest.param(kind, calls, marks=[] if (row - column) % 4 == 0 else pytest.mark.campaign)
        for (row, kind), (column, calls) in itertools.product(enumerate(kinds), enumerate(moments))
    ]


@pytest.mark.parametrize(("kind", "calls"), each_with_each(SILENCES, [0, 1, 3, 7, 12]))
def test_six_hours_without_an_answer_fail_no_step_of_an_account_whenever_they_begin(
    kind: str, calls: int, key_folder: Any
) -> None:
    """The twelfth call is followed by the question what is still due."""

    async def story() -> OnboardingResult:
        loop = asyncio.get_running_loop()
        book = MemoryCircuits(first=5.0, longest=60.0, lasts=60.0, others=3.0, now=loop.time)
        house = House(key_folder, token_lifetime=10 * HOUR)
        endpoint = house.endpoint = Unreachable(house.moments)
        house.world, house.circuits = QuickWorld(), CircuitBreaker(book, look_every=LOOK_EVERY)  # type: ignore[assignment]
        house.desk = PlatformContext("main", endpoint, house.desk.budgets, False)
        body = house.sealed(DOCUMENT, expires_at=int((NOW + 20 * HOUR) * 1000))

        async def down() -> None:
            while len(endpoint.calls) < calls:
                await asyncio.sleep(0.01)
            endpoint.silence = endpoint.greeting = None
            endpoint.silence, endpoint.greeting = SILENCES[kind], SILENCES[kind]()
            await asyncio.sleep(6 * HOUR)
            endpoint.silence = endpoint.greeting = None

        async with watched(house.circuits):
            trouble = asyncio.create_task(down())
            result = await house.deliver(body)
            await trouble
        assert endpoint.made.count("account") == 1
        assert endpoint.made.count("person") == 2
        return result

    result = played(story())
    assert result.complete, result.failure
    assert result.requirements is not None, "the question waited, too"


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("kind", SILENCES)
def test_one_row_alone_waits_too_because_a_second_opinion_is_asked_before_it_is_given_up(kind: str, rows: int) -> None:
    async def story() -> None:
        async with fleet() as world:
            world.provider.silence = SILENCES[kind]
            down = asyncio.create_task(outage(world.provider, kind, after=0.0, hours=2.0))
            results = await asyncio.gather(*(world.tokenize(f"req-{at}") for at in range(rows)))
            await down
            assert all(result.ok for result in results)
            assert world.scopes == ["main/outage"]
            assert world.provider.greeted >= 1
            assert world.limiter.under_way == 0
            asking = ("main:global", "main:endpoint:tokens", "main:operation:GET /v1/tokens/{id}")
            assert (asking, "realtime") in world.limiter.permits

    played(story())


def test_what_had_failed_before_the_outage_counts_for_nothing_after_it() -> None:
    async def story() -> None:
        async with fleet() as world:
            world.provider.ill["req-0"] = server_error
            first = asyncio.create_task(world.tokenize("req-0"))
            while world.provider.by_key()["tokenferry:req-0:0"] + world.provider.by_key()["tokenferry:req-0:1"] < 6:
                await asyncio.sleep(0.1)
            down = asyncio.create_task(outage(world.provider, "503", after=0.0, hours=1.0))
            others = [asyncio.create_task(world.tokenize(f"other-{at}")) for at in range(4)]
            await down
            await asyncio.gather(*others)
            result = await first
            assert result.failure is not None
            assert (result.failure.code, result.failure.attempts) == (Code.ATTEMPTS_EXHAUSTED, 8)
            since = [at for at, key in world.provider.calls if at > HOUR and ":req-0:" in key]
            assert len(since) >= 8, "eight attempts after the outage"
            assert len(result.failure.history) == 8

    played(story())


# -- alone, and not an outage


@pytest.mark.parametrize("poisonous", [1, 3])
@pytest.mark.parametrize("trouble", [server_error, out_of_order, not_connected])
def test_rows_that_fail_beside_good_ones_fail_alone_and_hold_up_nobody_for_long(
    poisonous: int, trouble: Callable[[], Unavailable]
) -> None:
    async def story() -> None:
        async with fleet() as world:
            world.provider.ill["poison"] = trouble
            loop, took = asyncio.get_running_loop(), list[float]()

            async def good(at: int) -> TokenResult:
                await asyncio.sleep(at * 0.5)
                began = loop.time()
                result = await world.tokenize(f"req-{at}")
                took.append(loop.time() - began)
                return result

            many = asyncio.gather(*map(good, range(400)))
            bad = await asyncio.gather(*(world.tokenize(f"poison-{at}") for at in range(poisonous)))
            codes = [(result.failure.code, result.failure.attempts) for result in bad if result.failure]
            assert codes == [(Code.ATTEMPTS_EXHAUSTED, 8)] * poisonous
            assert all(result.ok for result in await many)
            assert len(world.opened) <= 1
            assert max(took) < 10.0

    played(story())


def test_where_only_bad_rows_are_left_the_next_good_one_closes_the_circuit_and_they_fail_alone() -> None:
    async def story() -> None:
        async with fleet() as world:
            world.provider.ill["poison"] = out_of_order
            bad = [asyncio.create_task(world.tokenize(f"poison-{at}")) for at in range(3)]
            await asyncio.sleep(HOUR)
            assert world.scopes == ["main/outage/tokens"], "other paths go on"
            assert (await world.attach("order_1")).ok
            assert not any(task.done() for task in bad), "nobody can tell them from an outage of the path"
            began = asyncio.get_running_loop().time()
            assert (await world.tokenize("req-1")).ok
            assert asyncio.get_running_loop().time() - began < 65.0
            codes = [result.failure.code for result in await asyncio.gather(*bad) if result.failure]
            assert codes == [Code.ATTEMPTS_EXHAUSTED] * 3
            assert len(world.opened) == 1, "they have stopped others once, and do not again"

    played(story())


def test_an_outage_of_one_path_holds_up_that_path_alone() -> None:
    async def story() -> None:
        async with fleet() as world:
            world.provider.ill["/v1/customers"] = out_of_order
            orders = [asyncio.create_task(world.attach(f"order_{at}")) for at in range(20)]
            await asyncio.sleep(30.0)
            assert world.scopes == ["main/outage/customer_sources"]
            assert (await world.tokenize("req-1")).ok
            await asyncio.sleep(HOUR)
            assert not any(task.done() for task in orders)
            world.provider.ill.clear()
            assert all(result.ok for result in await asyncio.gather(*orders))
            assert len(world.provider.used) == 20

    played(story())


# -- probes


def test_each_probe_is_made_for_another_request_so_a_poisonous_one_cannot_hold_the_circuit_open() -> None:
    async def story() -> None:
        async with fleet(processes=2) as world:
            world.provider.ill["poison"] = out_of_order
            down = asyncio.create_task(outage(world.provider, "503", after=0.0, hours=1.0))
            # The first process has nothing but the poisonous one.
            bad = asyncio.create_task(world.tokenize("poison", process=0))
            await asyncio.sleep(0.2)
            good = [asyncio.create_task(world.tokenize(f"req-{at}", process=1)) for at in range(4)]
            await down
            while "main/outage" in world.book.circuits:
                await asyncio.sleep(0.1)
            assert asyncio.get_running_loop().time() < HOUR + 2 * 66.0, "the second probe at the latest"
            assert all(one != other for one, other in itertools.pairwise(world.probes))
            assert all(result.ok for result in await asyncio.gather(*good))
            assert (await bad).failure is not None

    played(story())


def test_where_there_is_nobody_else_the_same_request_probes_again() -> None:
    async def story() -> None:
        async with fleet() as world:
            down = asyncio.create_task(outage(world.provider, "503", after=0.0, hours=1.0))
            assert (await world.tokenize("req-1")).ok
            await down
            assert len(world.probes) > 50

    played(story())


# -- stored errors, looking, deadlines


def test_a_stored_500_neither_opens_nor_closes_a_circuit_and_a_tokenization_takes_its_next_key_at_once() -> None:
    async def story() -> None:
        async with fleet() as world:
            world.provider.ill[":0"] = replayed_error
            results = await asyncio.gather(*(world.tokenize(f"req-{at}") for at in range(20)))
            assert all(result.ok for result in results)
            assert world.opened == []
            assert set(world.provider.by_key().values()) == {1}, "one call under each of two keys"

    played(story())


def test_an_order_whose_stored_500_repeats_itself_is_looked_into_and_an_outage_is_no_answer_to_the_look() -> None:
    async def story() -> None:
        async with fleet() as world:
            provider = world.provider
            provider.used["tok_order_1"] = "card_tok_order_1"  # it had its effect, and nobody heard of it
            provider.ill["/v1/customers"] = replayed_error
            down = asyncio.create_task(outage(provider, "503", after=0.0, hours=6.0))
            result = await world.attach("order_1")
            await down
            assert (result.ok, result.object_id) == (True, "card_tok_order_1")
            assert world.scopes == ["main/outage"]
            assert len(provider.calls) <= 4, "its key was not repeated for ever"

    played(story())


def test_an_order_in_doubt_repeats_its_key_after_the_outage_also_when_its_token_is_old() -> None:
    async def story() -> None:
        async with fleet() as world:
            down = asyncio.create_task(outage(world.provider, "reset", after=0.0, hours=6.0, loses=True))
            results = await asyncio.gather(*(world.attach(f"order_{at}", seconds=600.0) for at in range(5)))
            await down
            assert all(result.ok for result in results)
            assert len(world.provider.by_key()) == 5

    played(story())


def test_an_order_never_called_for_ends_at_its_own_deadline_during_an_outage() -> None:
    async def story() -> None:
        async with fleet() as world:
            world.provider.silence = SILENCES["refused"]
            results = await asyncio.gather(*(world.attach(f"order_{at}", seconds=600.0) for at in range(5)))
            assert [result.failure.code for result in results if result.failure] == [Code.TOKEN_EXPIRED] * 5
            assert 600.0 <= asyncio.get_running_loop().time() < 700.0

    played(story())


def test_a_request_that_somebody_waits_for_ends_at_its_own_deadline_during_an_outage() -> None:
    async def story() -> None:
        async with fleet() as world:
            world.provider.silence = SILENCES["503"]
            wanted = [world.tokenize(f"req-{at}", days=30 / (24 * HOUR)) for at in range(5)]
            results = await asyncio.gather(*wanted)
            assert [result.failure.code for result in results if result.failure] == [Code.EXPIRED] * 5

    played(story())


def test_a_plain_account_that_waited_longer_than_its_key_is_remembered_is_not_asked_for_again(key_folder: Any) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        book = MemoryCircuits(first=5.0, longest=60.0, lasts=60.0, others=3.0, now=loop.time)
        house = House(key_folder)
        endpoint = house.endpoint = Unreachable(house.moments)
        house.world, house.circuits = QuickWorld(), CircuitBreaker(book, look_every=LOOK_EVERY)  # type: ignore[assignment]
        house.desk = PlatformContext("main", endpoint, house.desk.budgets, False)
        endpoint.silence, endpoint.greeting = timed_out, timed_out()
        plain = {"reference": "seller-9", "account": {"country": "US", "type": "custom"}}
        body = house.sealed(plain, expires_at=int((NOW + 90 * HOUR) * 1000))
        async with watched(house.circuits):
            delivery = asyncio.create_task(house.deliver(body))
            await asyncio.sleep(KEY_IS_SAFE + HOUR)
            endpoint.silence = endpoint.greeting = None
            result = await delivery
        assert result.failure is not None
        assert (result.failure.code, endpoint.made) == (Code.OUTCOME_UNKNOWN, [])

    played(story())


# -- what is wrong with the configuration


@pytest.mark.parametrize("status", [200, 404, 407])
def test_what_is_not_the_endpoint_is_waited_out_and_fails_no_row(status: int) -> None:
    async def story() -> None:
        async with fleet() as world:
            world.provider.ill["/v1"] = lambda: elsewhere(status)
            rows = [asyncio.create_task(world.tokenize(f"req-{at}")) for at in range(3)]
            rows += [asyncio.create_task(world.attach(f"order_{at}")) for at in range(3)]  # type: ignore[arg-type]
            await asyncio.sleep(HOUR)
            assert world.scopes == ["main"]
            world.provider.ill.clear()
            assert all(result.ok for result in await asyncio.gather(*rows))

    played(story())


@pytest.mark.parametrize("opinion", [elsewhere(), blocked(302), blocked(401)])
def test_a_second_opinion_that_meets_something_else_opens_the_circuit_with_its_cure(
    opinion: Blocked, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with fleet() as world:

            async def greet() -> Greeting:
                return Greeting(opinion.status, opinion, None, 0.1)

            usual, world.provider.greet = world.provider.greet, greet  # type: ignore[method-assign]
            world.provider.ill["req"] = timed_out
            row = asyncio.create_task(world.tokenize("req-1"))
            await asyncio.sleep(HOUR)
            assert world.scopes[:1] == ["main"]
            world.provider.ill.clear()
            world.provider.greet = usual  # type: ignore[method-assign]
            assert (await row).ok

    with caplog.at_level(logging.ERROR):
        played(story())
    assert "[platforms.main]" in caplog.text


# -- what is said


def test_one_alarm_says_what_was_seen_and_since_when_and_one_line_that_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story() -> None:
        async with fleet(processes=2) as world:
            down = asyncio.create_task(outage(world.provider, "503", after=0.0, hours=0.1))
            rows = [world.tokenize(f"req-{at}", process=at % 2) for at in range(20)]
            assert all(result.ok for result in await asyncio.gather(*rows))
            await down

    with caplog.at_level(logging.WARNING):
        played(story())
    alarm, over = [record.getMessage() for record in caplog.records]
    assert "circuit 'main/outage' is open: api.example answers nobody: 503 " in alarm
    assert " times since " in alarm
    assert "wait in their queues, nothing is lost" in alarm
    assert "status page" in alarm
    assert over.startswith("circuit 'main/outage' is closed after ")


def test_a_429_during_an_outage_is_an_answer() -> None:
    async def story() -> None:
        async with fleet() as world:
            answers = itertools.cycle([out_of_order, out_of_order, lambda: rate_limited("endpoint-rate")])
            world.provider.ill["req"] = lambda: next(answers)()
            rows = [asyncio.create_task(world.tokenize(f"req-{at}")) for at in range(6)]
            await asyncio.sleep(2.0)
            world.provider.ill.clear()
            assert all(result.ok for result in await asyncio.gather(*rows))
            assert world.opened == []

    played(story())
