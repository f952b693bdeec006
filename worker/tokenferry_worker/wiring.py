"""Builds everything from the configuration, once, when a worker process starts. Nothing else builds these parts."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

from tokenferry.broker import connecting
from tokenferry.broker.publishing import CanPublish
from tokenferry.configuration import Configuration, InvalidConfiguration, Platform, SecretReference
from tokenferry.contract.lifetimes import Lifetimes
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
from tokenferry_worker.deliveries.lifetimes import LifetimeCheck
from tokenferry_worker.deliveries.notices import Notifier
from tokenferry_worker.deliveries.onboarding import Onboarder
from tokenferry_worker.deliveries.settling import Handler, Settler
from tokenferry_worker.deliveries.tokenizing import Tokenizer
from tokenferry_worker.errors import Forgotten
from tokenferry_worker.health.reporter import Reporter
from tokenferry_worker.health.vitals import Vitals
from tokenferry_worker.keys.contents import ContentMarks
from tokenferry_worker.keys.identities import Signers, load_identities
from tokenferry_worker.keys.opening import Opener
from tokenferry_worker.keys.policy import Policy
from tokenferry_worker.keys.policy_source import PolicySource
from tokenferry_worker.keys.result_signing import ResultSigner
from tokenferry_worker.keys.rights import Rights
from tokenferry_worker.keys.state_keys import StateKeys
from tokenferry_worker.keys.state_tags import StateTags
from tokenferry_worker.limits.budgets import Budgets
from tokenferry_worker.limits.waits import Waits
from tokenferry_worker.metrics.names import WAITING
from tokenferry_worker.metrics.registry import Meters
from tokenferry_worker.on_redis.attempts import RedisAttempts
from tokenferry_worker.on_redis.backpressure import RedisBackpressure
from tokenferry_worker.on_redis.birth import StoreBirth
from tokenferry_worker.on_redis.budget_watch import BudgetWatch
from tokenferry_worker.on_redis.circuits import RedisCircuits
from tokenferry_worker.on_redis.controls import Controls
from tokenferry_worker.on_redis.journal import RedisJournal
from tokenferry_worker.on_redis.ledger import RedisLedger
from tokenferry_worker.on_redis.limiter import RedisLimiter
from tokenferry_worker.on_redis.onboardings import RedisOnboardings
from tokenferry_worker.on_redis.policy_note import RedisPolicyNote
from tokenferry_worker.on_redis.processes import RedisProcesses
from tokenferry_worker.on_redis.state_since import StateSince
from tokenferry_worker.on_redis.store import Store
from tokenferry_worker.onboarding.calls import AccountCalls
from tokenferry_worker.onboarding.progress import StepRecords
from tokenferry_worker.onboarding.steps import StepRunner
from tokenferry_worker.outcomes import Outcome
from tokenferry_worker.provider.attempts import Caller
from tokenferry_worker.provider.client import ApiKeys, StripeClient
from tokenferry_worker.provider.exchanges import exchange_with
from tokenferry_worker.provider.platforms import PlatformContext
from tokenferry_worker.provider.way import way_to
from tokenferry_worker.tokens.creating import TokenCreator
from tokenferry_worker.tokens.spending import Spender

log = logging.getLogger(__name__)

Role = Literal["tokenize", "attach", "onboard", "all"]
ADOPT_EVERY: Final = 21_600.0
"""Seconds between two searches for onboardings that a worker of the version before has written."""


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
    """Read the API keys of one platform from where the configuration says, and check them.

    Raises `InvalidConfiguration`, which names the reference and never the value.
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
            configuration.path(reference.file), use, "write Stripe's key into it, readable by this user alone"
        )
    except UnusableKey as error:
        raise InvalidConfiguration(f"{where}: {error}") from None
    return content.decode("ascii", "replace").strip()


def check(configuration: Configuration, role: Role) -> None:
    """Load every key that a worker of *role* needs, and keep none.

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
        way_to(configuration, platform)
    Signers.load(configuration.path(configuration.keys.signers))
    ResultSigner.load(configuration)
    StateKeys.load(configuration)
    if (policy := configuration.path(configuration.keys.policy)).exists():
        Policy.read(policy)
    if role != "attach":
        load_identities(configuration.path(configuration.keys.identities))
        ContentMarks.load(configuration.path(configuration.keys.content_key))
    if role in ("tokenize", "all"):
        Signer.load(configuration.path(configuration.keys.worker_signing_key))


@dataclass(frozen=True)
class _Parts:
    """What the handlers of every role are made of. Cheap, and with one connection to the store for all of them."""

    configuration: Configuration
    store: Store
    circuit_store: RedisCircuits
    circuits: CircuitBreaker
    limiter: RedisLimiter
    budget_watch: BudgetWatch
    meters: Meters
    signers: Signers
    results: ResultSigner
    policy: PolicySource
    rights: Rights
    platforms: Mapping[str, PlatformContext]
    journal: RedisJournal
    ledgers: Mapping[str, RedisLedger]
    clock: SystemClock
    birth: StoreBirth
    tags: StateTags
    since: StateSince
    lifetimes: LifetimeCheck
    caller: Caller
    creator: TokenCreator
    spender: Spender
    waits: Waits


@asynccontextmanager
async def handlers(
    configuration: Configuration, role: Role, publisher: CanPublish, vitals: Vitals | None = None
) -> AsyncIterator[Mapping[str, Handler]]:
    """Open everything that the handlers of *role* need, and yield the handlers by task name.

    *vitals* learns how to read the state of the store and of the circuits.
    """
    async with AsyncExitStack() as stack:
        vitals = vitals or Vitals(role)
        parts = _open_parts(stack, configuration, vitals.meters)
        vitals.store_away = lambda: parts.store.away
        vitals.policy_trouble = lambda: parts.policy.trouble
        vitals.state_trouble = lambda: parts.tags.trouble
        vitals.open_circuits = lambda: list(parts.circuits.snapshot.open)
        vitals.paused_budgets = lambda: sorted({*parts.limiter.paused, *parts.budget_watch.paused})
        settler = Settler(
            publisher,
            parts.circuit_store,
            parts.store.now,
            parts.results,
            vitals.set_aside,
            vitals.meters,
            configuration.platforms.keys(),
        )
        by_task: dict[str, Handler] = {}

        async def known() -> None:
            await parts.birth.known()
            await parts.since.known()

        if role != "attach":
            opener = Opener(load_identities(configuration.path(configuration.keys.identities)), parts.signers)
        if role in ("tokenize", "all"):
            by_task[TOKENIZE_TASK] = _delivery(_tokenizer(parts, opener).handle, settler, known, realtime=True)
        if role in ("attach", "all"):
            by_task[ATTACH_TASK] = _delivery(_attacher(parts).handle, settler, known, realtime=False)
        if role in ("onboard", "all"):
            onboarder = _onboarder(parts, opener, publisher)
            by_task[ONBOARD_TASK] = _delivery(onboarder.handle, settler, known, realtime=False)
        for name, job in _background(parts, publisher, vitals).items():
            stack.push_async_callback(cancel_and_wait, asyncio.create_task(job, name=f"tokenferry-{name}"))
        yield by_task


def _open_parts(stack: AsyncExitStack, configuration: Configuration, meters: Meters) -> _Parts:
    """Make the parts. *stack* closes them."""
    settings, days = configuration.worker, configuration.store.journal_days
    store = Store.at(connecting.store_url(configuration), configuration.store.prefix)
    stack.push_async_callback(store.aclose)
    clock = SystemClock()
    circuit_store = RedisCircuits(store)
    circuits = CircuitBreaker(circuit_store)
    meters.ask(lambda: [(WAITING, ("circuit",), circuits.waiting)])
    limiter = RedisLimiter(store, alone=settings.alone_share, meters=meters)
    stack.push_async_callback(limiter.aclose)
    signers = Signers.load(configuration.path(configuration.keys.signers))
    policy = PolicySource(configuration.path(configuration.keys.policy), RedisPolicyNote(store))
    platforms = open_platforms(stack, configuration, meters)
    budgets = [budget for platform in platforms.values() for budget in platform.budgets.all()]
    state_keys = StateKeys.load(configuration)
    since = StateSince(store, state_keys, days=days)
    tags = StateTags(state_keys, believes_untagged=since.believes_untagged)
    journal = RedisJournal(store, "request", days=days, tags=tags, meters=meters)
    birth = StoreBirth(store)
    longest = Lifetimes.remembered(journal_days=days, onboarding_days=configuration.store.onboarding_days)
    ledgers = {name: RedisLedger(store, name, days=days, tags=tags, meters=meters) for name in platforms}
    waits = Waits()
    caller = Caller(limiter, circuits, clock, settings.attempts, waits, RedisAttempts(store, days=days), meters)
    return _Parts(
        configuration=configuration,
        store=store,
        circuit_store=circuit_store,
        circuits=circuits,
        limiter=limiter,
        budget_watch=BudgetWatch(Controls(store), circuit_store, budgets),
        meters=meters,
        signers=signers,
        results=ResultSigner.load(configuration),
        policy=policy,
        rights=Rights(policy.current),
        platforms=platforms,
        journal=journal,
        ledgers=ledgers,
        clock=clock,
        birth=birth,
        tags=tags,
        since=since,
        lifetimes=LifetimeCheck(longest, birth.now),
        caller=caller,
        creator=TokenCreator(journal, caller, clock),
        spender=Spender(ledgers, caller, clock),
        waits=waits,
    )


def open_platforms(
    stack: AsyncExitStack, configuration: Configuration, meters: Meters | None = None
) -> Mapping[str, PlatformContext]:
    """Open a client for every platform. *stack* closes them."""
    settings, contexts = configuration.worker, {}
    for name, platform in configuration.platforms.items():
        exchange = exchange_with(
            platform.base_url,
            http=settings.http,
            way=way_to(configuration, platform),
            connections=2 * settings.concurrency,
            read_timeout=settings.read_timeout,
            connect_timeout=settings.connect_timeout,
        )
        keys = api_keys(configuration, name, platform)
        client = StripeClient(platform, keys, exchange, name=name, meters=meters)
        stack.push_async_callback(client.aclose)
        contexts[name] = PlatformContext(name, client, Budgets(name, platform), platform.live)
    return contexts


def _tokenizer(parts: _Parts, opener: Opener) -> Tokenizer:
    configuration = parts.configuration
    signer = Signer.load(configuration.path(configuration.keys.worker_signing_key))
    return Tokenizer(
        opener=opener,
        rights=parts.rights,
        creator=parts.creator,
        platforms=parts.platforms,
        journal=parts.journal,
        backpressure=RedisBackpressure(parts.store),
        clock=parts.clock,
        sign=partial(sign_attach, signer=signer),
        signer_id=signer.signer_id,
        marks=ContentMarks.load(configuration.path(configuration.keys.content_key)),
        deliveries=configuration.worker.deliveries,
        token_lifetime=configuration.worker.token_lifetime,
        lifetimes=parts.lifetimes,
        meters=parts.meters,
        waits=parts.waits,
    )


def _attacher(parts: _Parts) -> Attacher:
    return Attacher(
        signers=parts.signers,
        rights=parts.rights,
        spender=parts.spender,
        platforms=parts.platforms,
        journal=RedisJournal(parts.store, "attach", days=parts.configuration.store.journal_days, tags=parts.tags),
        clock=parts.clock,
        deliveries=parts.configuration.worker.deliveries,
        lifetimes=parts.lifetimes,
        waits=parts.waits,
    )


def _onboarder(parts: _Parts, opener: Opener, publisher: CanPublish) -> Onboarder:
    settings, days = parts.configuration.worker, parts.configuration.store.onboarding_days
    records = StepRecords(RedisOnboardings(parts.store, days=days, tags=parts.tags))
    calls = AccountCalls(records, parts.caller, parts.clock)
    return Onboarder(
        opener=opener,
        rights=parts.rights,
        steps=StepRunner(parts.creator, parts.spender, calls, parts.journal, records, settings.token_lifetime),
        calls=calls,
        records=records,
        ledgers=parts.ledgers,
        platforms=parts.platforms,
        journal=parts.journal,
        clock=parts.clock,
        deliveries=settings.deliveries,
        lifetimes=parts.lifetimes,
        marks=ContentMarks.load(parts.configuration.path(parts.configuration.keys.content_key)),
        waits=parts.waits,
        publish_progress=partial(_publish_progress, publisher, parts.results),
    )


def _background(parts: _Parts, publisher: CanPublish, vitals: Vitals) -> Mapping[str, Coroutine[Any, Any, None]]:
    """Return the jobs that run beside the deliveries, by the names of their tasks."""
    configuration, store, circuits = parts.configuration, parts.circuit_store, parts.circuits
    notifier = Notifier(
        parts.waits,
        circuits,
        store,
        Controls(parts.store).look,
        lambda: parts.store.away,
        publisher,
        parts.results,
    )
    return {
        "notices": notifier.run(),
        "reports": Reporter(vitals, RedisProcesses(parts.store), configuration.worker.concurrency).run(),
        "budgets": parts.budget_watch.run(),
        "birth": parts.birth.watch(),
        "state": _watch_state(parts),
        "circuits": circuits.watch(),
        "policy": parts.policy.watch(),
        "parked": ParkedRequeuer(configuration, publisher, store, circuits).run(),
        "open": Reminder(configuration, store, circuits).run(),
        "aside": ExpirySweeper(configuration, publisher, store, parts.store.now).run(),
    }


async def _watch_state(parts: _Parts) -> None:
    """Keep the time since when entries have tags, and give tags to the longest-lived entries that have none."""
    onboardings = RedisOnboardings(parts.store, days=parts.configuration.store.onboarding_days, tags=parts.tags)
    async with asyncio.TaskGroup() as group:
        group.create_task(parts.since.watch(), name="tokenferry-state-since")
        await parts.since.known()
        while parts.since.believes_untagged():
            await onboardings.adopt()
            await asyncio.sleep(ADOPT_EVERY)


def _publish_progress(publisher: CanPublish, results: ResultSigner, route: str, progress: OnboardingProgress) -> None:
    """Hand a progress message to the publisher, and do not wait for the broker's confirmation."""
    publisher.submit(results.message(route, progress.model_dump_json(exclude_none=True)))


def _delivery(
    handle: Callable[[str], Awaitable[Outcome]],
    settler: Settler,
    known: Callable[[], Awaitable[None]],
    *,
    realtime: bool,
) -> Handler:
    """*known*: returns once the process knows when the store began."""

    async def deliver(body: str) -> None:
        await known()
        while True:
            try:
                outcome = await handle(body)
            except Forgotten:
                log.warning(
                    "the store has lost the journal entry of a running request; it begins again, with the same key"
                )
            else:
                return await settler.settle(outcome, body, realtime=realtime)

    return deliver
