"""Why nothing moves is told on the routes that wait, seldom, and never in the way of the work."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from tokenferry.broker.publishing import Outgoing
from tokenferry.contract.notices import Notice
from tokenferry_worker.circuits.breaker import CircuitBreaker
from tokenferry_worker.circuits.scopes import Circuit, CircuitSnapshot
from tokenferry_worker.deliveries.notices import LAST_INTERVAL, MOST_TOLD, Notifier
from tokenferry_worker.keys.result_signing import ResultSigner
from tokenferry_worker.limits.pacing import Budget
from tokenferry_worker.limits.waits import Waits

from .standins import MemoryCircuits

pytestmark = pytest.mark.anyio

BUDGET = Budget("main:global", per_second=25)
OUTAGE = Circuit("main/outage", 503, "no_answer", "", 1_800_000_000.0, 0, 5.0)


@dataclass(frozen=True)
class Asks:
    """A message, as far as a notice is concerned."""

    reply_to: str | None = "shop"
    answer_version: int = 2
    platform: str = "main"


@dataclass(frozen=True)
class Asked:
    """A budget as the store knows it."""

    factor: float = 1.0
    wait: float = 0.0
    paused: str | None = None
    set_to: float | None = None


@dataclass
class Postbox:
    """A publisher that confirms nothing: nobody waits for it."""

    messages: list[Outgoing] = field(default_factory=list)

    def submit(self, message: Outgoing, *, timeout: float | None = None) -> Future[None]:
        self.messages.append(message)
        return Future()

    def take(self) -> list[tuple[str, Notice]]:
        taken, self.messages = self.messages, []
        return [(each.queue.removeprefix("results."), Notice.model_validate_json(each.body)) for each in taken]


@dataclass
class Scene:
    """A worker process with its waits and its notifier, on a clock that only the test moves."""

    monotonic: float = 1000.0
    budget: Asked = Asked()
    is_away: bool = False
    post: Postbox = field(default_factory=Postbox)

    def __post_init__(self) -> None:
        self.circuits = MemoryCircuits(now=lambda: self.monotonic)
        self.waits = Waits(lambda: self.monotonic)
        self.breaker = CircuitBreaker(self.circuits)
        self.notifier = self.another()

    def another(self) -> Notifier:
        """The notifier of another process that sees the same waits."""
        return Notifier(
            self.waits,
            self.breaker,
            self.circuits,
            self._budget_state,
            lambda: self.is_away,
            self.post,
            ResultSigner(None),
            now=lambda: 1_800_000_100.0,
        )

    def opened(self, *circuits: Circuit) -> None:
        self.breaker.snapshot = CircuitSnapshot({each.scope: each for each in circuits})

    async def told(self, *, after: float = 0.0) -> list[tuple[str, Notice]]:
        """What one look tells, *after* so many seconds."""
        self.monotonic += after
        await self.notifier.look()
        return self.post.take()

    async def _budget_state(self, _: Budget) -> Asked:
        return self.budget


async def test_an_open_circuit_is_told_on_the_route_that_waits_for_it_and_its_end_too() -> None:
    scene = Scene()
    with scene.waits.of(Asks()):
        with scene.waits.on(scopes=("main/outage", "main")):
            assert await scene.told() == [], "no circuit is open"
            scene.opened(OUTAGE)
            [(route, notice)] = await scene.told()
            assert (route, notice.reason, notice.code, notice.scope) == (
                "shop", "circuit_open", "no_answer", "main/outage",
            )  # fmt: skip
            assert (notice.since, notice.over) == (1_800_000_000_000, False)
        assert scene.waits.changed.is_set(), "the end is told before the result, not a second later"
        [(_, end)] = await scene.told()
        assert (end.over, end.scope) == (True, "main/outage")
        assert await scene.told(after=100.0) == []


@pytest.mark.parametrize("asks", [Asks(answer_version=1), Asks(reply_to=None)])
async def test_nobody_is_told_of_a_request_of_version_1_or_without_a_route(asks: Asks) -> None:
    scene = Scene(is_away=True)
    scene.opened(OUTAGE)
    with scene.waits.of(asks), scene.waits.on(scopes=("main/outage",), budgets=(BUDGET,)):
        assert await scene.told(after=60.0) == []
        scene.is_away = False
        assert await scene.told() == []


async def test_the_same_is_told_again_after_longer_and_longer_intervals() -> None:
    scene = Scene()
    scene.opened(OUTAGE)
    moments = []
    with scene.waits.of(Asks()), scene.waits.on(scopes=("main/outage",)):
        for second in range(300):
            moments += [second] * len(await scene.told(after=1.0))
    assert moments == [0, 10, 30, 70, 130, 190, 250]
    assert LAST_INTERVAL == 60.0


async def test_of_two_processes_that_see_the_same_one_tells_it() -> None:
    scene = Scene()
    scene.opened(OUTAGE)
    other = scene.another()
    with scene.waits.of(Asks()), scene.waits.on(scopes=("main/outage",)):
        await scene.notifier.look()
        await other.look()
    assert len(scene.post.take()) == 1


async def test_a_route_whose_messages_were_parked_is_told_but_its_end_only_while_something_of_it_is_in_hand() -> None:
    scene = Scene()
    scene.waits.note_parked("main/outage", Asks())
    scene.opened(OUTAGE)
    assert [notice.reason for _, notice in await scene.told()] == ["circuit_open"]
    scene.opened()
    assert await scene.told() == [], "the route may be deleted by now"
    scene.waits.note_parked("main/outage", Asks())
    scene.opened(OUTAGE)
    await scene.told(after=100.0)
    scene.opened()
    with scene.waits.of(Asks()):
        assert [notice.over for _, notice in await scene.told()] == [True]


@pytest.mark.parametrize(
    ("budget", "reason", "code"),
    [
        (Asked(paused="maintenance", wait=30.0), "paused", "operator"),
        (Asked(factor=0.5), "slowed", "rate_limited"),
        (Asked(set_to=5.0), "slowed", "operator"),
    ],
)
async def test_a_paused_or_slowed_budget_is_told_to_those_who_wait_longer_than_usual(
    budget: Asked, reason: str, code: str
) -> None:
    scene = Scene(budget=budget)
    with scene.waits.of(Asks()), scene.waits.on(budgets=(BUDGET,)):
        assert await scene.told(after=1.0) == []
        [(_, notice)] = await scene.told(after=1.0)
    assert (notice.reason, notice.code, notice.scope) == (reason, code, "main:global")
    assert notice.until == (1_800_000_130_000 if reason == "paused" else None)


async def test_an_ordinary_budget_that_is_used_up_is_no_news() -> None:
    scene = Scene()
    with scene.waits.of(Asks()), scene.waits.on(budgets=(BUDGET,)):
        assert await scene.told(after=60.0) == []


async def test_a_store_that_is_away_is_told_by_each_process_and_without_the_store() -> None:
    scene = Scene(is_away=True)
    with scene.waits.of(Asks()):
        assert await scene.told() == [], "it may be a moment"
        told = await scene.told(after=2.0)
        assert [(notice.reason, notice.scope) for _, notice in told] == [("store_away", "store")]
        assert scene.circuits.duties == {}
        scene.is_away = False
        assert [notice.over for _, notice in await scene.told()] == [True]


async def test_while_the_store_is_away_nobody_hears_that_something_else_is_over() -> None:
    scene = Scene()
    scene.opened(OUTAGE)
    with scene.waits.of(Asks()), scene.waits.on(scopes=("main/outage",)):
        await scene.told()
        scene.is_away = True
        await scene.told()
        assert [(notice.reason, notice.over) for _, notice in await scene.told(after=2.0)] == [("store_away", False)]
        scene.is_away = False
        assert [(notice.reason, notice.over) for _, notice in await scene.told(after=1.0)] == [("store_away", True)]


async def test_one_process_tells_a_limited_number_of_routes() -> None:
    scene = Scene(is_away=True)
    with ExitStack() as held:
        for number in range(2 * MOST_TOLD):
            held.enter_context(scene.waits.of(Asks(reply_to=f"shop-{number}")))
        await scene.told()
        assert len(await scene.told(after=2.0)) == MOST_TOLD


async def test_a_delivery_that_never_waits_leaves_nothing_and_wakes_nobody() -> None:
    scene = Scene()
    with scene.waits.of(Asks()), scene.waits.on(budgets=(BUDGET,)):
        pass
    assert not scene.waits.changed.is_set()
    assert (scene.waits.current(), dict(scene.waits.in_hand)) == ([], {})


async def test_each_task_has_its_own_asker() -> None:
    scene = Scene()

    async def deliver(route: str) -> None:
        with scene.waits.of(Asks(reply_to=route)), scene.waits.on(scopes=("main",)):
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(deliver(route)) for route in ("one", "two")]
    await asyncio.sleep(0)
    assert [wait.asker.route for wait in scene.waits.current()] == ["one", "two"]
    await asyncio.gather(*tasks)
    assert not scene.waits.in_hand
