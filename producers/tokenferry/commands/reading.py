"""`tokenferry results`: what waits on a reply route, as JSON lines."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import click
from pydantic import ValidationError

from tokenferry.configuration import load_to_look
from tokenferry.consuming import Results
from tokenferry.contract.results import AnyResult
from tokenferry.importing.outputs import OutputFailed
from tokenferry.importing.reaching import CONNECTION_LOST, lost, reach
from tokenferry.options import config_option

QUIET_FOR = 1.0
"""Seconds without a result after which a queue counts as empty."""

EPILOG = """
\b
Each line is one result, {"type": "token", ...}, "attach" or "onboarding". A result is taken off its route only
after its line was written: when the reader of a pipe goes away, the result stays. It may then be seen twice;
tell repetitions by outcome_id. A route has one reader: two of them share the results.

\b
Exit codes
  0  done (also when --follow was ended by Ctrl-C)
  1  the broker is away
  2  wrong usage or configuration

\b
Examples
  tokenferry results onboarding
  tokenferry results onboarding --follow | jq -r .token
  tokenferry results onboarding --limit 10
"""


@click.command("results", epilog=EPILOG)
@click.argument("route")
@click.option("--follow", is_flag=True, help="Go on with what arrives later, until Ctrl-C.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Stop after N results.")
@click.option("--json", "as_json", is_flag=True, help="Results are always JSON lines; this changes nothing.")
@config_option
def results(route: str, follow: bool, limit: int | None, as_json: bool, config: Path | None) -> None:
    """Print the results that wait on ROUTE, and take them off it.

    ROUTE is what --reply-to named when the requests were sent. Without --follow it ends when none is left.
    """
    configuration = load_to_look(config, "broker")
    try:
        reader = Results(route, configuration)
    except ValidationError:
        raise click.UsageError(
            "ROUTE must be lower case letters, digits, - and _, at most 63, and not digits alone"
        ) from None
    if sys.stdout is None:
        raise OutputFailed("standard output is closed: no result was taken")
    reach(configuration)
    written = 0

    def write(result: AnyResult) -> None:
        nonlocal written
        click.echo(result.model_dump_json())
        written += 1
        if written == limit:
            reader.stop()

    if not follow:
        _read_out(reader, write)
        return

    def stop(_: int, __: FrameType | None) -> None:
        reader.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with reader:
            reader.run(write)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _read_out(reader: Results, write: Callable[[AnyResult], None]) -> None:
    """Write until the route has been silent for a while. Asking for the next result acknowledges the one before."""
    try:
        while (result := take(reader, QUIET_FOR)) is not None:
            write(result)
    finally:
        reader.close()


def take(reader: Results, seconds: float) -> AnyResult | None:
    """The next result, or None after *seconds* without one.

    Raises `BrokerUnavailable` when the broker is away.
    """
    try:
        return reader.take(seconds)
    except CONNECTION_LOST as error:
        raise lost(error) from None
