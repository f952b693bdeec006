"""`tokenferry send`: one request, read from a file or from standard input."""

from __future__ import annotations

import json
import secrets
import time
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
from pydantic import TypeAdapter, ValidationError

from tokenferry.broker.errors import PublishError
from tokenferry.broker.reachability import CONNECTION_LOST
from tokenferry.commands.printing import printed
from tokenferry.commands.taking import acknowledge, hold
from tokenferry.configuration import load
from tokenferry.consuming import Results
from tokenferry.contract.names import LANES, Id, Lane, Name, new_id
from tokenferry.contract.requests import InvalidRequest
from tokenferry.contract.results import AttachResult, OnboardingResult, TokenResult
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
The input is one JSON object with the fields of the kind, and what applies to them:
  {"number": "...", "exp_month": 12, "exp_year": 2034}
  {"card": {...}, "attach": {"to": "customer_create", "email": "z@example.com"}, "connected_account": "acct_..."}
There is no option for card data: what stands in a command line is seen by every user of the machine.

\b
With --json a refusal is an object too, {"request_id": ..., "status": "refused", "reason": "..."}; its status is
"unknown" where the broker may have the request all the same.

\b
The request id is printed once the broker has the request. To repeat a send whose outcome is unknown, name it as
--request-id: one id, one token.

\b
With --wait the outcome is printed too: the token, or with "attach" what the token became. It arrives on a route of
its own, or on --reply-to; results of other requests found there stay there.

\b
Exit codes
  0  sent (with --wait: and it has its token)
  1  refused, failed, not finished in time, or the broker is away
  2  wrong usage or configuration

\b
Examples
  tokenferry send --kind card --json-input card.json --wait
  vault read card-7 | tokenferry send --kind card --json-input - --reply-to onboarding
"""


@click.command("send", epilog=EPILOG)
@click.option("--kind", required=True, type=click.Choice(KINDS), help="What is to be tokenized.")
@click.option("--json-input", "source", required=True, metavar="FILE", help="The request; - reads standard input.")
@click.option("--reply-to", metavar="ROUTE", help="Results go to this route; read it with `tokenferry results`.")
@click.option("--wait", is_flag=True, help="Wait for the outcome and print it.")
@timeout_option("How long --wait waits.")
@click.option("--platform", metavar="NAME", help="Default: the only one configured.")
@click.option("--connected-account", metavar="ID", help="Tokenize on this connected account.")
@click.option("--lane", type=click.Choice(LANES), help="Default: bulk; realtime with --wait or where a CVC is carried.")
@click.option("--request-id", metavar="ID", help="Repeat the request with this id. Default: a new one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@config_option
@click.pass_context
def send(
    context: click.Context,
    kind: str,
    source: str,
    reply_to: str | None,
    wait: bool,
    timeout: float,
    platform: str | None,
    connected_account: str | None,
    lane: Lane | None,
    request_id: str | None,
    as_json: bool,
    config: Path | None,
) -> None:
    """Seal one request and hand it to the broker."""
    _must_be(Name, reply_to, "--reply-to must be lower case letters, digits, - and _, and not digits alone")
    _must_be(Id, request_id, "--request-id must be letters, digits, - and _, at most 64, and not digits alone")
    configuration = load(config)
    own_route = f"send-{secrets.token_hex(4)}" if wait and reply_to is None else None
    route = reply_to or own_route
    # Somebody is waiting: that is what the realtime lane is for.
    defaults = RowDefaults(
        frozenset(configuration.platforms),
        kind,
        platform,
        connected_account,
        lane or ("realtime" if wait else None),
        route,
    )
    given = object_from(source)
    if platform is not None or "platform" not in given:
        configuration.meant(platform)
    if wait:
        ResultSigners.load(configuration)  # refused before anything is sent
    try:
        order = order_from(Row(1, "request", {**given, "kind": kind}), defaults)
        order = replace(order, request_id=request_id or new_id())
        options = {each.name: getattr(order, each.name) for each in fields(Order) if each.name != "request"}
        with Producer(configuration) as producer:
            name = producer.send(order.request, **options)
    except (InvalidRequest, InvalidTarget, PublishError) as error:
        if as_json:
            click.echo(json.dumps(_refusal(error)))
        raise
    if not producer.everything_sent:
        click.echo(
            "tokenferry: accepted, and not with the broker yet; it waits in the outbox for `tokenferry outbox send`",
            err=True,
        )
    sent = f"the request was sent as {name}"
    if not wait or route is None:
        printed(json.dumps({"request_id": name}) if as_json else name, sent)
        return
    if not as_json:
        printed(name, sent)
    row = PendingRow(1, "request", kind, attaches=order.attach is not None, handed_over="yes")
    line = _outcome(Results(route, configuration), name, row, timeout, own=own_route is not None)
    printed(json.dumps(line) if as_json else _spelled(line), sent)
    if line["status"] == "unfinished":
        click.echo(
            f"tokenferry: no outcome yet; it will be on route {route}, read it with `tokenferry results {route}`. "
            "Is a worker running?",
            err=True,
        )
    context.exit(0 if line["status"] in ("tokenized", "attached") else 1)


def _must_be(what: Any, text: str | None, or_else: str) -> None:
    if text is None:
        return
    try:
        TypeAdapter(what).validate_python(text)
    except ValidationError:
        raise click.UsageError(or_else) from None


def _refusal(error: InvalidRequest | InvalidTarget | PublishError) -> dict[str, Any]:
    """What standard output says in JSON of a request that the broker has not confirmed."""
    unsure = isinstance(error, PublishError) and error.maybe_sent
    id_ = error.request_id if isinstance(error, PublishError) else None
    return {"request_id": id_, "status": "unknown" if unsure else "refused", "reason": str(error)}


def _outcome(results: Results, request_id: str, row: PendingRow, timeout: float, *, own: bool) -> dict[str, Any]:
    """The line about the request once it has its last result, or as it stands when time is up or Ctrl-C is pressed."""
    deadline = time.monotonic() + timeout
    last: TokenResult | AttachResult | None = None
    try:
        while last is None and (left := deadline - time.monotonic()) > 0:
            result = hold(results, min(left, 0.5))
            if result is None or result.request_id != request_id or isinstance(result, OnboardingResult):
                if results.is_full:
                    click.echo(f"tokenferry: too many results of others wait on route {results.route}", err=True)
                    break
                continue
            if isinstance(result, TokenResult) and result.ok and row.attaches:
                row.token = result
            else:
                last = result
            acknowledge(results, [result])
        if own and last is not None:
            with suppress(*CONNECTION_LOST):
                results.delete()
    except KeyboardInterrupt:
        pass
    finally:
        with suppress(*CONNECTION_LOST):
            results.close()
    line = settled_line(request_id, row, last)
    return {name: value for name, value in line.items() if name not in ("key", "row")}


def _spelled(line: dict[str, Any]) -> str:
    """One line for a person."""
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
    ]
    return " ".join(word for word in words if word)
