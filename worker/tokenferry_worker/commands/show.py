"""`tokenferry show`: what happened to one request, token, object or row."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from tokenferry.configuration import Configuration, load_to_look
from tokenferry.contract.envelope import LEGACY
from tokenferry.contract.names import is_id
from tokenferry.contract.queues import DEAD_LETTERS, parked_queue
from tokenferry.import_notes import request_ids_of_key
from tokenferry.options import config_option
from tokenferry.sealing import UnusableKey
from tokenferry_worker.commands.asking import ask_store
from tokenferry_worker.commands.choosing import BrokerAccess, broker_errors, matching
from tokenferry_worker.dead_letters.record import DeadLetter, DeadLetterFilter
from tokenferry_worker.fleet.tracing import Waiting, as_json, find, lines, moment, state_of, why_waiting
from tokenferry_worker.fleet.view import StoreView
from tokenferry_worker.keys.policy import Policy
from tokenferry_worker.on_redis.lookup import Known, Lookup
from tokenferry_worker.on_redis.store import Store
from tokenferry_worker.tokens.grouped_ids import GroupedId, named
from tokenferry_worker.wiring import queues_of

EPILOG = """
\b
Exit codes
  0  something is known
  1  nothing is known, or a server does not answer
  2  wrong usage or configuration, or no embedded server runs

\b
Examples
  tokenferry show req-0123abcd
  tokenferry show cus_NffrFeUfNV2Hib
  tokenferry show --key 4711
"""


@dataclass(frozen=True)
class _Story:
    """Everything known of one id."""

    name: GroupedId
    known: Known
    waiting: Waiting | None
    dead_letter: DeadLetter | None
    why: Sequence[str]
    """What may hold it up."""

    @property
    def state(self) -> str:
        if self.dead_letter is not None:
            return "failed, and kept as a dead letter"
        state = state_of(self.known)
        if self.waiting is not None and state in ("not known", "under way"):
            return "parked" if self.waiting.queue.startswith("parked.") else "waiting"
        return state

    def __bool__(self) -> bool:
        return bool(self.known or self.waiting or self.dead_letter)


@click.command(epilog=EPILOG)
@click.argument("what", metavar="[ID|TOKEN|OBJECT]", required=False)
@click.option("--key", metavar="KEY", help="The key of a row of an import with this data folder.")
@click.option("--group", metavar="NAME", help="The group of the id. Default: every group of the policy.")
@click.option("--json", "as_json_", is_flag=True, help="Print everything as a JSON list.")
@config_option
def show(what: str | None, key: str | None, group: str | None, as_json_: bool, config: Path | None) -> None:
    """Say what happened to one request: its state, its calls, what it waits for, and what it became.

    It takes the id of a request or attach order, a token, or the object that a token became. It opens nothing, so it
    cannot show what was sealed. Calls that did not succeed at once are remembered, the latest ten of each request, for
    [store] journal_days.
    """
    if (what is None) == (key is None):
        raise click.UsageError("name one: an id, a token or an object, or --key KEY")
    configuration = load_to_look(config, "broker", "store")
    if what is not None:
        ids, where = list(_ids_of(configuration, what)), {}
    else:
        assert key is not None
        where = dict(request_ids_of_key(configuration.path(configuration.data), key))
        ids = list(where)
        if not ids:
            raise click.ClickException(
                "no import with this data folder has a row of this key with an outcome or under way "
                "(`tokenferry status` lists its imports)"
            )
    groups = [group] if group else _groups(configuration)
    # A token or an object leads to the names of its request and order in the store, which say the group.
    leads = what is not None and ids != [what]
    names = [[named(id_)] if leads else [GroupedId(id_, each) for each in groups] for id_ in ids]
    stories = [story for each in names for story in _stories(configuration, each)]
    if as_json_:
        click.echo(json.dumps([_as_json(story) for story in stories if story]))
    else:
        for story in filter(None, stories):
            _print(story, where.get(story.name.id))
    if not any(stories):
        raise click.ClickException(
            "nothing is known of it: no worker has got it yet, or its outcome is older than [store] journal_days "
            f"({configuration.store.journal_days:g})"
        )


def _ids_of(configuration: Configuration, what: str) -> Sequence[str]:
    if not is_id(what) and not what.replace("_", "").isalnum():
        raise click.UsageError("this is no id, token or object (of a row's key, say --key KEY)")
    return ask_store(configuration, lambda store: Lookup(store).ids_of(what))


def _groups(configuration: Configuration) -> Sequence[str]:
    """Return the groups whose ids may be meant: those of the policy, if it can be read here, and our own."""
    groups = [LEGACY, configuration.producer.group or LEGACY]
    with suppress(UnusableKey):
        groups += [grant.group for grant in Policy.read(configuration.path(configuration.keys.policy)).signers.values()]
    return list(dict.fromkeys(groups))


def _stories(configuration: Configuration, names: Sequence[GroupedId]) -> Iterator[_Story]:
    """Tell of one id in each group where the store knows it. Where no group has it, it may still wait in a queue."""

    async def ask(store: Store) -> tuple[Sequence[Known], StoreView]:
        lookup = Lookup(store)
        return await asyncio.gather(
            asyncio.gather(*(lookup.of(name.key) for name in names)), StoreView.look(configuration, store)
        )

    found, view = ask_store(configuration, ask)
    known = [each for each in zip(names, found, strict=True) if each[1]]
    for name, each in known or [(names[0], found[0])]:
        yield _story(configuration, name, each, view)


def _story(configuration: Configuration, name: GroupedId, known: Known, view: StoreView) -> _Story:
    queues = [*queues_of(configuration, "all"), *map(parked_queue, view.circuits.parked)]
    done = state_of(known) in ("attached", "tokenized", "onboarded")
    with broker_errors():
        waiting = None if done else find(configuration, name.id, queues)
    dead_letter = None if done else _dead_letter(configuration, name)
    is_settled = done or dead_letter is not None or state_of(known) == "failed"
    platform = waiting.queue.split(".")[1 if waiting.queue.startswith("parked.") else -1] if waiting else None
    return _Story(name, known, waiting, dead_letter, [] if is_settled else why_waiting(view, platform))


def _dead_letter(configuration: Configuration, name: GroupedId) -> DeadLetter | None:
    """Return what is kept of it. A message of version 1 does not say its group."""
    with BrokerAccess.current().browse(configuration, DEAD_LETTERS) as browser:
        kept = (found for _, found in matching(browser, DeadLetterFilter(ids=[name.id])))
        return next((found for found in kept if found.group in (None, name.group)), None)


def _print(story: _Story, results: str | None) -> None:
    known = story.known
    group = "" if story.name.group == LEGACY else f" (group {story.name.group})"
    click.echo(f"{story.name.id}{group}: {story.state}")
    if results:
        click.echo(f"  row of an import into {results}")
    for line in lines(known):
        click.echo(f"  {line}")
    if story.waiting is not None:
        click.echo(f"  waits in {story.waiting.queue}, at place {story.waiting.place}")
    if story.dead_letter is not None:
        since = moment(story.dead_letter.at)
        click.echo(f"  dead letter since {since} ({story.dead_letter.reason}): tokenferry dead-letters show {known.id}")
    if story and story.why:
        click.echo("  what may hold it up:")
        for why in story.why:
            click.echo(f"    {why}")


def _as_json(story: _Story) -> dict[str, object]:
    dead = story.dead_letter
    return {
        **as_json(story.known),
        "state": story.state,
        "waiting": asdict(story.waiting) if story.waiting else None,
        "dead_letter": {"code": dead.reason, "at": dead.at} if dead else None,
        "may_hold_it_up": list(story.why),
    }
