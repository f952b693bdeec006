"""Takes results off a route. Each result is acknowledged only after it was processed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final, Protocol

import click
from pydantic import TypeAdapter, ValidationError

from tokenferry.broker import queue_browser
from tokenferry.broker.alarm import Alarm
from tokenferry.broker.error_text import BROKER, explain
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
"""Results that are processed and acknowledged together. Fewer than a reader can hold."""
CHECK: Final = 0.5
"""Seconds between two checks whether the command was interrupted."""
AT_ONCE: Final = 0.05
"""Seconds to wait for one more result of the same batch."""
RETRY: Final = 1.0
"""Seconds before a broker that is away is tried again."""


class File(Protocol):
    """Stores results."""

    def append(self, results: Iterable[AnyResult]) -> None:
        """Store *results*. When this returns, they can no longer be lost."""
        ...


def check_route(option: str, route: str) -> None:
    """Raise `click.UsageError` if *route*, given as *option*, is not a valid name."""
    try:
        TypeAdapter(Name).validate_python(route)
    except ValidationError:
        raise click.UsageError(
            f"{option} must be lower case letters, digits, - and _, at most 63, and not digits alone"
        ) from None


def take_out(
    reader: Results, file: File, interruption: Interruption, *, follow: bool = False, limit: int | None = None
) -> int:
    """Move results from a route to *file*. Return how many. It ends when `batches` ends."""
    count = 0
    for batch in batches(reader, interruption, follow=follow, limit=limit):
        file.append(batch)
        acknowledge(reader, batch)
        count += len(batch)
    return count


def batches(
    reader: Results, interruption: Interruption, *, follow: bool = False, limit: int | None = None
) -> Iterator[list[AnyResult]]:
    """Yield the results of a route in batches. Acknowledge each batch before you ask for the next one.

    Ends after *limit* results, if the command is interrupted, and without *follow* after a second without a result.
    If the broker is away, it raises `BrokerUnavailable`. With *follow* it waits for the broker instead.
    """
    count = 0
    while count != limit and (first := _first(reader, interruption, follow=follow)) is not None:
        batch = [first]
        most = BATCH if limit is None else min(BATCH, limit - count)
        # If the connection is lost now, the next wait notices it.
        with suppress(*CONNECTION_LOST):
            while len(batch) < most and (further := reader.hold(AT_ONCE)) is not None:
                batch.append(further)
        count += len(batch)
        yield batch


def acknowledge(reader: Results, results: Iterable[AnyResult]) -> None:
    """Take *results* off their route. If the broker is away they come again, and the reader recognises them."""
    with suppress(*CONNECTION_LOST):
        reader.acknowledge(results)


def hold(reader: Results, seconds: float) -> AnyResult | None:
    """Return the next result, which stays on the route until it is acknowledged. None after *seconds* without one.

    Raises `BrokerUnavailable` if the broker is away.
    """
    try:
        return reader.hold(seconds)
    except CONNECTION_LOST as error:
        raise lost(error) from None


def process_own(
    results: Results,
    is_own: Callable[[AnyResult], bool],
    process: Callable[[AnyResult], None],
    *,
    until: Callable[[], bool],
    timeout: float,
    each: bool,
    own_route: bool,
) -> None:
    """Process own results as they arrive, *until* that is true or the time is over. Results of others stay there.

    *each*: the *timeout* in seconds begins again with each result. *own_route*: nobody else uses the route, so delete
    it at the end.
    """
    deadline = time.monotonic() + timeout
    try:
        while not until() and (left := deadline - time.monotonic()) > 0:
            result = hold(results, min(left, CHECK))
            if result is not None and is_own(result):
                process(result)
                acknowledge(results, [result])
                if each:
                    deadline = time.monotonic() + timeout
            elif results.is_full:
                click.echo(f"tokenferry: too many results of others wait on route {results.route}", err=True)
                break
        if own_route and until():
            with suppress(*CONNECTION_LOST):
                results.delete()
    finally:
        with suppress(*CONNECTION_LOST):
            results.close()


def elsewhere(configuration: Configuration, route: str) -> str | None:
    """Say which results of *route* another reader holds. None if there are none, or if that is not known."""
    try:
        with queue_browser.open_browser(configuration, results_queue(route)) as waiting:
            return waiting.elsewhere()
    except CONNECTION_LOST:
        return None


def _first(reader: Results, interruption: Interruption, *, follow: bool) -> AnyResult | None:
    until = time.monotonic() + QUIET_FOR
    alarm = Alarm(log, f"reading route {reader.route}")
    while not interruption.times and (follow or time.monotonic() < until):
        try:
            result = reader.hold(CHECK)
        except CONNECTION_LOST as error:
            if not follow:
                raise lost(error) from None
            failure = explain(error, BROKER)
            alarm.failed(f"the broker {failure.says}: {failure.do}; trying again")
            time.sleep(RETRY)
            continue
        alarm.worked()
        if result is not None:
            return result
    return None
