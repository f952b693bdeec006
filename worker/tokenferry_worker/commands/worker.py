"""`tokenferry worker`: start worker processes and keep them running."""

from __future__ import annotations

import asyncio
import logging
import sys
from functools import partial
from pathlib import Path

import click

from tokenferry.broker import connecting
from tokenferry.broker.embedded import EmbeddedServerError
from tokenferry.configuration import Configuration, InvalidConfiguration, load
from tokenferry_worker import wiring
from tokenferry_worker.app import run
from tokenferry_worker.supervising import Supervisor
from tokenferry_worker.token_client import TokenClient
from tokenferry_worker.wiring import Role

log = logging.getLogger("tokenferry.worker")


@click.command()
@click.option("--role", type=click.Choice(["tokenize", "attach", "all"]), default="all", show_default=True)
@click.option("--processes", type=click.IntRange(1, 256), default=1, show_default=True, help="Worker processes.")
@click.option("--config", type=click.Path(path_type=Path), help="Configuration file.  [default: tokenferry.toml]")
@click.option("--child", type=int, hidden=True, help="Be worker process number N of a supervisor.")
def worker(role: Role, processes: int, config: Path | None, child: int | None) -> None:
    """Open sealed requests, make tokens, spend them.

    \b
    tokenize  reads tokenize.* queues. Needs the private keys of the envelope.
    attach    reads attach.* queues. Needs the endpoint's key only.
    all       both.

    Ctrl-C or SIGTERM: takes no more work, finishes what is in hand within 20 seconds, gives the rest back to the queue.
    A second one ends at once; what was in hand comes back by itself within seconds. A process that dies is replaced.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    log.setLevel(logging.INFO)
    configuration = load(config)
    if child is not None:
        sys.exit(run(configuration, role, name=f"tokenferry-{role}-{child}"))
    wiring.check(configuration, role)
    asyncio.run(_check_endpoint(configuration))
    arguments = ["--role", role, *(["--config", str(config)] if config else [])]
    names = ", ".join(configuration.platforms)
    log.info("%d process%s, role %s, platforms: %s", processes, "" if processes == 1 else "es", role, names)
    sys.exit(Supervisor(arguments, processes, partial(_tend, configuration)).run())


def _tend(configuration: Configuration) -> None:
    try:
        connecting.keep_embedded_server(configuration)
    except EmbeddedServerError as error:
        log.error("%s", error)


async def _check_endpoint(configuration: Configuration) -> None:
    """Find a wrong key now, not with the first request. An endpoint out of reach is no reason not to start."""
    for name, platform in configuration.platforms.items():
        client = TokenClient(
            platform,
            wiring.endpoint_keys(configuration, name, platform),
            connections=1,
            read_timeout=10.0,
            connect_timeout=5.0,
        )
        try:
            accepted = await client.key_is_accepted()
        finally:
            await client.aclose()
        if accepted is None:
            log.warning("platform '%s': the endpoint is out of reach; requests will wait for it", name)
        elif not accepted:
            raise InvalidConfiguration(f"[platforms.{name}] secret_key: the endpoint does not accept this key")
