"""Compares the budgets with those that Stripe documents for every account."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from tokenferry.configuration import Configuration, InvalidConfiguration, Platform
from tokenferry.configuration.platforms import By
from tokenferry.contract.operations import resource_of
from tokenferry.contract.targets import TARGETS
from tokenferry_worker import wiring
from tokenferry_worker.doctor.verdicts import Check, ok, warning
from tokenferry_worker.limits.budgets import Budgets

COUNTED: Final[Mapping[By, str]] = {
    "operation": "calls are counted by operation, as Stripe does",
    "both": (
        "calls are counted by operation and by resource; when every worker and application of this fleet does the "
        'same, by = "operation" allows more'
    ),
    "resource": (
        'calls are counted by resource; Stripe counts by operation, which allows more: write by = "both" for every '
        'worker and application, and then by = "operation"'
    ),
}
"""What each value of `[platforms.NAME.limits] by` means, and the next step."""


KINDS: Final[Mapping[str, str]] = {"operation": "operation", "endpoint": "resource"}
"""What the names of budgets begin with, and what they count."""


def examine(configuration: Configuration) -> Iterator[Check]:
    """Check every platform, and whether two platforms spend the budget of one account twice."""
    for name, platform in configuration.platforms.items():
        rates = _rates(name, platform)
        documented = _rates(name, Platform(mode=platform.mode).counted_by(platform.limits.by))
        above = {what: documented[what] for what, rate in rates.items() if rate > documented.get(what, rate)}
        says = f"{_spelled(rates)}; {COUNTED[platform.limits.by]}"
        if above:
            usual = ", ".join(f"{_plain(what)} {rate:g}/s" for what, rate in above.items())
            says += f"; above what is documented for {platform.mode} mode ({usual})"
            do = f"make sure the account was granted that; else lower [platforms.{name}.limits]"
            yield warning("limits budgets", name, says, do)
        else:
            yield ok("limits budgets", name, says)
        yield from _old_targets(name, platform)
    yield from _shared(configuration)


def _old_targets(name: str, platform: Platform) -> Iterator[Check]:
    """Warn where limits name an operation that Stripe will remove: somebody uses it."""
    named = {resource_of(each) for each in (*platform.limits.operations, *platform.limits.in_flight)}
    for target in TARGETS.values():
        if target.warning is not None and target.budget in named:
            says, _, do = target.warning.partition("; ")
            yield warning("limits targets", name, says, do)


def _rates(name: str, platform: Platform) -> dict[str, float]:
    """Return calls per second by budget. The names come without the platform."""
    return {budget.name.removeprefix(f"{name}:"): budget.per_second for budget in Budgets(name, platform).all()}


def _spelled(rates: dict[str, float]) -> str:
    """Return the rates as text: the usual rates of all operations and resources once, other rates by name."""
    usual = {}
    for kind in ("operation", "endpoint"):
        of_kind = [rate for what, rate in rates.items() if what.startswith(f"{kind}:")]
        if of_kind:
            usual[kind] = Counter(of_kind).most_common(1)[0][0]
    named = {what: rate for what, rate in rates.items() if rate != usual.get(what.partition(":")[0])}
    parts = [f"{_plain(what)} {rate:g}/s" for what, rate in named.items()]
    each = [f"each {KINDS[kind]} {rate:g}/s" for kind, rate in usual.items()]
    return ", ".join([*parts[:1], *each, *parts[1:]])


def _plain(what: str) -> str:
    kind, _, counted = what.partition(":")
    return counted if kind == "operation" else (counted or kind).replace("global", "in all").replace("_", " ")


def _shared(configuration: Configuration) -> Iterator[Check]:
    by_key: dict[str | None, list[str]] = {}
    for name, platform in configuration.platforms.items():
        try:
            by_key.setdefault(wiring.api_keys(configuration, name, platform).secret, []).append(name)
        except InvalidConfiguration:
            continue  # reported where the keys are checked
    for names in by_key.values():
        if len(names) > 1:
            says = "use one secret key: each of them keeps the whole budget of one account"
            yield warning(
                "limits account", ", ".join(names), says, "share the rates out in their [platforms.NAME.limits]"
            )
