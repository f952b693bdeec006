"""`tokenferry limits`: show the budgets, and change them while the fleet works."""

from __future__ import annotations

import getpass
import json
import shlex
import socket
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tokenferry.configuration import Configuration, InvalidConfiguration, load_to_look
from tokenferry.contract.operations import operations_of
from tokenferry.options import Duration, Number, OneLine, config_option
from tokenferry.shown import shown
from tokenferry_worker.commands.asking import ask_store
from tokenferry_worker.limits.budgets import Budgets
from tokenferry_worker.limits.pacing import Budget
from tokenferry_worker.on_redis.controls import Controls, State, Verb

LASTS = 30 * 86_400.0
"""Seconds that a change holds, unless --for says otherwise."""

why_option = click.option("--why", type=OneLine(), required=True, help="The reason. It is recorded with your name.")


for_option = click.option(
    "--for", "lasts", type=Duration(), default=LASTS, help="How long it holds, as in 90s, 30m, 2h, 7d.  [default: 30d]"
)


@click.group()
def limits() -> None:
    """Show and change the rate budgets of a running fleet.

    A budget is named PLATFORM:global, "PLATFORM:operation:POST /v1/customers", PLATFORM:account_creation or
    PLATFORM:account:ID; with by = "resource" or "both" also PLATFORM:endpoint:customers. A change replaces the
    configured rate at once, in every worker. Who made it, when and why is recorded.
    """


@limits.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print them as a JSON list.")
def show(config: Path | None, as_json: bool) -> None:
    """Show every budget: the configured rate, the rate of now, and what slows it."""
    configuration = load_to_look(config, "store")
    states = ask_store(configuration, lambda store: Controls(store).show(known_budgets(configuration)))
    if as_json:
        click.echo(json.dumps([asdict(state) for state in states]))
        return
    settings = {budget.name: setting for budget, setting in _settings(configuration)}
    table = Table(box=None, pad_edge=False)
    for column in ("budget", "configured/s", "now/s", ""):
        table.add_column(column, justify="left" if column in ("budget", "") else "right")
    for state in states:
        slowed = (
            f"slowed to {100 * state.factor:.0f} %: Stripe answered 429 (too many requests)" if state.factor < 1 else ""
        )
        note = f"paused: {state.paused} ({_order(state)})" if state.paused else slowed
        if state.set_to is not None and not state.paused:
            lowered = f"set to {state.set_to:g} ({_order(state)})"
            note = f"{note}; {lowered}" if note else lowered
        if state.set_to is not None and state.set_to > state.configured:
            capped = f"the store says {state.set_to:g}, and {settings[state.name]} caps it"
            note = f"{note}; {capped}" if note else capped
        now = "0" if state.paused else f"{state.now:g}"
        table.add_row(state.name, f"{state.configured:g}", now, escape(shown(note)))
    Console(color_system=None, soft_wrap=True, highlight=False).print(table)


LEAST: Final = 0.001
"""Calls per second: less is a pause."""


@limits.command(name="set")
@click.argument("budget")
@click.argument("per_second", type=Number(min=0, max=100_000))
@why_option
@for_option
@config_option
def set_(budget: str, per_second: float, why: str, lasts: float, config: Path | None) -> None:
    """Use PER_SECOND calls per second for BUDGET, fewer than the configuration allows. To allow no call, use pause."""
    if per_second < LEAST:
        raise click.BadParameter(
            f"the least is {LEAST:g}; to allow no call, run `tokenferry limits pause {budget} --why ...`",
            param_hint="PER_SECOND",
        )
    change(config, "set", budget, why, rate=per_second, lasts=lasts)
    click.echo(f"{budget}: {per_second:g} calls per second")


@limits.command()
@click.argument("budget")
@why_option
@for_option
@config_option
def pause(budget: str, why: str, lasts: float, config: Path | None) -> None:
    """Make no calls on BUDGET. Its requests wait in their queues. PLATFORM:global pauses the whole platform."""
    change(config, "pause", budget, why, lasts=lasts)
    click.echo(f"{budget}: paused; go on with: tokenferry limits resume {shlex.quote(budget)} --why ...")


@limits.command()
@click.argument("budget")
@why_option
@config_option
def resume(budget: str, why: str, config: Path | None) -> None:
    """End a pause."""
    change(config, "resume", budget, why)
    click.echo(f"{budget}: resumed")


@limits.command()
@click.argument("budget")
@why_option
@config_option
def reset(budget: str, why: str, config: Path | None) -> None:
    """Go back to the configured rate, and forget how far 429s have slowed the budget."""
    change(config, "reset", budget, why)
    click.echo(f"{budget}: as configured")


@limits.command()
@click.option(
    "--most",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="How many changes to show, the latest first.",
)
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print them as a JSON list.")
def history(most: int, config: Path | None, as_json: bool) -> None:
    """Show who changed which budget, when and why: operators, and the fleet itself after 429s."""
    changes = ask_store(load_to_look(config, "store"), lambda store: Controls(store).history(most))
    if as_json:
        click.echo(json.dumps([asdict(each) for each in changes]))
        return
    for each in changes:
        when = datetime.fromtimestamp(each.at, UTC).isoformat(timespec="seconds")
        lasts = f" for {spelled(each.lasts)}" if each.lasts is not None else ""
        click.echo(f"{when}  {shown(each.budget)} {shown(each.what)}{lasts}  by {shown(each.who)}: {shown(each.why)}")


def _order(state: State) -> str:
    """Return who has changed the budget, and until when."""
    until = datetime.fromtimestamp(state.until or 0, UTC).isoformat(timespec="seconds")
    return f"{f'by {state.by}, ' if state.by else ''}until {until}"


def spelled(seconds: float) -> str:
    """Return a duration as `--for` takes it.

    >>> spelled(2_592_000), spelled(7200), spelled(5400), spelled(90)
    ('30d', '2h', '90m', '90s')
    """
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:g}s"


def change(
    config: Path | None, verb: Verb, name: str, why: str, *, rate: float | None = None, lasts: float = 0.0
) -> None:
    """Make one change to one budget."""
    configuration = load_to_look(config, "store")
    budget = named(configuration, name)
    if rate is not None and rate > budget.per_second:
        platform = name.partition(":")[0]
        setting = Budgets(platform, configuration.platforms[platform]).setting(budget)
        raise InvalidConfiguration(
            f"{rate:g} is more than the {budget.per_second:g} calls per second that {setting} allows (less [platforms."
            f"{platform}.limits] reserved); raise the setting for the workers, and restart them"
        )
    who = f"{getpass.getuser()}@{socket.gethostname()}"
    ask_store(
        configuration, lambda store: Controls(store).command(verb, budget, who=who, why=why, rate=rate, lasts=lasts)
    )


def known_budgets(configuration: Configuration) -> list[Budget]:
    """Return every budget of every platform."""
    return [b for name, platform in configuration.platforms.items() for b in Budgets(name, platform).all()]


def _settings(configuration: Configuration) -> Iterator[tuple[Budget, str]]:
    """Yield every budget with the setting that it has its rate from."""
    for name, platform in configuration.platforms.items():
        budgets = Budgets(name, platform)
        for budget in budgets.all():
            yield budget, budgets.setting(budget)


def named(configuration: Configuration, name: str) -> Budget:
    """Return the budget of that name.

    Raises `InvalidConfiguration` with the most similar names.
    """
    budgets = {budget.name: budget for budget in known_budgets(configuration)}
    platform, _, what = name.partition(":")
    if platform in configuration.platforms and what.startswith("account:"):
        of_account = Budgets(platform, configuration.platforms[platform]).of(
            "POST /v1/tokens", what.removeprefix("account:")
        )
        budgets |= {budget.name: budget for budget in of_account}
    if name not in budgets and what.startswith("endpoint:") and platform in configuration.platforms:
        names = operations_of(what.removeprefix("endpoint:"))
        if counted := [f'"{each}"' for each in budgets if each.removeprefix(f"{platform}:operation:") in names]:
            raise InvalidConfiguration(
                f"calls are counted by operation here ([platforms.{platform}.limits] by); name {' and '.join(counted)}"
            )
    if name not in budgets:
        near = get_close_matches(name, budgets, n=3) or list(budgets)[:3]
        raise InvalidConfiguration(
            f"no budget is called that; did you mean {' or '.join(near)}? (`tokenferry limits show`)"
        )
    return budgets[name]
