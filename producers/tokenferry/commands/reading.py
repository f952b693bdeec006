"""`tokenferry results`: prints the results that wait on a route, or takes them into a file."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path

import click
from pydantic import ValidationError

from tokenferry.broker import queue_browser
from tokenferry.broker.reachability import CONNECTION_LOST, lost, reach
from tokenferry.bulk.interrupting import Interruption
from tokenferry.bulk.outputs import OutputFailed
from tokenferry.bulk.waiting import WaitingReasons
from tokenferry.commands.result_file import ResultFile
from tokenferry.commands.taking import check_route, elsewhere, take_out
from tokenferry.configuration import Configuration, load_to_look
from tokenferry.consuming import Results
from tokenferry.contract.notices import AnyMessage, Notice, read_message
from tokenferry.contract.queues import results_queue
from tokenferry.contract.results import OnboardingProgress
from tokenferry.options import config_option
from tokenferry.result_signers import ResultSigners

ONLY_LOOKS = "`results` now only looks: nothing was taken off the route; use --out FILE to take"
"""Earlier versions took what they printed. This note stays for one release."""

EPILOG = """
\b
Each line is one result: {"type": "token", ...}, "attach" or "onboarding".

\b
Without --out it only looks: it prints what waits on the route now, and every result stays there. On RabbitMQ, others
cannot read a result in the moment in which it is shown. Results that another reader holds are not shown.

\b
With --out FILE it takes: a result is taken off the route only after its line is on the disk. FILE (mode 0600) grows at
its end and contains nothing else. Run the command again to continue, also after kill -9 or a power cut. A line that was
cut off is repaired. A result that comes a second time is not written again if it is in the last 64 MB of FILE; before
that, compare outcome_id. FILE must be a regular file: what is written to a pipe (--out -) may never be read. A route
should have one reader: two readers share the results.

\b
Exit codes
  0  done (also when --follow was ended by Ctrl-C)
  1  the broker is away, FILE cannot be written, or the command was interrupted before the route was empty
  2  wrong usage or configuration, FILE cannot be used, or no embedded server runs here (this command starts none)

\b
Examples
  tokenferry results onboarding
  tokenferry results onboarding --limit 10 | jq -r .token
  tokenferry results onboarding --out results.jsonl
  tokenferry results onboarding --out results.jsonl --follow
"""


@click.command("results", epilog=EPILOG)
@click.argument("route")
@click.option("--out", metavar="FILE", help="Take the results off the route, into FILE. Default: only look.")
@click.option("--follow", is_flag=True, help="With --out: continue with results that arrive later, until Ctrl-C.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Stop after N results.")
@click.option(
    "--json", "as_json", is_flag=True, help="With --out: print the summary as JSON. Results are always JSON lines."
)
@config_option
@click.pass_context
def results(
    context: click.Context,
    route: str,
    out: str | None,
    follow: bool,
    limit: int | None,
    as_json: bool,
    config: Path | None,
) -> None:
    """Print the results that wait on ROUTE. With --out FILE, take them into FILE.

    ROUTE is the --reply-to with which the requests were sent.
    """
    check_route("ROUTE", route)
    if follow and out is None:
        raise click.UsageError(
            "--follow takes results off the route as they arrive, so it needs a file to keep them in: add --out FILE"
        )
    if out == "-":
        raise click.UsageError(
            "--out takes results off the route, and what is written to standard output may never be read: then they "
            "would be gone. Name a file, and read that; without --out the results are printed and stay on the route"
        )
    configuration = load_to_look(config, "broker")
    if out is None:
        _look(configuration, route, limit)
    else:
        context.exit(_take(configuration, route, Path(out), follow=follow, limit=limit, as_json=as_json))


def _look(configuration: Configuration, route: str, limit: int | None) -> None:
    """Print the results that wait on *route*, and change nothing."""
    if sys.stdout is None:
        raise OutputFailed("standard output is closed: no result was shown")
    signers = ResultSigners.load(configuration)
    signers.warn()
    queue = results_queue(route)
    shown: set[str] = set()
    others = unverified = 0
    reasons = WaitingReasons(_note)
    reach(configuration)
    try:
        with queue_browser.open_browser(configuration, queue) as waiting:
            for item in waiting:
                if not signers.verify(queue, item.body.encode(errors="surrogatepass"), item.headers):
                    unverified += 1
                    continue
                try:
                    _show(read_message(item.body), shown, reasons)
                except ValidationError:
                    others += 1
                if len(shown) == limit:
                    break
            held = waiting.elsewhere()
    except BrokenPipeError:
        raise  # nobody reads our output any more; click handles that
    except CONNECTION_LOST as error:
        raise lost(error) from None
    if not shown:
        _note(f"nothing waits on route {route}")
    if held is not None:
        _note(held)
    if others:
        _note(f"{others} on the route {'is' if others == 1 else 'are'} no result: --out moves it to the quarantine")
    if unverified:
        _note(f"{unverified} on the route not shown: no known worker has signed it. --out moves it to the quarantine")
    _note(ONLY_LOOKS)


def _show(message: AnyMessage, shown: set[str], reasons: WaitingReasons) -> None:
    """Print a result that is not *shown* yet to standard output, and why requests wait to standard error."""
    if isinstance(message, Notice):
        reasons.take(message)
    elif not isinstance(message, OnboardingProgress) and message.outcome_id not in shown:
        click.echo(message.model_dump_json())
        shown.add(message.outcome_id)


def _take(
    configuration: Configuration, route: str, out: Path, *, follow: bool, limit: int | None, as_json: bool
) -> int:
    """Move the results that wait on *route* to *out*. Return the exit code."""
    ResultSigners.load(configuration)  # refused before any file is made
    with ResultFile(out) as file, Interruption() as interruption:
        reach(configuration)
        if follow:
            _note(f"results of route {route} go to {out}, until Ctrl-C")
        reader = Results(route, configuration, on_notice=WaitingReasons(_note).take)
        try:
            reader.skip(file.outcome_ids)
            taken = take_out(reader, file, interruption, follow=follow, limit=limit)
        finally:
            with suppress(*CONNECTION_LOST):  # what was not acknowledged comes again, and is recognised
                reader.close()
    if as_json:
        click.echo(json.dumps({"route": route, "taken": taken, "out": str(out)}))
    else:
        click.echo(f"{taken} {'result' if taken == 1 else 'results'} of route {route} taken into {out}")
    if follow:
        return 0
    if interruption.times:
        _note("interrupted: the other results are still on the route")
        return 1
    if limit is None and (held := elsewhere(configuration, route)) is not None:
        _note(held)
    return 0


def _note(text: str) -> None:
    click.echo(f"tokenferry: {text}", err=True)
