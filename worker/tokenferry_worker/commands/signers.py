"""`tokenferry signers`: whose signature counts, and who of them may ask for what."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from pydantic import ValidationError

from tokenferry.configuration import load_to_look
from tokenferry.contract.envelope import Suite
from tokenferry.contract.names import LANES
from tokenferry.contract.problems import reason_of
from tokenferry.contract.requests import REQUESTS
from tokenferry.contract.targets import TARGETS
from tokenferry.options import Number, OneLine, config_option
from tokenferry_worker.keys.identities import load_signer
from tokenferry_worker.keys.policy import Grant, Right, Role, TargetGrant
from tokenferry_worker.keys.policy_text import PolicyText, newcomer, signers_in, summary

F = TypeVar("F", bound=Callable[..., Any])

OPTIONS = (
    click.option("--role", "roles", multiple=True, type=click.Choice(get_args(Role)), help="What it may send."),
    click.option("--platform", "platforms", multiple=True, metavar="NAME", help="For which platforms. *: all."),
    click.option(
        "--connected-account", "connected_accounts", multiple=True, metavar="ID", help="For which accounts. *: all."
    ),
    click.option("--kind", "kinds", multiple=True, type=click.Choice(list(REQUESTS)), help="Which kinds of token."),
    click.option("--lane", "lanes", multiple=True, type=click.Choice(LANES), help="In which lanes."),
    click.option(
        "--reply-route", "reply_routes", multiple=True, metavar="NAME", help="Where its results may go: shop, shop-*, *"
    ),
    click.option("--suite", "suites", multiple=True, type=click.Choice(get_args(Suite)), help="Which encryption."),
    click.option("--right", "rights", multiple=True, type=click.Choice(get_args(Right)), help="Rights of their own."),
    click.option(
        "--target", "targets", multiple=True, type=click.Choice(["*", *TARGETS]), help="On what a token may be spent."
    ),
    click.option(
        "--max-amount",
        "max_amounts",
        multiple=True,
        metavar="CUR=N",
        help="Most of one call to --target, in the currency's smallest unit: usd=50000.",
    ),
    click.option(
        "--destination", "destinations", multiple=True, metavar="ID", help="Whom --target may write to or pay. *: all."
    ),
    click.option("--longest-life-hours", type=Number(min=0, min_open=True), help="From issued to expired, at most."),
)


def grant_options(command: F) -> F:
    """Add the options that say what is granted."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.group()
def signers() -> None:
    """Say who may ask for what.

    A signature says who sent a message. The policy says what that signer may ask for: one file, [keys] policy, on the
    workers' machines. Workers read it again within a second. What it does not grant becomes a dead letter with the
    code not_granted, whose param names the missing line. Grant it, then redrive.

    \b
    Roles
      seal     send requests, with a plan for their token
      onboard  send whole connected accounts
      order    order that a token is spent: tokenferry attach
      worker   order what opened requests ask for: the key of the workers

    \b
    Examples
      tokenferry signers list
      tokenferry signers grant producer --role order
      tokenferry signers add second/signers/producer-k0123456789abcdef.pem --name shop --role seal
      tokenferry signers grant shop --target charge --max-amount usd=50000
      tokenferry signers revoke shop
    """


@signers.command(name="list")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def list_(config: Path | None, as_json: bool) -> None:
    """Show who may what, and which keys and entries do not fit together."""
    files = PolicyFiles.of(config)
    policy, keys = files.text().policy, files.keys()
    if as_json:
        entries = [
            {"signer": signer_id, "has_key": signer_id in keys, **grant.model_dump(mode="json", exclude_none=True)}
            for signer_id, grant in policy.signers.items()
        ]
        without = [name for name in keys if policy.grant_of(name) is None]
        click.echo(json.dumps({"signers": entries, "keys_without_entry": without}))
        return
    for signer_id, grant in policy.signers.items():
        click.echo(f"{grant.name} ({signer_id}): {summary(grant)}")
        if signer_id not in keys:
            click.echo(f"  no key in {files.folder}: its signature does not count")
    for signer_id, name in keys.items():
        if policy.grant_of(signer_id) is None:
            click.echo(f"{name}.pem ({signer_id}): nothing; it has a key and no entry in {files.policy}")


@signers.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", required=True, type=OneLine(), help="A name for people.")
@click.option("--group", help="Who shares ids with it (docs/formats.md). Default: legacy.")
@grant_options
@config_option
def add(file: Path, name: str, config: Path | None, **given: Any) -> None:
    """Let a new signer in: copy its public key FILE to [keys] signers, and write its entry.

    Needs --role. Of what no option limits, it may everything but the rights of their own (--right).
    """
    files = PolicyFiles.of(config)
    signer_id, _ = load_signer(file)
    text = files.text()
    if not given["roles"]:
        raise click.UsageError("say what it may send: --role seal, for instance")
    if text.policy.grant_of(signer_id) is not None:
        raise click.UsageError(f"{signer_id} has an entry; change it with `tokenferry signers grant`")
    if name in {grant.name for grant in text.policy.signers.values()}:
        raise click.UsageError(f"another signer is called {name}; take another --name")
    limits = {field: value for field, value in _fields(given).items() if value}
    text.put(signer_id, _checked({**newcomer(name, tuple(given["roles"])).model_dump(), **limits}))
    text.save()
    if signer_id not in signers_in(files.folder):
        copy = files.folder / f"{file.stem.removesuffix(f'-{signer_id}')}-{signer_id}.pem"
        shutil.copyfile(file, copy)
        copy.chmod(0o644)
    _say(text, signer_id)


@signers.command()
@click.argument("signer")
@grant_options
@config_option
def grant(signer: str, config: Path | None, **given: Any) -> None:
    """Let SIGNER (a name or a key id) do more.

    It adds to what is granted. To narrow an entry, change it in the file.
    """
    files = PolicyFiles.of(config)
    text = files.text()
    signer_id, known = _found(text, signer)
    more = {field: value for field, value in _fields(given).items() if value}
    if not more:
        raise click.UsageError("say what to grant: --role order, for instance")
    changed = known.model_dump()
    for field, value in more.items():
        if field == "longest_life_hours":
            changed[field] = value
        elif changed[field] is not None or field == "reply_routes":  # None: all of them are granted
            changed[field] = tuple(_once((*(changed[field] or ()), *value)))
    if "reply_routes" in more and known.reply_routes is None:
        changed["reply_routes"] = tuple(_once((*known.routes, *more["reply_routes"])))
    text.put(signer_id, _checked(changed))
    text.save()
    _say(text, signer_id)


@signers.command()
@click.argument("signer")
@click.option("--role", "roles", multiple=True, type=click.Choice(get_args(Role)), help="Only these roles.")
@config_option
def revoke(signer: str, roles: tuple[Role, ...], config: Path | None) -> None:
    """Take the roles of SIGNER (a name or a key id) away, within a second.

    Its entry stays, without a role. Its messages become dead letters. Remove its file from [keys] signers, too, and
    they go to quarantine: its signature does not count any more.
    """
    text = PolicyFiles.of(config).text()
    signer_id, known = _found(text, signer)
    left = tuple(role for role in known.roles if roles and role not in roles)
    text.put(signer_id, known.model_copy(update={"roles": left}))
    text.save()
    _say(text, signer_id)


@dataclass(frozen=True)
class PolicyFiles:
    """Where the policy and the keys are."""

    policy: Path
    folder: Path

    @classmethod
    def of(cls, config: Path | None) -> PolicyFiles:
        """Return those of a configuration, or of whoever runs the command from a program."""
        given = click.get_current_context().find_object(cls)
        if given is not None:
            return given
        configuration = load_to_look(config)
        return cls(configuration.path(configuration.keys.policy), configuration.path(configuration.keys.signers))

    def text(self) -> PolicyText:
        """Read the policy. A new one with a single entry would lock all others out, so it must be there."""
        return PolicyText.read(self.policy)

    def keys(self) -> Mapping[str, str]:
        """Return the key ids of the folder, with the names of their files."""
        return signers_in(self.folder)


def _found(text: PolicyText, signer: str) -> tuple[str, Grant]:
    entries = text.policy.signers
    named = [signer_id for signer_id, grant in entries.items() if signer in (signer_id, grant.name)]
    if len(named) != 1:
        names = ", ".join(grant.name for grant in entries.values())
        raise click.UsageError(f"{'no' if not named else 'more than one'} signer is called {signer}; there are {names}")
    return named[0], entries[named[0]]


def _fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a grant that the options name."""
    fields = dict(given)
    amounts, destinations = dict(map(_amount, fields.pop("max_amounts"))), fields.pop("destinations")
    if (amounts or destinations) and not fields["targets"]:
        raise click.UsageError("--max-amount and --destination limit a target; name it with --target")
    target: dict[str, Any] = {"max_amount": amounts or None}
    if destinations:
        target["destinations"] = destinations
    fields["targets"] = tuple({"to": to, **target} for to in fields["targets"])
    return fields


def _amount(text: str) -> tuple[str, int]:
    currency, _, number = text.partition("=")
    with suppress(ValueError):
        return currency.lower(), int(number)
    raise click.UsageError(f"--max-amount {text}: write it as usd=50000")


def _checked(fields: Mapping[str, Any]) -> Grant:
    try:
        return Grant.model_validate(fields)
    except ValidationError as error:
        first, *_ = error.errors(include_input=False, include_url=False)
    raise click.UsageError(f"{'.'.join(map(str, first['loc']))}: {reason_of(first)}")


def _once(values: tuple[Any, ...]) -> list[Any]:
    grants = [TargetGrant.model_validate(each) if isinstance(each, dict) else each for each in values]
    return [each for place, each in enumerate(grants) if each not in grants[:place]]


def _say(text: PolicyText, signer_id: str) -> None:
    grant = text.policy.signers[signer_id]
    click.echo(f"{grant.name} ({signer_id}): {summary(grant)}")
