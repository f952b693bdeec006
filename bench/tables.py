"""Figures of all rounds, and the tables made of them. A figure that could not be taken is named, never a zero."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.measuring import ratios, spread
from bench.pieces import Figure

BEGIN, END = "<!-- written by `make bench`: begin -->", "<!-- written by `make bench`: end -->"
"""What the generated part of the page stands between."""


@dataclass
class Book:
    """What was measured, and what could not be."""

    values: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)
    """By figure and contender: the value of each round."""
    missing: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """By figure and contender: why a round has no value, or all have none."""
    failed: bool = False
    """Whether a value is missing that should be there."""

    def note(self, figures: Sequence[Figure], contender: str, number: int, measured: dict[str, float]) -> None:
        """Enter what round *number* of *contender* has given."""
        for figure in figures:
            if figure.key in measured:
                self.values.setdefault((figure.key, contender), {})[number] = measured[figure.key]
            else:
                self.lack(figures=[figure], contender=contender, reason="it has none")

    def lack(self, figures: Iterable[Figure], contender: str, reason: str) -> None:
        """Enter why there is no value."""
        for figure in figures:
            reasons = self.missing.setdefault((figure.key, contender), [])
            if reason not in reasons:
                reasons.append(reason)

    def of(self, figure: Figure, contender: str) -> dict[int, float]:
        """The values by round; none where it was not measured."""
        return self.values.get((figure.key, contender), {})


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    figure: str
    contender: str
    median: str
    spread: str
    ratio: str


def rows(book: Book, figures: Sequence[Figure], contenders: Sequence[str]) -> Iterator[Row]:
    """The table: for each figure every contender, ours first; the ratio is ours over theirs, round by round.

    Those that were not measured come last, in one row for each reason.
    """
    for figure in figures:
        title, absent = figure.title, dict[str, list[str]]()
        for contender in contenders:
            why = "; ".join(book.missing.get((figure.key, contender), []))
            if (found := spread(list(book.of(figure, contender).values()))) is None:
                absent.setdefault(why, []).append(contender)
                continue
            between = f"{shown(found.least, figure.digits)} - {shown(found.greatest, figure.digits)}"
            between += f"; a round failed: {why}" if why else ""
            each = spread(ratios(book.of(figure, contenders[0]), book.of(figure, contender)))
            ratio = "" if each is None else f"{each.median:.2f} ({each.least:.2f} - {each.greatest:.2f})"
            ratio = "" if contender == contenders[0] else ratio
            yield Row(title, contender, shown(found.median, figure.digits), between, ratio)
            title = ""
        for why, names in absent.items():
            yield Row(title, ", ".join(names), "not measured", why, "")
            title = ""


def shown(value: float, digits: int) -> str:
    """*value* with so many decimals; with more where these would make it a zero.

    >>> shown(0.00412, 2), shown(0.0, 2), shown(1.126, 2)
    ('0.004', '0.00', '1.13')
    """
    rounded = f"{value:.{digits}f}"
    return f"{value:.1g}" if value and not float(rounded) else rounded


def plain(book: Book, figures: Sequence[Figure], contenders: Sequence[str]) -> str:
    """The table for a terminal."""
    width = max(map(len, contenders))
    lines = []
    for row in rows(book, figures, contenders):
        if row.figure:
            lines += ["", f"{row.figure:{width + 2}}"]
        ratio = f"   {contenders[0]} is {row.ratio} of it" if row.ratio else ""
        lines.append(f"  {row.contender:{width}}  {row.median:>12}   {row.spread:18}{ratio}".rstrip())
    return "\n".join(lines)


def markdown(book: Book, figures: Sequence[Figure], contenders: Sequence[str]) -> str:
    """The table for the page."""
    lines = ["| | stack | median | least - most | ours over theirs |", "|---|---|---|---|---|"]
    for row in rows(book, figures, contenders):
        lines.append(f"| {row.figure} | {row.contender} | {row.median} | {row.spread} | {row.ratio} |")
    return "\n".join(lines)


def put_into(page: Path, block: str) -> None:
    """Replace what stands between the markers of *page*. Raises ValueError where it has none."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page}: the lines `{BEGIN}` and `{END}` are missing")
    page.write_text(f"{before}{BEGIN}\n\n{block}\n\n{END}{after}", encoding="utf-8")


def as_json(book: Book, figures: Sequence[Figure], contenders: Sequence[str], about: dict[str, object]) -> str:
    """Everything, for programs: each value of each round."""
    found = {
        figure.key: {
            contender: [book.of(figure, contender)[number] for number in sorted(book.of(figure, contender))]
            for contender in contenders
            if book.of(figure, contender)
        }
        for figure in figures
    }
    missing = [{"figure": key, "contender": name, "why": why} for (key, name), why in book.missing.items()]
    return json.dumps({**about, "figures": found, "not_measured": missing}, indent=2)
