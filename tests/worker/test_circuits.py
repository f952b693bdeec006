"""What one refusal shuts off, who tries whether it is mended, who tells the operator: in the store and in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from tokenferry.configuration import Platform
from tokenferry_worker.circuits.breaker import CircuitBreaker, CircuitStore
from tokenferry_worker.circuits.scopes import (
    CallScope,
    Park,
    concerns_this_call_only,
    parks,
    remedy,
    scope_of,
    scopes_of,
)
from tokenferry_worker.errors import Blocked, Declined, TokenferryError
from tokenferry_worker.limits.budgets import Budgets
from tokenferry_worker.on_redis.circuits import RedisCircuits
from tokenferry_worker.on_redis.store import Store
from tokenferry_worker.provider.answers import Answer
from tokenferry_worker.provider.attempts import Attempts, Caller, CallPlan, TooLate
from tokenferry_worker.provider.platforms import PlatformContext

from .standins import NOW, MemoryCircuits, MemoryLimiter, ScriptedEndpoint, StoryClock, blocked, watched

pytestmark = pytest.mark.anyio

CARD = CallScope("main", "tokens", "card")
CONNECTED = CallScope("main", "tokens", "card", "acct_1")
ATTACH = CallScope("main", "customers")
CONNECTED_ATTACH = CallScope("main", "customers", connected_account="acct_1")
PERSON_OF_ACCOUNT = CallScope("main", "persons", named_account="acct_1")
LIVE_PERSON = CallScope("main", "tokens", "person", publishable=True)
LIVE_CONNECTED_PERSON = CallScope("main", "tokens", "person", "acct_1", publishable=True)

TABLE = [
    (401, CARD, "main", "secret_key"),
    (401, CONNECTED, "main", "secret_key"),
    (401, CONNECTED_ATTACH, "main", "secret_key"),
    (302, CARD, "main", "base_url"),
    (307, CONNECTED_ATTACH, "main", "base_url"),
    (403, CARD, "main/endpoint/tokens", "permission to write tokens"),
    (403, ATTACH, "main/endpoint/customers", "permission to write customers"),
    (403, CONNECTED, "main/account/acct_1", "Let acct_1 connect"),
    (403, CONNECTED_ATTACH, "main/account/acct_1", "Let acct_1 connect"),
    (402, CARD, "main/kind/card", "raw card data"),
    (402, CONNECTED, "main/kind/card", "raw card data"),
    (402, ATTACH, "main/endpoint/customers", "permission"),
    (401, LIVE_PERSON, "main/kind/person", "publishable_key"),
    (403, LIVE_PERSON, "main/kind/person", "publishable_key"),
    (403, LIVE_CONNECTED_PERSON, "main/account/acct_1", "Let acct_1 connect"),
]


@pytest.mark.parametrize(("status", "about", "scope", "advice"), TABLE)
def test_a_refusal_opens_the_narrowest_scope_it_speaks_for_and_names_its_cure(
    status: int, about: CallScope, scope: str, advice: str
) -> None:
    error = Blocked(status, "refused")
    assert scope_of(error, about) == scope
    assert scope in scopes_of(about), "else nobody would ever wait for it"
    assert advice in remedy(scope, status)
    assert remedy(scope, status).endswith(".")


@pytest.mark.parametrize("code", ["account_invalid", "unauthorized"])
def test_a_403_for_the_account_in_the_path_is_that_calls_affair_and_any_other_refusal_is_not(code: str) -> None:
    assert concerns_this_call_only(Blocked(403, code), PERSON_OF_ACCOUNT)
    assert not concerns_this_call_only(Blocked(401, code), PERSON_OF_ACCOUNT)
    assert not concerns_this_call_only(Blocked(403, code), ATTACH)
    in_its_name = replace(PERSON_OF_ACCOUNT, connected_account="acct_1")
    assert not concerns_this_call_only(Blocked(403, code), in_its_name)


@pytest.mark.parametrize("status", [301, 401, 402, 403])
@pytest.mark.parametrize("code", ["refused", "not_the_endpoint"])
@pytest.mark.parametrize("about", [CARD, CONNECTED, ATTACH, CONNECTED_ATTACH, LIVE_PERSON, LIVE_CONNECTED_PERSON])
def test_whatever_is_refused_is_a_scope_the_call_depends_on(status: int, about: CallScope, code: str) -> None:
    assert scope_of(Blocked(status, code), about) in scopes_of(about)


@pytest.mark.parametrize("status", [200, 400, 401, 402, 403, 404])
@pytest.mark.parametrize("about", [CARD, ATTACH, CONNECTED_ATTACH, PERSON_OF_ACCOUNT])
def test_where_something_else_answers_no_call_of_the_platform_is_made_and_the_cure_is_base_url(
    status: int, about: CallScope
) -> None:
    error = Blocked(status, "not_the_endpoint")
    assert not concerns_this_call_only(error, about)
    assert scope_of(error, about) == "main"
    assert "base_url" in remedy("main", status, error.code)


@pytest.mark.parametrize("about", [CARD, CONNECTED, ATTACH, LIVE_PERSON])
def test_every_call_depends_on_an_endpoint_that_answers_whatever_key_it_is_made_with(about: CallScope) -> None:
    assert scopes_of(about)[:2] == ("main/outage", f"main/outage/{about.endpoint}")


def test_only_what_leaves_others_in_the_same_queue_able_to_work_is_parked() -> None:
    assert [scope for scope in (*scopes_of(CONNECTED), *scopes_of(ATTACH)) if parks(scope)] == [
        "main/account/acct_1",
        "main/kind/card",
        "main/outage/customers",
        "main/endpoint/customers",
    ]


# -- the book


Book = Callable[..., CircuitStore]


@pytest.fixture(params=["in_the_store", "in_memory"])
def book(request: pytest.FixtureRequest, store: Store) -> Book:
    """The stand-in of the other tests keeps every promise the real one keeps."""
    return (lambda **times: RedisCircuits(store, **times)) if request.param == "in_the_store" else MemoryCircuits


async def opened(book: CircuitStore, scope: str = "main") -> bool:
    return await book.open(scope, 401, "unauthorized", "req_1")


async def due(book: CircuitStore, scope: str = "main") -> None:
    """Wait until *scope* may be probed."""
    async with asyncio.timeout(30):
        while (await book.snapshot()).open[scope].due_in > 0:
            await asyncio.sleep(0.01)


async def test_of_twenty_who_open_a_circuit_one_is_told_to_raise_the_alarm(book: Book) -> None:
    circuits = book()
    assert sum(await asyncio.gather(*(opened(circuits) for _ in range(20)))) == 1
    assert not await opened(circuits)


async def test_what_is_open_can_be_looked_up_with_its_reason(book: Book) -> None:
    circuits = book(first=5.0)
    await opened(circuits, "main/account/acct_1")
    (circuit,) = (await circuits.snapshot()).open.values()
    assert (circuit.scope, circuit.status, circuit.code) == ("main/account/acct_1", 401, "unauthorized")
    assert (circuit.request_id, circuit.probes) == ("req_1", 0)
    assert 4.0 < circuit.due_in <= 5.0


async def test_before_a_probe_is_due_nobody_may_call_and_then_exactly_one(book: Book) -> None:
    circuits = book(first=30.0, lasts=30.0)
    await opened(circuits)
    assert await circuits.admit(["main", "main/kind/card"]) == "open"
    assert await circuits.admit(["main/kind/card"]) == "closed"
    await circuits.force("main")
    replies = await asyncio.gather(*(circuits.admit(["main"]) for _ in range(20)))
    assert sorted(replies) == ["open"] * 19 + ["probe"]


async def test_a_call_that_depends_on_two_open_circuits_probes_both_or_none(book: Book) -> None:
    circuits = book(first=30.0, lasts=30.0)
    await opened(circuits, "main")
    await circuits.force("main")
    await opened(circuits, "main/kind/card")
    assert await circuits.admit(["main", "main/kind/card"]) == "open"
    await circuits.force("main/kind/card")
    assert await circuits.admit(["main", "main/kind/card"]) == "probe"
    assert await circuits.admit(["main"]) == await circuits.admit(["main/kind/card"]) == "open"


async def test_the_right_of_a_prober_that_died_passes_on(book: Book) -> None:
    circuits = book(first=0.02, lasts=2.0)
    await opened(circuits)
    await due(circuits)
    assert await circuits.admit(["main"]) == "probe"
    assert await circuits.admit(["main"]) == "open"
    await due(circuits)
    assert await circuits.admit(["main"]) == "probe"


async def test_every_failed_probe_doubles_the_pause_up_to_the_longest(book: Book) -> None:
    circuits = book(first=5.0, longest=60.0)
    await opened(circuits)
    pauses = []
    for _ in range(5):
        await circuits.end_probe("main", failed=True)
        pauses.append(round((await circuits.snapshot()).open["main"].due_in))
    assert pauses == [10, 20, 40, 60, 60]
    await circuits.end_probe("other", failed=True)
    assert set((await circuits.snapshot()).open) == {"main"}, "what is closed stays closed"


async def test_a_probe_that_is_due_is_first_for_who_was_not_tried_yet_then_for_the_others_last_for_who_probed_last(
    book: Book,
) -> None:
    circuits = book(first=0.0, longest=0.0, lasts=30.0, others=30.0)
    await opened(circuits)
    await circuits.end_probe("main", failed=True, by="poison")
    assert await circuits.admit(["main"], "poison", tried=True) == "open"
    assert await circuits.admit(["main"], "another", tried=True) == "open"
    assert await circuits.admit(["main"], "new") == "probe"
    circuits = book(first=0.0, longest=0.0, lasts=30.0, others=1.0)
    await opened(circuits)  # nothing new: it is open still
    await circuits.end_probe("main", failed=True, by="poison")
    async with asyncio.timeout(30):
        while (reply := await circuits.admit(["main"], "another", tried=True)) == "open":
            assert await circuits.admit(["main"], "poison", tried=True) == "open"
            await asyncio.sleep(0.01)
    assert reply == "probe"
    await circuits.end_probe("main", failed=True, by="poison")
    async with asyncio.timeout(30):
        while await circuits.admit(["main"], "poison", tried=True) == "open":
            await asyncio.sleep(0.01)


async def test_a_circuit_that_the_version_before_has_opened_is_understood(store: Store, client: Redis) -> None:
    circuits = RedisCircuits(store, others=30.0)
    known = {"by": "0a1b", "status": "401", "code": "unauthorized", "request": "req_1", "opened": "1800000000000"}
    await client.hset(store.keys.circuit("main"), mapping={**known, "probes": "3", "next": "0", "probing": "0"})
    await client.sadd(store.keys.open_circuits, "main")
    for key in (store.keys.circuit("main"), store.keys.open_circuits):
        await client.pexpire(key, 60_000)
    (circuit,) = (await circuits.snapshot()).open.values()
    assert (circuit.scope, circuit.status, circuit.code, circuit.probes) == ("main", 401, "unauthorized", 3)
    assert await circuits.admit(["main"], "req-1") == "probe"
    await circuits.end_probe("main", failed=True, by="req-1")
    assert (await circuits.snapshot()).open["main"].probes == 4
    assert await circuits.close("main") is not None


async def test_it_is_closed_once_and_for_everybody(book: Book) -> None:
    circuits = book()
    await opened(circuits)
    lasted = await asyncio.gather(*(circuits.close("main") for _ in range(5)))
    assert len([seconds for seconds in lasted if seconds is not None]) == 1
    assert await circuits.admit(["main"]) == "closed"
    assert await opened(circuits), "and the next refusal is news again"


async def test_a_queue_with_parked_messages_is_forgotten_only_when_nothing_came_since_it_was_found_empty(
    book: Book,
) -> None:
    circuits = book()
    for _ in range(3):
        await circuits.count_parked("main/kind/card")
    assert (await circuits.snapshot()).parked == {"main/kind/card": 3}
    await circuits.count_parked("main/kind/card")
    await circuits.forget_parked("main/kind/card", 3)
    assert (await circuits.snapshot()).parked == {"main/kind/card": 4}
    await circuits.forget_parked("main/kind/card", 4)
    assert (await circuits.snapshot()).parked == {}


async def test_one_process_at_a_time_carries_messages_back(book: Book) -> None:
    circuits = book()
    assert await circuits.try_lead("main/kind/card", "one", lease=2.0)
    assert await circuits.try_lead("main/kind/card", "one", lease=2.0)
    assert not await circuits.try_lead("main/kind/card", "other", lease=2.0)
    assert await circuits.try_lead("main/kind/pii", "other", lease=2.0)
    async with asyncio.timeout(30):
        while not await circuits.try_lead("main/kind/card", "other", lease=2.0):
            await asyncio.sleep(0.01)


async def test_an_operator_may_have_it_probed_at_once(store: Store, client: Redis) -> None:
    circuits = RedisCircuits(store, first=60.0)
    await opened(circuits)
    assert await circuits.force("main")
    assert await circuits.admit(["main"]) == "probe"
    assert not await circuits.force("main/kind/card")
    assert (await circuits.snapshot()).parked == {"main/kind/card": 1}, "whatever its queue still holds is carried back"


# -- the breaker of one process


def refusing(status: int) -> Callable[[], Awaitable[Answer]]:
    async def call() -> Answer:
        raise blocked(status)

    return call


@pytest.fixture
def attempts_for() -> Callable[..., Attempts]:
    """The attempts of one call about whatever is asked."""

    def begin(
        circuits: CircuitBreaker, about: CallScope, until: float | None = None, *, may_park: bool = True
    ) -> Attempts:
        platform = Platform(mode="test", base_url="http://127.0.0.1:1")
        platform_context = PlatformContext("main", ScriptedEndpoint(), Budgets("main", platform), False)
        plan = CallPlan(platform_context, about, "bulk", (), until=until, may_park=may_park)
        return Attempts(Caller(MemoryLimiter(), circuits, StoryClock(), attempts=8), plan)

    return begin


async def test_two_processes_raise_one_alarm_and_let_one_call_at_a_time_through(
    book: Book, caplog: pytest.LogCaptureFixture
) -> None:
    circuits = book(first=0.1, longest=0.2, lasts=30.0)
    fleet = [CircuitBreaker(circuits, look_every=0.02) for _ in range(2)]
    through: list[str] = []

    async def call(breaker: CircuitBreaker) -> None:
        probed = await breaker.enter(["main"], may_park=False)
        through.extend(probed)
        await breaker.on_success(probed)

    with caplog.at_level(logging.WARNING):
        async with asyncio.timeout(30), watched(fleet[0]), watched(fleet[1]):
            await asyncio.gather(*(breaker.on_blocked("main", blocked()) for breaker in fleet * 20))
            await asyncio.gather(*(call(breaker) for breaker in fleet * 20))
    assert through == ["main"]
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


async def test_a_circuit_that_another_process_opened_is_met_at_the_next_look(book: Book) -> None:
    circuits = book(first=30.0)
    breaker = CircuitBreaker(circuits, look_every=0.02)
    async with asyncio.timeout(30), watched(breaker):
        await opened(circuits, "main/kind/card")
        while not breaker.is_open(scopes_of(CARD)):
            await asyncio.sleep(0.01)
        assert not breaker.is_open(scopes_of(CallScope("main", "tokens", "pii")))
        with pytest.raises(Park) as caught:
            await breaker.enter(scopes_of(CARD), may_park=True)
    assert caught.value.scope == "main/kind/card"


async def test_what_needs_the_platform_waits_even_where_its_kind_would_be_parked() -> None:
    circuits = MemoryCircuits(first=0.05)
    breaker = CircuitBreaker(circuits, look_every=0.01)
    await breaker.on_blocked("main", blocked())
    await breaker.on_blocked("main/kind/card", blocked(402))
    async with asyncio.timeout(30), watched(breaker):
        probed = await breaker.enter(scopes_of(CARD), may_park=True)
    assert list(probed) == ["main", "main/kind/card"]


@pytest.mark.parametrize(
    ("status", "left"), [(402, {"main/kind/card"}), (403, {"main/account/acct_1", "main/kind/card"})]
)
async def test_a_narrower_refusal_of_a_probe_proves_what_is_wider_and_nothing_else(
    attempts_for: Callable[..., Attempts], status: int, left: set[str]
) -> None:
    circuits = MemoryCircuits(first=0.02, longest=30.0)
    scopes = scopes_of(CONNECTED)
    for scope in scopes:
        await opened(circuits, scope)
    async with asyncio.timeout(30):
        attempts = attempts_for(CircuitBreaker(circuits, look_every=0.01), CONNECTED)
        async with watched(attempts.caller.circuits):
            while not attempts.caller.circuits.is_open(scopes):
                await asyncio.sleep(0.01)
            with pytest.raises(Park):
                await attempts.run(refusing(status))
    assert set(circuits.circuits) == left
    assert all(circuit.probes == 1 for circuit in circuits.circuits.values())


async def test_a_wider_refusal_of_a_probe_proves_nothing(attempts_for: Callable[..., Attempts]) -> None:
    circuits = MemoryCircuits(first=0.02, longest=30.0)
    await opened(circuits, "main/kind/card")
    attempts = attempts_for(CircuitBreaker(circuits, look_every=0.01), CARD, until=NOW + 0.3, may_park=False)
    async with asyncio.timeout(30), watched(attempts.caller.circuits):
        while not attempts.caller.circuits.is_open(["main/kind/card"]):
            await asyncio.sleep(0.01)
        with pytest.raises(TooLate):
            await attempts.run(refusing(401))
    assert set(circuits.circuits) == {"main", "main/kind/card"}


async def probing(
    attempts_for: Callable[..., Attempts], about: CallScope, *scopes: str
) -> tuple[MemoryCircuits, Attempts]:
    """Attempts whose next call is the probe of *scopes*."""
    circuits = MemoryCircuits(first=0.02, longest=30.0, lasts=30.0)
    for scope in scopes:
        await opened(circuits, scope)
    return circuits, attempts_for(CircuitBreaker(circuits, look_every=0.01), about)


async def test_a_probe_refused_for_the_account_in_its_path_ends_and_proves_only_that_the_key_is_accepted(
    attempts_for: Callable[..., Attempts],
) -> None:
    circuits, attempts = await probing(attempts_for, PERSON_OF_ACCOUNT, "main", "main/endpoint/persons")
    async with asyncio.timeout(30), watched(attempts.caller.circuits):
        while not attempts.caller.circuits.is_open(["main"]):
            await asyncio.sleep(0.01)
        with pytest.raises(Declined, match="account_refuses"):
            await attempts.run(refusing(403))
    assert {scope: circuit.probes for scope, circuit in circuits.circuits.items()} == {"main/endpoint/persons": 1}


async def test_a_probe_that_is_not_made_after_all_gives_its_right_back(attempts_for: Callable[..., Attempts]) -> None:
    class NotMade(TokenferryError):
        pass

    async def not_made() -> Answer:
        raise NotMade

    circuits, attempts = await probing(attempts_for, CARD, "main")
    async with asyncio.timeout(30), watched(attempts.caller.circuits):
        while not attempts.caller.circuits.is_open(["main"]):
            await asyncio.sleep(0.01)
        with pytest.raises(NotMade):
            await attempts.run(not_made)
    assert circuits.circuits["main"].probing == 0.0


async def test_with_nothing_open_a_call_asks_nobody(book: Book) -> None:
    circuits = MemoryCircuits()
    breaker = CircuitBreaker(circuits, look_every=30.0)
    async with watched(breaker):
        for _ in range(100):
            assert not breaker.is_open(scopes_of(CONNECTED))
            assert await breaker.enter(scopes_of(CONNECTED), may_park=True) == ()
            await asyncio.sleep(0)
    assert (circuits.asked, circuits.looks) == (0, 1)
