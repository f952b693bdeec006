"""`tokenferry config check`: read the configuration, and print what would be used."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from tokenferry.addresses import trusts_anybody
from tokenferry.broker.connecting import UNVERIFIED
from tokenferry.broker.reachability import reach
from tokenferry.configuration import Configuration, effective, load, load_to_look
from tokenferry.options import config_option
from tokenferry.ordering import Sealer
from tokenferry.result_signers import ResultSigners

EPILOG = """
\b
Nothing is connected and nothing is started: `tokenferry doctor` does that. Passwords are masked, and keys are shown
as references.

\b
Exit codes
  0  the configuration can be used (there may be warnings)
  2  it cannot, and why

\b
Examples
  tokenferry config check
  tokenferry config check --producer
  tokenferry config check --config /etc/tokenferry.toml --json | jq .settings.broker.url
"""


@click.group()
def config() -> None:
    """Read the configuration, and say what would be used."""


@config.command(epilog=EPILOG)
@config_option
@click.option("--producer", is_flag=True, help="Read a producer's keys and ask the broker, too. Sends nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print settings and warnings as JSON.")
def check(config: Path | None, producer: bool, as_json: bool) -> None:
    """Read file and environment, and print every setting that would be used."""
    configuration = load_to_look(config, "broker") if producer else load(config)
    if producer:
        Sealer(configuration)
        ResultSigners.load(configuration)
        reach(configuration)
    warnings = list(_warnings(configuration))
    settings = effective(configuration)
    if as_json:
        click.echo(json.dumps({"ok": True, "warnings": warnings, "settings": settings}))
        return
    for name, value in _flat(settings):
        click.echo(f"{name} = {value}")
    for warning in warnings:
        click.echo(f"tokenferry: {warning}", err=True)


def _warnings(configuration: Configuration) -> Iterator[str]:
    for section, url in (("broker", configuration.broker.url), ("store", configuration.store.url)):
        if trusts_anybody(url):
            yield f"[{section}] url: {UNVERIFIED}"
    if not configuration.platforms:
        yield "no platform is configured: add [platforms.NAME] with mode and secret_key"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each setting with its full name, without what is not set."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", str(value)
