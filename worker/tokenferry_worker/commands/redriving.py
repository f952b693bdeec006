"""`tokenferry dead-letters redrive`: on its way again what was given up on."""

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
from tokenferry.broker.publishing import Publisher, PublishError
from tokenferry.configuration import Configuration, load_to_look
from tokenferry.options import Number
from tokenferry_worker.commands.choosing import filters, fitting, guard, looking, missing, wanted
from tokenferry_worker.dead_letters.record import DeadLetterFilter
from tokenferry_worker.dead_letters.redriving import GONE, Fate, Redriver
from tokenferry_worker.dead_letters.resealing import Resealer
from tokenferry_worker.keys.identities import Signers
from tokenferry_worker.on_redis.journal import RedisJournal
from tokenferry_worker.on_redis.store import Store

TOLD_EVERY: Final = 2.0
"""Seconds between two lines of progress."""
STORE_WITHIN: Final = 10.0
"""Seconds the store gets to answer."""
ADVICE: Final[dict[Fate, str]] = {
    "expired": "their own deadline has passed: send them anew, and purge these",
    "not_kept": "they may have carried a verification code: only the header was kept",
    "not_openable": "sealed to a private key that is not here, or not opened by it: redrive them without --reseal, or "
    "run it where [keys] identities has the key",
    "not_verified": "not signed by anybody in [keys] signers",
    "unknown_platform": "their platform is not in the configuration: add [platforms.NAME] here and for the workers",
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

    Needs a filter, --id or --all. Each begins once more with all its attempts, under the same id and, where something
    may have been made with it, the same idempotency key; its requester hears a second outcome. One that the endpoint
    itself has answered meanwhile is only told again. What has expired, or is signed by nobody the workers know, stays.

    --reseal, after a rotation of keys: what is sealed to another key than [keys] recipient is opened with [keys]
    identities and sealed anew, signed with [keys] producer_signing_key. So it runs only where the private keys are.
    Nothing else of a message changes. Attach orders are signed anew where they bring a sealed request.

    Ctrl-C ends it between two messages. Whatever interrupts it, nothing is lost; run it again.

    \b
    Examples
      tokenferry dead-letters redrive --code attempts_exhausted --older-than 1h --dry-run
      tokenferry dead-letters redrive --id req-0123abcd
      tokenferry dead-letters redrive --quarantine --all --rate 5
      tokenferry dead-letters redrive --all --reseal --dry-run

    \b
    Exit codes
      0  every one of them is on its way
      1  some are not, or it was interrupted
      2  wrong usage or configuration
    """
    meant = wanted(chosen)
    guard(meant, everything)
    configuration = load_to_look(config, "broker", "store")
    signers = Signers.load(configuration.path(configuration.keys.signers))
    resealer = Resealer.load(configuration, signers) if reseal else None
    done = RedriveCounts(queue, dry_run)
    try:
        asyncio.run(_redrive(configuration, done, meant, limit, rate, signers, resealer))
    except click.ClickException as error:
        if not (done.fates or as_json):
            raise
        done.trouble = error.format_message()
    done.say(as_json)
    click.get_current_context().exit(1 if done.trouble or done.left else 0)


@dataclass
class RedriveCounts:
    """What became of them so far."""

    queue: str
    dry_run: bool
    fates: Counter[Fate] = field(default_factory=Counter)
    resealed: int = 0
    """Those of them that went sealed anew."""
    elsewhere: int = 0
    """Those of them that somebody else took off the queue at the same time: redriven twice, or purged too late."""
    trouble: str | None = None
    """What ended it before its time."""

    @property
    def gone(self) -> int:
        """How many are here no more; in a dry run: would be."""
        return sum(self.fates[fate] for fate in GONE)

    @property
    def left(self) -> dict[Fate, int]:
        """How many stay, and why."""
        return {fate: count for fate, count in self.fates.items() if fate not in GONE}

    def say(self, as_json: bool) -> None:
        """Print the summary."""
        redriven, again = (self.fates[fate] for fate in GONE)
        if as_json:
            done = {"redriven": redriven, "told_again": again, "resealed": self.resealed, "elsewhere": self.elsewhere}
            left = {"not_redriven": self.left, "trouble": self.trouble}
            click.echo(json.dumps({"queue": self.queue, "dry_run": self.dry_run, **done, **left}))
            return
        parts = [f"{redriven} {'would be redriven' if self.dry_run else 'redriven'}"]
        if again:
            parts.append(f"{again} had an outcome, which is told again")
        if self.resealed:
            parts.append(f"{self.resealed} of them sealed anew")
        if self.elsewhere:
            parts.append(f"{self.elsewhere} of them redriven or purged by somebody else at the same time")
        click.echo(", ".join(parts))
        for fate, count in self.left.items():
            click.echo(f"{count} not redriven, {fate}: {ADVICE[fate]}")
        if self.trouble:
            click.echo(f"tokenferry: stopped: {self.trouble}", err=True)


async def _redrive(
    configuration: Configuration,
    done: RedriveCounts,
    meant: DeadLetterFilter,
    limit: int | None,
    rate: float,
    signers: Signers,
    resealer: Resealer | None,
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    store = Store.at(connecting.store_url(configuration), configuration.store.prefix, patient=False)
    days = configuration.store.journal_days
    async with aclosing(store):
        with looking(configuration, done.queue) as shelf, Publisher.to(configuration) as publisher:
            redriver = Redriver(
                signers=signers,
                platforms=configuration.platforms,
                requests=RedisJournal(store, "request", days=days),
                orders=RedisJournal(store, "attach", days=days),
                publisher=publisher,
                publish_timeout=configuration.broker.publish_timeout,
                resealer=resealer,
            )
            begun = told = time.monotonic()
            met: set[str | None] = set()
            for item, letter in fitting(shelf, meant):
                if stop.is_set() or done.gone == limit:
                    break
                met.add(letter.id)
                try:
                    async with asyncio.timeout(STORE_WITHIN + configuration.broker.publish_timeout):
                        fate = redriver.fate(letter) if done.dry_run else await redriver.redrive(letter)
                except PublishError as error:
                    done.trouble = str(error)
                    break
                except (RedisError, OSError) as error:
                    done.trouble = explain(error, STORE).of(STORE)
                    break
                done.fates[fate] += 1
                if fate not in GONE:
                    continue
                done.resealed += resealer is not None and resealer.stale(letter) is not None
                if done.dry_run:
                    continue
                done.elsewhere += not shelf.remove(item)
                if time.monotonic() - told > TOLD_EVERY:
                    told = time.monotonic()
                    click.echo(f"{done.gone} redriven", err=True)
                await _until(stop, begun + done.gone / rate)
            else:
                done.trouble = missing(done.queue, meant.ids, met)
    if stop.is_set():
        done.trouble = "interrupted; the rest is where it was"


async def _until(stop: asyncio.Event, moment: float) -> None:
    try:
        async with asyncio.timeout(max(0.0, moment - time.monotonic())):
            await stop.wait()
    except TimeoutError:
        pass
