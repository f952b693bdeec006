"""Who spends which token, who writes to which object, and which outcome is final: in the store and in memory alike."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from typing import Any, get_args

import pytest
from redis.asyncio import Redis

from tokenferry_worker.errors import Forgotten, Reused
from tokenferry_worker.limits.backpressure import Backpressure, Slot
from tokenferry_worker.limits.pacing import Budget
from tokenferry_worker.on_redis.backpressure import RedisBackpressure
from tokenferry_worker.on_redis.journal import RedisJournal
from tokenferry_worker.on_redis.ledger import RedisLedger
from tokenferry_worker.on_redis.store import Store
from tokenferry_worker.tokens.journal import Begun, Journal
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
    Ledger,
    Misfit,
    ScopePart,
    Spent,
    TokenScope,
)
from tokenferry_worker.tokens.lifecycle import Ending

from .standins import MemoryBackpressure, MemoryJournal, MemoryLedger

pytestmark = pytest.mark.anyio

OUTCOME = '{"outcome_id":"req-1:token","token":"tok_1"}'
MADE_AT = 1_800_000_000_000
BECAME = Became("cus_1", "customer", "card_1")
ENDINGS = frozenset(get_args(Ending))
PLACES = (Slot("main:global", 5), Slot("main:endpoint:customers", 3))


@pytest.fixture(params=["in_the_store", "in_memory"])
def ledger(request: pytest.FixtureRequest, store: Store) -> Ledger:
    """The stand-in of the other tests keeps every promise the real one keeps."""
    return RedisLedger(store, "main", days=1) if request.param == "in_the_store" else MemoryLedger()


@pytest.fixture(params=["in_the_store", "in_memory"])
def journal(request: pytest.FixtureRequest, store: Store) -> Journal:
    return RedisJournal(store, "request", days=1) if request.param == "in_the_store" else MemoryJournal()


async def granted(ledger: Ledger, token: str, by: str, *, lease: float = 30.0, **more: Any) -> Granted:
    """A claim that must succeed."""
    claim = await ledger.claim(token, by, lease=lease, **more)
    assert isinstance(claim, Granted)
    return claim


async def test_of_eight_orders_racing_for_one_token_exactly_one_is_granted(ledger: Ledger) -> None:
    claims = await asyncio.gather(*(ledger.claim("tok_1", f"attach-{n}", lease=30) for n in range(8)))
    (winner,) = (claim for claim in claims if isinstance(claim, Granted))
    assert [claim for claim in claims if claim != winner] == [Held(winner.by)] * 7


async def test_the_claimant_itself_may_ask_again_and_is_told_so(ledger: Ledger) -> None:
    first = await granted(ledger, "tok_1", "attach-1")
    second = await granted(ledger, "tok_1", "attach-1")
    assert (first.past, second.past) == ("unrecorded", "held")
    assert second.fence > first.fence


async def test_the_word_of_an_older_lease_counts_for_nothing(ledger: Ledger) -> None:
    older = await granted(ledger, "tok_1", "attach-1")
    newer = await granted(ledger, "tok_1", "attach-1")
    for state in ENDINGS - {"spent"}:
        assert not await ledger.close("tok_1", older, state)
    assert await ledger.claim("tok_1", "attach-2", lease=30) == Held("attach-1")
    assert await ledger.close("tok_1", newer, "burnt")


async def test_that_the_endpoint_has_answered_an_older_lease_counts_whoever_has_the_token_in_hand(
    ledger: Ledger,
) -> None:
    older = await granted(ledger, "tok_1", "attach-1")
    newer = await granted(ledger, "tok_1", "attach-1")
    assert await ledger.close("tok_1", older, "spent", BECAME)
    for state in ENDINGS - {"spent"}:
        assert not await ledger.close("tok_1", newer, state)
    assert await ledger.claim("tok_1", "attach-1", lease=30) == Spent("attach-1", newer.fence, BECAME)


async def test_whoever_has_lost_a_lease_waits_for_as_long_as_the_later_one_lives(ledger: Ledger) -> None:
    older = await granted(ledger, "tok_1", "attach-1")
    newer = await granted(ledger, "tok_1", "attach-1", lease=1.0)
    assert await ledger.claim("tok_1", "attach-1", lease=30, lost=older.fence) == Held("attach-1")
    async with asyncio.timeout(30):
        while isinstance(claim := await ledger.claim("tok_1", "attach-1", lease=30, lost=older.fence), Held):
            await asyncio.sleep(0.01)
    assert isinstance(claim, Granted)
    assert claim.past == "held"
    assert await ledger.claim("tok_1", "attach-1", lease=30, lost=newer.fence) == Held("attach-1")
    await granted(ledger, "tok_1", "attach-1", lost=claim.fence)  # its own


async def test_a_lease_from_before_a_wipe_is_older_than_every_lease_after_it(store: Store, client: Redis) -> None:
    ledger = RedisLedger(store, "main", days=1)
    old = await granted(ledger, "tok_1", "attach-1")
    await client.flushdb()
    new = await granted(ledger, "tok_1", "attach-1")
    assert new.fence > old.fence
    assert not await ledger.close("tok_1", old, "expired")
    assert await ledger.close("tok_1", new, "available")


@pytest.fixture(params=["in_the_store", "in_memory"])
def orders(request: pytest.FixtureRequest, store: Store) -> tuple[Journal, Ledger]:
    """A journal of orders, and the ledger that writes outcomes into it."""
    if request.param == "in_the_store":
        return RedisJournal(store, "attach", days=1), RedisLedger(store, "main", days=1)
    ledger = MemoryLedger()
    ledger.orders = MemoryJournal(ledger)
    return ledger.orders, ledger


async def test_an_outcome_is_there_before_the_token_is_free_and_its_order_gets_no_token_any_more(
    orders: tuple[Journal, Ledger],
) -> None:
    journal, ledger = orders
    await journal.begin("attach-1")
    older = await granted(ledger, "tok_1", "attach-1", journaled=True)
    newer = await granted(ledger, "tok_1", "attach-1", journaled=True)
    assert not await ledger.close("tok_1", older, "available", outcome="older", ours=True)
    assert await ledger.close("tok_1", newer, "available", outcome="newer", ours=True)
    assert await ledger.claim("tok_1", "attach-1", lease=30, journaled=True) == HasOutcome("newer")
    assert (await journal.begin("attach-1")).outcome == "newer"
    await granted(ledger, "tok_1", "attach-2", journaled=True)


async def test_the_ledger_knows_when_a_token_was_made(both: tuple[Journal, Ledger]) -> None:
    journal, ledger = both
    await journal.record_token("req-1", OUTCOME, "tok_1", MINE, at=MADE_AT)
    assert (await granted(ledger, "tok_1", "req-1", scope=MINE)).made_at == MADE_AT
    assert (await granted(ledger, "tok_2", "req-2", scope=MINE)).made_at is None


async def asked_until_it_lapses(ledger: Ledger, by: str) -> Claim:
    async with asyncio.timeout(30):
        while isinstance(claim := await ledger.claim("tok_1", by, lease=30), Held):
            await asyncio.sleep(0.01)
    return claim


async def test_a_lease_that_ran_out_in_the_middle_is_nobodys_but_its_holders_to_clear_up(ledger: Ledger) -> None:
    await ledger.claim("tok_1", "attach-1", lease=0.05)
    assert await asked_until_it_lapses(ledger, "attach-2") == InDoubt("attach-1")
    assert (await granted(ledger, "tok_1", "attach-1")).past == "held"


async def test_a_holder_that_was_only_slow_still_has_the_last_word(ledger: Ledger) -> None:
    slow = await granted(ledger, "tok_1", "attach-1", lease=0.05)
    await asked_until_it_lapses(ledger, "attach-2")
    assert await ledger.close("tok_1", slow, "spent", BECAME)
    assert await ledger.claim("tok_1", "attach-2", lease=30) == Spent("attach-1", slow.fence, BECAME)


@pytest.mark.parametrize(("state", "kind"), [("spent", Spent), ("burnt", Burnt), ("expired", Expired)])
async def test_a_spent_burnt_or_expired_token_is_never_granted_again(
    ledger: Ledger, state: Ending, kind: type[Spent | Burnt | Expired]
) -> None:
    claim = await granted(ledger, "tok_1", "attach-1", lease=0.01)
    assert await ledger.close("tok_1", claim, state)
    await asyncio.sleep(0.03)
    for by in ("attach-1", "attach-2"):
        again = await ledger.claim("tok_1", by, lease=30)
        assert isinstance(again, kind)
        assert again.by == "attach-1"
    for other in ENDINGS - {state}:
        assert not await ledger.close("tok_1", claim, other)
    assert await ledger.close("tok_1", claim, state), "asked again, because the answer was lost"


async def test_whoever_asks_for_a_spent_token_learns_who_spent_it_and_on_what(ledger: Ledger) -> None:
    claim = await granted(ledger, "tok_1", "attach-1")
    await ledger.close("tok_1", claim, "spent", BECAME)
    for by in ("attach-1", "attach-2"):
        assert await ledger.claim("tok_1", by, lease=30) == Spent("attach-1", claim.fence, BECAME)


async def test_a_token_given_back_is_there_for_everybody_and_was_not_tried(ledger: Ledger) -> None:
    claim = await granted(ledger, "tok_1", "attach-1")
    assert await ledger.close("tok_1", claim, "available")
    other = await granted(ledger, "tok_1", "attach-2")
    assert other.past == "unrecorded"
    await ledger.close("tok_1", other, "available")
    assert (await granted(ledger, "tok_1", "attach-1")).past == "unrecorded"


async def test_used_by_nobody_knows_whom_is_for_every_order_to_find_out(ledger: Ledger) -> None:
    claim = await granted(ledger, "tok_1", "attach-1")
    await ledger.close("tok_1", claim, "unknown", used_by_unknown=True)
    assert (await granted(ledger, "tok_1", "attach-2")).past == "used"


async def test_of_a_burnt_token_the_ledger_says_whether_it_knows_its_whole_life(both: tuple[Journal, Ledger]) -> None:
    """Of a token made elsewhere, or before the store was wiped, an earlier order may have spent it."""
    journal, ledger = both
    await journal.record_token("req-1", OUTCOME, "tok_1", MINE, at=MADE_AT)
    for token, recorded in (("tok_1", True), ("tok_2", False)):
        lease = await granted(ledger, token, "attach-1", scope=MINE)
        await ledger.close(token, lease, "burnt")
        assert await ledger.claim(token, "attach-2", lease=30, scope=MINE) == Burnt("attach-1", lease.fence, recorded)


async def test_a_store_wiped_in_the_middle_still_learns_that_a_token_is_spent(ledger: Ledger) -> None:
    lease = Lease("attach-1", 7)
    assert not await ledger.close("tok_1", lease, "available")
    assert not await ledger.close("tok_1", lease, "unknown")
    await granted(ledger, "tok_2", "attach-2")
    assert await ledger.close("tok_1", lease, "spent", BECAME)
    assert await ledger.claim("tok_1", "attach-2", lease=30) == Spent("attach-1", 7, BECAME)


# -- a token made here is bound to whom it was made for


MINE = TokenScope("main", "test", "acct_1", "card")


@pytest.fixture(params=["in_the_store", "in_memory"])
def both(request: pytest.FixtureRequest, store: Store) -> tuple[Journal, Ledger]:
    """A journal of requests, and the ledger that learns of its tokens."""
    if request.param == "in_the_store":
        return RedisJournal(store, "request", days=1), RedisLedger(store, "main", days=1)
    ledger = MemoryLedger()
    return MemoryJournal(ledger), ledger


async def test_a_token_recorded_is_available_at_once_to_whom_it_belongs(both: tuple[Journal, Ledger]) -> None:
    journal, ledger = both
    assert await journal.record_token("req-1", OUTCOME, "tok_1", MINE, at=MADE_AT) == OUTCOME
    assert (await journal.begin("req-1")).outcome == OUTCOME
    claim = await granted(ledger, "tok_1", "req-1", scope=MINE)
    assert (claim.past, claim.made_at) == ("untried", MADE_AT)


@pytest.mark.parametrize(
    ("part", "other"), [("platform", "other"), ("mode", "live"), ("account", ""), ("kind", "bank_account")]
)
async def test_an_order_of_another_scope_is_told_which_part_does_not_fit(
    both: tuple[Journal, Ledger], part: ScopePart, other: str
) -> None:
    journal, ledger = both
    await journal.record_token("req-1", OUTCOME, "tok_1", MINE, at=MADE_AT)
    scope = replace(MINE, **{part: other})  # type: ignore[arg-type]
    assert await ledger.claim("tok_1", "attach-1", lease=30, scope=scope) == Misfit(part)
    await granted(ledger, "tok_1", "attach-1", scope=MINE)


async def test_an_accounts_own_token_may_go_into_that_account_in_the_platforms_name(
    both: tuple[Journal, Ledger],
) -> None:
    journal, ledger = both
    await journal.record_token("req-1", OUTCOME, "tok_1", MINE, at=MADE_AT)
    other, own = (replace(MINE, account="", also=account) for account in ("acct_2", "acct_1"))
    assert await ledger.claim("tok_1", "attach-1", lease=30, scope=other) == Misfit("account")
    await granted(ledger, "tok_1", "attach-1", scope=own)


async def test_a_token_made_elsewhere_belongs_to_whoever_names_it(ledger: Ledger) -> None:
    claim = await granted(ledger, "tok_1", "attach-1", scope=MINE)
    await ledger.close("tok_1", claim, "available")
    await granted(ledger, "tok_1", "attach-2", scope=replace(MINE, account=""))


async def test_a_twin_that_recorded_too_late_registers_no_token_and_takes_nothing_back(
    both: tuple[Journal, Ledger],
) -> None:
    journal, ledger = both
    await journal.record_token("req-1", OUTCOME, "tok_1", MINE, at=MADE_AT)
    claim = await granted(ledger, "tok_1", "req-1", scope=MINE)
    await ledger.close("tok_1", claim, "spent", BECAME)
    for token in ("tok_1", "tok_2"):
        assert await journal.record_token("req-1", OUTCOME.replace("tok_1", token), token, MINE, at=MADE_AT) == OUTCOME
    assert isinstance(await ledger.claim("tok_1", "attach-2", lease=30, scope=MINE), Spent)
    await granted(ledger, "tok_2", "attach-2", scope=replace(MINE, kind="pii"))


# -- a token that got too old makes room for another one


async def expired(journal: Journal, ledger: Ledger) -> None:
    await journal.begin("req-1")
    await journal.record_token("req-1", OUTCOME, "tok_1", MINE, at=MADE_AT)
    claim = await granted(ledger, "tok_1", "req-1", scope=MINE)
    assert await ledger.close("tok_1", claim, "expired")


async def test_the_request_of_an_expired_token_begins_once_more_with_a_new_key_however_often_it_is_asked(
    both: tuple[Journal, Ledger],
) -> None:
    journal, ledger = both
    await expired(journal, ledger)
    assert await journal.retokenize("req-1", "tok_1", PLACES)
    assert await journal.retokenize("req-1", "tok_1", PLACES)
    assert await journal.begin("req-1") == Begun(1, 1, None)
    other = OUTCOME.replace("tok_1", "tok_2")
    await journal.record_token("req-1", other, "tok_2", MINE, at=MADE_AT)
    assert await journal.retokenize("req-1", "tok_1", PLACES), "a late twin of the order has its request said again"
    assert (await journal.begin("req-1")).outcome == other


@pytest.mark.parametrize("state", ["leased", "spent", "burnt", "unknown", "available"])
async def test_nothing_is_made_anew_while_the_token_is_anything_but_expired(
    both: tuple[Journal, Ledger], state: str
) -> None:
    journal, ledger = both
    await journal.record_token("req-1", OUTCOME, "tok_1", MINE, at=MADE_AT)
    claim = await granted(ledger, "tok_1", "req-1", scope=MINE)
    if state != "leased":
        await ledger.close("tok_1", claim, state)  # type: ignore[arg-type]
    assert not await journal.retokenize("req-1", "tok_1", PLACES)
    assert (await journal.begin("req-1")).outcome == OUTCOME


async def test_a_store_that_was_wiped_leaves_the_first_key_behind_because_it_would_repeat_the_old_token(
    both: tuple[Journal, Ledger],
) -> None:
    journal, ledger = both
    for _ in range(2):
        assert await journal.retokenize("req-1", "tok_1", PLACES)
    assert (await journal.begin("req-1")).epoch == 1
    assert await ledger.claim("tok_1", "req-1", lease=30) == Expired("req-1")


# -- no more tokens than can be spent


@pytest.fixture(params=["in_the_store", "in_memory"])
def headway(request: pytest.FixtureRequest, store: Store) -> Backpressure:
    return RedisBackpressure(store) if request.param == "in_the_store" else MemoryBackpressure()


async def test_of_twenty_requests_at_once_as_many_go_ahead_as_there_is_room(headway: Backpressure) -> None:
    went = await asyncio.gather(*(headway.acquire(f"req-{n}", PLACES, lasts=30) for n in range(20)))
    assert went.count(True) == 3
    (full, *_) = [f"req-{n}" for n in range(20) if not went[n]]
    (first, *_) = [f"req-{n}" for n in range(20) if went[n]]
    assert await headway.acquire(first, PLACES, lasts=30), "who is ahead already, is"
    await headway.release(first, PLACES)
    assert await headway.acquire(full, PLACES, lasts=30)


async def test_one_full_place_is_enough_to_wait_and_takes_no_seat_at_another(headway: Backpressure) -> None:
    small = (Slot("main:global", 5), Slot("main:endpoint:charges", 1))
    assert await headway.acquire("req-1", small, lasts=30)
    assert not await headway.acquire("req-2", small, lasts=30)
    rest = [await headway.acquire(f"req-{n}", PLACES[:1], lasts=30) for n in range(3, 8)]
    assert rest.count(True) == 4


async def test_a_budget_that_was_changed_or_slowed_has_as_many_seats_as_it_allows_now(
    client: Redis, store: Store
) -> None:
    headway, budget = RedisBackpressure(store), Budget("main:endpoint:customers", 25.0)
    place = [Slot(budget.name, 10, budget.interval)]

    async def seats(**now: str | float) -> int:
        key, at = store.keys.budget(budget.name), int((await client.time())[0]) * 1_000_000
        await client.hset(key, mapping={"at": at, "until": at + 60_000_000, "since": at, **now})  # type: ignore[misc]
        await client.pexpire(key, 60_000)
        taken = 0
        while await headway.acquire(f"req-{taken}", place, lasts=30):
            taken += 1
        for one in range(taken):
            await headway.release(f"req-{one}", place)
        await client.delete(key)
        return taken

    assert await seats() == 10
    assert await seats(rate=5) == 2
    assert await seats(rate=50) == 10, "the configured rate is the most that counts"
    assert await seats(factor=0.5) == 5
    assert await seats(rate=0.001) == 1
    assert await seats(paused="maintenance") == 0


async def test_a_seat_nobody_gives_up_passes_away_by_itself(store: Store) -> None:
    headway = RedisBackpressure(store)
    assert await headway.acquire("req-1", [Slot("main:global", 1)], lasts=0.1)
    async with asyncio.timeout(30):
        while not await headway.acquire("req-2", [Slot("main:global", 1)], lasts=30):
            await asyncio.sleep(0.02)


async def test_a_seat_that_lasts_longer_outlives_those_taken_after_it(store: Store) -> None:
    headway, place = RedisBackpressure(store), [Slot("main:global", 2)]
    assert await headway.acquire("req-1", place, lasts=30)
    assert await headway.acquire("req-2", place, lasts=0.05)
    await asyncio.sleep(0.1)
    assert await headway.acquire("req-3", place, lasts=30)
    assert not await headway.acquire("req-4", place, lasts=30)


async def test_an_outcome_or_a_token_too_old_gives_the_seat_up(store: Store) -> None:
    headway, ledger = RedisBackpressure(store), RedisLedger(store, "main", days=1)
    requests, attaches = (RedisJournal(store, subject, days=1) for subject in ("request", "attach"))
    place = (Slot("main:global", 1),)
    assert await headway.acquire("req-2", place, lasts=30)
    await requests.record("req-2", "{}", leaving=place)
    assert await headway.acquire("req-3", place, lasts=30)
    await attaches.record("req-3", "{}", leaving=place)
    assert await headway.acquire("req-1", place, lasts=30)
    await expired(requests, ledger)
    await requests.retokenize("req-1", "tok_1", place)
    assert await headway.acquire("req-4", place, lasts=30)


# -- a lease is kept alive


async def test_a_claim_in_hand_outlives_its_lease_for_as_long_as_it_is_kept(store: Store) -> None:
    ledger = RedisLedger(store, "main", days=1)
    claim = await granted(ledger, "tok_1", "attach-1", lease=2.0)
    async with ledger.keeping("tok_1", claim, seconds=2.0) as hold:
        for _ in range(10):
            await asyncio.sleep(0.3)
            assert await ledger.claim("tok_1", "attach-2", lease=30) == Held("attach-1")
        assert await hold.holds()
    assert await asked_until_it_lapses(ledger, "attach-2") == InDoubt("attach-1")


@pytest.mark.parametrize("how", ["wiped", "taken over"])
async def test_who_keeps_a_claim_learns_that_it_is_lost(client: Redis, store: Store, how: str) -> None:
    ledger = RedisLedger(store, "main", days=1)
    claim = await granted(ledger, "tok_1", "attach-1", lease=0.3)
    async with asyncio.timeout(30), ledger.keeping("tok_1", claim, seconds=0.3) as hold:
        if how == "wiped":
            await client.flushdb()
        else:
            await ledger.claim("tok_1", "attach-1", lease=30)
        assert not await hold.holds()


async def test_one_token_says_nothing_about_another(ledger: Ledger) -> None:
    await ledger.claim("tok_1", "attach-1", lease=30)
    await granted(ledger, "tok_2", "attach-2")


class Writers:
    """Counts who is inside at the same time."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.done = 0

    async def write(self, ledger: Ledger, object_id: str | None, *, lease: float = 5.0, seconds: float = 0.01) -> None:
        async with ledger.writing(object_id, lease=lease):
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(seconds)
            self.inside -= 1
            self.done += 1


async def test_two_writers_of_one_object_never_meet(ledger: Ledger) -> None:
    writers = Writers()
    await asyncio.gather(*(writers.write(ledger, "acct_1") for _ in range(6)))
    assert (writers.most, writers.done) == (1, 6)


@pytest.mark.parametrize("object_ids", [["acct_1", "acct_2"], [None, None]])
async def test_writers_of_different_or_new_objects_do_not_wait_for_each_other(
    ledger: Ledger, object_ids: list[str | None]
) -> None:
    writers = Writers()
    await asyncio.gather(*(writers.write(ledger, object_id, seconds=0.2) for object_id in object_ids))
    assert writers.most == 2


async def test_a_writer_that_is_called_off_or_fails_lets_go_at_once(ledger: Ledger) -> None:
    inside = asyncio.Event()

    async def stay() -> None:
        async with ledger.writing("acct_1", lease=60):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(stay())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ZeroDivisionError):
        async with ledger.writing("acct_1", lease=60):
            raise ZeroDivisionError
    async with asyncio.timeout(30), ledger.writing("acct_1", lease=60):
        pass


async def test_a_lock_is_renewed_while_its_holder_writes_longer_than_a_lease(client: Redis, prefix: str) -> None:
    writers = Writers()
    one, other = (RedisLedger(Store(client, prefix), "main", days=1) for _ in range(2))
    slow = asyncio.create_task(writers.write(one, "acct_1", lease=2.0, seconds=4.0))
    while not writers.inside:
        await asyncio.sleep(0.01)
    await asyncio.gather(slow, writers.write(other, "acct_1", lease=2.0))
    assert (writers.most, writers.done) == (1, 2)


async def test_the_lock_of_a_writer_that_died_passes_on_when_its_lease_ends(client: Redis, store: Store) -> None:
    await client.set(store.keys.writing("main", "acct_1"), secrets.token_hex(8), px=100)
    async with asyncio.timeout(30), RedisLedger(store, "main", days=1).writing("acct_1", lease=5):
        pass


async def test_locks_of_two_platforms_have_nothing_to_do_with_each_other(store: Store) -> None:
    ledgers = [RedisLedger(store, platform, days=1) for platform in ("main", "other")]
    async with asyncio.timeout(30), ledgers[0].writing("acct_1", lease=600), ledgers[1].writing("acct_1", lease=600):
        pass


async def test_a_token_is_known_by_its_id_whatever_platform_an_order_names(store: Store) -> None:
    ledgers = [RedisLedger(store, platform, days=1) for platform in ("main", "other")]
    await ledgers[0].claim("tok_1", "attach-1", lease=30)
    assert await ledgers[1].claim("tok_1", "attach-2", lease=30) == Held("attach-1")


async def test_the_journal_counts_deliveries_one_by_one(journal: Journal) -> None:
    begun = await asyncio.gather(*(journal.begin("req-1") for _ in range(20)))
    assert sorted(each.deliveries for each in begun) == list(range(1, 21))
    assert await journal.begin("req-2") == Begun(1, 0, None)


async def test_an_id_stands_for_one_thing_and_another_one_changes_nothing(journal: Journal) -> None:
    await journal.begin("req-1", "this")
    await journal.record("req-1", "told")
    with pytest.raises(Reused):
        await journal.begin("req-1", "that")
    assert await journal.begin("req-1", "this") == Begun(2, 0, "told")


async def test_a_delivery_given_back_in_good_order_does_not_count(journal: Journal) -> None:
    await journal.begin("req-1")
    await journal.uncount("req-1")
    assert (await journal.begin("req-1")).deliveries == 1


async def test_the_first_outcome_written_is_the_final_one(journal: Journal) -> None:
    told = await asyncio.gather(*(journal.record("req-1", f"outcome {n}") for n in range(20)))
    assert len(set(told)) == 1
    assert await journal.record("req-1", "another") == told[0]
    assert (await journal.begin("req-1")).outcome == told[0]


async def test_a_word_of_ours_does_not_count_where_the_entry_was_lost_and_the_endpoints_does(
    journal: Journal, client: Redis
) -> None:
    await journal.begin("req-1")
    await journal.record("req-1", "the endpoint's, and told")
    await journal.begin("req-1")
    if isinstance(journal, MemoryJournal):
        journal.entries.clear()
    else:
        await client.flushdb()
    with pytest.raises(Forgotten):
        await journal.record("req-1", "given up", ours=True)
    assert await journal.begin("req-1") == Begun(1, 0, None), "nothing was written"
    assert await journal.record("req-1", "given up", ours=True) == "given up"
    assert await journal.record("req-2", "the endpoint's") == "the endpoint's"


async def test_twenty_who_saw_the_same_epoch_begin_one_new_one(journal: Journal) -> None:
    await journal.begin("req-1")
    assert set(await asyncio.gather(*(journal.next_epoch("req-1", 0) for _ in range(20)))) == {1}
    assert await journal.next_epoch("req-1", 1) == 2
    assert await journal.next_epoch("req-1", 0) == 2
    assert (await journal.begin("req-1")).epoch == 2


async def test_journals_of_two_subjects_share_nothing(store: Store) -> None:
    requests, attaches = (RedisJournal(store, subject, days=1) for subject in ("request", "attach"))
    await requests.record("same-id", "outcome")
    assert (await attaches.begin("same-id")).outcome is None
