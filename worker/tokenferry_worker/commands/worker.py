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
from tokenferry.configuration import Configuration, InvalidConfiguration, Worker, load
from tokenferry.contract.queues import DEAD_LETTERS, QUARANTINE
from tokenferry.options import config_option
from tokenferry.shown import show_log_lines_safely
from tokenferry_worker import wiring
from tokenferry_worker.circuits.scopes import plainly, remedy
from tokenferry_worker.engine.app import run
from tokenferry_worker.engine.supervisor import Supervisor, ending_at_once
from tokenferry_worker.errors import Blocked
from tokenferry_worker.health import probes
from tokenferry_worker.keys.missing import warn_of_missing_keys
from tokenferry_worker.provider.client import StripeClient
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
    help="Answer the probes /live and /ready on this address, over HTTP.  [default: [worker] health; off]",
)
@click.option("--child", type=int, hidden=True, help="Be worker process number N of a supervisor.")
@click.pass_obj
def worker(
    popen: type[subprocess.Popen[Any]] | None,
    role: Role,
    processes: int,
    config: Path | None,
    health: str | None,
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
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    log.setLevel(logging.INFO)
    show_log_lines_safely()
    configuration = load(config)
    if child is not None:
        sys.exit(run(configuration, role, name=f"tokenferry-{role}-{child}"))
    if health is not None:
        configuration = _with_health(configuration, health)
    wiring.check(configuration, role)
    warn_of_missing_keys(configuration)
    arguments = ["--role", role, *(["--config", str(config)] if config else [])]
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
        _answer_probes(stack, configuration, supervisor)
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


def _answer_probes(stack: ExitStack, configuration: Configuration, supervisor: Supervisor) -> None:
    try:
        stack.enter_context(probes.on_socket(configuration.path(configuration.data), supervisor.health))
    except OSError as error:
        log.warning(
            "`tokenferry health` will not find this worker: no socket in the data folder (%s)", error.strerror or error
        )
    if (address := configuration.worker.health) is not None:
        try:
            port = stack.enter_context(probes.on_port(address, supervisor.health))
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no such port"
            raise InvalidConfiguration(f"[worker] health: cannot listen on {address} ({reason})") from None
        log.info("answering /live and /ready on port %d", port)


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
        elif accepted is None:
            log.warning("platform '%s': Stripe is out of reach; requests will wait for it", name)
        elif not accepted:
            raise InvalidConfiguration(f"[platforms.{name}] secret_key: Stripe does not accept this key")


async def _ask(configuration: Configuration, name: str) -> bool | Blocked | None:
    platform = configuration.platforms[name]
    keys = wiring.api_keys(configuration, name, platform)
    way = way_to(configuration, platform)
    if way.proxy is not None:
        log.info("platform '%s': Stripe is reached through the proxy %s", name, way.says)
    client = StripeClient(platform, keys, connections=1, read_timeout=10.0, connect_timeout=5.0, way=way)
    try:
        return await client.key_is_accepted()
    except Blocked as error:
        return error
    finally:
        await client.aclose()
