"""`tokenferry circuits`: what Stripe refuses or does not answer, and what to do about it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import click
from kombu import Connection
from kombu.exceptions import ChannelError

from tokenferry.broker import connecting
from tokenferry.broker.patience import ask, is_missing
from tokenferry.configuration import Configuration, InvalidConfiguration, load_to_look
from tokenferry.contract.queues import parked_queue
from tokenferry.options import config_option
from tokenferry.shown import shown
from tokenferry_worker.circuits.scopes import parks, plainly, remedy
from tokenferry_worker.commands.asking import ask_store
from tokenferry_worker.commands.choosing import broker_errors
from tokenferry_worker.on_redis.circuits import RedisCircuits


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print them as a JSON list.")
@config_option
@click.pass_context
def circuits(context: click.Context, as_json: bool, config: Path | None) -> None:
    """List open circuits: what Stripe refuses or does not answer, since when, and the remedy.

    While a circuit is open, no call is made that depends on it, and its requests are kept. One call at a time probes
    it, every 5 to 60 seconds. The circuit closes as soon as a probe succeeds. Status 0 means no connection or no
    answer.
    """
    context.obj = config
    if context.invoked_subcommand is not None:
        return
    configuration = load_to_look(config, "broker", "store")
    snapshot = ask_store(configuration, lambda store: RedisCircuits(store).snapshot())
    rows = [
        {
            "scope": circuit.scope,
            "since": datetime.fromtimestamp(circuit.opened_at, UTC).isoformat(timespec="seconds"),
            "status": circuit.status,
            "code": circuit.code,
            "endpoint_request_id": circuit.request_id or None,
            "probes": circuit.probes,
            "parked": _parked(configuration, circuit.scope) if parks(circuit.scope) else 0,
            "says": plainly(circuit.scope, circuit.status, circuit.code),
            "cure": remedy(circuit.scope, circuit.status, circuit.code),
        }
        for circuit in sorted(snapshot.open.values(), key=lambda circuit: circuit.opened_at)
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        request = f" (request {shown(row['endpoint_request_id'])})" if row["endpoint_request_id"] else ""
        click.echo(
            f"{shown(row['scope'])}\n"
            f"  open since {row['since']}: {shown(row['says'])}{request}\n"
            f"  {row['parked']} parked, {row['probes']} probes failed\n"
            f"  {shown(row['cure'])}"
        )
    if not rows:
        click.echo("no circuit is open")


@circuits.command()
@click.argument("scope")
@config_option
@click.pass_obj
def close(before: Path | None, scope: str, config: Path | None) -> None:
    """Let the next call probe SCOPE at once. Use it when the cause is fixed: a probe that succeeds closes the circuit.

    Where SCOPE is not open, its parked messages go back to their work queues.
    """
    configuration = load_to_look(config or before, "broker", "store")
    if (platform := scope.partition("/")[0]) not in configuration.platforms:
        raise InvalidConfiguration(f"'{scope}' is no scope: platform '{platform}' is not configured")
    was_open = ask_store(configuration, lambda store: RedisCircuits(store).force(scope))
    click.echo(f"{scope}: the next request probes it" if was_open else f"{scope} is not open")


def _parked(configuration: Configuration, scope: str) -> int:
    amqp = connecting.is_amqp(connecting.broker_url(configuration))
    queue = connecting.queue(parked_queue(scope), amqp=amqp)

    def count(connection: Connection) -> int:
        return int(queue.bind(connection.default_channel).queue_declare(passive=True).message_count)

    with broker_errors(), connecting.connect(configuration) as connection:
        try:
            return ask(connection, count, queue=queue.name)
        except ChannelError as error:
            if is_missing(error):
                return 0  # no message was ever parked there
            raise
