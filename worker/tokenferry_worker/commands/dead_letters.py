"""`tokenferry dead-letters`: list, show, redrive and purge the messages that failed for good."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from tokenferry.broker.file_rewriting import is_ours, rewrite_files
from tokenferry.configuration import load_to_look
from tokenferry.shown import shown
from tokenferry_worker.commands.choosing import (
    NAMES,
    BrokerAccess,
    broker_errors,
    filter_of,
    filters,
    matching,
    missing_ids,
    require_choice,
    summary_of,
    where,
)
from tokenferry_worker.commands.redriving import redrive
from tokenferry_worker.dead_letters.record import DeadLetter, DeadLetterFilter

WIDEST: Final = 1000
"""Columns, more than any line of the list has."""


@click.group(name="dead-letters")
def dead_letters() -> None:
    """List requests that failed for good, or could not be read; retry or delete them.

    A request becomes a dead letter when every attempt failed, when workers died of it again and again, or when its
    platform or key is missing. It stays sealed, as it came. The quarantine (--quarantine) holds messages that no known
    producer has signed, or that are no requests. Both are kept for [worker] dead_letter_days, then dropped.

    \b
    Examples
      tokenferry dead-letters list
      tokenferry dead-letters show req-0123abcd
      tokenferry dead-letters redrive --code attempts_exhausted --older-than 1h
      tokenferry dead-letters purge --quarantine --older-than 7d
    """


@dead_letters.command(name="list")
@filters
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def list_(queue: str, config: Path | None, limit: int | None, as_json: bool, **chosen: Any) -> None:
    """List them, oldest first. Nothing is opened for it.

    A line ends with `unverified` if no signed message stands behind what it says: whoever writes to the queue wrote it.

    \b
    Examples
      tokenferry dead-letters list --platform main --older-than 1h
      tokenferry dead-letters list --json | jq -r .code | sort | uniq -c
    """
    now = time.time()
    found = []
    with BrokerAccess.current().browse(load_to_look(config, "broker"), queue) as browser:
        for _, dead_letter in islice(matching(browser, filter_of(chosen)), limit):
            if as_json:
                click.echo(json.dumps(_line(dead_letter, now)))
            else:
                found.append(dead_letter)
    if not as_json:
        _print_table(found, now)
        click.echo(summary_of(queue, Counter(dead_letter.reason for dead_letter in found)))


def _print_table(dead_letters: Sequence[DeadLetter], now: float) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("id", "kind", "platform", "lane", "code", "since", "attempts", "age", ""):
        table.add_column(column, justify="right" if column in ("attempts", "age") else "left", no_wrap=True)
    for each in dead_letters:
        cells = (each.id, each.kind, each.platform, each.lane, each.reason, _iso(each.at))
        mark = "unverified" if each.is_unverified else ""
        table.add_row(*(shown(cell or "-") for cell in cells), str(each.attempts), _age(each, now), mark)
    if dead_letters:
        # Wider than the window, if need be: no other command can use an id that was cut.
        Console(width=WIDEST, color_system=None, highlight=False).print(table)


@dead_letters.command()
@click.argument("id_", metavar="ID")
@where
@click.option("--json", "as_json", is_flag=True, help="As JSON, with the sealed message.")
def show(id_: str, queue: str, config: Path | None, as_json: bool) -> None:
    """Show everything known of ID: header, reason, and every attempt with its time and status.

    \b
    Example
      tokenferry dead-letters show req-0123abcd
    """
    now = time.time()
    with BrokerAccess.current().browse(load_to_look(config, "broker"), queue) as browser:
        found = [dead_letter for _, dead_letter in matching(browser, DeadLetterFilter(ids=[id_]))]
    for dead_letter in found:
        if as_json:
            header = dead_letter.header.model_dump() if dead_letter.header else None
            history = [attempt.model_dump() for attempt in dead_letter.history]
            # An attach order is signed and not sealed: the parameters of its target are not printed.
            sealed = dead_letter.message if dead_letter.sealed else None
            click.echo(json.dumps({**_line(dead_letter, now), "history": history, "header": header, "sealed": sealed}))
            continue
        for name, value in _line(dead_letter, now).items():
            click.echo(f"{name + ':':20} {'-' if value is None else shown(value)}")
        for attempt in dead_letter.history:
            click.echo(f"  {_iso(attempt.at)}  {attempt.status or '-'}  {attempt.code}")
    if not found:
        raise click.ClickException(f"none of the {NAMES[queue]} has this id (`tokenferry dead-letters list`)")


@dead_letters.command()
@filters
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--dry-run", is_flag=True, help="Say how many, and drop none.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def purge(
    queue: str,
    config: Path | None,
    limit: int | None,
    everything: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Drop them for good. Needs a filter, --id or --all, and asks first.

    \b
    Examples
      tokenferry dead-letters purge --code unopenable --dry-run
      tokenferry dead-letters purge --quarantine --older-than 7d --yes
    """
    broker = BrokerAccess.current()
    filter_ = filter_of(chosen)
    require_choice(filter_, everything)
    configuration = load_to_look(config, "broker")
    with broker.browse(configuration, queue) as browser:
        found = [(message.body, dead_letter) for message, dead_letter in islice(matching(browser, filter_), limit)]
    codes = Counter(dead_letter.reason for _, dead_letter in found)
    if limit is None and (missing := missing_ids(queue, filter_.ids, [dead_letter.id for _, dead_letter in found])):
        raise click.ClickException(f"{missing}; nothing was purged")
    if dry_run:
        _print_purged(queue, codes, as_json, dry_run=True)
        return
    if found and not yes:
        click.confirm(f"Drop {summary_of(queue, codes)} for good?", abort=True, err=True)
    # Browse again: no message is held during the question, and those that came meanwhile are not purged.
    confirmed = Counter(body for body, _ in found)
    codes.clear()
    try:
        with broker.browse(configuration, queue) as browser:
            for message, dead_letter in matching(browser, filter_):
                if confirmed[message.body] and browser.remove(message):
                    confirmed[message.body] -= 1
                    codes[dead_letter.reason] += 1
    finally:
        _print_purged(queue, codes, as_json)
    if codes and is_ours(configuration):
        with broker_errors():
            rewrite_files(configuration)  # else it would rest in the append-only file for long


def _print_purged(queue: str, codes: Counter[str], as_json: bool, *, dry_run: bool = False) -> None:
    if as_json:
        click.echo(json.dumps({"queue": queue, "dry_run": dry_run, "purged": codes.total(), "by_code": codes}))
    else:
        click.echo(f"{'would purge' if dry_run else 'purged'} {summary_of(queue, codes)}")


dead_letters.add_command(redrive)


def _line(each: DeadLetter, now: float) -> dict[str, object]:
    header = each.order.request if each.order else each.header
    is_its_own = each.id is not None and (each.outcome_id or "").rpartition("/")[2].startswith(f"{each.id}:")
    return {
        "id": each.id,
        "kind": each.kind,
        "platform": each.platform,
        "lane": each.lane,
        "code": each.reason,
        "since": _iso(each.at),
        "age_seconds": None if each.at is None else max(0, int(now - each.at / 1000)),
        "attempts": each.attempts,
        "key_id": each.header.key_id if each.header else None,
        "connected_account": header.connected_account if header else None,
        "reply_to": header.reply_to if header else None,
        "ends": _iso(each.ends),
        "outcome_id": each.outcome_id if is_its_own else None,
        "unverified": each.is_unverified,
    }


def _iso(at: int | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="seconds")


def _age(dead_letter: DeadLetter, now: float) -> str:
    if dead_letter.at is None:
        return "-"
    seconds = max(0.0, now - dead_letter.at / 1000)
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds)}s"
