"""What the store says counts only if a worker wrote it: tags on the ledger and on the onboarding book."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tokenferry.configuration import Configuration, load
from tokenferry.sealing import UnusableKey
from tokenferry_worker.errors import Reused
from tokenferry_worker.keys.state_keys import StateKey, StateKeys
from tokenferry_worker.keys.state_tags import ALARM_SECONDS, StateTags, untagged
from tokenferry_worker.on_redis.journal import RedisJournal
from tokenferry_worker.on_redis.ledger import RedisLedger
from tokenferry_worker.on_redis.onboardings import RedisOnboardings
from tokenferry_worker.on_redis.state_since import StateSince
from tokenferry_worker.on_redis.store import Store
from tokenferry_worker.onboarding.progress import StepRecord
from tokenferry_worker.tokens.ledger import Became, Claim, Granted, HasOutcome, Misfit, Spent, TokenScope

pytestmark = pytest.mark.anyio

FLEET = StateKey.of(b"fleet" * 6 + b"..")
STRANGER = StateKey.of(b"other" * 6 + b"..")
SCOPE = TokenScope("main", "test", "acct_1", "card")
OTHER = TokenScope("main", "test", "acct_2", "card")
MADE_AT = 1_800_000_000_000
BECAME = Became("cus_1", "customer", "card_1")


def strict(key: StateKey = FLEET, **earlier: StateKey) -> StateTags:
    """Tags of a fleet whose version before is long gone."""
    keys = StateKeys(key, {each.key_id: each for each in earlier.values()})
    return StateTags(keys, believes_untagged=lambda: False)


# -- keys and tags


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    (tmp_path / "tokenferry.toml").write_text('[platforms.main]\nsecret_key = { env = "X" }\n')
    (tmp_path / "keys" / "state.old").mkdir(parents=True)
    return load(tmp_path / "tokenferry.toml")


def put(configuration: Configuration, name: str, content: str) -> Path:
    path = configuration.path(Path("keys") / name)
    path.write_text(content)
    path.chmod(0o600)
    return path


async def test_the_key_makes_tags_and_an_earlier_one_still_verifies(configuration: Configuration) -> None:
    put(configuration, "state.key", STRANGER.secret.hex() + "\n")
    before = StateKeys.load(configuration)
    tag = before.tag("journal", "a", "b")
    put(configuration, "state.key", FLEET.secret.hex())
    assert not StateKeys.load(configuration).verify(tag, "journal", "a", "b")
    put(configuration, "state.old/1.key", STRANGER.secret.hex())
    after = StateKeys.load(configuration)
    assert after.verify(tag, "journal", "a", "b")
    assert after.tag("journal", "a", "b").startswith(f"{FLEET.key_id}.")
    assert (len(FLEET.key_id), len(tag)) == (33, 33 + 1 + 32)


@pytest.mark.parametrize("content", ["", "ab" * 31, "AB" * 32, "zz" * 32, "ab" * 32 + "\n" + "ab" * 32])
async def test_what_is_no_key_is_refused_and_not_shown(configuration: Configuration, content: str) -> None:
    path = put(configuration, "state.key", content)
    with pytest.raises(UnusableKey, match="is not a state key") as error:
        StateKeys.load(configuration)
    assert str(path) in str(error.value)
    assert content[:8] not in str(error.value) or not content


async def test_a_key_that_others_can_read_is_refused(configuration: Configuration) -> None:
    put(configuration, "state.key", FLEET.secret.hex()).chmod(0o644)
    with pytest.raises(UnusableKey, match="readable by others"):
        StateKeys.load(configuration)


async def test_a_key_does_not_show_itself(configuration: Configuration) -> None:
    put(configuration, "state.key", FLEET.secret.hex())
    shown = repr(StateKeys.load(configuration))
    assert FLEET.key_id in shown
    assert FLEET.secret.hex() not in shown
    assert repr(FLEET.secret) not in shown


@pytest.mark.parametrize(
    ("entry", "facts"),
    [
        ("token spent", ("a", "b")),
        ("journal", ("ab", "")),
        ("journal", ("a", "b", "")),
        ("journal", ("b", "a")),
        ("journal", ('a","b',)),
    ],
)
async def test_a_tag_fits_these_facts_of_this_kind_of_entry_alone(entry: Any, facts: tuple[str, ...]) -> None:
    keys = StateKeys(FLEET)
    tag = keys.tag("journal", "a", "b")
    assert keys.verify(tag, "journal", "a", "b")
    assert not keys.verify(tag, entry, *facts)


@pytest.mark.parametrize("change", [str.upper, lambda tag: tag[:-1], lambda tag: tag + "0", lambda tag: tag[33:]])
async def test_no_other_spelling_of_a_tag_verifies(change: Callable[[str], str]) -> None:
    keys = StateKeys(FLEET)
    assert not keys.verify(change(keys.tag("journal", "a")), "journal", "a")


async def test_an_alarm_names_the_entry_and_health_fails_for_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    time = 0.0
    tags = StateTags(StateKeys(FLEET), monotonic=lambda: time)
    assert tags.trouble is None
    tags.refuse("tokenferry:token:tok_1")
    (record,) = caplog.records
    assert (record.levelno, "tokenferry:token:tok_1" in record.getMessage()) == (logging.ERROR, True)
    assert tags.trouble == "the store holds what no worker wrote (1 entries since the start)"
    time = ALARM_SECONDS + 1
    assert tags.trouble is None


# -- since when there are tags


async def test_entries_without_a_tag_are_believed_for_journal_days_from_the_first_worker_with_a_key(
    store: Store, client: Redis
) -> None:
    first = StateSince(store, StateKeys(FLEET), days=7)
    await first.look()
    assert first.believes_untagged()
    written = await client.get(store.keys.state_since)
    second = StateSince(store, StateKeys(FLEET), days=7)
    await second.look()
    assert await client.get(store.keys.state_since) == written
    late = StateSince(store, StateKeys(FLEET), days=0)
    await late.look()
    assert not late.believes_untagged()


@pytest.mark.parametrize(
    "forged", ["1800000000000", f"99999999999999 {StateKeys(STRANGER).tag('since', 'x', '1')}", "x"]
)
async def test_a_time_that_no_worker_wrote_ends_the_belief_and_says_so(
    store: Store, client: Redis, forged: str, caplog: pytest.LogCaptureFixture
) -> None:
    await client.set(store.keys.state_since, forged)
    since = StateSince(store, StateKeys(FLEET), days=7)
    await since.look()
    assert not since.believes_untagged()
    assert "was not written by a worker" in caplog.text
    await since.look()
    assert caplog.text.count("was not written by a worker") == 1


async def test_whoever_deletes_the_time_gets_no_later_one_while_a_worker_runs(store: Store, client: Redis) -> None:
    keys = StateKeys(FLEET)
    name = store.keys.state_since
    await client.set(name, f"1000 {keys.tag('since', name, '1000')}")
    running = StateSince(store, keys, days=7)
    await running.look()
    await client.delete(name)
    started = StateSince(store, keys, days=7)
    await started.look()
    assert started.believes_untagged()
    await running.look()
    await started.look()
    assert not started.believes_untagged()


async def test_without_a_key_nothing_is_written_and_everything_is_believed(store: Store, client: Redis) -> None:
    since = StateSince(store, StateKeys(), days=0)
    await since.watch()
    await since.known()
    assert since.believes_untagged()
    assert await client.exists(store.keys.state_since) == 0
    ledger, journal = RedisLedger(store, "main", days=1), RedisJournal(store, "request", days=1)
    await journal.record_token("req-1", "{}", "tok_1", SCOPE, at=MADE_AT)
    claim = await ledger.claim("tok_1", "a", lease=60)
    assert isinstance(claim, Granted)
    await ledger.close("tok_1", claim, "spent", BECAME)
    row = await client.hgetall(store.keys.token("tok_1"))
    assert {"made_tag", "spent_tag", "doubted"}.isdisjoint(row)


# -- the ledger


@dataclass
class Book:
    """Ledger and onboardings of a fleet with a key, and what somebody with the store's password can do to them."""

    store: Store
    client: Redis
    tags: StateTags

    def ledger(self) -> RedisLedger:
        return RedisLedger(self.store, "main", days=1, tags=self.tags)

    def key(self, token: str = "tok_1") -> str:
        return self.store.keys.token(token)

    async def made(self, token: str = "tok_1", scope: TokenScope = SCOPE) -> None:
        journal = RedisJournal(self.store, "request", days=1, tags=self.tags)
        await journal.record_token(f"req-{token}", "{}", token, scope, at=MADE_AT)

    async def spent(
        self, token: str = "tok_1", by: str = "a", became: Became = BECAME, scope: TokenScope = SCOPE
    ) -> None:
        await self.made(token, scope)
        claim = await self.ledger().claim(token, by, lease=60, scope=scope)
        assert isinstance(claim, Granted)
        assert await self.ledger().close(token, claim, "spent", became)

    async def claim(self, by: str = "a", scope: TokenScope = SCOPE) -> Claim:
        return await self.ledger().claim("tok_1", by, lease=60, scope=scope)


@pytest.fixture
def book(store: Store, client: Redis) -> Book:
    return Book(store, client, strict())


async def test_what_workers_wrote_is_believed_from_the_making_to_the_end(book: Book) -> None:
    await book.spent()
    assert await book.claim() == Spent("a", (await _fence(book)), BECAME)
    assert book.tags.refused == 0


async def test_a_token_made_elsewhere_has_no_record_and_its_spending_has_a_tag(book: Book) -> None:
    claim = await book.claim()
    assert isinstance(claim, Granted)
    assert claim.past == "unrecorded"
    assert await book.ledger().close("tok_1", claim, "spent", BECAME)
    assert isinstance(await book.claim(), Spent)
    assert book.tags.refused == 0


async def test_a_store_wiped_under_way_keeps_a_spending_that_verifies(book: Book) -> None:
    await book.made()
    claim = await book.claim()
    assert isinstance(claim, Granted)
    await book.client.delete(book.key())
    assert await book.ledger().close("tok_1", claim, "spent", BECAME)
    assert isinstance(await book.claim(), Spent)
    assert book.tags.refused == 0


CHANGES: dict[str, dict[str, str]] = {
    "platform": {"platform": "other"},
    "account": {"account": "acct_2"},
    "kind": {"kind": "bank_account"},
    "mode": {"mode": "live"},
    "time": {"made": "1"},
    "no tag": {"made_tag": ""},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_changed_facts_of_a_token_say_nothing_any_more(book: Book, change: dict[str, str]) -> None:
    await book.made()
    await book.client.hset(book.key(), mapping=change)
    claim = await book.claim()
    assert isinstance(claim, Granted)
    assert (claim.past, claim.made_at) == ("unverified", None)
    assert book.tags.refused == 1
    assert book.tags.trouble is not None


async def test_a_token_row_that_no_worker_wrote_says_nothing(book: Book) -> None:
    facts = {"platform": "main", "mode": "test", "account": "acct_1", "kind": "card", "made": str(MADE_AT)}
    await book.client.hset(book.key(), mapping={"state": "available", **facts})
    await book.client.pexpire(book.key(), 60_000)
    claim = await book.claim()
    assert isinstance(claim, Granted)
    assert claim.past == "unverified"


@pytest.mark.parametrize(
    "change", [{"object": "cus_2"}, {"by": "b"}, {"stored": "card_2"}, {"type": "card"}, {"spent_tag": "x"}], ids=str
)
async def test_a_changed_spending_is_not_told(book: Book, change: dict[str, str]) -> None:
    await book.spent()
    await book.client.hset(book.key(), mapping=change)
    claim = await book.claim(by=change.get("by", "a"))
    assert isinstance(claim, Granted)
    assert claim.past == "unverified"


@pytest.mark.parametrize("state", ["available", "unknown", "burnt", "expired"])
async def test_a_spent_token_never_becomes_free(book: Book, state: str) -> None:
    """Whoever takes it knows that nothing is known of it. So does everybody after that, until it is spent again."""
    await book.spent()
    await book.client.hset(book.key(), mapping={"state": state, "by": ""})
    for order in ("b", "c"):
        claim = await book.claim(by=order)
        assert isinstance(claim, Granted)
        assert claim.past == "unverified"
        assert await book.ledger().close("tok_1", claim, "unknown", used_by_unknown=True)
    claim = await book.claim(by="a")
    assert isinstance(claim, Granted)
    assert await book.ledger().close("tok_1", claim, "spent", BECAME)
    assert await book.claim() == Spent("a", await _fence(book), BECAME)
    assert book.tags.refused == 1


async def test_a_record_of_an_earlier_key_is_believed(book: Book) -> None:
    await book.spent()
    after = Book(book.store, book.client, strict(STRANGER, fleet=FLEET))
    assert isinstance(await after.claim(), Spent)
    without = Book(book.store, book.client, strict(STRANGER))
    assert isinstance(await without.claim(), Granted)


async def test_a_row_of_the_version_before_is_believed_while_it_may_be_there(store: Store, client: Redis) -> None:
    await Book(store, client, untagged()).spent()
    believing = Book(store, client, StateTags(StateKeys(FLEET), believes_untagged=lambda: True))
    assert isinstance(await believing.claim(), Spent)
    assert isinstance(await Book(store, client, strict()).claim(), Granted)


def forgeries(rows: list[dict[str, str]], seed: int) -> Iterator[dict[str, str | None]]:
    """Changes of a row by somebody who has read all *rows*, and can write anything but a tag of his own."""
    dice = random.Random(seed)
    fields = sorted({*rows[0], "state", "by", "fence", "object", "type", "stored", "made_tag", "spent_tag"})
    own = [StateKeys(STRANGER).tag("token spent", "x"), "", "k0.0", "available", "spent", "b", "0", "99"]
    while True:
        change: dict[str, str | None] = {}
        for name in dice.sample(fields, dice.randint(1, 4)):
            values = [row[name] for row in rows if name in row]
            change[name] = dice.choice([*values, *own, None]) if dice.random() < 0.5 else dice.choice(values or own)
        yield change


FACTS = ("platform", "mode", "account", "kind", "made")
BECOMING = ("object", "type", "stored")


def says_less(row: dict[str, str]) -> bool:
    """Whether a change has only deleted what was written, as whoever can write can always do."""
    return (
        not any(row.get(name) for name in (*FACTS, *BECOMING, "made_tag", "spent_tag")) and row.get("state") != "spent"
    )


@pytest.mark.parametrize("seed", range(4))
async def test_of_1000_forged_rows_none_is_accepted_with_another_meaning(book: Book, seed: int) -> None:
    await book.spent("tok_1")
    await book.spent("tok_2", by="b", became=Became("cus_2", "customer", "card_2"), scope=OTHER)
    await book.made("tok_3", OTHER)
    names = [book.key(f"tok_{number}") for number in (1, 2, 3)]
    rows = [await book.client.hgetall(name) for name in names]
    is_spent = seed % 2 == 0
    honest = rows[0] if is_spent else {**rows[0], "state": "available"}
    if not is_spent:
        for name in (*BECOMING, "spent_tag", "by", "fence"):
            honest.pop(name, None)
    logging.disable(logging.ERROR)
    try:
        for change in itertools.islice(forgeries(rows, seed), 1000):
            forged = {name: value for name, value in {**honest, **change}.items() if value is not None}
            await book.client.delete(names[0])
            if not forged:
                continue
            await book.client.hset(names[0], mapping=forged)
            await book.client.pexpire(names[0], 60_000)
            claim = await book.claim(by="a")
            assert not isinstance(claim, Misfit), change
            if isinstance(claim, Spent):
                assert is_spent or all(forged.get(name) == rows[0].get(name) for name in (*FACTS, *BECOMING, "by")), (
                    change
                )
                assert (claim.by, claim.became) == ("a", BECAME), change
            if isinstance(claim, Granted) and claim.past != "unverified":
                assert claim.made_at in (None, MADE_AT), change
                assert not is_spent or _gone_back(forged, rows[0]) or says_less(forged), change
    finally:
        logging.disable(logging.NOTSET)


def _gone_back(row: dict[str, str], spent: dict[str, str]) -> bool:
    """Whether the row is what it was before it was spent: a limit that the threat model names."""
    return not any(row.get(name) for name in (*BECOMING, "spent_tag")) and row.get("state") != "spent"


async def _fence(book: Book) -> int:
    return int(await book.client.hget(book.key(), "fence"))


# -- the onboarding book


def step(status: Any, object_id: str | None = None) -> str:
    record = StepRecord(status=status, message="req-1", at=0, object_id=object_id)
    return record.model_dump_json(exclude_none=True)


@pytest.fixture
def records(store: Store) -> RedisOnboardings:
    return RedisOnboardings(store, days=1, tags=strict())


async def test_the_steps_that_a_worker_wrote_are_read_again(records: RedisOnboardings) -> None:
    await records.record("main", "seller-7", "account", step("begun"))
    done = step("done", "acct_1")
    assert await records.record("main", "seller-7", "account", done) == done
    assert await records.record("main", "seller-7", "account", step("stopped")) == done
    assert await records.records("main", "seller-7") == {"account": done}


@pytest.mark.parametrize("planted", [step("done", "acct_attacker"), "not JSON", "[]", "{}"], ids=str)
async def test_a_planted_step_is_not_known_and_is_replaced_by_what_a_worker_writes(
    records: RedisOnboardings, store: Store, client: Redis, planted: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = store.keys.onboarding("main", "seller-7")
    await client.hset(name, "account", planted)
    assert await records.records("main", "seller-7") == {"account": None}
    assert f"{name} (account)" in caplog.text
    mine = step("begun")
    assert await records.record("main", "seller-7", "account", mine) == mine
    assert await records.records("main", "seller-7") == {"account": mine}


async def test_a_tag_fits_one_step_of_one_onboarding_alone(
    records: RedisOnboardings, store: Store, client: Redis
) -> None:
    keys = store.keys
    for seller, account in (("mine", "acct_1"), ("yours", "acct_2")):
        for name in ("account", "person:a"):
            await records.record("main", seller, name, step("done", account))
    theirs = [keys.onboarding("main", "mine"), keys.onboarding_tags("main", "mine")]
    for place, other in zip(
        theirs, [keys.onboarding("main", "yours"), keys.onboarding_tags("main", "yours")], strict=True
    ):
        await client.hset(place, mapping=await client.hgetall(other))
    assert await records.records("main", "mine") == {"account": None, "person:a": None}
    for place in (keys.onboarding("main", "yours"), keys.onboarding_tags("main", "yours")):
        await client.hset(place, "person:b", await client.hget(place, "person:a"))
    found = await records.records("main", "yours")
    assert (found["person:b"], found["account"]) == (None, step("done", "acct_2"))


async def test_steps_of_the_version_before_get_a_tag_while_they_are_believed(store: Store, client: Redis) -> None:
    old = RedisOnboardings(store, days=1)
    done = step("done", "acct_1")
    await old.record("main:test", "seller-7", "account", done)
    await client.pexpire(store.keys.onboarding("main:test", "seller-7"), 5000)
    await RedisOnboardings(store, days=1, tags=StateTags(StateKeys(FLEET))).adopt()
    assert await client.pttl(store.keys.onboarding_tags("main:test", "seller-7")) <= 5000
    assert await client.pttl(store.keys.onboarding("main:test", "seller-7")) <= 5000
    assert await RedisOnboardings(store, days=1, tags=strict()).records("main:test", "seller-7") == {"account": done}


async def test_a_step_that_a_worker_of_the_version_before_went_on_with_is_believed_meanwhile(store: Store) -> None:
    """It leaves the tag of the step before it, which then fits nothing."""
    new = RedisOnboardings(store, days=1, tags=StateTags(StateKeys(FLEET), believes_untagged=lambda: True))
    await new.record("main", "seller-7", "account", step("begun"))
    done = step("done", "acct_1")
    await store._client.hset(store.keys.onboarding("main", "seller-7"), "account", done)
    assert await new.records("main", "seller-7") == {"account": done}


# -- the journal


OUTCOME = '{"outcome_id":"req-1:token","token":"tok_1"}'
FORGED = '{"outcome_id":"req-1:token","token":"tok_attacker"}'


@pytest.fixture
def journal(store: Store) -> RedisJournal:
    return RedisJournal(store, "request", days=1, tags=strict())


async def test_an_outcome_that_a_worker_wrote_is_told_again(journal: RedisJournal) -> None:
    await journal.begin("req-1", "what")
    assert await journal.record("req-1", OUTCOME) == OUTCOME
    begun = await journal.begin("req-1", "what")
    assert (begun.outcome, begun.deliveries, begun.doubted) == (OUTCOME, 2, False)
    assert await journal.record("req-1", FORGED) == OUTCOME


async def test_an_outcome_is_told_again_after_a_new_epoch_and_a_new_round(journal: RedisJournal) -> None:
    failure = '{"outcome_id":"req-1:token","failure":{"source":"tokenferry","status":500}}'
    await journal.begin("req-1", "what")
    assert await journal.next_epoch("req-1", 0) == 1
    assert await journal.record("req-1", failure) == failure
    assert await journal.reopen("req-1", told=1) == "open"
    assert (await journal.begin("req-1", "what")).outcome is None
    await journal.record_token("req-1", OUTCOME, "tok_1", SCOPE, at=MADE_AT)
    begun = await journal.begin("req-1", "what")
    assert (begun.epoch, begun.doubted) == (2, False)
    assert begun.outcome is not None
    assert "req-1:token:2" in begun.outcome


@pytest.mark.parametrize("before", [True, False], ids=["before it comes", "instead of the real one"])
async def test_a_planted_outcome_is_not_told_and_the_entry_says_that_it_is_doubted(
    journal: RedisJournal, store: Store, client: Redis, before: bool, caplog: pytest.LogCaptureFixture
) -> None:
    name = store.keys.journal("request", "req-1")
    if not before:
        await journal.begin("req-1", "what")
        await journal.record("req-1", OUTCOME)
    await client.hset(name, "outcome", FORGED)
    begun = await journal.begin("req-1", "what")
    assert (begun.outcome, begun.doubted) == (None, True)
    assert f"the entry {name} was not written by a worker" in caplog.text
    assert await journal.record("req-1", OUTCOME) == OUTCOME
    assert (await journal.begin("req-1", "what")).outcome == OUTCOME


async def test_an_outcome_planted_under_way_gives_way_to_the_real_one(
    journal: RedisJournal, store: Store, client: Redis
) -> None:
    await journal.begin("req-1", "what")
    await client.hset(store.keys.journal("request", "req-1"), "outcome", FORGED)
    assert await journal.record_token("req-1", OUTCOME, "tok_1", SCOPE, at=MADE_AT) == OUTCOME
    assert await client.hget(store.keys.token("tok_1"), "state") == "available"


async def test_an_outcome_planted_for_an_order_is_not_taken_by_its_claim(store: Store, client: Redis) -> None:
    tags = strict()
    orders = RedisJournal(store, "attach", days=1, tags=tags)
    await orders.begin("a", "what")
    await client.hset(store.keys.journal("attach", "a"), "outcome", FORGED)
    ledger = RedisLedger(store, "main", days=1, tags=tags)
    claim = await ledger.claim("tok_1", "a", lease=60, journaled=True)
    assert isinstance(claim, Granted)
    assert await ledger.close("tok_1", claim, "available", outcome=OUTCOME)
    assert await ledger.claim("tok_1", "a", lease=60, journaled=True) == HasOutcome(OUTCOME)
    assert tags.refused == 1


@pytest.mark.parametrize("seed", range(2))
async def test_of_1000_forged_entries_none_is_told_with_another_meaning(
    journal: RedisJournal, store: Store, client: Redis, seed: int
) -> None:
    keys = store.keys
    for id_, of in (("req-1", "what"), ("req-2", "other")):
        await journal.begin(id_, of)
        await journal.record(id_, OUTCOME.replace("req-1", id_).replace("tok_1", f"tok_{id_}"))
    rows = [await client.hgetall(keys.journal("request", id_)) for id_ in ("req-1", "req-2")]
    dice, fields = random.Random(seed), sorted({*rows[0], "content", "epoch", "generation", "round", "doubted"})
    own = [FORGED, "", "0", "2", "k0.00", "what"]
    logging.disable(logging.ERROR)
    try:
        for _ in range(1000):
            forged = dict(rows[0])
            for name in dice.sample(fields, dice.randint(1, 3)):
                forged[name] = dice.choice([*(row[name] for row in rows if name in row), *own])
            if not forged["deliveries"].isdecimal() or not forged.get("epoch", "0").isdecimal():
                continue  # the script fails, and the delivery waits
            await client.delete(keys.journal("request", "req-1"))
            await client.hset(keys.journal("request", "req-1"), mapping=forged)
            await client.pexpire(keys.journal("request", "req-1"), 60_000)
            if forged.get("round", "1") not in ("1", "2", "0") or not forged.get("generation", "1").isdecimal():
                continue
            try:
                begun = await journal.begin("req-1", "what")
            except Reused:
                continue
            assert begun.outcome in (None, rows[0]["outcome"]), forged
    finally:
        logging.disable(logging.NOTSET)
