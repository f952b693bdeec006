"""`tokenferry attach`: spend tokens, one from the command line or many from lines of JSON."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

import click

from tokenferry import unsealed
from tokenferry.broker.reachability import CONNECTION_LOST, reach
from tokenferry.bulk.interrupting import Interruption
from tokenferry.commands.attach_orders import KINDS, AttachDefaults, RefusedOrder, order_from, target_of
from tokenferry.commands.attach_session import AttachSession
from tokenferry.commands.result_file import ResultFile
from tokenferry.commands.taking import acknowledge, batches, check_route, elsewhere
from tokenferry.configuration import Configuration, load, load_to_look
from tokenferry.consuming import Results
from tokenferry.contract.names import LANES, Lane
from tokenferry.contract.targets import TARGETS
from tokenferry.inputs.lines import Lines
from tokenferry.inputs.objects import object_from, standard_input
from tokenferry.inputs.rows import UnreadableFile
from tokenferry.options import config_option, timeout_option
from tokenferry.producer import Producer
from tokenferry.result_signers import ResultSigners

EPILOG = """
\b
A token is spent once, whoever asks and however often: a second order for it ends with token_spent, which names the
order that won and what the token became. The attach id is printed once the broker has the order; to repeat an order
whose outcome is unknown, name it as --attach-id: one id, one outcome.

\b
--from-route takes the results of a route and orders their tokens to be spent on --to, until none is left. A result is
taken off the route only after the broker has its order. One without a usable token (a failure, the outcome of another
attach, a kind that --to does not take) is moved to the --rejects file, as a line of JSON, and said; --file reads it
again. After Ctrl-C, kill -9 or a broken connection run it again: an order that was sent already is sent with the same
attach id, so its token is spent once and its outcome is told again.

\b
Many orders are lines of JSON, in --file or on standard input. Each is an order, or a result that holds a token:
  {"token": "tok_...", "kind": "card", "target": {"to": "customer_source", "customer": "cus_..."}}
  {"token": "btok_...", "kind": "bank_account", "connected_account": "acct_...", "target": {...}}
  {"type": "token", "token": "tok_...", ...}      as `tokenferry results` prints it
  {"status": "tokenized", "token": "tok_...", ...}  as `tokenferry import --results` writes it
An order may say when its token was "created" (Unix seconds); a token that is too old is not spent.
The attach id of a result is made of the result and its target: ordered again, it is the same order with the same
outcome, also where that was a failure. To try what has failed anew, add --again.
Without a target of its own a line takes that of --to and --set, or --target-json. What is wrong with a line is said
on standard error with its number; the other lines go on.

\b
A target that replaces something, or may move money beyond its own call, must be confirmed: customer_update needs
may_collect_open_invoices=true, account_update with a card or bank account needs replace_default=true.

\b
Exit codes
  0  every order was sent (with --wait: and every token became what was ordered)
  1  some were refused, failed or not finished in time, or the broker is away
  2  wrong usage or configuration

\b
Examples
  tokenferry attach tok_1Qx --kind card --to customer_source --set customer=cus_9s --wait
  tokenferry attach btok_1Qx --kind bank_account --to external_account --set account=acct_1 --set metadata.row=7
  tokenferry attach tok_1Qx --kind card --target-json target.json
  tokenferry attach --file orders.jsonl --wait --json > became.jsonl
  tokenferry attach --from-route onboarding --rejects rejects.jsonl --to customer_create
"""


@click.command("attach", epilog=EPILOG)
@click.argument("token", required=False)
@click.option(
    "--file", "file", metavar="FILE", help="Orders or results, one JSON object a line; - reads standard input."
)
@click.option(
    "--from-route", metavar="ROUTE", help="Take the results of this route and order their tokens to be spent."
)
@click.option("--rejects", metavar="FILE", help="With --from-route: results without a usable token go to this file.")
@click.option("--kind", type=click.Choice(KINDS), help="What the token is of, where a line does not say.")
@click.option("--to", type=click.Choice(sorted(TARGETS)), help="What to spend it on.")
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="A field of --to; dots go inside. Repeat it."
)
@click.option("--target-json", metavar="FILE", help="The target as JSON instead of --to; - reads standard input.")
@click.option("--platform", metavar="NAME", help="Default: the only one configured.")
@click.option("--connected-account", metavar="ID", help="The connected account the token was made on.")
@click.option("--attach-id", metavar="ID", help="Repeat the order with this id. Default: a new one.")
@click.option("--again", is_flag=True, help="Give results new attach ids: what an earlier run ordered is tried anew.")
@click.option("--lane", type=click.Choice(LANES), default="bulk", show_default=True, help="realtime goes first.")
@click.option("--reply-to", metavar="ROUTE", help="Outcomes go to this route; read it with `tokenferry results`.")
@click.option("--wait", "wait_", is_flag=True, help="Wait for the outcomes and print them.")
@timeout_option("How long --wait waits for the next outcome.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
@config_option
@click.pass_context
def attach(
    context: click.Context,
    token: str | None,
    file: str | None,
    from_route: str | None,
    rejects: str | None,
    kind: str | None,
    to: str | None,
    settings: tuple[str, ...],
    target_json: str | None,
    platform: str | None,
    connected_account: str | None,
    attach_id: str | None,
    again: bool,
    lane: Lane,
    reply_to: str | None,
    wait_: bool,
    timeout: float,
    as_json: bool,
    config: Path | None,
) -> None:
    """Use tokens: TOKEN, one in each line of --file or of standard input, or those of --from-route."""
    if from_route is None:
        if rejects is not None:
            raise click.UsageError("--rejects is for --from-route")
        _usage(token, file, to, settings, target_json, attach_id, reply_to)
    else:
        given = {"TOKEN": token, "--file": file, "--attach-id": attach_id, "--kind": kind, "--platform": platform}
        _usage_of_route(from_route, rejects, {**given, "--connected-account": connected_account}, reply_to)
        _usage_of_target(to, settings, target_json)
    configuration = load(config) if from_route is None else load_to_look(config, "broker")
    if platform is not None or len(configuration.platforms) < 2:
        platform = configuration.meant(platform)
    try:
        told = object_from(target_json) if target_json is not None else None
        defaults = AttachDefaults(kind, target_of(to, settings, told), platform, connected_account, again)
        named = {"token": token, **({"attach_id": attach_id} if attach_id else {})}
        single = [(None, order_from(named, defaults))] if token is not None else []
    except RefusedOrder as error:
        raise click.UsageError(str(error)) from None
    if wait_:
        ResultSigners.load(configuration)  # refused before anything is sent
    own = f"attach-{secrets.token_hex(4)}" if wait_ and reply_to is None else None
    desk = AttachSession(configuration, lane, reply_to or own, as_json, quiet=wait_ and as_json)
    try:
        if from_route is not None:
            _order_route(desk, configuration, from_route, Path(str(rejects)), defaults)
        else:
            with nullcontext() if single else _opened(file) as stream, Producer(configuration) as producer:
                desk.send(producer, desk.read(Lines(stream), defaults) if stream is not None else single)
        if wait_ and desk.sent:
            desk.wait(Results(str(desk.route), configuration), timeout, own=own is not None)
    except KeyboardInterrupt:
        if not wait_:
            raise
        desk.interrupted()
    if wait_ and desk.sent:
        click.echo(
            f"tokenferry: {len(desk.sent)} without an outcome yet; it will be on route {desk.route}, read it with "
            f"`tokenferry results {desk.route}`. Is a worker running?",
            err=True,
        )
    context.exit(0 if desk.all_well(waited=wait_) else 1)


def _order_route(
    desk: AttachSession, configuration: Configuration, route: str, rejects: Path, defaults: AttachDefaults
) -> None:
    """Order the tokens of all results on *route*. Raises `KeyboardInterrupt` where that was interrupted."""
    if defaults.target is None:
        raise click.UsageError("--from-route needs a target for all of its tokens: --to, or --target-json")
    if trouble := unsealed.trouble_in(defaults.target):
        raise click.UsageError(f"{defaults.target.to}: {trouble}")
    ResultSigners.load(configuration)  # refused before any file is made
    with ResultFile(rejects) as file, Interruption() as interruption, Producer(configuration) as producer:
        reach(configuration)
        reader = Results(route, configuration)
        reader.skip(file.outcome_ids)
        count = 0
        try:
            for batch in batches(reader, interruption):
                done = desk.send_batch(producer, batch, defaults, file)
                acknowledge(reader, done)
                count += len(batch)
                if len(done) < len(batch):
                    break  # the broker takes no orders: the others would only be refused, too
        finally:
            with suppress(*CONNECTION_LOST):  # what was not acknowledged comes again, and is the same order
                reader.close()
    if interruption.times:
        click.echo("tokenferry: interrupted: what was not ordered is still on the route", err=True)
        raise KeyboardInterrupt
    if not count:
        click.echo(f"tokenferry: nothing waits on route {route}", err=True)
    if (in_hand := elsewhere(configuration, route)) is not None:
        click.echo(f"tokenferry: {in_hand}", err=True)


def _usage_of_route(route: str, rejects: str | None, others: Mapping[str, str | None], reply_to: str | None) -> None:
    if given := [name for name, value in others.items() if value is not None]:
        raise click.UsageError(f"with --from-route the results say which tokens are meant: leave out {given[0]}")
    check_route("--from-route", route)
    if rejects is None:
        raise click.UsageError(
            "--from-route needs --rejects FILE: results without a usable token are kept there, so that none is lost"
        )
    if rejects == "-":
        raise click.UsageError("--rejects must be a file: what is written to standard output may never be read")
    if reply_to == route:
        raise click.UsageError("--reply-to must be another route than --from-route: outcomes are no tokens to spend")
    if reply_to is not None:
        check_route("--reply-to", reply_to)


def _usage_of_target(to: str | None, settings: tuple[str, ...], target_json: str | None) -> None:
    if target_json is not None and (to is not None or settings):
        raise click.UsageError("give --target-json, or --to with --set, not both")


def _usage(
    token: str | None,
    file: str | None,
    to: str | None,
    settings: tuple[str, ...],
    target_json: str | None,
    attach_id: str | None,
    reply_to: str | None,
) -> None:
    if token is not None and file is not None:
        raise click.UsageError("give TOKEN or --file, not both")
    if token is None and file is None and sys.stdin is not None and sys.stdin.isatty():
        raise click.UsageError("give TOKEN, or --file, or --from-route, or lines of JSON on standard input")
    _usage_of_target(to, settings, target_json)
    if target_json == "-" and token is None and file in (None, "-"):
        raise click.UsageError("standard input can hold the target or the orders; give one of them as a file")
    if attach_id is not None and token is None:
        raise click.UsageError('--attach-id is for one TOKEN; in lines it is "attach_id"')
    if reply_to is not None:
        check_route("--reply-to", reply_to)


@contextmanager
def _opened(source: str | None) -> Iterator[BinaryIO]:
    if source in (None, "-"):
        yield standard_input()
        return
    try:
        content = Path(str(source)).open("rb")  # noqa: SIM115  # what is read inside may fail for reasons of its own
    except OSError as error:
        raise UnreadableFile(f"{source}: cannot be read ({error.strerror})") from None
    with content:
        yield content
