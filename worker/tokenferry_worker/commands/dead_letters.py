"""`tokenferry dead-letters`: what was given up on, and what to do with it."""

from __future__ import annotations

import json
import time
from collections import Counter
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from tokenferry.configuration import load_to_look
from tokenferry_worker.commands.choosing import NAMES, counted, filters, fitting, guard, looking, missing, wanted, where
from tokenferry_worker.commands.redriving import redrive
from tokenferry_worker.dead_letters.record import DeadLetter, DeadLetterFilter

WIDEST: Final = 1000
"""Columns: more than a line of the list can have."""


@click.group(name="dead-letters")
def dead_letters() -> None:
    """List requests that failed for good, or could not be read; retry or delete them.

    A request becomes a dead letter when every attempt failed, when workers died of it again and again, or when its
    platform or key is not there. It rests sealed, as it came. What is not signed by a known producer, or is no request
    at all, is in the quarantine (--quarantine). Both are kept for [worker] dead_letter_days, then dropped.

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
    """List them, oldest first: what is known without opening anything.

    \b
    Examples
      tokenferry dead-letters list --platform main --older-than 1h
      tokenferry dead-letters list --json | jq -r .code | sort | uniq -c
    """
    now = time.time()
    letters = []
    with looking(load_to_look(config, "broker"), queue) as shelf:
        for _, letter in fitting(shelf, wanted(chosen)):
            if as_json:
                click.echo(json.dumps(_line(letter, now)))
            else:
                letters.append(letter)
            limit = None if limit is None else limit - 1
            if limit == 0:
                break
    if as_json:
        return
    table = Table(box=None, pad_edge=False)
    for column in ("id", "kind", "platform", "lane", "code", "since", "attempts", "age"):
        table.add_column(column, justify="right" if column in ("attempts", "age") else "left", no_wrap=True)
    for letter in letters:
        words = (letter.id, letter.kind, letter.platform, letter.lane, letter.reason, _iso(letter.at))
        table.add_row(*(word or "-" for word in words), str(letter.attempts), _age(letter, now))
    if letters:
        # As wide as it is, whatever the window: an id that is cut short can be given to no other command.
        Console(width=WIDEST, highlight=False).print(table)
    click.echo(counted(queue, Counter(letter.reason for letter in letters)))


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
    with looking(load_to_look(config, "broker"), queue) as shelf:
        found = [letter for _, letter in fitting(shelf, DeadLetterFilter(ids=[id_]))]
    for letter in found:
        if as_json:
            header = letter.header.model_dump() if letter.header else None
            history = [attempt.model_dump() for attempt in letter.history]
            # An order is signed and not sealed: what it says of its target stays here.
            sealed = letter.message if letter.sealed else None
            click.echo(json.dumps({**_line(letter, now), "history": history, "header": header, "sealed": sealed}))
            continue
        for name, value in _line(letter, now).items():
            click.echo(f"{name + ':':20} {'-' if value is None else value}")
        for attempt in letter.history:
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
    meant = wanted(chosen)
    guard(meant, everything)
    configuration = load_to_look(config, "broker")
    with looking(configuration, queue) as shelf:
        found = [(item.body, letter) for item, letter in islice(fitting(shelf, meant), limit)]
    codes = Counter(letter.reason for _, letter in found)
    if limit is None and (lacking := missing(queue, meant.ids, [letter.id for _, letter in found])):
        raise click.ClickException(f"{lacking}; nothing was purged")
    if dry_run:
        _say_purged(queue, codes, as_json, dry_run=True)
        return
    if found and not yes:
        click.confirm(f"Drop {counted(queue, codes)} for good?", abort=True, err=True)
    # Another look: nothing is held while somebody thinks, and what has come meanwhile is not meant.
    asked = Counter(body for body, _ in found)
    codes.clear()
    try:
        with looking(configuration, queue) as shelf:
            for item, letter in fitting(shelf, meant):
                if asked[item.body] and shelf.remove(item):
                    asked[item.body] -= 1
                    codes[letter.reason] += 1
    finally:
        _say_purged(queue, codes, as_json)


def _say_purged(queue: str, codes: Counter[str], as_json: bool, *, dry_run: bool = False) -> None:
    if as_json:
        click.echo(json.dumps({"queue": queue, "dry_run": dry_run, "purged": codes.total(), "by_code": codes}))
    else:
        click.echo(f"{'would purge' if dry_run else 'purged'} {counted(queue, codes)}")


dead_letters.add_command(redrive)


def _line(letter: DeadLetter, now: float) -> dict[str, object]:
    header = letter.order.request if letter.order else letter.header
    return {
        "id": letter.id,
        "kind": letter.kind,
        "platform": letter.platform,
        "lane": letter.lane,
        "code": letter.reason,
        "since": _iso(letter.at),
        "age_seconds": None if letter.at is None else max(0, int(now - letter.at / 1000)),
        "attempts": letter.attempts,
        "key_id": letter.header.key_id if letter.header else None,
        "connected_account": header.connected_account if header else None,
        "reply_to": header.reply_to if header else None,
        "ends": _iso(letter.ends),
        "outcome_id": letter.outcome_id
        if letter.id and (letter.outcome_id or "").startswith(f"{letter.id}:")
        else None,
    }


def _iso(at: int | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="seconds")


def _age(letter: DeadLetter, now: float) -> str:
    if letter.at is None:
        return "-"
    seconds = max(0.0, now - letter.at / 1000)
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds)}s"
