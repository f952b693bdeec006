"""Compares the budgets with those that Stripe documents for every account."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tokenferry.configuration import Configuration, InvalidConfiguration, Platform
from tokenferry_worker import wiring
from tokenferry_worker.doctor.verdicts import Check, ok, warning
from tokenferry_worker.limits.budgets import Budgets


def examine(configuration: Configuration) -> Iterator[Check]:
    """Check every platform, and whether two platforms spend the budget of one account twice."""
    for name, platform in configuration.platforms.items():
        rates, documented = _rates(name, platform), _rates(name, Platform(mode=platform.mode))
        above = {what: documented[what] for what, rate in rates.items() if rate > documented.get(what, rate)}
        says = _spelled(rates)
        if above:
            usual = ", ".join(f"{_plain(what)} {rate:g}/s" for what, rate in above.items())
            says += f"; above what is documented for {platform.mode} mode ({usual})"
            do = f"make sure the account was granted that; else lower [platforms.{name}.limits]"
            yield warning("limits budgets", name, says, do)
        else:
            yield ok("limits budgets", name, says)
    yield from _shared(configuration)


def _rates(name: str, platform: Platform) -> dict[str, float]:
    """Return calls per second by budget. The names come without the platform."""
    return {budget.name.removeprefix(f"{name}:"): budget.per_second for budget in Budgets(name, platform).all()}


def _spelled(rates: dict[str, float]) -> str:
    """Return the rates as text: the usual rate of all endpoints once, other rates by name."""
    endpoints = {what: rate for what, rate in rates.items() if what.startswith("endpoint:")}
    usual = Counter(endpoints.values()).most_common(1)[0][0]
    named = {what: rate for what, rate in rates.items() if what not in endpoints or rate != usual}
    parts = [f"{_plain(what)} {rate:g}/s" for what, rate in named.items()]
    return ", ".join([*parts[:1], f"each endpoint {usual:g}/s", *parts[1:]])


def _plain(what: str) -> str:
    return what.removeprefix("endpoint:").replace("global", "in all").replace("_", " ")


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
