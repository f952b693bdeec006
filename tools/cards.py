"""Write the published test cards, as digests, from saved pages that list them.

    python tools/cards.py PAGE...          # show the cards of these pages that the data file lacks
    python tools/cards.py PAGE... --write  # write the data file anew, of these pages alone

Save https://docs.stripe.com/testing (HTML, Markdown or text) and name it together with `tests/cards/*.md`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from stdnum import luhn

from tokenferry.checks import TEST_CARDS, card_digest

HEADER = """\
# Published test card numbers, as digests: a search for card numbers finds none here. They hide nothing.
# Written by `python tools/cards.py tests/cards/*.md --write`; tests/cards/ says where each number is published.
# digest, last four digits, what the page says of it
"""
_NUMBER = re.compile(r"(?<![\d\w])[2-6](?:[ -]?\d){11,18}(?![\d\w])")
_END_OF_LINE = re.compile(r"</(?:tr|p|h\d|li)>|<br\s*/?>|\n", re.IGNORECASE)
_TAG = re.compile(r"<[^>]*>")


class Card(NamedTuple):
    """A card number and the words before it in its line."""

    number: str
    name: str

    def line(self) -> str:
        return f"{card_digest(self.number)} {self.number[-4:]} {self.name}".rstrip()


def cards_in(page: str) -> Iterator[Card]:
    """The card numbers of a page: 12 to 19 digits with a right check digit, grouped by blanks or dashes or not.

    >>> list(cards_in("<tr><td>Visa</td><td>4242 4242 4242 4242</td></tr>"))
    [Card(number='4242424242424242', name='Visa')]
    """
    source = _END_OF_LINE.sub("\n", page.replace("\n", " ")) if "</tr>" in page else page
    for line in source.splitlines():
        words = _TAG.sub(" | ", line)
        for found in _NUMBER.finditer(words):
            number = re.sub("[ -]", "", found[0])
            if luhn.is_valid(number):
                yield Card(number, " ".join(words[: found.start()].replace("|", " ").split())[-60:])


def data_file(pages: Iterable[str]) -> str:
    """The data file for these pages: each number once, in the order of the pages."""
    cards: dict[str, Card] = {}
    for page in pages:
        for card in cards_in(page):
            cards.setdefault(card.number, card)
    return HEADER + "".join(f"{card.line()}\n" for card in cards.values())


def lacking(pages: Iterable[str], known: str) -> list[Card]:
    """The cards of these pages that the data file *known* lacks."""
    return [card for page in pages for card in cards_in(page) if card_digest(card.number) not in known]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    pages = [page.read_text() for page in options.pages]
    if options.write:
        TEST_CARDS.write_text(data_file(pages))
        return 0
    new = lacking(pages, TEST_CARDS.read_text())
    for card in new:
        print(f"new: {card.number} {card.name}")
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
