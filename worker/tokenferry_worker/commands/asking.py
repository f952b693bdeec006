"""One question to the store, as a command puts it: asked once, answered soon, or said in our words why not."""

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


def asked(configuration: Configuration, question: Callable[[Store], Awaitable[T]]) -> T:
    """The answer to *question*.

    Raises `click.ClickException` where the store does not answer within `WITHIN` seconds, or refuses.
    """

    async def put() -> T:
        store = Store.at(connecting.store_url(configuration), configuration.store.prefix, patient=False)
        try:
            async with asyncio.timeout(WITHIN):
                return await question(store)
        finally:
            await store.aclose()

    try:
        return asyncio.run(put())
    except (RedisError, OSError) as error:
        reason = explain(error, STORE).of(STORE)
    raise click.ClickException(reason)
