"""Small stand-ins with behaviour: the endpoint, the store and the clock as the worker's core meets them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal, get_args
from urllib.parse import parse_qsl

from tokenferry.broker.publishing import Outgoing
from tokenferry.contract.names import Lane
from tokenferry.contract.requests import Kind
from tokenferry_worker.circuits.breaker import CircuitBreaker
from tokenferry_worker.circuits.scopes import Circuit, CircuitSnapshot
from tokenferry_worker.errors import Blocked, Declined, Forgotten, Reused, TokenferryError, Unavailable
from tokenferry_worker.keys.contents import differ
from tokenferry_worker.keys.rights import Rights
from tokenferry_worker.limits.backpressure import Slot
from tokenferry_worker.limits.pacing import Budget
from tokenferry_worker.provider.answers import Answer, Greeting
from tokenferry_worker.tokens.generations import left_nothing
from tokenferry_worker.tokens.journal import NOTHING, About, Begun
from tokenferry_worker.tokens.ledger import (
    Became,
    Burnt,
    Claim,
    Expired,
    Granted,
    HasOutcome,
    Held,
    InDoubt,
    Lease,
    Misfit,
    Past,
    ScopePart,
    Spent,
    TokenScope,
)
from tokenferry_worker.tokens.lifecycle import Ending

NOW = 1_800_000_000.0
"""Unix seconds at which every story begins."""


async def no_policy() -> None:
    """Return the policy of a fleet that has none."""


EVERYBODY = Rights(no_policy)
"""Every signer may everything."""


class StoryClock:
    """A clock that only sleeping moves, and dice that always show one half."""

    def __init__(self, now: float = NOW) -> None:
        self.clock = now
        self.slept: list[float] = []

    def now(self) -> float:
        return self.clock

    def random(self) -> float:
        return 0.5

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock += seconds
        await asyncio.sleep(0)


@dataclass(frozen=True)
class Made:
    """One call that reached the endpoint."""

    where: str
    form: str
    key: str
    account: str | None


Step = Answer | Exception | Callable[[], Awaitable[Answer]]


class Greets:
    """What an endpoint says to who asks for a second opinion: that it works, unless told otherwise."""

    greeted = 0
    greeting: Exception | None = None

    async def greet(self) -> Greeting:
        self.greeted += 1
        await asyncio.sleep(0)
        refusal = self.greeting or no_such_token()
        if isinstance(refusal, Unavailable) and refusal.status is None:
            raise refusal  # it cannot be reached at all
        assert isinstance(refusal, TokenferryError)
        return Greeting(getattr(refusal, "status", 200), refusal, None, 0.0)


class ScriptedEndpoint(Greets):
    """Answers call after call as the script says, and refuses a call nobody wrote down."""

    def __init__(self, *script: Step) -> None:
        self.script = list(script)
        self.calls: list[Made] = []

    @property
    def keys(self) -> list[str]:
        return [call.key for call in self.calls]

    async def create_token(
        self, kind: Kind, form: str, *, idempotency_key: str, connected_account: str | None = None
    ) -> Answer:
        return await self._answer(Made(kind, form, idempotency_key, connected_account))

    async def post(self, path: str, form: str, *, idempotency_key: str, connected_account: str | None = None) -> Answer:
        return await self._answer(Made(path, form, idempotency_key, connected_account))

    async def get(self, path: str, *, connected_account: str | None = None) -> Answer:
        return await self._answer(Made(path, "", "", connected_account))

    async def _answer(self, call: Made) -> Answer:
        self.calls.append(call)
        assert self.script, f"nobody expected a call of {call.where}"
        step = self.script.pop(0)
        await asyncio.sleep(0)
        if isinstance(step, Exception):
            raise step
        return step if isinstance(step, Answer) else await step()


class ShownEndpoint(ScriptedEndpoint):
    """Shows what it was told to, as often as it is looked at; nothing else gets an answer."""

    def __init__(self, *script: Step) -> None:
        super().__init__(*script)
        self.shown: dict[str, Answer | Exception] = {}
        self.looks: list[Made] = []

    async def get(self, path: str, *, connected_account: str | None = None) -> Answer:
        self.looks.append(Made(path, "", "", connected_account))
        await asyncio.sleep(0)
        shown = self.shown.get(path) or not_connected()
        if isinstance(shown, Exception):
            raise shown
        return shown


class SpendingEndpoint(ScriptedEndpoint):
    """Lets every token be spent once, repeats the stored answer of a key, and takes a moment, as the real one does."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: dict[str, Answer] = {}
        self.spent: dict[str, str] = {}

    async def _answer(self, call: Made) -> Answer:
        self.calls.append(call)
        if call.key in self.stored:
            return self.stored[call.key]
        token = dict(parse_qsl(call.form))["source"]
        for _ in range(5):
            await asyncio.sleep(0)
        if token in self.spent:
            raise Declined(400, "token_already_used", "invalid_request_error")
        self.spent[token] = call.key
        self.stored[call.key] = customer(f"cus_{len(self.stored) + 1}")
        return self.stored[call.key]


class MemoryLimiter:
    """Gives every permit at once and remembers who asked; with `shut`, gives none."""

    def __init__(self) -> None:
        self.permits: list[tuple[tuple[str, ...], Lane]] = []
        self.pushed_back: list[tuple[str, float]] = []
        self.shut = False
        self.under_way = 0

    @asynccontextmanager
    async def permit(self, budgets: Sequence[Budget], lane: Lane) -> AsyncIterator[None]:
        if self.shut:
            await asyncio.Event().wait()
        self.permits.append((tuple(budget.name for budget in budgets), lane))
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    async def back_off(self, budget: Budget, seconds: float) -> None:
        self.pushed_back.append((budget.name, seconds))


@dataclass
class Entry:
    deliveries: int = 0
    epoch: int = 0
    outcome: str | None = None
    of: str = ""
    content: str = ""
    generation: int = 1


class MemoryJournal:
    """The journal in a dict, beside a ledger that learns of the tokens."""

    def __init__(self, ledger: MemoryLedger | None = None, requests: MemoryJournal | None = None) -> None:
        """*requests*: of the requests, where this one is of orders."""
        self.entries: dict[str, Entry] = {}
        self.ledger = ledger or MemoryLedger()
        self.requests = requests or self
        self.left: list[tuple[str, tuple[str, ...]]] = []
        self.born = 0

    def entry(self, id_: str) -> Entry:
        return self.entries.setdefault(id_, Entry())

    async def begin(self, id_: str, of: str = "", *, generation: int = 1) -> Begun:
        entry = self.entry(id_)
        entry.of = entry.of or of
        if of not in ("", entry.of) or generation != entry.generation:
            raise Reused
        entry.deliveries += 1
        return Begun(entry.deliveries, entry.epoch, entry.outcome, self.born, entry.content)

    async def next_generation(self, id_: str, generation: int, outcome: str) -> int | None:
        return generation + 1 if left_nothing(outcome) else None

    async def uncount(self, id_: str) -> None:
        self.entry(id_).deliveries -= 1

    async def record(
        self, id_: str, outcome: str, *, about: About = NOTHING, ours: bool = False, leaving: Sequence[Slot] = ()
    ) -> str:
        if ours and id_ not in self.entries:
            raise Forgotten
        entry = self.entry(id_)
        if entry.outcome is None:
            entry.outcome, entry.content = outcome, about.content
        if leaving:
            self.left.append((id_, tuple(place.name for place in leaving)))
        if differ(about.content, entry.content):
            raise Reused(await self.next_generation(id_, entry.generation, entry.outcome), mark=about.content)
        return entry.outcome

    async def record_token(
        self, id_: str, outcome: str, token: str, scope: TokenScope, *, at: int, about: About = NOTHING
    ) -> str:
        if self.entry(id_).outcome is None:
            self.ledger.tokens.setdefault(token, Holding("available", scope=scope, made_at=at))
        return await self.record(id_, outcome, about=about)

    async def retokenize(self, id_: str, token: str, places: Sequence[Slot]) -> bool:
        held = self.ledger.tokens.setdefault(token, Holding("expired", id_))
        if held.state != "expired":
            return False
        entry = self.requests.entry(id_)
        if entry.outcome is not None and json.loads(entry.outcome).get("token") == token:
            self.requests.entries[id_] = Entry(epoch=entry.epoch + 1)
            self.entry(id_).deliveries = 0
        elif entry.outcome is None:
            entry.epoch = entry.epoch or 1
        return True

    async def next_epoch(self, id_: str, after: int) -> int:
        entry = self.entry(id_)
        entry.epoch += entry.epoch == after
        return entry.epoch


@dataclass
class Holding:
    state: Literal["absent", "available", "leased", "spent", "burnt", "expired", "unknown"] = "absent"
    by: str = ""
    fence: int = 0
    until: float = 0.0
    scope: TokenScope | None = None
    became: Became | None = None
    made_at: int | None = None


@dataclass
class Hold:
    ledger: MemoryLedger
    token: str
    lease: Lease

    async def holds(self) -> bool:
        held = self.ledger.holding(self.token)
        return held.state in ("leased", "unknown") and (held.by, held.fence) == (self.lease.by, self.lease.fence)


class MemoryLedger:
    """The ledger in a dict."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.tokens: dict[str, Holding] = {}
        self.locks: dict[str, asyncio.Lock] = {}
        self.holds: list[Hold] = []
        """Leases that are renewed right now."""
        self.orders: MemoryJournal | None = None

    def holding(self, token: str) -> Holding:
        return self.tokens.setdefault(token, Holding())

    async def claim(
        self,
        token: str,
        by: str,
        *,
        lease: float,
        scope: TokenScope | None = None,
        lost: int | None = None,
        journaled: bool = False,
        generation: int = 1,
    ) -> Claim:
        held = self.holding(token)
        if journaled and self.orders is not None and (outcome := self.orders.entry(by).outcome):
            return HasOutcome(outcome)
        if (part := _misfit(held.scope, scope)) is not None:
            return Misfit(part)
        match held.state:
            case "spent":
                return Spent(held.by, held.fence, held.became)
            case "burnt":
                return Burnt(held.by, held.fence, recorded=held.by == by or held.scope is not None)
            case "expired":
                return Expired(held.by)
        in_doubt = held.state in ("leased", "unknown")
        lives = held.state == "leased" and held.until > self.now()
        if in_doubt and held.by not in (by, ""):
            if lives:
                return Held(held.by)
            held.state = "unknown"
            return InDoubt(held.by)
        if lives and lost is not None and held.fence > lost:
            return Held(held.by)
        past: Past = "untried" if held.scope is not None else "unrecorded"
        if in_doubt:
            past = "held" if held.by else "used"
        held.fence = max(held.fence + 1, int(self.now() * 1_000_000))
        held.state, held.by, held.until = "leased", by, self.now() + lease
        return Granted(by, held.fence, past, held.made_at)

    @asynccontextmanager
    async def keeping(self, token: str, lease: Lease, *, seconds: float) -> AsyncIterator[Hold]:
        held = self.holding(token)
        hold = Hold(self, token, lease)
        held.until = float("inf")
        self.holds.append(hold)
        try:
            yield hold
        finally:
            self.holds.remove(hold)
            held.until = self.now() + seconds

    async def close(
        self,
        token: str,
        lease: Lease,
        state: Ending,
        became: Became | None = None,
        *,
        used_by_unknown: bool = False,
        outcome: str | None = None,
        ours: bool = False,
    ) -> bool:
        held = self.holding(token)
        by = "" if used_by_unknown else lease.by
        wiped = held.state == "absent" and state in ("spent", "burnt")
        mine = held.by == lease.by and (held.fence == lease.fence or state == "spent")
        if not wiped and not (mine and held.state in ("leased", "unknown")):
            return (held.by, held.fence, held.state) == (by, lease.fence, state)
        held.state, held.by, held.fence, held.became = state, by, held.fence or lease.fence, became
        if outcome is not None and self.orders is not None and not (ours and lease.by not in self.orders.entries):
            entry = self.orders.entry(lease.by)
            entry.outcome = entry.outcome or outcome
        return True

    @asynccontextmanager
    async def writing(self, object_id: str | None, *, lease: float) -> AsyncIterator[None]:
        if object_id is None:
            yield
            return
        async with self.locks.setdefault(object_id, asyncio.Lock()):
            yield


def _misfit(belongs: TokenScope | None, asked: TokenScope | None) -> ScopePart | None:
    if belongs is None or asked is None:
        return None
    parts: tuple[ScopePart, ...] = get_args(ScopePart)
    for part in parts:
        also = (asked.also,) if part == "account" and asked.also else ()
        if getattr(belongs, part) not in (getattr(asked, part), *also):
            return part
    return None


class MemoryBackpressure:
    """Who is ahead, in a dict; nobody passes away by himself."""

    def __init__(self) -> None:
        self.seats: dict[str, set[str]] = {}
        self.asked = 0
        self.lasts = 0.0

    async def acquire(self, id_: str, places: Sequence[Slot], *, lasts: float) -> bool:
        self.asked += 1
        self.lasts = lasts
        taken = [self.seats.setdefault(place.name, set()) for place in places]
        if any(len(seats - {id_}) >= place.limit for seats, place in zip(taken, places, strict=True)):
            return False
        for seats in taken:
            seats.add(id_)
        return True

    async def release(self, id_: str, places: Sequence[Slot]) -> None:
        for place in places:
            self.seats.get(place.name, set()).discard(id_)


@dataclass
class Opened:
    status: int
    code: str
    request_id: str
    at: float
    probes: int = 0
    next: float = 0.0
    probing: float = 0.0
    last: str = ""


class MemoryCircuits:
    """The circuits in a dict, in quick motion."""

    def __init__(
        self,
        *,
        first: float = 0.05,
        longest: float = 0.4,
        lasts: float = 0.4,
        others: float = 0.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.first, self.longest, self.lasts, self.others, self.now = first, longest, lasts, others, now
        self.circuits: dict[str, Opened] = {}
        self.resting: dict[str, int] = {}
        self.duties: dict[str, tuple[str, float]] = {}
        self.looks = 0
        self.asked = 0

    async def open(self, scope: str, status: int, code: str, request_id: str) -> bool:
        now, known = self.now(), scope in self.circuits
        self.circuits.setdefault(scope, Opened(status, code, request_id, now, next=now + self.first))
        return not known

    async def admit(
        self, scopes: Sequence[str], by: str = "", *, tried: bool = False
    ) -> Literal["closed", "open", "probe"]:
        self.asked += 1
        found = [self.circuits[scope] for scope in scopes if scope in self.circuits]
        if any(max(circuit.next, circuit.probing) > self.now() for circuit in found):
            return "open"
        turns = [2 if by and circuit.last == by else int(tried) for circuit in found]
        if any(self.now() < each.next + turn * self.others for each, turn in zip(found, turns, strict=True)):
            return "open"
        for circuit in found:
            circuit.probing = self.now() + self.lasts
        return "probe" if found else "closed"

    async def end_probe(self, scope: str, *, failed: bool, by: str = "") -> None:
        if circuit := self.circuits.get(scope):
            circuit.probes += failed
            circuit.probing, circuit.last = 0.0, by
            circuit.next = self.now() + min(self.longest, self.first * 2 ** min(circuit.probes, 20))

    async def close(self, scope: str) -> float | None:
        circuit = self.circuits.pop(scope, None)
        return None if circuit is None else self.now() - circuit.at

    async def snapshot(self) -> CircuitSnapshot:
        self.looks += 1
        now = self.now()
        circuits = {
            scope: Circuit(scope, c.status, c.code, c.request_id, c.at, c.probes, max(c.next, c.probing) - now)
            for scope, c in self.circuits.items()
        }
        return CircuitSnapshot(circuits, dict(self.resting))

    async def count_parked(self, scope: str) -> None:
        self.resting[scope] = self.resting.get(scope, 0) + 1

    async def forget_parked(self, scope: str, count: int) -> None:
        if self.resting.get(scope) == count:
            del self.resting[scope]

    async def try_lead(self, scope: str, by: str, *, lease: float) -> bool:
        holder, until = self.duties.get(scope, ("", 0.0))
        if holder != by and until > self.now():
            return False
        self.duties[scope] = (by, self.now() + lease)
        return True

    async def force(self, scope: str) -> bool:
        if circuit := self.circuits.get(scope):
            circuit.next = circuit.probing = 0.0
            return True
        await self.count_parked(scope)
        return False


@asynccontextmanager
async def watched(switchboard: CircuitBreaker) -> AsyncIterator[CircuitBreaker]:
    """A switchboard that looks at its book while the block runs, as a worker process does."""
    task = asyncio.create_task(switchboard.watch())
    try:
        yield switchboard
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@dataclass
class FlakyPublisher:
    """Confirms every message, after as many refusals as were asked for."""

    refusals: list[Exception] = field(default_factory=list)
    published: list[Outgoing] = field(default_factory=list)
    tried: int = 0

    def submit(self, message: Outgoing, *, timeout: float | None = None) -> Future[None]:
        self.tried += 1
        future: Future[None] = Future()
        if self.refusals:
            future.set_exception(self.refusals.pop(0))
        else:
            self.published.append(message)
            future.set_result(None)
        return future


async def stores_clock() -> float:
    """A store whose clock stands still."""
    return NOW


def token(id_: str = "tok_1", *, livemode: bool = False, kind: str = "card") -> Answer:
    shown = {"id": "card_1", "object": "card", "brand": "Visa", "last4": "4242", "exp_month": 12, "exp_year": 2034}
    body = {"id": id_, "object": "token", "type": kind, "livemode": livemode, "created": int(NOW), kind: shown}
    return Answer("token", id_, body, request_id="req_endpoint")


def customer(id_: str = "cus_1") -> Answer:
    return Answer("customer", id_, {"id": id_, "object": "customer", "default_source": "card_1"})


def payment_method(id_: str = "pm_1") -> Answer:
    return Answer("payment_method", id_, {"id": id_, "object": "payment_method"})


def no_such_token() -> Exception:
    """What an endpoint that works answers to a greeting."""
    return Declined(404, "resource_missing", "invalid_request_error", "id")


def declined(status: int = 402, code: str = "card_declined") -> Declined:
    return Declined(status, code, "card_error", "number", "generic_decline", "req_endpoint")


def blocked(status: int = 401) -> Blocked:
    return Blocked(status, "unauthorized", request_id="req_endpoint", ours=True)


def server_error() -> Unavailable:
    return Unavailable("api_error", 500, "req_endpoint")


def timed_out() -> Unavailable:
    return Unavailable("ReadTimeout")


def not_connected() -> Unavailable:
    return Unavailable("ConnectError", maybe_done=False)


def rate_limited(reason: str) -> Unavailable:
    return Unavailable("rate_limit", 429, maybe_done=False, rate_limited=reason, answered=True)


def out_of_order() -> Unavailable:
    return Unavailable("api_error", 503, "req_endpoint")


def replayed_error() -> Unavailable:
    """A 500 that the endpoint keeps for this key."""
    return Unavailable("api_error", 500, "req_endpoint", final=True, replayed=True)


def elsewhere(status: int = 404) -> Blocked:
    """Something else than the endpoint answers."""
    return Blocked(status, "not_the_endpoint", ours=True)
