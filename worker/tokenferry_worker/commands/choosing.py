"""Which of the messages that were set aside a command means, and how it reaches them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import click

from tokenferry.broker import queue_browser
from tokenferry.broker.error_text import BROKER, CONNECTION_LOST, explain
from tokenferry.broker.errors import QueueUnanswered
from tokenferry.broker.queue_browser import QueueBrowser, QueuedMessage
from tokenferry.configuration import Configuration
from tokenferry.contract.queues import DEAD_LETTERS, QUARANTINE
from tokenferry.options import Duration, config_option
from tokenferry_worker.dead_letters.record import DeadLetter, DeadLetterFilter

F = TypeVar("F", bound=Callable[..., Any])

NAMES: Final = {DEAD_LETTERS: "dead letters", QUARANTINE: "quarantined messages"}


def filters(command: F) -> F:
    """The options that choose among what is there."""
    options = [
        click.option("--id", "ids", multiple=True, metavar="ID", help="Only this one; may be given again."),
        click.option("--platform", metavar="NAME", help="Only of this platform."),
        click.option("--code", metavar="CODE", help="Only with this code (of quarantined messages: this reason)."),
        click.option("--kind", metavar="KIND", help="Only of this kind of token: card, bank_account, ..."),
        click.option("--older-than", type=Duration(), help="Only what was set aside before that, as in 90s, 2h, 7d."),
        click.option("--limit", type=click.IntRange(1), metavar="N", help="At most N, the oldest first."),
        where,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def where(command: F) -> F:
    """The options that say which queue is meant."""
    quarantine = click.option(
        "--quarantine", "queue", flag_value=QUARANTINE, default=DEAD_LETTERS, help="Of the quarantine instead."
    )
    return quarantine(config_option(command))


@contextmanager
def looking(configuration: Configuration, queue: str) -> Iterator[QueueBrowser]:
    """The shelf of *queue*; a broker that is away is told in our words."""
    with broker_trouble(), queue_browser.open_browser(configuration, queue) as shelf:
        yield shelf


@contextmanager
def broker_trouble() -> Iterator[None]:
    """Say in our words what is wrong with the broker.

    Raises `click.ClickException` where the client library raises an error.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # whoever read our output has gone: click's business
    except QueueUnanswered as error:
        raise click.ClickException(f"{error}; nothing is lost") from None
    except CONNECTION_LOST as error:
        raise click.ClickException(f"{explain(error, BROKER).of(BROKER)} (nothing is lost)") from None


def fitting(shelf: QueueBrowser, meant: DeadLetterFilter) -> Iterator[tuple[QueuedMessage, DeadLetter]]:
    """What is on the shelf and meant, oldest first."""
    now = time.time()
    for item in shelf:
        letter = DeadLetter.read(item.body)
        if meant.fits(letter, now):
            yield item, letter


def wanted(chosen: dict[str, Any]) -> DeadLetterFilter:
    """What the options of `filters` mean."""
    ids: Collection[str] = frozenset(chosen.pop("ids"))
    return DeadLetterFilter(ids=ids or (), **chosen)


def guard(meant: DeadLetterFilter, everything: bool) -> None:
    """Refuse to move anything that was not chosen."""
    if bool(meant) == everything:
        raise click.UsageError("say which: either --id ID, --code, --platform, --kind or --older-than, or --all")


def missing(queue: str, ids: Collection[str], met: Collection[str | None]) -> str | None:
    """What to say when some of the *ids* that were asked for are not among those *met*."""
    lacking = len(set(ids) - set(met))
    if not lacking:
        return None
    return f"{lacking} of the ids given: none of the {NAMES[queue]} has it and fits (`tokenferry dead-letters list`)"


def counted(queue: str, codes: Counter[str]) -> str:
    """How many there are, and of what code.

    >>> counted(DEAD_LETTERS, Counter(unopenable=1))
    '1 dead letter (1 unopenable)'
    """
    names = NAMES[queue]
    if codes.total() == 1:
        names = names.removesuffix("s")
    words = ", ".join(f"{count} {code}" for code, count in codes.most_common())
    return f"{codes.total() or 'no'} {names}" + (f" ({words})" if words else "")
