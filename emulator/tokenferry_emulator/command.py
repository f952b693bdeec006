"""`tokenferry emulator`: the endpoint as a command."""

from __future__ import annotations

import json
import math
from typing import Any, Literal

import click

from tokenferry_emulator import server
from tokenferry_emulator.app import create_app
from tokenferry_emulator.faults import KINDS, Faults, UnreadableFaults
from tokenferry_emulator.settings import Rates, Settings
from tokenferry_emulator.world import EmulatorState


class Finite(click.FloatRange):
    """A range of finite numbers: NaN passes every comparison, and nobody can wait for infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


_RATE = Finite(min=0, min_open=True)
_MILLISECONDS = Finite(min=0)


def _faults(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    """`KIND=PROBABILITY` or a JSON object, any number of times."""
    wanted: dict[str, Any] = {}
    for value in values:
        try:
            if value.lstrip().startswith("{"):
                wanted.update(json.loads(value))
            else:
                kind, _, probability = value.partition("=")
                wanted[kind] = float(probability)
        except ValueError:
            raise click.BadParameter(f"{value!r} is neither KIND=PROBABILITY nor a JSON object") from None
    try:
        Faults(wanted, seed=0)
    except UnreadableFaults as error:
        raise click.BadParameter(str(error)) from None
    return wanted


@click.command(epilog=f"Kinds of faults: {', '.join(KINDS)}.")
@click.option("--port", type=click.IntRange(0, 65535), required=True, help="Port on 127.0.0.1; 0 takes a free one.")
@click.option("--latency-ms", type=_MILLISECONDS, default=0.0, help="Time every call takes.")
@click.option("--sampled-latency", is_flag=True, help="Add latencies as measured on the real endpoint in test mode.")
@click.option("--connect-latency-ms", type=_MILLISECONDS, default=0.0, help="Added to writes below /v1/accounts.")
@click.option("--rate", type=_RATE, help="Calls per second on each endpoint of an account (as --endpoint-rate).")
@click.option("--endpoint-rate", type=_RATE, help="Calls per second on each endpoint of an account.")
@click.option("--global-rate", type=_RATE, help="Calls per second of an account on all endpoints together.")
@click.option("--account-creation-rate", type=_RATE, help="Connected accounts a platform may make per second.")
@click.option(
    "--count-by",
    type=click.Choice(["operation", "resource"]),
    default="operation",
    show_default=True,
    help="What is one endpoint: an operation, as Stripe documents it, or all operations of a resource.",
)
@click.option("--burst", type=Finite(min=1), default=5.0, show_default=True, help="Calls above the rate.")
@click.option("--concurrency", type=click.IntRange(min=1), help="Calls of one account answered at the same time.")
@click.option("--lock-timeout-ms", type=_MILLISECONDS, default=5000.0, show_default=True, help="Wait for an object.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of faults and sampled latencies.")
@click.option(
    "--fault", "--faults", "faults", multiple=True, callback=_faults, help="KIND=PROBABILITY or JSON; repeatable."
)
@click.option("--key", "keys", multiple=True, help="Accept only this key; repeatable.")
@click.option(
    "--connected-account", multiple=True, help="A connected account, owned by the first key to name it; repeatable."
)
@click.option(
    "--raw-cards",
    type=click.Choice(["on", "off"]),
    default="on",
    show_default=True,
    help="Whether raw card numbers are accepted.",
)
@click.option(
    "--v1-accounts",
    type=click.Choice(["on", "off"]),
    default="on",
    show_default=True,
    help="Whether connected accounts can be created with the v1 API, as new platforms cannot.",
)
@click.option("--declines-consume/--declines-keep", default=True, help="Whether a decline spends the token.")
@click.option("--token-lifetime", type=_RATE, help="Seconds after which an unused token is unknown.")
@click.option(
    "--hang-seconds", type=Finite(min=0), default=120.0, show_default=True, help="How long a hanging call hangs."
)
def emulator(
    port: int,
    latency_ms: float,
    sampled_latency: bool,
    connect_latency_ms: float,
    rate: float | None,
    endpoint_rate: float | None,
    global_rate: float | None,
    account_creation_rate: float | None,
    count_by: Literal["operation", "resource"],
    burst: float,
    concurrency: int | None,
    lock_timeout_ms: float,
    seed: int,
    faults: dict[str, Any],
    keys: tuple[str, ...],
    connected_account: tuple[str, ...],
    raw_cards: str,
    v1_accounts: str,
    declines_consume: bool,
    token_lifetime: float | None,
    hang_seconds: float,
) -> None:
    """Serve a Stripe-compatible endpoint on 127.0.0.1 until stopped. Ask GET /_ledger what happened."""
    settings = Settings(
        rates=Rates(
            global_rate=global_rate,
            endpoint_rate=endpoint_rate if endpoint_rate is not None else rate,
            account_creation_rate=account_creation_rate,
            count_by=count_by,
            burst=burst,
            concurrency=concurrency,
        ),
        latency_ms=latency_ms,
        sampled_latency=sampled_latency,
        connect_latency_ms=connect_latency_ms,
        lock_timeout_ms=lock_timeout_ms,
        faults=faults,
        seed=seed,
        keys=frozenset(keys),
        connected_accounts=connected_account,
        raw_cards=raw_cards == "on",
        v1_accounts=v1_accounts == "on",
        decline_consumes=declines_consume,
        token_lifetime=token_lifetime,
        hang_seconds=hang_seconds,
    )
    try:
        listener = server.bind(port)
    except OSError as error:
        raise click.UsageError(f"cannot listen on 127.0.0.1:{port}: {error.strerror}") from None
    server.serve(create_app(EmulatorState(settings)), listener)
