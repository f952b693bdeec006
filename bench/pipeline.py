"""CPU per 1,000 tokens: the finished worker beside what one would write instead, in one run on one machine.

Each stack makes the same card tokens at the same emulated endpoint (100 ms per call, no rate limit in the way). Counted
is the CPU time (user and system) of the worker processes alone, as the operating system reports it when they end; what
a stack costs to start is measured with no work and taken off. Rounds are interleaved, so a machine that changes speed
changes it for all. Read the ratios; the absolute figures are this machine's.

    make bench            or   python bench/pipeline.py --tokens 2000 --rounds 3 [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stage import CARD, ENVIRONMENT, HERE, emulator, run, worker
from stage import tokenferry as command

from tokenferry import CardRequest, Order, Producer, Results, load
from tokenferry.broker import embedded

LATENCY_MS = 100
IN_FLIGHT = 64


@dataclass(frozen=True)
class Place:
    """Where one stack runs: its own folder, its own queue, the common endpoint."""

    folder: Path
    endpoint: str
    broker: embedded.Embedded


Stack = Callable[[Place, int], float]
"""Makes that many tokens and returns the CPU seconds of its worker processes."""


def tokenferry(place: Place, tokens: int) -> float:
    """The whole of it: sealed, signed, paced, journalled, confirmed; one process."""
    run(command("keys", "generate", "--if-missing", "--out", str(place.folder / "keys")))
    config = place.folder / "tokenferry.toml"
    config.write_text(
        f'[broker]\nurl = "{place.broker.redis_url}"\n[store]\nurl = "{place.broker.database(1).redis_url}"\n'
        f'[worker]\nconcurrency = {IN_FLIGHT}\n[platforms.bench]\nbase_url = "{place.endpoint}"\n'
        'secret_key = { env = "BENCH_KEY" }\n'
        "[platforms.bench.limits]\nglobal_per_second = 10000\nendpoint_per_second = 10000\nburst = 100\n"
    )
    config.chmod(0o600)
    configuration = load(config)
    with Producer(configuration) as producer:
        orders = (Order(CardRequest(**CARD), reply_to="bench") for _ in range(tokens))
        sent = sum(1 for _ in producer.send_many(orders))
    with worker(command("worker", "--role", "tokenize", "--config", str(config)), place.folder) as ended:
        with Results("bench", configuration) as results:
            for _ in range(sent):
                result = results.take(timeout=60)
                assert result is not None
                assert result.ok, result.failure
        if not tokens:
            time.sleep(3)
    return ended()


def celery_threads_and_sdk(place: Place, tokens: int) -> float:
    """Celery's thread pool, the official SDK, a plain task with the card in its arguments, a result backend."""
    return plain_celery(place, tokens, "threads")


def celery_prefork_and_sdk(place: Place, tokens: int) -> float:
    """The same with Celery's default pool: processes."""
    return plain_celery(place, tokens, "prefork")


def plain_celery(place: Place, tokens: int, pool: str) -> float:
    """Publish first, then start the worker, as above; wait until every result is there."""
    environment = {**ENVIRONMENT, "BENCH_BROKER": place.broker.kombu_url, "BENCH_ENDPOINT": place.endpoint}
    feed = [sys.executable, str(HERE / "plain_celery.py"), str(tokens)]
    run([*feed, "publish"], environment)
    size = IN_FLIGHT if pool == "threads" else IN_FLIGHT // 4
    arguments = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "plain_celery",
        "worker",
        "-P",
        pool,
        "-c",
        str(size),
        "--loglevel",
        "ERROR",
    ]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    with worker([*arguments, *quiet], place.folder, environment) as ended:
        run([*feed, "wait"], environment)
        if not tokens:
            time.sleep(3)
    return ended()


def asyncio_and_httpx(place: Place, tokens: int) -> float:
    """No queue, no limit, no safety: a loop around httpx with its own connection pool."""
    arguments = [str(HERE / "bare_loop.py"), place.endpoint, str(tokens), str(IN_FLIGHT)]
    before = os.times()
    run([sys.executable, *arguments])
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


STACKS: dict[str, Stack] = {
    "tokenferry": tokenferry,
    "Celery threads + SDK": celery_threads_and_sdk,
    "Celery prefork + SDK": celery_prefork_and_sdk,
    "asyncio + httpx, no queue": asyncio_and_httpx,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cost: dict[str, list[float]] = {name: [] for name in STACKS}
    with (
        tempfile.TemporaryDirectory(prefix="tokenferry-bench-") as folder,
        emulator(Path(folder), "--latency-ms", str(LATENCY_MS)) as endpoint,
    ):
        for number in range(options.rounds):
            for name, stack in STACKS.items():
                place_folder = Path(folder, f"{number}-{list(STACKS).index(name)}")
                place_folder.mkdir()
                with embedded.running(place_folder / "broker") as broker:
                    place = Place(place_folder, endpoint, broker)
                    idle = stack(place, 0)
                    busy = stack(place, options.tokens)
                cost[name].append((busy - idle) * 1000 / options.tokens)
                print(f"round {number + 1}: {name}: {cost[name][-1]:.2f}", file=sys.stderr)
    ours = cost["tokenferry"]
    rows = {
        name: {
            "cpu_seconds_per_1000": round(statistics.median(values), 3),
            "times_tokenferry": round(statistics.median(v / o for v, o in zip(values, ours, strict=True)), 2),
        }
        for name, values in cost.items()
    }
    if options.json:
        print(json.dumps({"tokens": options.tokens, "rounds": options.rounds, "stacks": rows}))
        return
    print(f"\nCPU s per 1,000 tokens, median of {options.rounds} rounds of {options.tokens}, {LATENCY_MS} ms endpoint")
    for name, row in rows.items():
        print(f"  {name:28} {row['cpu_seconds_per_1000']:6.2f}   {row['times_tokenferry']:5.2f} x")


if __name__ == "__main__":
    main()
