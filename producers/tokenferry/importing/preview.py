"""What a dry run learns of a file: what is in it, what is wrong with it, and how long it will take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel

from tokenferry.bulk.progress import spelled
from tokenferry.configuration import Configuration
from tokenferry.contract.requests import Problem
from tokenferry.producer import Order

_SHOWN_IN_FULL: Final = frozenset({
    *("kind", "to", "country", "nationality", "currency", "default_currency", "exp_month", "exp_year"),
    *("account_holder_type", "account_type", "business_type", "address_country", "amount"),
})  # fmt: skip
"""Fields whose values say nothing about a person or an account."""
_LAST_FOUR: Final = frozenset({"number", "account_number"})
_ALL: Final = "all together"
_EXAMPLES: Final = 3
_MOST_LINES: Final = 12


@dataclass
class Rejection:
    """One reason why rows are rejected."""

    count: int = 0
    lines: list[int] = field(default_factory=list)
    """The first lines of the file with it."""


@dataclass
class Preview:
    """The statistics of a dry run."""

    kinds: Counter[str] = field(default_factory=Counter)
    countries: Counter[str] = field(default_factory=Counter)
    currencies: Counter[str] = field(default_factory=Counter)
    targets: Counter[str] = field(default_factory=Counter)
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Calls by platform and budget."""
    rejections: dict[tuple[str, str], Rejection] = field(default_factory=dict)
    """By field and reason."""
    first_row: dict[str, Any] | None = None
    """The first row as it was understood, with masked values."""

    def accept(self, order: Order, platform: str) -> None:
        """Count a row that can be sent."""
        request, target = order.request, order.attach
        self.kinds[request.kind] += 1
        for counter, name in ((self.countries, "country"), (self.currencies, "currency")):
            if isinstance(value := getattr(request, name, None), str):
                counter[value] += 1
        self.calls[platform, "tokens"] += 1
        if target is not None:
            self.targets[target.to] += 1
            self.calls[platform, target.endpoint()] += 1 + (target.follow_up("x") is not None)
        if self.first_row is None:
            self.first_row = {"kind": request.kind, **_masked(request)}
            if target is not None:
                self.first_row["attach"] = _masked(target)

    def reject(self, line: int, problems: Iterable[Problem]) -> None:
        """Count why a row is rejected."""
        for problem in problems:
            rejection = self.rejections.setdefault((problem.field, problem.reason), Rejection())
            rejection.count += 1
            if len(rejection.lines) < _EXAMPLES:
                rejection.lines.append(line)

    def times(self, configuration: Configuration) -> list[dict[str, Any]]:
        """For each budget its calls, its rate and the seconds that they take at least."""
        found = []
        totals: Counter[str] = Counter()
        for (platform, budget), calls in sorted(self.calls.items()):
            rate = configuration.platform(platform).endpoint_per_second(budget)
            totals[platform] += calls
            found.append(_time(platform, budget, calls, rate))
        for platform, calls in sorted(totals.items()):
            found.append(_time(platform, _ALL, calls, configuration.platform(platform).global_per_second))
        return found

    def as_json(self, configuration: Configuration) -> dict[str, Any]:
        """The statistics for a program."""
        times = self.times(configuration)
        return {
            "kinds": dict(self.kinds.most_common()),
            "countries": dict(self.countries.most_common()),
            "currencies": dict(self.currencies.most_common()),
            "targets": dict(self.targets.most_common()),
            "rejections": [
                {"field": name, "reason": reason, "count": each.count, "lines": each.lines}
                for (name, reason), each in self._rejections()
            ],
            "first_row": self.first_row,
            "calls": times,
            "seconds_needed": max((each["seconds"] for each in times), default=0.0),
        }

    def lines(self, configuration: Configuration) -> Iterator[str]:
        """The statistics for a person."""
        for title, counted in (
            ("kinds", self.kinds),
            ("countries", self.countries),
            ("currencies", self.currencies),
            ("targets", self.targets),
        ):
            if counted:
                yield f"{title}: {_listed(counted)}"
        for (name, reason), each in self._rejections()[:_MOST_LINES]:
            lines = ", ".join(map(str, each.lines)) + (", ..." if each.count > len(each.lines) else "")
            yield f"  {each.count:>7}  {name}: {reason} (line {lines})"
        if (more := len(self.rejections) - _MOST_LINES) > 0:
            yield f"  and {more} more {'reason' if more == 1 else 'reasons'}: see the rejects file, or --json"
        if self.first_row is not None:
            yield "the first row, as it was understood:"
            yield from (f"  {name} = {value}" for name, value in _flat(self.first_row))
        times = self.times(configuration)
        if times:
            longest = max(times, key=lambda each: float(each["seconds"]))
            calls = (f"{each['calls']} to {each['budget']}" for each in times if each["budget"] != _ALL)
            yield f"calls to Stripe: {'; '.join(calls)}"
            yield (
                f"time needed: at least {spelled(longest['seconds'])}, at {longest['per_second']:g} calls per second "
                f"({longest['budget']}) of platform {longest['platform']}"
            )

    def _rejections(self) -> list[tuple[tuple[str, str], Rejection]]:
        return sorted(self.rejections.items(), key=lambda item: -item[1].count)


def _time(platform: str, budget: str, calls: int, rate: float) -> dict[str, Any]:
    return {
        "platform": platform,
        "budget": budget,
        "calls": calls,
        "per_second": rate,
        "seconds": round(calls / rate, 1),
    }


def _listed(counted: Counter[str]) -> str:
    most = ", ".join(f"{count} {name}" for name, count in counted.most_common(_MOST_LINES))
    more = len(counted) - _MOST_LINES
    return most + (f", and {more} more" if more > 0 else "")


def _masked(model: BaseModel) -> dict[str, Any]:
    """The fields that are given. Values that could be personal are not shown, of numbers the last four digits."""
    return {name: _mask(name, getattr(model, name)) for name in model.model_fields_set | {"to"} if hasattr(model, name)}


def _mask(name: str, value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _masked(value)
    if isinstance(value, Mapping):
        return {key: "given" for key in value}
    if isinstance(value, tuple | list):
        return [_mask(name, item) for item in value]
    if name in _SHOWN_IN_FULL or isinstance(value, bool) or value is None:
        return value
    text = str(value)
    if name in _LAST_FOUR and len(text) > 8:
        return f"...{text[-4:]} ({len(text)} characters)"
    return f"({len(text)} characters)"


def _flat(values: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{under}{name}.")
        else:
            yield f"{under}{name}", value
