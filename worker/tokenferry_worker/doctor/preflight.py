"""Runs all checks at the same time, each with its own deadline. No failure stops another check."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tokenferry.addresses import masked
from tokenferry.configuration import Configuration
from tokenferry.contract.queues import DEAD_LETTERS, QUARANTINE
from tokenferry_worker import wiring
from tokenferry_worker.doctor import broker, endpoint, keys, limits, settings, store
from tokenferry_worker.doctor.deadline import SECONDS, within
from tokenferry_worker.doctor.verdicts import Check, failed, reason
from tokenferry_worker.wiring import Role

REPORT = "look at this place yourself; if it is as it should be, the preflight has a bug"


async def examine(configuration: Configuration, role: Role, source: Path, *, seconds: float = SECONDS) -> list[Check]:
    """Run every check for a worker of *role*, configured by *source*. *seconds*: the deadline of a group of checks."""
    at_broker, at_store = masked(configuration.broker.url), masked(configuration.store.url)
    queues = [*wiring.queues_of(configuration, role), QUARANTINE, DEAD_LETTERS]
    at_work = partial(broker.examine, configuration, queues, reads=True)
    groups = await asyncio.gather(
        within(seconds, "configuration file", str(source), partial(settings.examine, configuration, source), REPORT),
        within(seconds, "keys files", str(source), partial(keys.examine, configuration, role), REPORT),
        within(seconds, "broker connection", at_broker, at_work, broker.CURE),
        within(seconds, "store connection", at_store, partial(store.examine, configuration), store.CURE),
        _endpoints(configuration, role),
        within(seconds, "limits budgets", str(source), partial(limits.examine, configuration), REPORT),
    )
    return [check for group in groups for check in group]


async def examine_producer(configuration: Configuration, source: Path) -> list[Check]:
    """Every check for a machine that only sends."""
    at_broker = masked(configuration.broker.url)
    at_work = partial(broker.examine, configuration, wiring.queues_of(configuration, "all"), reads=False)
    groups = await asyncio.gather(
        within(SECONDS, "configuration file", str(source), partial(settings.examine, configuration, source), REPORT),
        within(SECONDS, "keys files", str(source), partial(keys.examine_producer, configuration), REPORT),
        within(SECONDS, "broker connection", at_broker, at_work, broker.CURE),
    )
    found = [check for group in groups for check in group]
    if not configuration.platforms:
        do = "add [platforms.NAME] with mode; a producer needs no keys of it"
        found.insert(0, failed("configuration platforms", str(source), "no platform is configured", do))
    return found


async def _endpoints(configuration: Configuration, role: Role) -> list[Check]:
    names = list(configuration.platforms)
    answers = await asyncio.gather(
        *(endpoint.examine(configuration, name, configuration.platforms[name], role) for name in names),
        return_exceptions=True,
    )
    return [
        *_without_platform(names),
        *(check for pair in zip(names, answers, strict=True) for check in _checks_of(*pair)),
    ]


def _without_platform(names: list[str]) -> Iterator[Check]:
    if not names:
        do = "add [platforms.NAME] with mode, secret_key and base_url"
        yield failed("endpoint keys", "platforms", "no platform is configured", do)


def _checks_of(name: str, answer: list[Check] | BaseException) -> list[Check]:
    if isinstance(answer, BaseException):
        return [failed("endpoint connection", name, reason(answer), REPORT)]
    return answer
