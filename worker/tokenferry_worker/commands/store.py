"""`tokenferry store`: when the store began, and what an operator says about that."""

from __future__ import annotations

import getpass
import socket
from datetime import UTC, datetime
from pathlib import Path

import click

from tokenferry.configuration import load_to_look
from tokenferry.options import OneLine, config_option
from tokenferry_worker.commands.asking import ask_store
from tokenferry_worker.on_redis.birth import StoreBirth

why_option = click.option("--why", type=OneLine(), required=True, help="The reason. It is recorded with your name.")


@click.group()
def store() -> None:
    """Say whether the store is new on purpose, or came from a backup.

    The store remembers which requests were carried out. A request that moves money and was sent before the store
    began is refused as store_is_younger, because nobody can say whether it was carried out before.
    """


@store.command()
@why_option
@config_option
def accept(why: str, config: Path | None) -> None:
    """This store is new on purpose: refuse nothing because it is older. Then redrive the dead letters.

    First make sure that the refused requests were not carried out, for instance in Stripe's dashboard.
    """
    configuration = load_to_look(config, "store")
    born = ask_store(configuration, lambda each: StoreBirth(each).accept(who=_who(), why=why))
    click.echo(f"accepted the store that began {_moment(born)}")
    click.echo("next: tokenferry dead-letters redrive --code store_is_younger --dry-run")


@store.command()
@why_option
@config_option
def restored(why: str, config: Path | None) -> None:
    """This store came from a backup: refuse what moves money and was sent before now.

    Workers that ran during the restore notice it by themselves. Otherwise type this before you start them.
    """
    configuration = load_to_look(config, "store")
    born = ask_store(configuration, lambda each: StoreBirth(each).restored(who=_who(), why=why))
    click.echo(f"the store counts as begun {_moment(born)}")


def _who() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"


def _moment(milliseconds: int) -> str:
    if milliseconds == 0:
        return "at an unknown time, under the version before"
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
