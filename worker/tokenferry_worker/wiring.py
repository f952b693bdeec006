"""Builds everything from the configuration, once, when a worker process starts. The only `new` in the house."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Literal

from tokenferry.broker import connecting
from tokenferry.broker.publishing import CanPublish
from tokenferry.configuration import Configuration, InvalidConfiguration, Platform, SecretReference
from tokenferry.contract.queues import (
    ATTACH_TASK,
    ONBOARD_TASK,
    TOKENIZE_TASK,
    attach_queues,
    onboard_queue,
    tokenize_queues,
)
from tokenferry.contract.results import OnboardingProgress
from tokenferry.sealing import Signer, UnusableKey, read_private_key_file, sign_attach
from tokenferry_worker.cancelling import cancel_and_wait
from tokenferry_worker.circuits.breaker import CircuitBreaker
from tokenferry_worker.circuits.parking import ParkedRequeuer
from tokenferry_worker.circuits.reminders import Reminder
from tokenferry_worker.clock import SystemClock
from tokenferry_worker.dead_letters.expiry import ExpirySweeper
from tokenferry_worker.deliveries.attaching import Attacher
from tokenferry_worker.deliveries.onboarding import Onboarder
from tokenferry_worker.deliveries.settling import Handler, Settler
from tokenferry_worker.deliveries.tokenizing import Tokenizer
from tokenferry_worker.errors import Forgotten
from tokenferry_worker.health.vitals import Vitals
from tokenferry_worker.keys.identities import Signers, load_identities
from tokenferry_worker.keys.opening import Opener
from tokenferry_worker.keys.result_signing import ResultSigner
from tokenferry_worker.limits.budgets import Budgets
from tokenferry_worker.on_redis.backpressure import RedisBackpressure
from tokenferry_worker.on_redis.circuits import RedisCircuits
from tokenferry_worker.on_redis.journal import RedisJournal
from tokenferry_worker.on_redis.ledger import RedisLedger
from tokenferry_worker.on_redis.limiter import RedisLimiter
from tokenferry_worker.on_redis.onboardings import RedisOnboardings
from tokenferry_worker.on_redis.store import Store
from tokenferry_worker.onboarding.steps import StepRunner
from tokenferry_worker.outcomes import Outcome
from tokenferry_worker.provider.client import ApiKeys, StripeClient
from tokenferry_worker.provider.platforms import PlatformContext
from tokenferry_worker.tokens.creating import TokenCreator
from tokenferry_worker.tokens.spending import Spender

log = logging.getLogger(__name__)

Role = Literal["tokenize", "attach", "onboard", "all"]


def queues_of(configuration: Configuration, role: Role) -> list[str]:
    """The queues a worker of *role* reads: for every platform, realtime first."""
    names: list[str] = []
    if role in ("tokenize", "all"):
        names += [queue for platform in configuration.platforms for queue in tokenize_queues(platform)]
    if role in ("attach", "all"):
        names += [queue for platform in configuration.platforms for queue in attach_queues(platform)]
    if role in ("onboard", "all"):
        names += [onboard_queue(platform) for platform in configuration.platforms]
    return names


def api_keys(configuration: Configuration, name: str, platform: Platform) -> ApiKeys:
    """Follow the references to the keys of one platform, and check what is found.

    Raises `InvalidConfiguration`, naming the reference and never the value.
    """
    secret = _secret(configuration, name, "secret_key", platform.secret_key)
    if secret is None:
        raise InvalidConfiguration(f'[platforms.{name}] secret_key is missing; write secret_key = {{ env = "NAME" }}')
    keys = ApiKeys(secret, _secret(configuration, name, "publishable_key", platform.publishable_key))
    keys.check(name, platform)
    return keys


def _secret(configuration: Configuration, name: str, use: str, reference: SecretReference | None) -> str | None:
    if reference is None:
        return None
    where = f"[platforms.{name}] {use}"
    if reference.env is not None:
        value = os.environ.get(reference.env)
        if not value:
            raise InvalidConfiguration(f"{where}: the environment variable {reference.env} is not set")
        return value.strip()
    assert reference.file is not None
    try:
        content = read_private_key_file(
            configuration.path(reference.file), use, "write the endpoint's key into it, for this user alone to read"
        )
    except UnusableKey as error:
        raise InvalidConfiguration(f"{where}: {error}") from None
    return content.decode("ascii", "replace").strip()


def check(configuration: Configuration, role: Role) -> None:
    """Load every key a worker of *role* needs, and forget it again.

    Raises `InvalidConfiguration` or `UnusableKey` where the worker could not start.
    """
    configuration.need_platform()
    if configuration.worker.watchdog_seconds < 2 * configuration.broker.publish_timeout:
        raise InvalidConfiguration(
            "[worker] watchdog_seconds is less than twice [broker] publish_timeout, so an ordinary wait for the broker "
            f"would look like a hang; write {2 * configuration.broker.publish_timeout:g} or more"
        )
    for name, platform in configuration.platforms.items():
        api_keys(configuration, name, platform)
    Signers.load(configuration.path(configuration.keys.signers))
    ResultSigner.load(configuration)
    if role != "attach":
        load_identities(configuration.path(configuration.keys.identities))
    if role in ("tokenize", "all"):
        Signer.load(configuration.path(configuration.keys.worker_signing_key))


@asynccontextmanager
async def handlers(
    configuration: Configuration, role: Role, publisher: CanPublish, vitals: Vitals | None = None
) -> AsyncIterator[Mapping[str, Handler]]:
    """The handlers of *role* by task name, with everything behind them open. *vitals* is shown where to look."""
    async with AsyncExitStack() as stack:
        store = Store.at(connecting.store_url(configuration), configuration.store.prefix)
        stack.push_async_callback(store.aclose)
        clock = SystemClock()
        book = RedisCircuits(store)
        circuits = CircuitBreaker(book)
        if vitals is not None:
            vitals.store_away = lambda: store.away
            vitals.open_circuits = lambda: list(circuits.snapshot.open)
        results = ResultSigner.load(configuration)
        settler = Settler(publisher, book, store.now, results, vitals.set_aside if vitals is not None else Counter())
        settings, days = configuration.worker, configuration.store.journal_days
        limiter = RedisLimiter(store, alone=settings.alone_share)
        stack.push_async_callback(limiter.aclose)
        signers = Signers.load(configuration.path(configuration.keys.signers))
        contexts = {}
        for name, platform in configuration.platforms.items():
            client = StripeClient(
                platform,
                api_keys(configuration, name, platform),
                connections=2 * settings.concurrency,
                read_timeout=settings.read_timeout,
                connect_timeout=settings.connect_timeout,
            )
            stack.push_async_callback(client.aclose)
            contexts[name] = PlatformContext(name, client, Budgets(name, platform), platform.live)
        # Cheap, and without a connection of their own: a role that needs less takes less.
        journal = RedisJournal(store, "request", days=days)
        ledgers = {name: RedisLedger(store, name, days=days) for name in contexts}
        creator = TokenCreator(journal, limiter, circuits, clock, settings.attempts)
        spender = Spender(ledgers, limiter, circuits, clock, settings.attempts)
        by_task: dict[str, Handler] = {}
        if role != "attach":
            opener = Opener(load_identities(configuration.path(configuration.keys.identities)), signers)
        if role in ("tokenize", "all"):
            signer = Signer.load(configuration.path(configuration.keys.worker_signing_key))
            tokenizer = Tokenizer(
                opener=opener,
                creator=creator,
                platforms=contexts,
                journal=journal,
                backpressure=RedisBackpressure(store),
                sign=partial(sign_attach, signer=signer),
                signer_id=signer.signer_id,
                deliveries=settings.deliveries,
                token_lifetime=settings.token_lifetime,
            )
            by_task[TOKENIZE_TASK] = _delivery(tokenizer.handle, settler, realtime=True)
        if role in ("attach", "all"):
            attacher = Attacher(
                signers=signers,
                spender=spender,
                platforms=contexts,
                journal=RedisJournal(store, "attach", days=days),
                deliveries=settings.deliveries,
            )
            by_task[ATTACH_TASK] = _delivery(attacher.handle, settler, realtime=False)
        if role in ("onboard", "all"):
            onboarder = Onboarder(
                opener=opener,
                steps=StepRunner(
                    creator=creator,
                    spender=spender,
                    journal=journal,
                    store=RedisOnboardings(store, days=configuration.store.onboarding_days),
                    token_lifetime=settings.token_lifetime,
                ),
                platforms=contexts,
                journal=journal,
                deliveries=settings.deliveries,
                tell=partial(_tell, publisher, results),
            )
            by_task[ONBOARD_TASK] = _delivery(onboarder.handle, settler, realtime=False)
        requeuer = ParkedRequeuer(configuration, publisher, book, circuits)
        sweeper = ExpirySweeper(configuration, publisher, book, store.now)
        reminder = Reminder(configuration, book, circuits)
        for name, beside in {
            "circuits": circuits.watch(),
            "parked": requeuer.run(),
            "open": reminder.run(),
            "aside": sweeper.run(),
        }.items():
            stack.push_async_callback(cancel_and_wait, asyncio.create_task(beside, name=f"tokenferry-{name}"))
        yield by_task


def _tell(publisher: CanPublish, results: ResultSigner, route: str, progress: OnboardingProgress) -> None:
    """Hand a word of progress to the broker, and do not ask whether it arrived."""
    publisher.submit(results.message(route, progress))


def _delivery(handle: Callable[[str], Awaitable[Outcome]], settler: Settler, *, realtime: bool) -> Handler:
    async def deliver(body: str) -> None:
        while True:
            try:
                outcome = await handle(body)
            except Forgotten:
                log.warning("the store has lost what it knew of a request in hand; it begins again, under the same key")
            else:
                return await settler.settle(outcome, body, realtime=realtime)

    return deliver
