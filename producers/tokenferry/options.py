"""Options that commands of both halves have, each spelled once."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


class Number(click.FloatRange):
    """A number within a range. Neither NaN, which passes every comparison that click makes, nor infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number that *value* spells."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail("write a number", param, ctx)
        return number


class Duration(click.ParamType[float]):
    """Seconds, or a number with s, m, h or d: from *least* seconds to a year."""

    name = "duration"

    def __init__(self, least: float = 1.0) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds of *value*."""
        text = str(value).strip()
        unit = UNITS.get(text[-1:])
        try:
            seconds = float(text[:-1] if unit else text) * (unit or 1.0)
        except ValueError:
            seconds = -1.0
        if not self._least <= seconds <= 365 * 86_400:
            self.fail(f"write a time of {self._least:g} s to a year, as in 90s, 30m, 2h or 7d", param, ctx)
        return seconds


class OneLine(click.ParamType[str]):
    """Words for people, who will see them in a terminal: one line, without control characters."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text, without spaces around it."""
        text = str(value).strip()
        if not text or not text.isprintable() or len(text) > 500:
            self.fail("write one line of at most 500 characters, without control characters", param, ctx)
        return text


SECONDS = Number(min=0, min_open=True)

config_option = click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE", help="Default: tokenferry.toml in this folder."
)


def timeout_option(what: str) -> Callable[[F], F]:
    """`--timeout`, for a command that may wait: a minute, where it is not said."""
    return click.option("--timeout", type=SECONDS, default=60.0, show_default=True, metavar="SECONDS", help=what)
