"""A person behind a file of 100,000 rows, and a small platform beside a crowded one: who waits for whom.

Platform `crowd` has so many bulk requests waiting at 25 calls per second, on two processes. Measured are (1) realtime
requests of the same platform, from their publishing to their result, less what the same takes with nobody waiting, in
permits of 40 ms; (2) 100 requests of platform `other`, over the time they take alone. The endpoint answers at once.

    python -m bench.overtaking [--waiting 100000] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.stage import CARD, emulator, run, tokenferry, worker
from tokenferry import CardRequest, Order, Producer, Results, load
from tokenferry.broker import embedded

RATE = 25


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waiting", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tokenferry-bench-") as name:
        folder = Path(name)
        limits = ("--endpoint-rate", str(RATE), "--burst", "5")
        with emulator(folder, *limits) as endpoint, embedded.running(folder / ".tokenferry"):
            config = folder / "tokenferry.toml"
            config.write_text(
                "".join(
                    f'[platforms.{platform}]\nbase_url = "{endpoint}"\nsecret_key = {{ env = "{key}" }}\n'
                    for platform, key in (("crowd", "BENCH_KEY"), ("other", "BENCH_OTHER_KEY"))
                )
            )
            run(tokenferry("keys", "generate", "--out", str(folder / "keys")))
            arguments = tokenferry("worker", "--role", "tokenize", "--processes", "2", "--config", str(config))
            with Producer(load(config)) as producer, worker(arguments, folder, ready=2):
                stage = Stage(producer, config)
                alone, quiet = stage.hundred(), stage.person()
                sent = sum(1 for _ in producer.send_many(stage.orders("crowd", options.waiting)))
                print(f"{sent} waiting", file=sys.stderr)
                time.sleep(3)
                crowded, beside = stage.person(), stage.hundred()
    figures = {
        "waiting": sent,
        "permits_a_person_waits": round((statistics.median(crowded) - statistics.median(quiet)) * RATE, 2),
        "permits_a_person_waits_at_most": round((max(crowded) - statistics.median(quiet)) * RATE, 2),
        "other_platform_over_alone": round(beside / alone, 2),
    }
    print(json.dumps(figures, indent=None if options.json else 2))


class Stage:
    """Sends and waits for results."""

    def __init__(self, producer: Producer, config: Path) -> None:
        self._producer, self._config = producer, config

    def orders(self, platform: str, count: int, reply_to: str | None = None) -> list[Order]:
        """So many requests for one platform."""
        card = CardRequest(**CARD)
        return [Order(card, platform=platform, reply_to=reply_to) for _ in range(count)]

    def person(self) -> list[float]:
        """Twenty realtime requests, one after the other, with a second between: seconds each took."""
        took = []
        with Results("person", load(self._config)) as results:
            for _ in range(20):
                time.sleep(1.0)
                began = time.monotonic()
                self._producer.send(CardRequest(**CARD), platform="crowd", lane="realtime", reply_to="person")
                assert results.take(timeout=30) is not None
                took.append(time.monotonic() - began)
        return took

    def hundred(self) -> float:
        """A hundred requests of the other platform: seconds until the last result."""
        with Results("hundred", load(self._config)) as results:
            began = time.monotonic()
            for _ in self._producer.send_many(self.orders("other", 100, "hundred")):
                pass
            for _ in range(100):
                assert results.take(timeout=60) is not None
            return time.monotonic() - began


if __name__ == "__main__":
    main()
