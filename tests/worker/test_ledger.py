"""Who spends which token, who writes to which object, and which outcome is final: in the store and in memory alike."""

from __future__ import annotations

import asyncio
import secrets

import pytest
from redis.asyncio import Redis

from tokenferry_worker.on_redis.journal import RedisJournal
from tokenferry_worker.on_redis.ledger import RedisLedger
from tokenferry_worker.on_redis.store import Store
from tokenferry_worker.ports import Begun, Journal, Ledger

from .standins import MemoryJournal, MemoryLedger

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["in_the_store", "in_memory"])
def ledger(request: pytest.FixtureRequest, store: Store) -> Ledger:
    """The stand-in of the other tests keeps every promise the real one keeps."""
    return RedisLedger(store, "main", days=1) if request.param == "in_the_store" else MemoryLedger()


@pytest.fixture(params=["in_the_store", "in_memory"])
def journal(request: pytest.FixtureRequest, store: Store) -> Journal:
    return RedisJournal(store, "request", days=1) if request.param == "in_the_store" else MemoryJournal()


async def test_of_eight_orders_racing_for_one_token_exactly_one_is_granted(ledger: Ledger) -> None:
    claims = await asyncio.gather(*(ledger.claim("tok_1", f"attach-{n}", lease=30) for n in range(8)))
    assert sorted(claim.state for claim in claims) == ["granted"] + ["held"] * 7
    (winner,) = (claim for claim in claims if claim.state == "granted")
    assert {claim.by for claim in claims} == {winner.by}


async def test_the_claimant_itself_may_ask_again_and_is_told_so(ledger: Ledger) -> None:
    first = await ledger.claim("tok_1", "attach-1", lease=30)
    second = await ledger.claim("tok_1", "attach-1", lease=30)
    assert (first.again, second.again) == (False, True)
    assert second.state == "granted"
    assert second.fence > first.fence


async def test_the_word_of_an_older_lease_counts_for_nothing(ledger: Ledger) -> None:
    older = await ledger.claim("tok_1", "attach-1", lease=30)
    newer = await ledger.claim("tok_1", "attach-1", lease=30)
    await ledger.release("tok_1", older)
    assert not await ledger.close("tok_1", older, "spent")
    assert (await ledger.claim("tok_1", "attach-2", lease=30)).state == "held"
    assert await ledger.close("tok_1", newer, "spent")


async def test_a_lease_that_ran_out_is_somebody_elses_and_its_old_holder_cannot_close_it(ledger: Ledger) -> None:
    first = await ledger.claim("tok_1", "attach-1", lease=0.05)
    second = await ledger.claim("tok_1", "attach-2", lease=30)
    async with asyncio.timeout(5):
        while second.state == "held":
            await asyncio.sleep(0.01)
            second = await ledger.claim("tok_1", "attach-2", lease=30)
    assert (second.state, second.by, second.again) == ("granted", "attach-2", False)
    assert second.fence > first.fence
    assert not await ledger.close("tok_1", first, "spent")
    assert await ledger.close("tok_1", second, "spent")


@pytest.mark.parametrize("state", ["spent", "burnt"])
async def test_a_spent_or_burnt_token_is_never_granted_again(ledger: Ledger, state: str) -> None:
    claim = await ledger.claim("tok_1", "attach-1", lease=0.01)
    assert await ledger.close("tok_1", claim, state)  # type: ignore[arg-type]
    await asyncio.sleep(0.03)
    for by in ("attach-1", "attach-2"):
        again = await ledger.claim("tok_1", by, lease=30)
        assert (again.state, again.by) == (state, "attach-1")


async def test_what_is_spent_cannot_be_given_back(ledger: Ledger) -> None:
    claim = await ledger.claim("tok_1", "attach-1", lease=30)
    await ledger.close("tok_1", claim, "spent")
    again = await ledger.claim("tok_1", "attach-1", lease=30)
    await ledger.release("tok_1", again)
    assert (await ledger.claim("tok_1", "attach-2", lease=30)).state == "spent"


async def test_a_released_token_is_free_for_everybody_and_was_not_tried(ledger: Ledger) -> None:
    claim = await ledger.claim("tok_1", "attach-1", lease=30)
    await ledger.release("tok_1", claim)
    other = await ledger.claim("tok_1", "attach-2", lease=30)
    assert (other.state, other.again) == ("granted", False)
    await ledger.release("tok_1", other)
    assert (await ledger.claim("tok_1", "attach-1", lease=30)).again is False


async def test_one_token_says_nothing_about_another(ledger: Ledger) -> None:
    await ledger.claim("tok_1", "attach-1", lease=30)
    assert (await ledger.claim("tok_2", "attach-2", lease=30)).state == "granted"


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
    async with asyncio.timeout(5), ledger.writing("acct_1", lease=60):
        pass


async def test_a_lock_is_renewed_while_its_holder_writes_longer_than_a_lease(client: Redis, prefix: str) -> None:
    writers = Writers()
    one, other = (RedisLedger(Store(client, prefix), "main", days=1) for _ in range(2))
    slow = asyncio.create_task(writers.write(one, "acct_1", lease=0.3, seconds=1.0))
    while not writers.inside:
        await asyncio.sleep(0.01)
    await asyncio.gather(slow, writers.write(other, "acct_1", lease=0.3))
    assert (writers.most, writers.done) == (1, 2)


async def test_the_lock_of_a_writer_that_died_passes_on_when_its_lease_ends(client: Redis, store: Store) -> None:
    await client.set(store.key("writing", "main", "acct_1"), secrets.token_hex(8), px=100)
    async with asyncio.timeout(5), RedisLedger(store, "main", days=1).writing("acct_1", lease=5):
        pass


async def test_locks_of_two_platforms_have_nothing_to_do_with_each_other(store: Store) -> None:
    ledgers = [RedisLedger(store, platform, days=1) for platform in ("main", "other")]
    async with asyncio.timeout(5), ledgers[0].writing("acct_1", lease=5), ledgers[1].writing("acct_1", lease=5):
        pass
    await ledgers[0].claim("tok_1", "attach-1", lease=30)
    assert (await ledgers[1].claim("tok_1", "attach-2", lease=30)).state == "granted"


async def test_the_journal_counts_deliveries_one_by_one(journal: Journal) -> None:
    begun = await asyncio.gather(*(journal.begin("req-1") for _ in range(20)))
    assert sorted(each.deliveries for each in begun) == list(range(1, 21))
    assert await journal.begin("req-2") == Begun(1, 0, None)


async def test_a_delivery_given_back_in_good_order_does_not_count(journal: Journal) -> None:
    await journal.begin("req-1")
    await journal.excuse("req-1")
    assert (await journal.begin("req-1")).deliveries == 1


async def test_the_first_outcome_written_is_the_final_one(journal: Journal) -> None:
    told = await asyncio.gather(*(journal.record("req-1", f"outcome {n}") for n in range(20)))
    assert len(set(told)) == 1
    assert await journal.record("req-1", "another") == told[0]
    assert (await journal.begin("req-1")).outcome == told[0]


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
