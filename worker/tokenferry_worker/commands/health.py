"""`tokenferry health`: ask the workers on this machine whether they work."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from tokenferry.configuration import load_to_look
from tokenferry.options import config_option
from tokenferry_worker.commands.durations import span
from tokenferry_worker.health import probes
from tokenferry_worker.health.judging import Health, ProcessHealth

EPILOG = """
\b
A worker works if each of its processes reads its queues and reaches broker and store. If one does not, its line says
why. With --live, the command fails only where a restart would help: use that where a failure leads to a restart.

\b
Exit codes
  0  every worker of this data folder works
  1  a worker does not work, or none runs here
  2  wrong usage or unreadable configuration

\b
Examples
  tokenferry health
  tokenferry health --live --quiet
  tokenferry health --json | jq '.workers[].processes[].report.in_hand'
"""


@click.command(epilog=EPILOG)
@config_option
@click.option("--live", is_flag=True, help="Fail only where a restart helps: not while a broker is away.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing; use the exit code.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def health(config: Path | None, live: bool, quiet: bool, as_json: bool) -> None:
    """Ask the workers on this machine whether they are alive and at work.

    It finds workers with the same data folder: run it as the same user, with the same configuration. It does not ask
    the broker, the store or Stripe.
    """
    configuration = load_to_look(config, "broker")
    data = configuration.path(configuration.data)
    workers = probes.ask(data)
    healthy = bool(workers) and all(worker.live if live else worker.ready for worker in workers)
    if as_json:
        click.echo(json.dumps({"healthy": healthy, "workers": [worker.model_dump() for worker in workers]}))
    elif not quiet:
        for worker in workers:
            show(worker)
        if not workers:
            click.echo(f"no worker answers: none runs with the data folder {data}, or not as this user")
    click.get_current_context().exit(0 if healthy else 1)


def show(worker: Health) -> None:
    """Print one line for the worker, and one for each of its processes."""
    state = "works" if worker.ready else f"{'not ready' if worker.live else 'broken'}: {'; '.join(worker.why)}"
    click.echo(f"worker (pid {worker.pid}) {state}")
    for process in worker.processes:
        click.echo(f"  process {process.number} {_state_of(process)}")


def _state_of(process: ProcessHealth) -> str:
    report = process.report
    if process.pid is None or report is None:
        return f"(pid {process.pid or 'none'}) {process.trouble}"
    parts = [
        f"(pid {process.pid}, {report.role}, for {span(time.time() - report.since)}) {report.phase}",
        f"{report.in_hand} running, {report.taken} taken since its start",
        f"last one {_ago(report.last_taken, process.silent)}",
        f"queues last seen empty {_ago(report.last_empty, process.silent)}",
        f"broker {'reachable' if report.broker else 'away'}",
        f"store {'reachable' if report.store else 'away'}",
    ]
    if report.set_aside:
        parts.append(f"{report.set_aside} set aside in quarantine since its start")
    if report.circuits:
        parts.append(f"open circuits: {', '.join(report.circuits)}")
    if report.paused:
        parts.append(f"paused budgets: {', '.join(report.paused)}")
    if process.silent > 5:
        parts.append(f"silent for {span(process.silent)}")
    return ", ".join(parts)


def _ago(seconds: float | None, silent: float) -> str:
    return "never" if seconds is None else f"{span(seconds + silent)} ago"
