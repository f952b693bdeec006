"""`tokenferry dead-letters redrive`: put failed messages back on their work queues."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click
from redis.exceptions import RedisError

from tokenferry.broker import connecting
from tokenferry.broker.error_text import STORE, explain
from tokenferry.broker.publishing import CanPublish, PublishError
from tokenferry.broker.queue_browser import QueueBrowser
from tokenferry.configuration import Configuration, load_to_look
from tokenferry.contract.lifetimes import Lifetimes
from tokenferry.options import Number
from tokenferry_worker.commands.choosing import BrokerAccess, filter_of, filters, matching, missing_ids, require_choice
from tokenferry_worker.dead_letters.record import DeadLetter, DeadLetterFilter
from tokenferry_worker.dead_letters.redriving import GONE, Fate, Redriver
from tokenferry_worker.dead_letters.resealing import Resealer
from tokenferry_worker.keys.identities import Signers
from tokenferry_worker.keys.policy import Policy
from tokenferry_worker.on_redis.birth import StoreAge, StoreBirth
from tokenferry_worker.on_redis.journal import RedisJournal
from tokenferry_worker.on_redis.store import Store

PROGRESS_EVERY: Final = 2.0
"""Seconds between two lines of progress."""
STORE_WITHIN: Final = 10.0
"""Seconds the store gets to answer."""
ADVICE: Final[dict[Fate, str]] = {
    "expired": "their deadline has passed: send new requests, and purge these",
    "not_kept": "they may have carried a verification code, so only the header was kept",
    "not_openable": "no private key here opens them: redrive them without --reseal, or run this where [keys] "
    "identities has the key",
    "not_verified": "not signed by any key in [keys] signers",
    "other_group": "[keys] producer_signing_key is of another group than they are: reseal them with a key of theirs",
    "unknown_platform": "their platform is not in the configuration: add [platforms.NAME] here and for the workers",
    "invalid_lifetime": "they come from the future, or live longer than [store] journal_days less a day: purge these",
    "store_is_younger": "they move money and are older than the store, which cannot say whether they were done; if it "
    "is new on purpose: tokenferry store accept",
}


@click.command()
@filters
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--reseal", is_flag=True, help="Seal each to the current recipient, so that an old key can be retired.")
@click.option("--dry-run", is_flag=True, help="Say what would happen, and change nothing.")
@click.option("--rate", type=Number(0.01, 10_000), default=10.0, show_default=True, help="Messages per second.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def redrive(
    queue: str,
    config: Path | None,
    limit: int | None,
    everything: bool,
    reseal: bool,
    dry_run: bool,
    rate: float,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Put them back on their work queues, once the cause is fixed.

    Needs a filter, --id or --all. Each message starts again with all its attempts, under the same id. It keeps its
    idempotency key where Stripe may have created something with it. The requester gets a second outcome. Where Stripe
    itself has answered meanwhile, that outcome is only published again. Expired messages, and those that no key in
    [keys] signers has signed, stay.

    --reseal is for after a key rotation. It opens messages sealed to another key than [keys] recipient, with [keys]
    identities, seals them to the recipient and signs them with [keys] producer_signing_key. So it runs only where the
    private keys are. It changes nothing else. An attach order is signed again if it carries a sealed request.

    Ctrl-C stops between two messages. Nothing is lost, however the command ends; run it again.

    \b
    Examples
      tokenferry dead-letters redrive --code attempts_exhausted --older-than 1h --dry-run
      tokenferry dead-letters redrive --id req-0123abcd
      tokenferry dead-letters redrive --quarantine --all --rate 5
      tokenferry dead-letters redrive --all --reseal --dry-run

    \b
    Exit codes
      0  all of them are back on their queues
      1  some are not, or the command was interrupted
      2  wrong usage or configuration
    """
    filter_ = filter_of(chosen)
    require_choice(filter_, everything)
    configuration = load_to_look(config, "broker", "store")
    signers = Signers.load(configuration.path(configuration.keys.signers))
    resealer = Resealer.load(configuration, signers) if reseal else None
    counts = RedriveCounts(queue, dry_run)
    run = RedriveRun(configuration, BrokerAccess.current(), signers, resealer, filter_, limit, rate, counts)
    try:
        asyncio.run(run.run())
    except click.ClickException as error:
        if not (counts.fates or as_json):
            raise
        counts.trouble = error.format_message()
    counts.print(as_json)
    click.get_current_context().exit(1 if counts.trouble or counts.left else 0)


@dataclass
class RedriveCounts:
    """What has become of the messages so far."""

    queue: str
    dry_run: bool
    fates: Counter[Fate] = field(default_factory=Counter)
    resealed: int = 0
    """How many of the redriven ones were sealed again."""
    elsewhere: int = 0
    """How many another command removed at the same time: they were redriven twice, or purged too late."""
    trouble: str | None = None
    """Why the run ended early."""

    @property
    def gone(self) -> int:
        """How many have left the queue, or in a dry run would leave it."""
        return sum(self.fates[fate] for fate in GONE)

    @property
    def left(self) -> dict[Fate, int]:
        """How many stay, and why."""
        return {fate: count for fate, count in self.fates.items() if fate not in GONE}

    def print(self, as_json: bool) -> None:
        """Print the summary."""
        redriven, again = (self.fates[fate] for fate in GONE)
        if as_json:
            gone = {"redriven": redriven, "told_again": again, "resealed": self.resealed, "elsewhere": self.elsewhere}
            left = {"not_redriven": self.left, "trouble": self.trouble}
            click.echo(json.dumps({"queue": self.queue, "dry_run": self.dry_run, **gone, **left}))
            return
        parts = [f"{redriven} {'would be redriven' if self.dry_run else 'redriven'}"]
        if again:
            parts.append(f"{again} had an outcome, which is published again")
        if self.resealed:
            parts.append(f"{self.resealed} of them sealed again")
        if self.elsewhere:
            parts.append(f"{self.elsewhere} of them redriven or purged by another command at the same time")
        click.echo(", ".join(parts))
        for fate, count in self.left.items():
            click.echo(f"{count} not redriven, {fate}: {ADVICE[fate]}")
        if self.trouble:
            click.echo(f"tokenferry: stopped: {self.trouble}", err=True)


@dataclass(frozen=True)
class RedriveRun:
    """One run of the command over one queue."""

    configuration: Configuration
    broker: BrokerAccess
    signers: Signers
    resealer: Resealer | None
    filter: DeadLetterFilter
    limit: int | None
    rate: float
    """Messages per second."""
    counts: RedriveCounts

    async def run(self) -> None:
        """Redrive every matching message until a signal, the limit or an error; the counts tell which."""
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        configuration = self.configuration
        store = Store.at(connecting.store_url(configuration), configuration.store.prefix, patient=False)
        async with aclosing(store):
            with (
                self.broker.browse(configuration, self.counts.queue) as browser,
                self.broker.publisher(configuration) as publisher,
            ):
                try:
                    await self._redrive_all(browser, await self._redriver(store, publisher), stop)
                except PublishError as error:
                    self.counts.trouble = str(error)
                except StoreTrouble as error:
                    self.counts.trouble = explain(error.cause, STORE).of(STORE)
        if stop.is_set():
            self.counts.trouble = "interrupted; the rest is where it was"

    async def _redriver(self, store: Store, publisher: CanPublish) -> Redriver:
        days = self.configuration.store.journal_days
        began, age = time.monotonic(), await self._store_age(store)
        return Redriver(
            signers=self.signers,
            platforms=self.configuration.platforms,
            requests=RedisJournal(store, "request", days=days),
            orders=RedisJournal(store, "attach", days=days),
            publisher=publisher,
            publish_timeout=self.configuration.broker.publish_timeout,
            resealer=self.resealer,
            policy=_policy(self.configuration),
            lifetimes=Lifetimes.remembered(journal_days=days, onboarding_days=self.configuration.store.onboarding_days),
            born=age.born,
            now=lambda: age.now / 1000 + time.monotonic() - began,
        )

    async def _store_age(self, store: Store) -> StoreAge:
        try:
            async with asyncio.timeout(STORE_WITHIN):
                return await StoreBirth(store).look()
        except (RedisError, OSError) as error:
            raise StoreTrouble(error) from None

    async def _redrive_all(self, browser: QueueBrowser, redriver: Redriver, stop: asyncio.Event) -> None:
        counts = self.counts
        began = printed_at = time.monotonic()
        found: set[str | None] = set()
        for message, dead_letter in matching(browser, self.filter):
            if stop.is_set() or counts.gone == self.limit:
                return
            found.add(dead_letter.id)
            fate = redriver.fate(dead_letter) if counts.dry_run else await self._redrive(redriver, dead_letter)
            counts.fates[fate] += 1
            if fate not in GONE:
                continue
            counts.resealed += self.resealer is not None and self.resealer.stale(dead_letter) is not None
            if counts.dry_run:
                continue
            counts.elsewhere += not browser.remove(message)
            if time.monotonic() - printed_at > PROGRESS_EVERY:
                printed_at = time.monotonic()
                click.echo(f"{counts.gone} redriven", err=True)
            await _sleep_until(began + counts.gone / self.rate, stop)
        counts.trouble = missing_ids(counts.queue, self.filter.ids, found)

    async def _redrive(self, redriver: Redriver, dead_letter: DeadLetter) -> Fate:
        try:
            async with asyncio.timeout(STORE_WITHIN + self.configuration.broker.publish_timeout):
                return await redriver.redrive(dead_letter)
        except (RedisError, OSError) as error:
            raise StoreTrouble(error) from None


def _policy(configuration: Configuration) -> Policy | None:
    """Return the policy, if it is on this machine. Raises `UnusableKey`."""
    path = configuration.path(configuration.keys.policy)
    return Policy.read(path) if path.exists() else None


class StoreTrouble(Exception):
    """The store did not answer, or refused. The broker's errors are of the same types, hence this one."""

    def __init__(self, cause: RedisError | OSError) -> None:
        super().__init__(type(cause).__name__)
        self.cause = cause


async def _sleep_until(moment: float, stop: asyncio.Event) -> None:
    """Return at *moment* (monotonic seconds), or earlier when *stop* is set."""
    try:
        async with asyncio.timeout(max(0.0, moment - time.monotonic())):
            await stop.wait()
    except TimeoutError:
        pass
