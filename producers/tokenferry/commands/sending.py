"""`tokenferry send`: sends one request, read from a file or from standard input."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import click
from pydantic import TypeAdapter, ValidationError

from tokenferry.broker import depth
from tokenferry.broker.errors import PublishError
from tokenferry.bulk.waiting import WaitingReasons
from tokenferry.commands.printing import print_line
from tokenferry.commands.taking import process_own
from tokenferry.configuration import Configuration, load
from tokenferry.consuming import Results
from tokenferry.contract.names import LANES, Id, Lane, Name, new_id
from tokenferry.contract.queues import tokenize_queues
from tokenferry.contract.requests import InvalidRequest
from tokenferry.contract.results import AnyResult, AttachResult, OnboardingResult, TokenResult
from tokenferry.contract.targets import InvalidTarget
from tokenferry.importing.import_window import PendingRow, settled_line
from tokenferry.inputs.objects import object_from
from tokenferry.inputs.orders import KINDS, RowDefaults, order_from
from tokenferry.inputs.rows import Row
from tokenferry.options import config_option, timeout_option
from tokenferry.producer import Order, Producer
from tokenferry.result_signers import ResultSigners

EPILOG = """
\b
The input is one JSON object with the fields of the kind, and options for the request:
  {"number": "...", "exp_month": 12, "exp_year": 2034}
  {"card": {...}, "attach": {"to": "customer_create", "email": "z@example.com"}, "connected_account": "acct_..."}
There is no option for card data: every user of the machine can see a command line.

\b
With --json a request that is not sent is an object too: {"request_id": ..., "status": "refused", "reason": "..."}. Its
status is "unknown" if the broker may have the request all the same.

\b
The request id is printed once the broker has the request. To repeat a send whose outcome is unknown, give its id as
--request-id: one id has one token.

\b
With --wait the outcome is printed too: the token, or with "attach" what the token became. It arrives on a route of
its own, or on --reply-to. Results of other requests stay on that route.

\b
Exit codes
  0  sent (with --wait: and it has its token)
  1  rejected, failed, not finished in time, or the broker is away
  2  wrong usage or configuration

\b
Examples
  tokenferry send --kind card --json-input card.json --wait
  vault read card-7 | tokenferry send --kind card --json-input - --reply-to onboarding
"""


OTHER_CONTENT: Final = "another request has this id, with other content; nothing was done: give this one a new id"


@dataclass(frozen=True, kw_only=True)
class SendOptions:
    """The options of one run."""

    kind: str
    source: str
    reply_to: str | None
    wait: bool
    timeout: float
    platform: str | None
    connected_account: str | None
    lane: Lane | None
    request_id: str | None
    as_json: bool
    config: Path | None

    def check(self) -> None:
        """Raise `click.UsageError` if one of them is not valid."""
        _check(Name, self.reply_to, "--reply-to must be lower case letters, digits, - and _, and not digits alone")
        _check(Id, self.request_id, "--request-id must be letters, digits, - and _, at most 64, and not digits alone")


@click.command("send", epilog=EPILOG)
@click.option("--kind", required=True, type=click.Choice(KINDS), help="What to tokenize.")
@click.option("--json-input", "source", required=True, metavar="FILE", help="The request; - is standard input.")
@click.option("--reply-to", metavar="ROUTE", help="Results go to this route; read it with `tokenferry results`.")
@click.option("--wait", is_flag=True, help="Wait for the outcome and print it.")
@timeout_option("How long --wait waits.")
@click.option("--platform", metavar="NAME", help="Default: the only one configured.")
@click.option("--connected-account", metavar="ID", help="Create the token on this connected account.")
@click.option("--lane", type=click.Choice(LANES), help="Default: bulk; realtime with --wait or with a CVC.")
@click.option(
    "--request-id",
    metavar="ID",
    help="Repeat the request with this id: the same content is done once. Default: a new id.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@config_option
@click.pass_context
def send(context: click.Context, /, **given: Any) -> None:
    """Seal one request and send it to the broker."""
    options = SendOptions(**given)
    options.check()
    configuration = load(options.config)
    own_route = f"send-{secrets.token_hex(4)}" if options.wait and options.reply_to is None else None
    route = options.reply_to or own_route
    if options.wait:
        ResultSigners.load(configuration)  # refused before anything is sent
    try:
        order = _order(options, configuration, route)
        request_id = _send(order, configuration)
    except (InvalidRequest, InvalidTarget, PublishError) as error:
        if options.as_json:
            click.echo(json.dumps(_not_sent(error)))
        raise
    done = f"the request was sent as {request_id}"
    if not options.wait or route is None:
        print_line(json.dumps({"request_id": request_id}) if options.as_json else request_id, done)
        return
    if not options.as_json:
        print_line(request_id, done)
    row = PendingRow(1, "request", options.kind, attaches=order.attach is not None, handed_over="yes")
    results = Results(route, configuration, on_notice=WaitingReasons(_note).take)
    line = _outcome(results, request_id, row, options.timeout, own_route=own_route is not None)
    print_line(json.dumps(line) if options.as_json else _one_line(line), done)
    if line["status"] == "pending":
        click.echo(
            f"tokenferry: no outcome yet; it will be on route {route}, read it with `tokenferry results {route}`. "
            f"{_why_silent(order, configuration)}",
            err=True,
        )
    context.exit(0 if line["status"] in ("tokenized", "attached") else 1)


def _order(options: SendOptions, configuration: Configuration, route: str | None) -> Order:
    """Read the order. Raises `UnreadableFile`, `InvalidConfiguration` and `InvalidRequest`."""
    given = object_from(options.source)
    if options.platform is not None or "platform" not in given:
        configuration.meant(options.platform)
    defaults = RowDefaults(
        frozenset(configuration.platforms),
        options.kind,
        options.platform,
        options.connected_account,
        options.lane or ("realtime" if options.wait else None),  # somebody waits: that is what realtime is for
        route,
    )
    order = order_from(Row(1, "request", {**given, "kind": options.kind}), defaults)
    return replace(order, request_id=options.request_id or new_id())


def _send(order: Order, configuration: Configuration) -> str:
    """Send *order* and return its request id."""
    options = {field.name: getattr(order, field.name) for field in fields(Order) if field.name != "request"}
    with Producer(configuration) as producer:
        request_id = producer.send(order.request, **options)
    if not producer.everything_sent:
        click.echo(
            "tokenferry: accepted, but the broker does not have it yet; it waits in the outbox for "
            "`tokenferry outbox send`",
            err=True,
        )
    return request_id


def _why_silent(order: Order, configuration: Configuration) -> str:
    """Why there may be no outcome, as far as the queue of *order* tells."""
    queues = tokenize_queues(configuration.meant(order.platform))
    why = depth.why_silent(depth.ask(configuration, queues))
    return why[0].upper() + why[1:]


def _note(text: str) -> None:
    click.echo(f"tokenferry: {text}", err=True)


def _check(type_: Any, text: str | None, message: str) -> None:
    if text is None:
        return
    try:
        TypeAdapter(type_).validate_python(text)
    except ValidationError:
        raise click.UsageError(message) from None


def _not_sent(error: InvalidRequest | InvalidTarget | PublishError) -> dict[str, Any]:
    """The JSON object for a request that the broker has not confirmed."""
    maybe_sent = isinstance(error, PublishError) and error.maybe_sent
    request_id = error.request_id if isinstance(error, PublishError) else None
    return {"request_id": request_id, "status": "unknown" if maybe_sent else "refused", "reason": str(error)}


def _outcome(results: Results, request_id: str, row: PendingRow, timeout: float, *, own_route: bool) -> dict[str, Any]:
    """Wait for the last result of the request. Return its line, pending after *timeout* seconds or Ctrl-C."""
    last: TokenResult | AttachResult | None = None

    def process(result: AnyResult) -> None:
        nonlocal last
        if isinstance(result, TokenResult) and result.ok and row.attaches:
            row.token = result
        elif not isinstance(result, OnboardingResult):
            last = result

    try:
        process_own(
            results,
            lambda result: result.request_id == request_id and not isinstance(result, OnboardingResult),
            process,
            until=lambda: last is not None,
            timeout=timeout,
            each=False,
            own_route=own_route,
        )
    except KeyboardInterrupt:
        pass
    line = settled_line(request_id, row, last)
    if "reason" in line:
        line["reason"] = OTHER_CONTENT
    return {name: value for name, value in line.items() if name not in ("key", "row")}


def _one_line(line: dict[str, Any]) -> str:
    """The outcome for a person."""
    display = line["display"] or {}
    failure = line["failure"] or {}
    words = [
        line["status"],
        line["token"],
        line["object_id"],
        display.get("brand") or display.get("bank_name"),
        display.get("last4"),
        failure.get("code"),
        failure.get("decline_code"),
        f"({line['reason']})" if "reason" in line else None,
    ]
    return " ".join(word for word in words if word)
