"""`tokenferry worker`: start worker processes and keep them running."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from tokenferry.broker import connecting
from tokenferry.broker.embedded import EmbeddedServerError
from tokenferry.broker.error_text import explain, stripe
from tokenferry.configuration import Configuration, InvalidConfiguration, Worker, load
from tokenferry.contract.queues import DEAD_LETTERS, QUARANTINE
from tokenferry.options import config_option
from tokenferry_worker import logs, wiring
from tokenferry_worker.circuits.scopes import plainly, remedy
from tokenferry_worker.engine.app import run
from tokenferry_worker.engine.supervisor import Supervisor, ending_at_once
from tokenferry_worker.errors import Blocked, Unavailable
from tokenferry_worker.fleet.gauges import MetricsPage
from tokenferry_worker.health import probes
from tokenferry_worker.keys.missing import warn_of_missing_keys
from tokenferry_worker.provider.client import StripeClient
from tokenferry_worker.provider.exchanges import exchange_with
from tokenferry_worker.provider.way import way_to
from tokenferry_worker.wiring import Role

log = logging.getLogger("tokenferry.worker")


@click.command()
@click.option("--role", type=click.Choice(["tokenize", "attach", "onboard", "all"]), default="all", show_default=True)
@click.option("--processes", type=click.IntRange(1, 256), default=1, show_default=True, help="Worker processes.")
@config_option
@click.option(
    "--health",
    metavar="HOST:PORT",
    help="Answer /live, /ready and /metrics on this address, over HTTP.  [default: [worker] health; off]",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="debug: one line for each failed call. Lines of libraries are shown from warning on.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: one object per line (docs/logs.md).",
)
@click.option("--child", type=int, hidden=True, help="Be worker process number N of a supervisor.")
@click.pass_obj
def worker(
    popen: type[subprocess.Popen[Any]] | None,
    role: Role,
    processes: int,
    config: Path | None,
    health: str | None,
    log_level: logs.Level,
    log_format: logs.Format,
    child: int | None,
) -> None:
    """Open sealed requests, create tokens at Stripe, and spend them.

    \b
    tokenize  reads tokenize.* queues. Needs the private keys that open requests.
    attach    reads attach.* queues. Needs only the secret key of Stripe.
    onboard   reads onboard.* queues: whole connected accounts. Needs both.
    all       all of them.

    At Ctrl-C or SIGTERM it takes no more work, finishes running requests within [worker] grace_seconds (20), and gives
    the rest back to the queue. At a second one, or SIGQUIT, it gives everything back at once. A process that dies or
    hangs is replaced. `tokenferry health` shows the state.

    \b
    Example
      tokenferry worker --role tokenize --processes 2 --health 127.0.0.1:8081
    """
    logs.configure(log_level, log_format)
    configuration = load(config)
    if child is not None:
        sys.exit(run(configuration, role, name=f"tokenferry-{role}-{child}"))
    if health is not None:
        configuration = _with_health(configuration, health)
    wiring.check(configuration, role)
    warn_of_missing_keys(configuration, opens=role != "attach")
    arguments = ["--role", role, *(["--config", str(config)] if config else [])]
    arguments += ["--log-level", log_level, "--log-format", log_format]
    supervisor = Supervisor(
        arguments,
        processes,
        partial(_tend, configuration),
        grace=configuration.worker.grace_seconds,
        patience=2 * configuration.worker.watchdog_seconds,
        popen=popen or subprocess.Popen,
    )
    with ExitStack() as stack:
        stack.enter_context(ending_at_once())
        _answer_probes(stack, configuration, supervisor, MetricsPage(configuration, supervisor.metrics))
        # After the probes: these checks may take half a minute, and whatever watches the worker should see it start.
        asyncio.run(check_keys(configuration))
        connecting.check(configuration, [*wiring.queues_of(configuration, role), DEAD_LETTERS, QUARANTINE])
        names = ", ".join(configuration.platforms)
        log.info("%d process%s, role %s, platforms: %s", processes, "" if processes == 1 else "es", role, names)
        code = supervisor.run()
    sys.exit(code)


def _with_health(configuration: Configuration, address: str) -> Configuration:
    try:
        settings = Worker.model_validate({**configuration.worker.model_dump(), "health": address})
    except ValidationError:
        raise click.BadParameter("write HOST:PORT, for instance 127.0.0.1:8081", param_hint="--health") from None
    return configuration.model_copy(update={"worker": settings})


def _answer_probes(
    stack: ExitStack, configuration: Configuration, supervisor: Supervisor, metrics: probes.Metrics
) -> None:
    try:
        stack.enter_context(probes.on_socket(configuration.path(configuration.data), supervisor.health, metrics))
    except OSError as error:
        log.warning(
            "`tokenferry health` will not find this worker: no socket in the data folder (%s)", error.strerror or error
        )
    if (address := configuration.worker.health) is not None:
        try:
            port = stack.enter_context(probes.on_port(address, supervisor.health, metrics))
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no such port"
            raise InvalidConfiguration(f"[worker] health: cannot listen on {address} ({reason})") from None
        log.info("answering /live, /ready and /metrics on port %d", port)


def _tend(configuration: Configuration) -> None:
    try:
        connecting.keep_embedded_server(configuration, store=True)
    except EmbeddedServerError as error:
        log.error("%s", error)


async def check_keys(configuration: Configuration) -> None:
    """Find a wrong key now, not with the first request. The worker starts even where Stripe cannot be reached."""
    names = list(configuration.platforms)
    for name, accepted in zip(names, await asyncio.gather(*(_ask(configuration, name) for name in names)), strict=True):
        if isinstance(accepted, Blocked):
            fault, advice = (text(name, accepted.status, accepted.code) for text in (plainly, remedy))
            log.error("platform '%s': %s; requests will wait. %s", name, fault, advice)
        elif isinstance(accepted, Unavailable):
            log.warning(
                "platform '%s': Stripe is out of reach: %s. Requests will wait for it", name, _why(name, accepted)
            )
        elif not accepted:
            raise InvalidConfiguration(f"[platforms.{name}] secret_key: Stripe does not accept this key")


def _why(name: str, error: Unavailable) -> str:
    """Why Stripe could not be asked, and what to do."""
    if error.status is not None:
        return f"it answers {error.status} now; `tokenferry doctor` asks again"
    failure = explain(error, stripe(name))
    return f"it {failure.says}; {failure.do}"


async def _ask(configuration: Configuration, name: str) -> bool | Blocked | Unavailable:
    platform = configuration.platforms[name]
    keys = wiring.api_keys(configuration, name, platform)
    way = way_to(configuration, platform)
    if way.proxy is not None:
        log.info("platform '%s': Stripe is reached through the proxy %s", name, way.says)
    exchange = exchange_with(
        platform.base_url,
        http=configuration.worker.http,
        way=way,
        connections=1,
        read_timeout=10.0,
        connect_timeout=5.0,
    )
    client = StripeClient(platform, keys, exchange)
    try:
        return await client.key_is_accepted()
    except (Blocked, Unavailable) as error:
        return error
    finally:
        await client.aclose()
