"""Random lives of tokens: deliveries, twins, deaths, lapsed leases, lost answers, a store that forgets.

The real scripts on fakeredis, a clock that only sleeping moves, an endpoint that remembers what really happened.
Whatever the order of events: no token has two effects, no order two outcomes, no outcome says what is not so, and
the store takes no step that the published table lacks.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import TestCase
from urllib.parse import parse_qsl

import pytest
from click.testing import CliRunner
from fakeredis import FakeAsyncRedis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from redis.asyncio import Redis

from tokenferry.configuration import Platform
from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.codes import Code
from tokenferry.contract.lifetimes import Lifetimes
from tokenferry.contract.results import AttachResult, Display
from tokenferry.contract.targets import CustomerSource
from tokenferry.sealing import Signer, sign_attach
from tokenferry_worker.circuits.breaker import CircuitBreaker
from tokenferry_worker.circuits.outages import UnansweredCalls
from tokenferry_worker.commands.keys import keys
from tokenferry_worker.deliveries.attaching import Attacher
from tokenferry_worker.deliveries.lifetimes import LifetimeCheck
from tokenferry_worker.errors import Declined, Unavailable
from tokenferry_worker.keys.identities import Signers
from tokenferry_worker.keys.state_keys import StateKey, StateKeys
from tokenferry_worker.keys.state_tags import StateTags
from tokenferry_worker.limits.budgets import Budgets
from tokenferry_worker.on_redis.journal import RedisJournal
from tokenferry_worker.on_redis.ledger import RedisLedger
from tokenferry_worker.on_redis.store import Script, Store
from tokenferry_worker.outcomes import DeadLettered, Outcome, Settled
from tokenferry_worker.provider.answers import Answer
from tokenferry_worker.provider.attempts import Caller
from tokenferry_worker.provider.platforms import PlatformContext
from tokenferry_worker.tokens.ledger import Became, Granted, InDoubt, Lease, TokenScope
from tokenferry_worker.tokens.lifecycle import ABSENT, STEPS
from tokenferry_worker.tokens.orders import idempotency_key
from tokenferry_worker.tokens.spending import HELD_PAUSE, Spender

from .standins import (
    EVERYBODY,
    NOW,
    Greets,
    MemoryCircuits,
    MemoryLimiter,
    StoryClock,
    declined,
    not_connected,
    server_error,
    timed_out,
)

TABLE = {(step.before, step.event, step.after) for step in STEPS}
SCOPE = TokenScope("main", "test", "", "card")
ELSEWHERE = TokenScope("other", "test", "", "card")
MADE_AT = int(NOW * 1000)
DOCS = Path(__file__).parents[2] / "docs"


def test_the_drawing_in_the_documentation_is_the_table_of_the_code() -> None:
    drawn = re.findall(r"^    \(?(\w+)\)? +--(\w+)--> +(\w+) +(.+)$", (DOCS / "state.md").read_text(), re.MULTILINE)
    assert drawn == [(step.before, step.event, step.after, step.because) for step in STEPS]


# -- the store, watched


class WatchedStore(Store):
    """Notes every change of a token's state, and which script made it."""

    def __init__(self, client: Any, prefix: str = "watched") -> None:
        super().__init__(client, prefix)
        self.client = client
        self._tokens = f"{prefix}:token:*"
        self.seen: set[tuple[str, str, str]] = set()
        self._one_at_a_time = asyncio.Lock()

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        # Out of reach of the caller's cancellation: on Python 3.11 `asyncio.wait_for`, which the client calls, swallows
        # one that comes in the moment of the answer. A task that renews a lease would then never end.
        return await asyncio.shield(self._watch(script, keys, args))

    async def _watch(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        tokens = [key for key in keys if ":token:" in key]
        async with self._one_at_a_time:
            before = [await self.client.hget(key, "state") or ABSENT for key in tokens]
            answer = await super().run(script, keys, args)
            for key, was in zip(tokens, before, strict=True):
                became = await self.client.hget(key, "state") or ABSENT
                event = "lapse" if script.name == "claim" and became == "unknown" else script.name
                if became != was or (was, event, became) in TABLE:
                    self.seen.add((was, event, became))
        return answer

    async def lapse(self) -> None:
        """Every lease runs out."""
        async for key in self.client.scan_iter(self._tokens):
            await self.client.hset(key, "until", "0")


async def test_every_step_of_the_table_is_one_the_store_takes_and_there_is_no_other(client: Redis, prefix: str) -> None:
    """On a real server, so that what the machine below learns on fakeredis holds there too."""
    store = WatchedStore(client, prefix)
    ledger, journal = RedisLedger(store, "main", days=1), RedisJournal(store, "request", days=1)
    numbers = iter(range(100))

    async def held(state: str) -> tuple[str, Lease]:
        """A token in this state, and the lease of `a` on it, if there is one."""
        token = f"tok_{next(numbers)}"
        if state == "available":
            await journal.record_token(f"req-{token}", "{}", token, SCOPE, at=MADE_AT)
        if state in (ABSENT, "available"):
            return token, Lease("a", 1)
        claim = await ledger.claim(token, "a", lease=60)
        assert isinstance(claim, Granted)
        if state == "unknown":
            await store.lapse()
            assert await ledger.claim(token, "b", lease=60) == InDoubt("a")
        elif state != "leased":
            await ledger.close(token, claim, state)  # type: ignore[arg-type]
        return token, claim

    for state in (ABSENT, "available", "leased", "spent", "burnt", "expired", "unknown"):
        for by in ("a", "b"):
            token, _ = await held(state)
            await store.lapse()
            await ledger.claim(token, by, lease=60)
        for ending in ("spent", "burnt", "expired", "available", "unknown"):
            token, lease = await held(state)
            await ledger.close(token, lease, ending, Became("cus_1", "customer"))  # type: ignore[arg-type]
        token, lease = await held(state)
        async with asyncio.timeout(30), ledger.keeping(token, lease, seconds=0.03):
            await asyncio.sleep(0.05)
            while not {step for step in TABLE if step[:2] == (state, "renew")} <= store.seen:
                await asyncio.sleep(0.01)
        token, _ = await held(state)
        await journal.record_token(f"late-{token}", "{}", token, SCOPE, at=MADE_AT)
    tags = StateTags(StateKeys(StateKey.of(bytes(32))), believes_untagged=lambda: False)
    for state in ("available", "leased", "spent", "burnt", "expired"):
        token, _ = await held("available")
        if state != "available":
            claim = await ledger.claim(token, "a", lease=60)
            assert isinstance(claim, Granted)
            if state != "leased":
                await ledger.close(token, claim, state)  # type: ignore[arg-type]
        # Of another scope: only so the record is looked at before the token is leased.
        found = await RedisLedger(store, "main", days=1, tags=tags).claim(token, "b", lease=60, scope=ELSEWHERE)
        assert isinstance(found, Granted)
    assert store.seen == TABLE


# -- the endpoint, which knows the truth


class Killed(BaseException):
    """The worker process is gone."""


class Endpoint(Greets):
    """Single-use tokens, keys that repeat their answer, and every way in which an answer can go missing."""

    def __init__(self) -> None:
        self.used_by: dict[str, str] = {}
        """Token -> the key of the call that used it."""
        self.effects: list[str] = []
        self.there: dict[str, str] = {}
        """Cards on customers, by their paths."""
        self.stored: dict[str, Answer | Exception] = {}
        self.pending: dict[str, str] = {}
        """Calls under way whose caller has given up: key -> form."""
        self.faults: list[str] = []
        self.blind = False

    async def create_token(self, *_: Any, **__: Any) -> Answer:
        raise AssertionError("an attach worker makes no tokens")

    async def post(self, path: str, form: str, *, idempotency_key: str, connected_account: str | None = None) -> Answer:
        fault = self.faults.pop(0) if self.faults else ""
        await asyncio.sleep(0)
        key, token = idempotency_key, dict(parse_qsl(form))["source"]
        match fault:
            case "no_connection":
                raise not_connected()
            case "lost_before":
                raise timed_out()
            case "killed_before":
                raise Killed
        # Before anything else is looked at: a call under way has its key.
        if key in self.pending:
            raise Unavailable("idempotency_key_in_use", 409)
        if fault == "unknown_customer" and key not in self.stored:
            raise Declined(400, "resource_missing", "invalid_request_error", "customer")
        if any(dict(parse_qsl(other))["source"] == token for other in self.pending.values()):
            raise Unavailable("token_in_use", 400, maybe_done=False)
        if fault == "late" and key not in self.stored:
            self.pending[key] = f"{form}&path={path}"
            raise timed_out()
        await asyncio.sleep(0)
        answer = self._execute(key, token, path, fault)
        if fault == "lost_after":
            raise timed_out()
        if fault == "killed_after":
            raise Killed
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _execute(self, key: str, token: str, path: str, fault: str) -> Answer | Exception:
        if key in self.stored:
            return self.stored[key]
        answer: Answer | Exception
        if token in self.used_by:
            answer = Declined(400, "token_already_used", "invalid_request_error")
        elif fault == "declined":
            answer = declined()
        else:
            self.used_by[token] = key
            self.effects.append(token)
            self.there[f"{path}/card_{token}"] = f"card_{token}"
            answer = Answer("card", f"card_{token}", {})
            if fault == "stored_500":
                answer = server_error()
        self.stored[key] = answer
        return answer

    def settle_down(self) -> None:
        """What is still under way comes to its end."""
        for key, form in list(self.pending.items()):
            del self.pending[key]
            fields = dict(parse_qsl(form))
            self._execute(key, fields["source"], fields["path"], "")

    async def get(self, path: str, *, connected_account: str | None = None) -> Answer:
        await asyncio.sleep(0)
        if self.blind:
            raise timed_out()
        if path.startswith("/v1/tokens/"):
            token = path.rpartition("/")[2]
            return Answer("token", token, {"used": token in self.used_by})
        if path not in self.there:
            raise Declined(404, "resource_missing", "invalid_request_error", "id")
        return Answer("card", self.there[path], {})


class NoOutage(UnansweredCalls):
    """Four orders that fail one after the other are no outage here: nobody would come to close its circuit."""

    def is_out(self, path: str, now: float) -> bool:
        return False


class World(StoryClock):
    """Whoever waits long enough sees what is under way come to its end, and the leases of the dead run out."""

    def __init__(self, endpoint: Endpoint, store: WatchedStore) -> None:
        super().__init__()
        self.endpoint, self.store, self.turns = endpoint, store, 0

    async def sleep(self, seconds: float) -> None:
        self.clock += seconds
        if seconds == HELD_PAUSE:
            self.turns += 1
            if self.turns % 8 == 0:
                await self.store.lapse()
        if seconds >= 1:
            self.endpoint.settle_down()
        await asyncio.sleep(0)


class Dying:
    """A journal or ledger whose caller may die after a step was taken."""

    def __init__(self, real: Any, points: list[str]) -> None:
        self._real, self._points = real, points

    def __getattr__(self, name: str) -> Any:
        step = getattr(self._real, name)
        if name not in ("claim", "close", "record"):
            return step

        async def take(*given: Any, **named: Any) -> Any:
            answer = await step(*given, **named)
            if name in self._points:
                self._points.remove(name)
                raise Killed
            return answer

        return take


FAULTS = [
    "",
    "no_connection",
    "lost_before",
    "lost_after",
    "stored_500",
    "declined",
    "unknown_customer",
    "late",
    "killed_before",
    "killed_after",
]
ORDERS = [("a", "tok_1", "cus_1"), ("b", "tok_1", "cus_2"), ("c", "tok_2", "cus_1"), ("d", "tok_2", "cus_1")]
"""Two for each token: of one token for different customers, of the other for the same one (so with one key)."""
SENT_BY_HAND = {"b", "d"}
"""Orders that travel without their sealed request: of a token that the ledger has not heard of they prove nothing."""
UNDECIDED = {Code.OUTCOME_UNKNOWN, Code.TOKEN_IN_DOUBT}
"""What claims nothing about the effect."""
AGAIN = {Code.OUTCOME_UNKNOWN, Code.ATTEMPTS_EXHAUSTED}


class LedgerMachine(RuleBasedStateMachine):
    signers: Signers
    signer: Signer

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = WatchedStore(FakeAsyncRedis(decode_responses=True))
        self.endpoint = Endpoint()
        self.world = World(self.endpoint, self.store)
        self.points: list[str] = []
        self.journal = RedisJournal(self.store, "attach", days=1)
        ledger: Any = Dying(RedisLedger(self.store, "main", days=1), self.points)
        desk = PlatformContext(
            "main", self.endpoint, Budgets("main", Platform(base_url="http://127.0.0.1:1")), False, NoOutage()
        )
        circuits = CircuitBreaker(MemoryCircuits())
        self.attacher = Attacher(
            signers=self.signers,
            rights=EVERYBODY,
            spender=Spender({"main": ledger}, Caller(MemoryLimiter(), circuits, self.world, attempts=3), self.world),
            platforms={"main": desk},
            journal=Dying(self.journal, self.points),
            clock=self.world,
            deliveries=1000,
            lifetimes=LifetimeCheck(Lifetimes.remembered(journal_days=7, onboarding_days=365), self.world.now),
        )
        self.told: dict[str, AttachResult] = {}
        self.wiped = False

    def order(self, number: int) -> AttachRequest:
        attach_id, token, customer = ORDERS[number]
        return AttachRequest(
            attach_id=attach_id,
            request_id=attach_id,
            token=token,
            kind="card",
            platform="main",
            target=CustomerSource(customer=customer),
            token_created_at=int(NOW * 1000),
            attach_before=int((NOW + 600) * 1000),
            signer_id=self.signer.signer_id,
            display=Display(object_id=f"card_{token}"),
            sealed=None if attach_id in SENT_BY_HAND else "{}",
        )

    async def handle(self, number: int) -> None:
        body = sign_attach(self.order(number), self.signer).model_dump_json()
        try:
            outcome: Outcome = await self.attacher.handle(body)
        except Killed:
            return
        settled = outcome.settled if isinstance(outcome, DeadLettered) else outcome
        assert isinstance(settled, Settled)
        assert isinstance(settled.result, AttachResult)
        self.check(number, settled.result)

    def check(self, number: int, result: AttachResult) -> None:
        """One outcome for an order, and a true one."""
        order = self.order(number)
        known = self.told.setdefault(order.attach_id, result)
        assert result == known, "two outcomes for one order"
        ours = self.endpoint.used_by.get(order.token) == idempotency_key(order, "spend")
        if result.ok:
            assert ours, "told as spent, and the endpoint knows nothing of it"
            assert (result.object_id, result.object_type) == (f"card_{order.token}", "card")
            return
        assert result.failure is not None
        if result.failure.code not in UNDECIDED and order.token == "tok_1":
            assert not ours, f"told as {result.failure.code}, and the call had its effect"
        if result.failure.code == Code.TOKEN_SPENT and not self.wiped:
            spender = result.failure.spent_by
            assert spender is None or spender != order.attach_id

    def do(self, coroutine: Any) -> None:
        self.loop.run_until_complete(asyncio.wait_for(coroutine, 30))

    @initialize()
    def tokens_are_made(self) -> None:
        async def make() -> None:
            journal = RedisJournal(self.store, "request", days=1)
            for token in ("tok_1", "tok_2"):
                await journal.record_token(f"req-{token}", "{}", token, SCOPE, at=MADE_AT)

        self.do(make())

    @rule(
        number=st.integers(0, 3),
        faults=st.lists(st.sampled_from(FAULTS), max_size=4),
        points=st.lists(st.sampled_from(["claim", "close", "record"]), max_size=1),
    )
    def an_order_is_delivered(self, number: int, faults: list[str], points: list[str]) -> None:
        self.endpoint.faults[:], self.points[:] = faults, points
        self.do(self.handle(number))

    @rule(
        numbers=st.lists(st.integers(0, 3), min_size=2, max_size=3),
        faults=st.lists(st.sampled_from(FAULTS), max_size=5),
    )
    def several_are_delivered_at_once(self, numbers: list[int], faults: list[str]) -> None:
        self.endpoint.faults[:], self.points[:] = faults, []

        async def together() -> None:
            found = await asyncio.gather(*(self.handle(number) for number in numbers), return_exceptions=True)
            for error in found:
                if error is not None:
                    raise error

        self.do(together())

    @rule()
    def every_lease_runs_out(self) -> None:
        self.do(self.store.lapse())

    @rule()
    def the_tokens_get_too_old(self) -> None:
        self.world.clock = max(self.world.clock, NOW + 601)

    @rule()
    def the_endpoint_comes_to_rest(self) -> None:
        self.endpoint.settle_down()

    @rule(blind=st.booleans())
    def looking_works_or_does_not(self, blind: bool) -> None:
        self.endpoint.blind = blind

    @precondition(lambda self: not self.wiped)
    @rule()
    def the_endpoint_forgets_its_keys(self) -> None:
        """After a day."""
        self.world.clock = max(self.world.clock, NOW + 86_400)
        self.endpoint.settle_down()
        self.endpoint.stored = {key: answer for key, answer in self.endpoint.stored.items() if key in self.kept()}

    def kept(self) -> set[str]:
        """Keys of orders that are done with are forgotten; of those under way a day has not passed."""
        return {idempotency_key(self.order(n), "spend") for n in range(4) if ORDERS[n][0] not in self.told}

    @rule()
    def what_was_given_up_on_is_redriven(self) -> None:
        async def redrive() -> None:
            for attach_id, result in list(self.told.items()):
                if result.failure and result.failure.source == "tokenferry" and result.failure.code in AGAIN:
                    await self.store.client.delete(self.store.keys.journal("attach", attach_id))
                    del self.told[attach_id]

        self.do(redrive())

    @rule()
    def the_store_is_wiped(self) -> None:
        self.do(self.store.client.flushall())
        self.told.clear()
        self.wiped = True

    @invariant()
    def no_token_has_two_effects(self) -> None:
        assert len(self.endpoint.effects) == len(set(self.endpoint.effects))

    @invariant()
    def every_step_is_in_the_table(self) -> None:
        assert self.store.seen <= TABLE, self.store.seen - TABLE

    def teardown(self) -> None:
        self.loop.run_until_complete(self.store.aclose())
        self.loop.close()


@pytest.fixture(scope="module", autouse=True)
def signing_keys(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("machine-keys")
    CliRunner().invoke(keys, ["generate", "--out", str(folder)], catch_exceptions=False)
    LedgerMachine.signers, LedgerMachine.signer = Signers.load(folder / "signers"), Signer.load(folder / "worker.pem")


def test_a_refusal_of_one_delivery_is_not_told_where_its_twin_spent_the_token() -> None:
    """A schedule that was wrong once."""
    for wiped in (False, True):
        machine = LedgerMachine()
        try:
            machine.tokens_are_made()
            if wiped:
                machine.the_store_is_wiped()
            machine.several_are_delivered_at_once(numbers=[0, 0], faults=["unknown_customer"])
            machine.no_token_has_two_effects()
        finally:
            machine.teardown()


EXAMPLES = int(os.environ.get("TOKENFERRY_MACHINE_EXAMPLES", "100"))


def lives(count: int) -> type[TestCase]:
    """A test of so many random lives."""
    test = type("Lives", (LedgerMachine.TestCase,), {})
    test.settings = settings(
        max_examples=count,
        stateful_step_count=20,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    return test


TestRandomLives = lives(20)
TestManyRandomLives = pytest.mark.campaign(lives(EXAMPLES))
pytestmark = pytest.mark.anyio
