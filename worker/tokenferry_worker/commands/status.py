"""`tokenferry status`: how far the work is, and what slows it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tokenferry.configuration import Configuration, load_to_look
from tokenferry.import_notes import ImportNote, notes
from tokenferry.options import SECONDS, config_option
from tokenferry_worker.commands.asking import ask_store
from tokenferry_worker.commands.choosing import broker_errors
from tokenferry_worker.commands.durations import span
from tokenferry_worker.fleet import queues
from tokenferry_worker.fleet.queues import SET_ASIDE, QueueState
from tokenferry_worker.fleet.view import FleetView, StoreView, why_less
from tokenferry_worker.health.reporter import ProcessRecord

WIDEST = 1000
"""Columns, more than any line has."""

EPILOG = """
\b
Exit codes
  0  store and broker have answered
  1  one of them does not answer
  2  wrong usage or configuration, or no embedded server runs (this command starts none)

\b
Examples
  tokenferry status
  tokenferry status --watch
  tokenferry status --json | jq '.queues[] | select(.waiting > 0)'
"""


@dataclass(frozen=True)
class _Status:
    """Everything that is shown."""

    view: FleetView
    imports: Sequence[ImportNote]
    useful: int | None
    trouble: str | None
    """Why the broker has not answered."""


@click.command(epilog=EPILOG)
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option("--every", type=SECONDS, default=2.0, show_default=True, metavar="SECONDS", help="With --watch.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print everything as one JSON object; with --watch, one per line."
)
@config_option
def status(watch: bool, every: float, as_json: bool, config: Path | None) -> None:
    """Show queues, rates, workers on all machines, failures, dead letters, and the imports of this data folder.

    Workers report to the store every few seconds, so numbers of workers are as old as that. Nothing is started,
    consumed or opened.
    """
    configuration = load_to_look(config, "broker", "store")
    show = _print_json if as_json else _print
    if not watch:
        found = _look(configuration)
        show(found)
        click.get_current_context().exit(1 if found.trouble else 0)
    try:
        while True:
            found = _look(configuration)
            if not as_json:
                click.clear()  # does nothing where the output is no terminal
                click.echo(datetime.now(UTC).isoformat(timespec="seconds"))
            show(found)
            time.sleep(every)
    except KeyboardInterrupt:
        pass


def _look(configuration: Configuration) -> _Status:
    store = ask_store(configuration, lambda each: StoreView.look(configuration, each))
    found, trouble = None, None
    try:
        with broker_errors():
            found = queues.look(configuration, sorted(store.circuits.parked))
    except click.ClickException as error:
        trouble = error.format_message()
    view = FleetView(store, found)
    imports = notes(configuration.path(configuration.data))
    return _Status(view, imports, view.useful_processes(configuration), trouble)


# For people


def _print(found: _Status) -> None:
    store = found.view.store
    console = Console(width=WIDEST, color_system=None, highlight=False)
    if found.view.queues is None:
        click.echo(f"queues: unknown ({found.trouble})")
    else:
        console.print(_queues(found.view.queues))
    click.echo()
    console.print(_rates(store))
    click.echo()
    if store.processes:
        console.print(_workers(store.processes))
    else:
        click.echo("workers: none reports to the store")
    if found.useful is not None:
        click.echo(f"processes that the waiting work can keep busy: {found.useful}")
    click.echo()
    click.echo(f"failures in the last 5 minutes: {_counted(store.failures())}")
    for name, title in zip(SET_ASIDE, ("dead letters", "quarantine"), strict=True):
        state = next((each for each in found.view.queues or () if each.name == name), None)
        if state is not None:
            oldest = f", the oldest {span(state.oldest)} old" if state.oldest is not None else ""
            click.echo(f"{title}: {state.waiting}{oldest}")
    for scope in sorted(store.circuits.open):
        click.echo(f"open circuit: {scope} (`tokenferry circuits` says what to do)")
    if found.imports:
        click.echo()
        for note in found.imports:
            click.echo(_import(note))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 or not column else "right", no_wrap=True)
    return table


def _queues(states: Sequence[QueueState]) -> Table:
    table = _table("queue", "waiting", "oldest")
    for each in states:
        if each.name not in SET_ASIDE:
            table.add_row(each.name, str(each.waiting), "-" if each.oldest is None else span(each.oldest))
    return table


def _rates(store: StoreView) -> Table:
    """The budgets that are used or lowered, and those of all calls."""
    table, used = _table("rate", "used/s", "allowed/s", ""), store.used()
    for state in store.budgets:
        why = why_less(state, store.circuits.open.values())
        if why or used[state.name] or state.name.endswith(":global"):
            allowed = "0" if state.paused else f"{state.now:g}"
            table.add_row(state.name, f"{used[state.name]:.1f}", allowed, escape("; ".join(why)))
    return table


def _workers(processes: Sequence[ProcessRecord]) -> Table:
    table = _table("worker", "pid", "role", "in hand", "done/min", "")
    for each in processes:
        waits = ", ".join(f"{count} wait for a {cause}" for cause, count in each.waiting.items())
        paused = f"paused: {', '.join(each.paused)}" if each.paused else ""
        state = "; ".join(filter(None, [each.trouble or each.phase, waits, paused]))
        table.add_row(each.host, str(each.pid), each.role, str(each.in_hand), str(each.outcomes), escape(state))
    return table


def _import(note: ImportNote) -> str:
    counts = note.counts
    of = f" of about {note.rows_expected}" if note.rows_expected and note.rows_expected > counts["rows"] else ""
    numbers = ", ".join(f"{counts[name]} {name}" for name in ("tokenized", "attached", "failed", "rejected"))
    parts = [f"import of {note.file} {note.state}: {counts['rows']}{of} rows read, {numbers}"]
    if counts["unfinished"]:
        parts.append(f"{counts['unfinished']} without an outcome")
    if note.seconds_left is not None and counts["rows"] and note.state == "running":
        parts.append(f"about {span(note.seconds_left)} left")
    if note.waits:
        parts.append(f"waiting: {note.waits}")
    if note.state in ("stopped", "dead") and note.results:
        parts.append("continue it with --resume")
    return ", ".join(parts)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{code} {count}" for code, count in counts.most_common()) or "none"


# For programs


def _print_json(found: _Status) -> None:
    click.echo(json.dumps(_as_json(found)))


def _as_json(found: _Status) -> Mapping[str, Any]:
    store = found.view.store
    used, open_ = store.used(), store.circuits.open
    states = found.view.queues
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "trouble": found.trouble,
        "queues": None if states is None else [queues.as_json(each) for each in states],
        "rates": [
            {
                **asdict(state),
                "used": round(used[state.name], 2),
                "allowed": 0.0 if state.paused else state.now,
                "why": why_less(state, open_.values()),
            }
            for state in store.budgets
        ],
        "workers": [each.model_dump() for each in store.processes],
        "useful_processes": found.useful,
        "failures": store.failures(),
        "circuits": sorted(open_),
        "parked": store.circuits.parked,
        "imports": [asdict(note) for note in found.imports],
    }
