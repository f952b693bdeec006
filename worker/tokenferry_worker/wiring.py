"""Builds everything from the configuration, once, when a worker process starts. The only `new` in the house."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Literal

from tokenferry.broker import connecting
from tokenferry.broker.publishing import Publishes
from tokenferry.configuration import Configuration, InvalidConfiguration, Platform, SecretReference
from tokenferry.contract.queues import ATTACH_TASK, TOKENIZE_TASK, attach_queue, tokenize_queues
from tokenferry.sealing import Signer, UnusableKey, read_private_key_file, sign_attach
from tokenferry_worker.attaching import Attacher
from tokenferry_worker.budgets import Budgets
from tokenferry_worker.calling import Desk
from tokenferry_worker.identities import Signers, load_identities
from tokenferry_worker.on_redis.circuits import RedisCircuits
from tokenferry_worker.on_redis.journal import RedisJournal
from tokenferry_worker.on_redis.ledger import RedisLedger
from tokenferry_worker.on_redis.limiter import RedisLimiter
from tokenferry_worker.on_redis.store import Store
from tokenferry_worker.opening import Opener
from tokenferry_worker.outcomes import Outcome
from tokenferry_worker.parking import Carrier
from tokenferry_worker.pool import Handler
from tokenferry_worker.settling import Settler
from tokenferry_worker.switchboard import Switchboard
from tokenferry_worker.token_client import EndpointKeys, TokenClient
from tokenferry_worker.tokenizing import Tokenizer

Role = Literal["tokenize", "attach", "all"]


class RealWorld:
    """The clock on the wall and fair dice."""

    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    def dice(self) -> float:
        """A random number in [0, 1)."""
        return random.random()

    async def sleep(self, seconds: float) -> None:
        """Let others run for *seconds*."""
        await asyncio.sleep(seconds)


def queues_of(configuration: Configuration, role: Role) -> list[str]:
    """The queues a worker of *role* reads: for every platform, realtime first."""
    names: list[str] = []
    if role in ("tokenize", "all"):
        names += [queue for platform in configuration.platforms for queue in tokenize_queues(platform)]
    if role in ("attach", "all"):
        names += [attach_queue(platform) for platform in configuration.platforms]
    return names


def endpoint_keys(configuration: Configuration, name: str, platform: Platform) -> EndpointKeys:
    """Follow the references to the keys of one platform, and check what is found.

    Raises `InvalidConfiguration`, naming the reference and never the value.
    """
    keys = EndpointKeys(
        secret=_secret(configuration, name, "secret_key", platform.secret_key),
        publishable=_secret(configuration, name, "publishable_key", platform.publishable_key),
    )
    if keys.secret is None:
        raise InvalidConfiguration(f'[platforms.{name}] secret_key is missing; write secret_key = {{ env = "NAME" }}')
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
        content = read_private_key_file(configuration.path(reference.file), use)
    except UnusableKey as error:
        raise InvalidConfiguration(f"{where}: {error}") from None
    return content.decode("ascii", "replace").strip()


def check(configuration: Configuration, role: Role) -> None:
    """Load every key a worker of *role* needs, and forget it again.

    Raises `InvalidConfiguration` or `UnusableKey` where the worker could not start.
    """
    if not configuration.platforms:
        raise InvalidConfiguration("no platform is configured; add [platforms.NAME] with mode, secret_key and base_url")
    for name, platform in configuration.platforms.items():
        endpoint_keys(configuration, name, platform)
    Signers.load(configuration.path(configuration.keys.signers))
    if role in ("tokenize", "all"):
        load_identities(configuration.path(configuration.keys.identities))
        Signer.load(configuration.path(configuration.keys.worker_signing_key))


@asynccontextmanager
async def handlers(
    configuration: Configuration, role: Role, publisher: Publishes
) -> AsyncIterator[Mapping[str, Handler]]:
    """The handlers of *role* by task name, with everything behind them open."""
    async with AsyncExitStack() as stack:
        store = Store.at(connecting.store_url(configuration), configuration.store.prefix)
        stack.push_async_callback(store.aclose)
        world = RealWorld()
        book = RedisCircuits(store)
        circuits = Switchboard(book)
        settler = Settler(publisher, book)
        settings, days = configuration.worker, configuration.store.journal_days
        limiter = RedisLimiter(store, alone=settings.alone_share)
        signers = Signers.load(configuration.path(configuration.keys.signers))
        desks = {}
        for name, platform in configuration.platforms.items():
            client = TokenClient(
                platform,
                endpoint_keys(configuration, name, platform),
                connections=2 * settings.concurrency,
                read_timeout=settings.read_timeout,
                connect_timeout=settings.connect_timeout,
            )
            stack.push_async_callback(client.aclose)
            desks[name] = Desk(name, client, Budgets(name, platform), platform.live)
        by_task: dict[str, Handler] = {}
        if role in ("tokenize", "all"):
            signer = Signer.load(configuration.path(configuration.keys.worker_signing_key))
            tokenizer = Tokenizer(
                opener=Opener(load_identities(configuration.path(configuration.keys.identities)), signers),
                desks=desks,
                journal=RedisJournal(store, "request", days=days),
                limiter=limiter,
                circuits=circuits,
                world=world,
                sign=partial(sign_attach, signer=signer),
                signer_id=signer.signer_id,
                attempts=settings.attempts,
                deliveries=settings.deliveries,
                token_lifetime=settings.token_lifetime,
            )
            by_task[TOKENIZE_TASK] = _delivery(tokenizer.handle, settler)
        if role in ("attach", "all"):
            attacher = Attacher(
                signers=signers,
                desks=desks,
                ledgers={name: RedisLedger(store, name, days=days) for name in desks},
                journal=RedisJournal(store, "attach", days=days),
                limiter=limiter,
                circuits=circuits,
                world=world,
                attempts=settings.attempts,
                deliveries=settings.deliveries,
            )
            by_task[ATTACH_TASK] = _delivery(attacher.handle, settler)
        carrier = Carrier(configuration, publisher, book, circuits)
        for beside in (circuits.watch(), carrier.work()):
            stack.push_async_callback(_called_off, asyncio.create_task(beside, name="tokenferry-circuits"))
        yield by_task


async def _called_off(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _delivery(handle: Callable[[str], Awaitable[Outcome]], settler: Settler) -> Handler:
    async def deliver(body: str) -> None:
        await settler.settle(await handle(body), body)

    return deliver
