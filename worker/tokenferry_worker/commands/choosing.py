"""Which dead letters or quarantined messages a command means, and how it reaches them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import click

from tokenferry.broker.error_text import BROKER, CONNECTION_LOST, explain
from tokenferry.broker.errors import QueueUnanswered
from tokenferry.broker.publishing import CanPublish, Publisher
from tokenferry.broker.queue_browser import QueueBrowser, QueuedMessage, open_browser
from tokenferry.configuration import Configuration
from tokenferry.contract.queues import DEAD_LETTERS, QUARANTINE
from tokenferry.options import Duration, config_option
from tokenferry_worker.dead_letters.record import DeadLetter, DeadLetterFilter

F = TypeVar("F", bound=Callable[..., Any])

NAMES: Final = {DEAD_LETTERS: "dead letters", QUARANTINE: "quarantined messages"}


def filters(command: F) -> F:
    """Add the options that choose among the messages."""
    options = [
        click.option("--id", "ids", multiple=True, metavar="ID", help="Only this one. May be given more than once."),
        click.option("--platform", metavar="NAME", help="Only of this platform."),
        click.option("--code", metavar="CODE", help="Only with this code (of quarantined messages: this reason)."),
        click.option("--kind", metavar="KIND", help="Only of this kind of token: card, bank_account, ..."),
        click.option("--older-than", type=Duration(), help="Only those older than that, as in 90s, 2h, 7d."),
        click.option("--limit", type=click.IntRange(1), metavar="N", help="At most N, the oldest first."),
        where,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def where(command: F) -> F:
    """Add the options that name the queue."""
    quarantine = click.option(
        "--quarantine",
        "queue",
        flag_value=QUARANTINE,
        default=DEAD_LETTERS,
        help="Use the quarantine instead.",
    )
    return quarantine(config_option(command))


@dataclass(frozen=True)
class BrokerAccess:
    """How the commands reach the queues. The object of a click context may be another one."""

    open_browser: Callable[[Configuration, str], AbstractContextManager[QueueBrowser]] = open_browser
    publisher: Callable[[Configuration], AbstractContextManager[CanPublish]] = Publisher.to

    @classmethod
    def current(cls) -> BrokerAccess:
        """Return the one of the running command."""
        return click.get_current_context().find_object(cls) or cls()

    @contextmanager
    def browse(self, configuration: Configuration, queue: str) -> Iterator[QueueBrowser]:
        """Open *queue*. Raises `click.ClickException` with a plain text where the broker does not serve."""
        with broker_errors(), self.open_browser(configuration, queue) as browser:
            yield browser


@contextmanager
def broker_errors() -> Iterator[None]:
    """Raise `click.ClickException` with a plain text where the client library raises an error."""
    try:
        yield
    except BrokenPipeError:
        raise  # the reader of our output has gone; click handles that
    except QueueUnanswered as error:
        raise click.ClickException(f"{error}; nothing is lost") from None
    except CONNECTION_LOST as error:
        raise click.ClickException(f"{explain(error, BROKER).of(BROKER)} (nothing is lost)") from None


def matching(browser: QueueBrowser, chosen: DeadLetterFilter) -> Iterator[tuple[QueuedMessage, DeadLetter]]:
    """Return the messages of the queue that *chosen* means, oldest first."""
    now = time.time()
    for message in browser:
        dead_letter = DeadLetter.read(message.body)
        if chosen.matches(dead_letter, now):
            yield message, dead_letter


def filter_of(options: dict[str, Any]) -> DeadLetterFilter:
    """Return the filter that the options of `filters` make."""
    ids: Collection[str] = frozenset(options.pop("ids"))
    return DeadLetterFilter(ids=ids or (), **options)


def require_choice(chosen: DeadLetterFilter, everything: bool) -> None:
    """Raise `click.UsageError` unless there is either a filter or --all."""
    if bool(chosen) == everything:
        raise click.UsageError("say which: either --id ID, --code, --platform, --kind or --older-than, or --all")


def missing_ids(queue: str, ids: Collection[str], found: Collection[str | None]) -> str | None:
    """Return what to print when some of the *ids* of the options were not *found*."""
    count = len(set(ids) - set(found))
    if not count:
        return None
    return f"{count} of the ids given: none of the {NAMES[queue]} has it and fits (`tokenferry dead-letters list`)"


def summary_of(queue: str, codes: Counter[str]) -> str:
    """Return how many messages there are, and how many with each code.

    >>> summary_of(DEAD_LETTERS, Counter(unopenable=1))
    '1 dead letter (1 unopenable)'
    """
    names = NAMES[queue]
    if codes.total() == 1:
        names = names.removesuffix("s")
    by_code = ", ".join(f"{count} {code}" for code, count in codes.most_common())
    return f"{codes.total() or 'no'} {names}" + (f" ({by_code})" if by_code else "")
