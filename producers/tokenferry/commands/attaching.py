"""`tokenferry attach`: uses tokens, one from the command line or many from lines of JSON or from a route."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import click

from tokenferry import unsealed
from tokenferry.broker.reachability import CONNECTION_LOST, reach
from tokenferry.bulk.interrupting import Interruption
from tokenferry.commands.attach_session import AttachSession
from tokenferry.commands.result_file import ResultFile
from tokenferry.commands.taking import acknowledge, batches, check_route, elsewhere
from tokenferry.configuration import Configuration, load, load_to_look
from tokenferry.consuming import Results
from tokenferry.contract.names import LANES, Lane
from tokenferry.contract.targets import TARGETS
from tokenferry.inputs.attach_orders import AttachDefaults, AttachOrder, RejectedOrder, order_from, target_from_options
from tokenferry.inputs.lines import Lines
from tokenferry.inputs.objects import object_from, standard_input
from tokenferry.inputs.orders import KINDS
from tokenferry.inputs.rows import UnreadableFile
from tokenferry.options import config_option, timeout_option
from tokenferry.producer import Producer
from tokenferry.result_signers import ResultSigners

EPILOG = """
\b
A token is used once. A second order for the same token fails with token_spent, which names the first order and what
the token became. The attach id is printed once the broker has the order. To repeat an order whose outcome is unknown,
give its id as --attach-id: one id has one outcome.

\b
--from-route takes the results of a route and uses their tokens for --to, until no result is left. A result is taken
off the route only after the broker has its order. A result without a usable token is reported and moved to the
--rejects file as a line of JSON: a failure, the outcome of another attach, or a kind that --to does not take. --file
can read that file. After Ctrl-C, kill -9 or a broken connection run the command again: an order that was sent before
is sent with the same attach id. So its token is used once, and its outcome is sent again.

\b
Many orders are lines of JSON, in --file or on standard input. Each line is an order, or a result with a token:
  {"token": "tok_...", "kind": "card", "target": {"to": "customer_source", "customer": "cus_..."}}
  {"token": "btok_...", "kind": "bank_account", "connected_account": "acct_...", "target": {...}}
  {"type": "token", "token": "tok_...", ...}      as `tokenferry results` prints it
  {"status": "tokenized", "token": "tok_...", ...}  as `tokenferry import --results` writes it
An order may say when its token was "created" (Unix seconds). A token that is too old is not used.
The attach id of a result is derived from the result and its target. Ordered again, it is the same order with the same
outcome, even if that was a failure. To try failed orders again, add --again.
A line without a target gets that of --to and --set, or of --target-json. If a line is not valid, standard error says
its number and the reason, and the other lines are processed.

\b
Some targets replace something, or may move money later, and need a confirmation: customer_update needs
may_collect_open_invoices=true, and account_update with a card or bank account needs replace_default=true.

\b
Exit codes
  0  every order was sent (with --wait: and every token was attached)
  1  some orders were rejected, failed or did not finish in time, or the broker is away
  2  wrong usage or configuration

\b
Examples
  tokenferry attach tok_1Qx --kind card --to customer_source --set customer=cus_9s --wait
  tokenferry attach btok_1Qx --kind bank_account --to external_account --set account=acct_1 --set metadata.row=7
  tokenferry attach tok_1Qx --kind card --target-json target.json
  tokenferry attach --file orders.jsonl --wait --json > became.jsonl
  tokenferry attach --from-route onboarding --rejects rejects.jsonl --to customer_create
"""


@dataclass(frozen=True, kw_only=True)
class AttachOptions:
    """The options of one run."""

    token: str | None
    file: str | None
    from_route: str | None
    rejects: str | None
    kind: str | None
    to: str | None
    settings: tuple[str, ...]
    target_json: str | None
    platform: str | None
    connected_account: str | None
    attach_id: str | None
    again: bool
    lane: Lane
    reply_to: str | None
    wait: bool
    timeout: float
    as_json: bool
    config: Path | None

    def check(self) -> None:
        """Raise `click.UsageError` if they cannot be used together."""
        if self.from_route is None:
            self._check_orders()
        else:
            self._check_route(self.from_route)
        if self.target_json is not None and (self.to is not None or self.settings):
            raise click.UsageError("give --target-json, or --to with --set, not both")
        if self.target_json == "-" and self.token is None and self.from_route is None and self.file in (None, "-"):
            raise click.UsageError("standard input can hold the target or the orders; give one of them as a file")
        if self.reply_to is not None:
            check_route("--reply-to", self.reply_to)

    def _check_orders(self) -> None:
        if self.rejects is not None:
            raise click.UsageError("--rejects is for --from-route")
        if self.token is not None and self.file is not None:
            raise click.UsageError("give TOKEN or --file, not both")
        if self.token is None and self.file is None and sys.stdin is not None and sys.stdin.isatty():
            raise click.UsageError("give TOKEN, or --file, or --from-route, or lines of JSON on standard input")
        if self.attach_id is not None and self.token is None:
            raise click.UsageError('--attach-id is for one TOKEN; in lines it is "attach_id"')

    def _check_route(self, route: str) -> None:
        others = {
            "TOKEN": self.token,
            "--file": self.file,
            "--attach-id": self.attach_id,
            "--kind": self.kind,
            "--platform": self.platform,
            "--connected-account": self.connected_account,
        }
        if given := [name for name, value in others.items() if value is not None]:
            raise click.UsageError(f"with --from-route the results say which tokens to use: leave out {given[0]}")
        check_route("--from-route", route)
        if self.rejects is None:
            raise click.UsageError(
                "--from-route needs --rejects FILE: results without a usable token go there, so that none is lost"
            )
        if self.rejects == "-":
            raise click.UsageError("--rejects must be a file: what is written to standard output may never be read")
        if self.reply_to == route:
            raise click.UsageError("--reply-to must be another route than --from-route: outcomes have no usable token")


@click.command("attach", epilog=EPILOG)
@click.argument("token", required=False)
@click.option(
    "--file", "file", metavar="FILE", help="Orders or results, one JSON object a line; - reads standard input."
)
@click.option("--from-route", metavar="ROUTE", help="Take the results of this route and use their tokens.")
@click.option("--rejects", metavar="FILE", help="With --from-route: results without a usable token go to this file.")
@click.option("--kind", type=click.Choice(KINDS), help="Kind of token of lines without a `kind`.")
@click.option("--to", type=click.Choice(sorted(TARGETS)), help="What to use the token for.")
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="A field of --to; dotted if nested. Repeatable."
)
@click.option("--target-json", metavar="FILE", help="The target as JSON instead of --to; - reads standard input.")
@click.option("--platform", metavar="NAME", help="Default: the only one configured.")
@click.option("--connected-account", metavar="ID", help="The connected account on which the token was created.")
@click.option("--attach-id", metavar="ID", help="Repeat the order with this id. Default: a new id.")
@click.option("--again", is_flag=True, help="Give results new attach ids, so that failed orders are tried again.")
@click.option("--lane", type=click.Choice(LANES), default="bulk", show_default=True, help="Realtime goes first.")
@click.option("--reply-to", metavar="ROUTE", help="Outcomes go to this route; read it with `tokenferry results`.")
@click.option("--wait", is_flag=True, help="Wait for the outcomes and print them.")
@timeout_option("How long --wait waits for the next outcome.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
@config_option
@click.pass_context
def attach(context: click.Context, /, **given: Any) -> None:
    """Use tokens: TOKEN, one in each line of --file or of standard input, or those of --from-route."""
    options = AttachOptions(**given)
    options.check()
    configuration = load(options.config) if options.from_route is None else load_to_look(options.config, "broker")
    if options.platform is not None or len(configuration.platforms) < 2:
        options = replace(options, platform=configuration.meant(options.platform))
    defaults, single = _orders(options)
    if options.wait:
        ResultSigners.load(configuration)  # refused before anything is sent
    own_route = f"attach-{secrets.token_hex(4)}" if options.wait and options.reply_to is None else None
    route = options.reply_to or own_route
    quiet = options.wait and options.as_json
    session = AttachSession(configuration, options.lane, route, options.as_json, quiet=quiet)
    try:
        if options.from_route is not None:
            _attach_route(session, configuration, options.from_route, Path(str(options.rejects)), defaults)
        elif single is not None:
            with Producer(configuration) as producer:
                session.send(producer, [(None, single)])
        else:
            with _opened(options.file) as stream, Producer(configuration) as producer:
                session.send(producer, session.read(Lines(stream), defaults))
        if options.wait and session.waiting:
            session.wait(Results(str(route), configuration), options.timeout, own_route=own_route is not None)
    except KeyboardInterrupt:
        if not options.wait:
            raise
        session.interrupted()
    if options.wait and session.waiting:
        click.echo(
            f"tokenferry: {len(session.waiting)} without an outcome yet; it will be on route {route}, read it with "
            f"`tokenferry results {route}`. Is a worker running?",
            err=True,
        )
    context.exit(0 if session.all_well(waited=options.wait) else 1)


def _orders(options: AttachOptions) -> tuple[AttachDefaults, AttachOrder | None]:
    """The defaults for all orders, and the order of TOKEN if it is given."""
    target = object_from(options.target_json) if options.target_json is not None else None
    try:
        defaults = AttachDefaults(
            options.kind,
            target_from_options(options.to, options.settings, target),
            options.platform,
            options.connected_account,
            options.again,
        )
        if options.token is None:
            return defaults, None
        fields = {"token": options.token, "attach_id": options.attach_id or None}
        return defaults, order_from(fields, defaults)
    except RejectedOrder as error:
        raise click.UsageError(str(error)) from None


def _attach_route(
    session: AttachSession, configuration: Configuration, route: str, rejects: Path, defaults: AttachDefaults
) -> None:
    """Order that the tokens of all results on *route* are used. Raises `KeyboardInterrupt` if it was interrupted."""
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
                done = session.send_batch(producer, batch, defaults, file)
                acknowledge(reader, done)
                count += len(batch)
                if len(done) < len(batch):
                    break  # the broker accepts no orders, so it would refuse the others too
        finally:
            with suppress(*CONNECTION_LOST):  # what was not acknowledged comes again, and becomes the same order
                reader.close()
    if interruption.times:
        click.echo("tokenferry: interrupted: results without an order are still on the route", err=True)
        raise KeyboardInterrupt
    if not count:
        click.echo(f"tokenferry: nothing waits on route {route}", err=True)
    if (held := elsewhere(configuration, route)) is not None:
        click.echo(f"tokenferry: {held}", err=True)


@contextmanager
def _opened(source: str | None) -> Iterator[BinaryIO]:
    if source in (None, "-"):
        yield standard_input()
        return
    try:
        content = Path(str(source)).open("rb")  # noqa: SIM115  # the caller may raise OSErrors of its own
    except OSError as error:
        raise UnreadableFile(f"{source}: cannot be read ({error.strerror})") from None
    with content:
        yield content
