"""A plain script: create a Stripe customer for each card of a CSV file, and say which one it became.

    python examples/script.py cards.csv

The file has the columns email, number, exp_month and exp_year. Nothing is printed of a card number.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenferry import CardRequest, CustomerCreate, InvalidInput, Producer, StillRunning


def add_cards(rows: Iterable[dict[str, str]], producer: Producer) -> Iterator[str]:
    """Yield one line for each row: the customer, or why there is none."""
    for row in rows:
        email = row["email"]
        try:
            card = CardRequest(number=row["number"], exp_month=row["exp_month"], exp_year=row["exp_year"])
            result = producer.request(card, attach=CustomerCreate(email=email), timeout=60)
        except InvalidInput as error:
            yield f"{email}: not sent: {error}"
        except StillRunning as error:
            yield f"{email}: no answer yet: tokenferry show {error.request_id}"
        else:
            yield f"{email}: {result.object_id if result.failure is None else result.failure.code}"


def main(path: str) -> int:
    """Run it for the file *path*."""
    with Path(path).open(newline="", encoding="utf-8") as file, Producer() as producer:
        for line in add_cards(csv.DictReader(file), producer):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
