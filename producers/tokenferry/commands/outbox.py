"""`tokenferry outbox`: sends what an outbox holds, shows it, and sends requests without an outcome again."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from tokenferry.broker.depth import roughly
from tokenferry.broker.publishing import Publisher
from tokenferry.configuration import Configuration, InvalidConfiguration, load
from tokenferry.options import Duration, config_option
from tokenferry.outbox import Sender, SenderLock, UnusableOutbox
from tokenferry.outbox.outbox import now_ms
from tokenferry.outbox.store import OutboxStore

EPILOG = """
\b
The outbox is a file named in tokenferry.toml. With it, a producer accepts a request as soon as its sealed message is in
the file. One process at a time sends what the file holds:
  [outbox]
  path = "outbox.db"

\b
Exit codes of each command
  0  done
  1  something could not be sent
  2  wrong usage or configuration, or the file is damaged or not an outbox

\b
Examples
  tokenferry outbox send &                     # send for ever, beside producers that come and go
  tokenferry outbox status
  tokenferry outbox reconcile --older-than 10m --dry-run
"""

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group("outbox", epilog=EPILOG)
def outbox() -> None:
    """Accepted requests that the broker does not have yet, or that have no outcome yet."""


@outbox.command("send")
@click.option("--once", is_flag=True, help="End when nothing is left, or when the broker accepts no more.")
@json_option
@config_option
@click.pass_context
def send(context: click.Context, once: bool, as_json: bool, config: Path | None) -> None:
    """Send what the outbox holds, until Ctrl-C or SIGTERM.

    Producers do this themselves while they run; use this command if they come and go. Any number of processes may run:
    one sends, and the others wait until it ends. If the broker is away, the command waits for it. Requests without an
    outcome are sent again after a while.
    """
    configuration, path = _configured(config)
    with Publisher.to(configuration) as publisher:
        sender = Sender(path, publisher, configuration)
        try:
            with _stopped_by_signals(sender):
                if once:
                    sender.drain()
                else:
                    sender.run()
                left = sender.count()
        finally:
            sender.close()
    if as_json:
        click.echo(json.dumps({"sent": sender.sent, "left": left, "trouble": sender.trouble}))
    else:
        click.echo(f"{sender.sent} sent, {left} left")
    if once and left:
        click.echo(f"tokenferry: {sender.trouble or 'another process is sending the rest'}", err=True)
        context.exit(1)


@outbox.command("status")
@json_option
@config_option
def status(as_json: bool, config: Path | None) -> None:
    """Show what the outbox holds, since when, and why. Reads the whole file, and reports if it is damaged."""
    _, path = _configured(config, exists=True)
    store = OutboxStore(path, durable=False)
    try:
        store.examine()
        numbers = store.status(now=now_ms())
    finally:
        store.close()
    sender = SenderLock(path).holder()
    if as_json:
        click.echo(json.dumps({"path": str(path), "sender": sender, **numbers}))
        return
    click.echo("\n".join(_lines(path, sender, numbers)))


@outbox.command("reconcile")
@click.option(
    "--older-than",
    type=Duration(least=0.0),
    default="10m",
    show_default=True,
    help="Only requests that were accepted longer ago than this.",
)
@click.option("--dry-run", is_flag=True, help="Only count them.")
@json_option
@config_option
@click.pass_context
def reconcile(context: click.Context, older_than: float, dry_run: bool, as_json: bool, config: Path | None) -> None:
    """Send confirmed requests without an outcome again, after a broker has lost its data.

    They are sent with the same id and the same sealed bytes. If a request is done already, its worker only repeats the
    recorded outcome. A running sender does this by itself for routes that are read with this outbox, for requests that
    are no longer in their queue ([outbox] resend_after). This command does it at once, whatever is in the queues, and
    for every route.
    """
    configuration, path = _configured(config, exists=True)
    before = now_ms() - int(older_than * 1000)
    store = OutboxStore(path, durable=False)
    try:
        count = store.older(before) if dry_run else store.send_older_again(before)
    finally:
        store.close()
    left, trouble = 0, None
    if not dry_run and count:
        left, trouble = _sent_now(path, configuration)
    if as_json:
        click.echo(json.dumps({"found": count, "dry_run": dry_run, "left": left, "trouble": trouble}))
    else:
        requests = "1 request" if count == 1 else f"{count} requests"
        click.echo(f"{requests} without an outcome" + ("; nothing was sent" if dry_run else ""))
    if trouble is not None:
        click.echo(f"tokenferry: {left} not sent yet: {trouble}; `tokenferry outbox send` continues", err=True)
        context.exit(1)


def _sent_now(path: Path, configuration: Configuration) -> tuple[int, str | None]:
    """Send until nothing waits, unless another process sends. Return how many are left, and why."""
    with Publisher.to(configuration) as publisher:
        sender = Sender(path, publisher, configuration)
        try:
            sender.drain()
            return (sender.count(), sender.trouble) if sender.trouble else (0, None)
        finally:
            sender.close()


def _configured(config: Path | None, *, exists: bool = False) -> tuple[Configuration, Path]:
    configuration = load(config)
    if configuration.outbox.path is None:
        raise InvalidConfiguration('no outbox is configured; add [outbox] path = "outbox.db" to tokenferry.toml')
    path = configuration.path(configuration.outbox.path)
    if exists and not path.exists():
        raise UnusableOutbox(f"{path}: there is no outbox yet; a producer creates it, see [outbox] path")
    return configuration, path


@contextmanager
def _stopped_by_signals(sender: Sender) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM stop *sender*."""
    before = {number: signal.signal(number, lambda *_: sender.stop()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _lines(path: Path, sender: int | None, numbers: dict[str, Any]) -> list[str]:
    sender_name = "none; start one with `tokenferry outbox send`" if sender is None else f"process {sender}"
    shown = [
        f"{path}: {numbers['waiting']} to be sent, {numbers['confirmed']} with the broker and kept "
        f"({numbers['awaiting_outcome']} until their outcome is known), {numbers['bytes'] / 1e6:.1f} MB",
        f"sender: {sender_name}",
    ]
    if numbers["oldest_seconds"] is not None:
        shown.append(f"oldest: {roughly(numbers['oldest_seconds'])}")
    if numbers["trouble"] is not None:
        since = roughly(time.time() - numbers["trouble_since"] / 1000)
        shown.append(f"for {since}: {numbers['trouble']}")
    if numbers["given_up"]:
        shown.append(f"expired without an outcome so far: {numbers['given_up']}")
    for queue, counts in numbers["queues"].items():
        shown.append(f"  {counts['waiting']:>8} to be sent  {counts['confirmed']:>8} kept  {queue}")
    return shown
