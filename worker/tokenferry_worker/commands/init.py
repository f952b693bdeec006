"""`tokenferry init`: writes a configuration, keys and sample files into a folder. Overwrites nothing."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import click
from pydantic import TypeAdapter, ValidationError

from tokenferry.addresses import EMBEDDED
from tokenferry.configuration import Broker
from tokenferry.configuration.sections import InvalidConfiguration
from tokenferry.contract.names import Name
from tokenferry.contract.problems import reason_of
from tokenferry_worker.commands.keys import make_keys

Stripe = Literal["emulator", "test", "live"]
STRIPE: Final = ("emulator", "test", "live")
PORT: Final = 12111
EMULATOR_KEYS: Final = {"stripe-secret-key": "sk_test_emulator", "stripe-publishable-key": "pk_test_emulator"}
"""They open the emulator and nothing else."""

CARDS: Final = """\
key,kind,number,exp_month,exp_year,attach.to,attach.email
card-1,card,4242424242424242,12,2040,,
card-2,card,5555555555554444,07,2039,customer_create,ada@example.com
card-3,card,4000000000000002,12,2040,customer_create,declined@example.com
card-4,card,4242424242424241,12,2040,,
"""
"""Published test numbers: a token, a customer, a card that is declined when it is used, a mistyped number."""
CARD: Final = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2040}

EPILOG = """
\b
Files
  tokenferry.toml   the configuration; it names keys and holds none
  keys/             of producers and workers (see `tokenferry keys generate --help`)
  cards.csv         four cards to import; card.json: one to send

\b
Examples
  tokenferry init
  tokenferry init --yes --stripe emulator
  tokenferry init --yes --stripe live --platform shop --broker rediss://redis.example:6379/0
"""


@dataclass
class Layout:
    """What is written where."""

    folder: Path
    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def put(self, name: str, content: str, mode: int = 0o644) -> None:
        """Write a file, unless there is one."""
        path = self.folder / name
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except FileExistsError:
            self.kept.append(name)
            return
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
        self.written.append(name)


@click.command("init", epilog=EPILOG)
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), default=".", help="Default: this folder.")
@click.option("--stripe", type=click.Choice(STRIPE), help="The emulator on this machine, or Stripe in this mode.")
@click.option("--platform", metavar="NAME", help="A name for the Stripe account. Default: main.")
@click.option("--broker", metavar="URL", help="Default: embedded, a private server that Tokenferry starts.")
@click.option("--store", metavar="URL", help="Redis or Valkey of the workers. Default: the broker, if it is one.")
@click.option("--yes", is_flag=True, help="Ask nothing; take the defaults.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def init(folder: Path, yes: bool, as_json: bool, **given: str | None) -> None:
    """Write a configuration, keys and sample files. What is there already stays as it is."""
    answers = _answers(given, ask=not yes and not as_json and sys.stdin.isatty())
    text = _configuration(**answers)
    mode = 0o600 if any(urlsplit(str(answers[name])).password for name in ("broker", "store")) else 0o644
    layout = Layout(folder)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        layout.put("tokenferry.toml", text, mode)
        _keys(layout, emulator=answers["stripe"] == "emulator")
        layout.put("cards.csv", CARDS)
        layout.put("card.json", json.dumps(CARD) + "\n")
    except OSError as error:
        raise click.UsageError(f"{folder}: cannot be written to ({error.strerror})") from None
    steps = _next_steps(folder, str(answers["stripe"]))
    if as_json:
        click.echo(json.dumps({"written": layout.written, "kept": layout.kept, "next": steps}))
        return
    _report(layout, steps)


def _answers(given: dict[str, str | None], *, ask: bool) -> dict[str, Any]:
    """The options, asked for where they are not given. Raises `InvalidConfiguration`."""
    stripe = given["stripe"] or (
        click.prompt("Stripe: the emulator on this machine, or mode", type=click.Choice(STRIPE), default="emulator")
        if ask
        else "emulator"
    )
    platform = given["platform"] or (click.prompt("A name for the Stripe account", default="main") if ask else "main")
    broker = given["broker"] or (click.prompt("Broker", default=EMBEDDED) if ask else EMBEDDED)
    is_amqp = broker.startswith("amqp")
    store = given["store"] or (EMBEDDED if is_amqp else broker)
    _check(TypeAdapter(Name), platform, "--platform: a name looks like main-eu: lower case letters, digits, - and _")
    for name, url in (("broker", broker), ("store", store)):
        try:
            Broker.model_validate({"url": url})
        except ValidationError as error:
            first, *_ = error.errors(include_input=False, include_url=False)
            raise InvalidConfiguration(f"--{name}: {reason_of(first)}") from None
    return {"stripe": stripe, "platform": platform, "broker": broker, "store": store}


def _check(type_: TypeAdapter[str], text: str, message: str) -> None:
    try:
        type_.validate_python(text)
    except ValidationError:
        raise click.UsageError(message) from None


def _configuration(*, stripe: Stripe, platform: str, broker: str, store: str) -> str:
    """The text of tokenferry.toml. It has only what is not the default: new fleets count by operation."""
    lines = ["# All settings: docs/settings.md. This file names keys and holds none."]
    if broker != EMBEDDED:
        lines += [
            "[broker]",
            f"url = {json.dumps(broker)}",
            "",
            "[store] # workers only",
            f"url = {json.dumps(store)}",
            "",
        ]
    lines += [f"[platforms.{platform}]", f'mode = "{"live" if stripe == "live" else "test"}"']
    if stripe == "emulator":
        lines += [f'base_url = "http://127.0.0.1:{PORT}" # without this line it is the real Stripe']
        lines += ['secret_key = { file = "keys/stripe-secret-key" }']
        lines += ['publishable_key = { file = "keys/stripe-publishable-key" }']
    else:
        lines += ['secret_key = { env = "STRIPE_SECRET_KEY" } # workers only']
        lines += ['publishable_key = { env = "STRIPE_PUBLISHABLE_KEY" } # workers only']
    lines += ["", f"[platforms.{platform}.limits]"]
    lines += ['by = "operation" # as Stripe counts; in a fleet that still has workers of version 0.1: "both"']
    return "\n".join(lines) + "\n"


def _keys(layout: Layout, *, emulator: bool) -> None:
    """Write keys. Where a recipient is there, add only what is missing: a new one would be a rotation."""
    out = layout.folder / "keys"
    was_there = (out / "recipient.pem").exists()
    (layout.written if make_keys(out, if_missing=True) and not was_there else layout.kept).append("keys/")
    if emulator:
        for name, key in EMULATOR_KEYS.items():
            layout.put(f"keys/{name}", key + "\n", 0o600)


def _next_steps(folder: Path, stripe: str) -> list[str]:
    """The commands that lead to a first token."""
    there = [] if folder == Path(".") else [f"cd {shlex.quote(str(folder))}"]
    keys = [] if stripe == "emulator" else ["export STRIPE_SECRET_KEY=... STRIPE_PUBLISHABLE_KEY=..."]
    emulator = [f"tokenferry emulator --port {PORT} &"] if stripe == "emulator" else []
    rest = ["tokenferry doctor", "tokenferry worker &", "tokenferry import cards.csv --results results.jsonl"]
    if stripe == "live":
        rest = rest[:2]  # test cards would only be refused
    return [*there, *keys, *emulator, *rest]


def _report(layout: Layout, steps: list[str]) -> None:
    if layout.written:
        click.echo(f"wrote {', '.join(layout.written)}")
    if layout.kept:
        click.echo(f"kept  {', '.join(layout.kept)}: there already, not changed")
    click.echo("\nnext:")
    for step in steps:
        click.echo(f"  {step}")
