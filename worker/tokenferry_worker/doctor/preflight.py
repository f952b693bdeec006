"""Runs all checks at the same time, each with its own deadline. No failure stops another check."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tokenferry.configuration import Configuration
from tokenferry_worker.doctor import broker, endpoint, keys, limits, settings, store
from tokenferry_worker.doctor.deadline import SECONDS, within
from tokenferry_worker.doctor.verdicts import Check, failed
from tokenferry_worker.doctor.words import masked, why
from tokenferry_worker.wiring import Role

REPORT = "look at this place yourself; if it is as it should be, the preflight has a bug"


async def examine(configuration: Configuration, role: Role, source: Path, *, seconds: float = SECONDS) -> list[Check]:
    """Run every check for a worker of *role*, configured by *source*. *seconds*: the deadline of a group of checks."""
    at_broker, at_store = masked(configuration.broker.url), masked(configuration.store.url)
    groups = await asyncio.gather(
        within(seconds, "configuration file", str(source), partial(settings.examine, configuration, source), REPORT),
        within(seconds, "keys files", str(source), partial(keys.examine, configuration, role), REPORT),
        within(seconds, "broker connection", at_broker, partial(broker.examine, configuration, role), broker.CURE),
        within(seconds, "store connection", at_store, partial(store.examine, configuration), store.CURE),
        _endpoints(configuration, role),
        within(seconds, "limits budgets", str(source), partial(limits.examine, configuration), REPORT),
    )
    return [check for group in groups for check in group]


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
    return [failed("endpoint connection", name, why(answer), REPORT)] if isinstance(answer, BaseException) else answer
