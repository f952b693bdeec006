"""`tokenferry doctor`: check everything that a worker needs before the first request depends on it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Literal

import click

from tokenferry.configuration import effective, load_here
from tokenferry.options import config_option
from tokenferry_worker.doctor import preflight
from tokenferry_worker.doctor.report import Report
from tokenferry_worker.wiring import Role

EPILOG = """
\b
Each check says what was found, where, and what to do:
  ✓  as it should be
  !  works, but you should know about it; or could not be checked
  ✗  would stop a worker, or lose or refuse requests

\b
No token is created and nothing is changed. Each kind of token is tried with a request that cannot succeed: at most
eight calls per platform, outside the budgets of the fleet. An embedded server is started where one is configured.

\b
Exit codes
  0  nothing failed (there may be warnings)
  1  a check failed
  2  wrong usage or unreadable configuration

\b
Examples
  tokenferry doctor
  tokenferry doctor --role attach --platform main
  tokenferry doctor --role producer
  tokenferry doctor --json | jq '.checks[] | select(.state != "ok")'
"""


@click.command(epilog=EPILOG)
@config_option
@click.option(
    "--role",
    type=click.Choice(["tokenize", "attach", "onboard", "all", "producer"]),
    default="all",
    show_default=True,
    help="The worker that is to run here; producer: a program that only sends.",
)
@click.option("--platform", metavar="NAME", help="Look at this platform only.")
@click.option("--json", "as_json", is_flag=True, help="Print checks and settings as JSON.")
def doctor(config: Path | None, role: Role | Literal["producer"], platform: str | None, as_json: bool) -> None:
    """Check broker, store, keys, Stripe, permissions, clocks and limits before the first request.

    Prints the settings in force, without secrets. Every check runs, whatever the others find, for ten seconds at most.
    """
    configuration = load_here(config, "broker", "store") if role != "producer" else load_here(config, "broker")
    if platform is not None:
        configuration = configuration.model_copy(update={"platforms": {platform: configuration.platform(platform)}})
    source = config or Path("tokenferry.toml")
    if role == "producer":
        checks = asyncio.run(preflight.examine_producer(configuration, source))
    else:
        checks = asyncio.run(preflight.examine(configuration, role, source))
    report = Report(checks, {"role": role} | effective(configuration))
    if as_json:
        click.echo(json.dumps(report.as_json()))
    else:
        report.show()
    click.get_current_context().exit(0 if report.ok else 1)
