"""Taking results off a route: in batches, each acknowledged only after it was dealt with."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final, Protocol

import click
from pydantic import TypeAdapter, ValidationError

from tokenferry.broker import queue_browser
from tokenferry.broker.reachability import CONNECTION_LOST, lost
from tokenferry.bulk.interrupting import Interruption
from tokenferry.configuration import Configuration
from tokenferry.consuming import Results
from tokenferry.contract.names import Name
from tokenferry.contract.queues import results_queue
from tokenferry.contract.results import AnyResult

log = logging.getLogger(__name__)

QUIET_FOR: Final = 1.0
"""Seconds without a result after which a route counts as empty."""
BATCH: Final = 100
"""Results that are dealt with together, and acknowledged together. Below what a reader can hold."""
LOOK_UP: Final = 0.5
"""Seconds between two looks whether the command was interrupted."""
AT_ONCE: Final = 0.05
"""Seconds after which no further result counts as there already."""
RETRY: Final = 1.0
"""Seconds until a broker that is away is tried again."""


class File(Protocol):
    """Where results are kept."""

    def append(self, results: Iterable[AnyResult]) -> None:
        """Keep *results*: when this returns, they can no longer be lost."""
        ...


def check_route(option: str, route: str) -> None:
    """Raise `click.UsageError` where *route*, given as *option*, cannot be the name of one."""
    try:
        TypeAdapter(Name).validate_python(route)
    except ValidationError:
        raise click.UsageError(
            f"{option} must be lower case letters, digits, - and _, at most 63, and not digits alone"
        ) from None


def take_out(
    reader: Results, file: File, interruption: Interruption, *, follow: bool = False, limit: int | None = None
) -> int:
    """Move results from a route to *file*, and return how many. Each is acknowledged only after it is in the file.

    Ends as `batches` does.
    """
    count = 0
    for batch in batches(reader, interruption, follow=follow, limit=limit):
        file.append(batch)
        acknowledge(reader, batch)
        count += len(batch)
    return count


def batches(
    reader: Results, interruption: Interruption, *, follow: bool = False, limit: int | None = None
) -> Iterator[list[AnyResult]]:
    """The results of a route, as many together as are there. Acknowledge each batch before you ask for the next.

    Ends after *limit* results, when the command is interrupted, and without *follow* when no result has come for a
    second. Raises `BrokerUnavailable` when the broker is away; with *follow* it is waited for.
    """
    count = 0
    while count != limit and (first := _first(reader, interruption, follow=follow)) is not None:
        batch = [first]
        most = BATCH if limit is None else min(BATCH, limit - count)
        # Where the connection is lost now, the next wait will find out.
        with suppress(*CONNECTION_LOST):
            while len(batch) < most and (further := reader.hold(AT_ONCE)) is not None:
                batch.append(further)
        count += len(batch)
        yield batch


def acknowledge(reader: Results, results: Iterable[AnyResult]) -> None:
    """Take *results* off their route. Where the broker is away they come again, and the reader recognises them."""
    with suppress(*CONNECTION_LOST):
        reader.acknowledge(results)


def hold(reader: Results, seconds: float) -> AnyResult | None:
    """The next result, which stays on the route until it is acknowledged; None after *seconds* without one.

    Raises `BrokerUnavailable` when the broker is away.
    """
    try:
        return reader.hold(seconds)
    except CONNECTION_LOST as error:
        raise lost(error) from None


def elsewhere(configuration: Configuration, route: str) -> str | None:
    """What of *route* another reader has in hand, in words; None where that is nothing or is not known."""
    try:
        with queue_browser.open_browser(configuration, results_queue(route)) as waiting:
            return waiting.elsewhere()
    except CONNECTION_LOST:
        return None


def _first(reader: Results, interruption: Interruption, *, follow: bool) -> AnyResult | None:
    until = time.monotonic() + QUIET_FOR
    while not interruption.times and (follow or time.monotonic() < until):
        try:
            result = reader.hold(LOOK_UP)
        except CONNECTION_LOST as error:
            if not follow:
                raise lost(error) from None
            log.warning("results: the broker is away (%s); trying again", type(error).__name__)
            time.sleep(RETRY)
            continue
        if result is not None:
            return result
    return None
