"""One question of a command to the store: asked once, with a short time limit and a plain error."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import click
from redis.exceptions import RedisError

from tokenferry.broker import connecting
from tokenferry.broker.error_text import STORE, explain
from tokenferry.configuration import Configuration
from tokenferry_worker.on_redis.store import Store

T = TypeVar("T")

WITHIN: Final = 10.0
"""Seconds the store gets to answer."""


def ask_store(configuration: Configuration, question: Callable[[Store], Awaitable[T]]) -> T:
    """Return the store's answer to *question*.

    Raises `click.ClickException` where the store does not answer within `WITHIN` seconds, or refuses.
    """

    async def ask() -> T:
        store = Store.at(connecting.store_url(configuration), configuration.store.prefix, patient=False)
        try:
            async with asyncio.timeout(WITHIN):
                return await question(store)
        finally:
            await store.aclose()

    try:
        return asyncio.run(ask())
    except (RedisError, OSError) as error:
        reason = explain(error, STORE).of(STORE)
    raise click.ClickException(reason)
