"""What metrics cost: CPU per token with and without them, in one process that switches them every few tokens.

One process makes tokens, 25 at a time, from sealed requests to published results, against the endpoint of the bench.
Every block of tokens is measured by the process's own CPU clock. Two neighbouring blocks are a pair: one with metrics,
one without, in an order that changes from pair to pair. So a machine that slows down slows down both. Without metrics
nothing is counted; with them it counts, and makes the report for the supervisor once a second.

    python -m bench.metering [--pairs 100] [--tokens 1000] [--json]

Needs httptools (`bench/requirements.txt`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.stage import CARD, run, tokenferry
from bench.stand import endpoint
from tokenferry import CardRequest, Order, load
from tokenferry.broker import embedded
from tokenferry.broker.publishing import Publisher
from tokenferry.contract.queues import TOKENIZE_TASK
from tokenferry.contract.work_messages import read_work
from tokenferry.producer import Sealer
from tokenferry_worker import wiring
from tokenferry_worker.deliveries.settling import Handler
from tokenferry_worker.health.vitals import Vitals
from tokenferry_worker.metrics.registry import Meters, NoMeters, to_line

IN_FLIGHT = 25
LATENCY = 0.01
"""Seconds of a call: short, so that the process is busy."""
REPORT_EVERY = 1.0


class Switch:
    """Turns the meters of one process off and on: their methods are replaced by those that do nothing."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self._nothing = NoMeters()
        self.on = True

    def turn(self, on: bool) -> None:
        """Switch."""
        self.on = on
        for name in ("count", "observe"):
            if on:
                self._meters.__dict__.pop(name, None)
            else:
                setattr(self._meters, name, getattr(self._nothing, name))

    async def report(self) -> None:
        """Make the report once a second, as the watchdog of a process does."""
        while True:
            await asyncio.sleep(REPORT_EVERY)
            if self.on:
                to_line(self._meters.snapshot())


async def block(handle: Handler, bodies: Sequence[str]) -> float:
    """Make one token of each body. Returns CPU seconds per token."""
    waiting = iter(bodies)

    async def serve() -> None:
        for body in waiting:
            await handle(body)

    began = time.process_time()
    await asyncio.gather(*(serve() for _ in range(IN_FLIGHT)))
    return (time.process_time() - began) / len(bodies)


async def measured(config: Path, pairs: int, tokens: int) -> list[tuple[float, float]]:
    """Return CPU seconds per token for each pair: without and with metrics."""
    configuration = load(config)
    sealer, vitals = Sealer(configuration), Vitals("tokenize")
    switch, found = Switch(vitals.meters), []
    with Publisher.to(configuration) as publisher:
        async with wiring.handlers(configuration, "tokenize", publisher, vitals) as handlers:
            handle = handlers[TOKENIZE_TASK]
            reports = asyncio.create_task(switch.report())
            await block(handle, bodies(sealer, tokens))  # warm
            for number in range(pairs):
                costs: dict[bool, float] = {}
                for on in (False, True) if number % 2 else (True, False):
                    sealed = bodies(sealer, tokens)
                    switch.turn(on)
                    costs[on] = await block(handle, sealed)
                found.append((costs[False], costs[True]))
            reports.cancel()
    return found


def bodies(sealer: Sealer, count: int) -> list[str]:
    """Seal so many requests. Returns what a worker gets of each."""
    order = Order(CardRequest(**CARD), platform="bench", reply_to="bench")
    made = []
    for _ in range(count):
        _, message = sealer.message(order)
        work = read_work(message.headers, "application/json", "utf-8", message.body.encode(), tasks={TOKENIZE_TASK})
        made.append(work.argument)  # type: ignore[union-attr]
    return made


def summary(found: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """The median of the paired differences, with its interval at 95 % (order statistics), as a share of the cost."""
    differences = sorted((on - off) / off for off, on in found)
    reach = round(0.98 * len(found) ** 0.5)
    middle = len(found) // 2
    least, most = differences[max(0, middle - reach)], differences[min(len(found) - 1, middle + reach)]
    return {
        "pairs": len(found),
        "ms_per_token_without": round(1000 * statistics.median(off for off, _ in found), 3),
        "more_percent": round(100 * statistics.median(differences), 2),
        "interval_percent": [round(100 * least, 2), round(100 * most, 2)],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("BENCH_KEY", "sk_test_bench")
    with tempfile.TemporaryDirectory(prefix="tokenferry-bench-") as name:
        folder = Path(name)
        python = Path(sys.executable)
        with endpoint(python, folder, latency=LATENCY) as stand, embedded.running(folder / ".tokenferry"):
            config = folder / "tokenferry.toml"
            config.write_text(
                f'[platforms.bench]\nbase_url = "{stand.url}"\nsecret_key = {{ env = "BENCH_KEY" }}\n'
                "[platforms.bench.limits]\nglobal_per_second = 100000\nendpoint_per_second = 100000\n"
            )
            run(tokenferry("keys", "generate", "--out", str(folder / "keys")))
            found = summary(asyncio.run(measured(config, options.pairs, options.tokens)))
    if options.json:
        print(json.dumps(found))
        return
    least, most = found["interval_percent"]
    print(f"{found['ms_per_token_without']} ms of CPU per token without metrics")
    print(f"with them {found['more_percent']} % more (95 %: {least} to {most} %, {found['pairs']} pairs)")


if __name__ == "__main__":
    main()
