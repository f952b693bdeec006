"""What the measurements of pace, fairness and onboarding start: the emulator, workers, a configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tokenferry import CardRequest, Order, Producer, load
from tokenferry.broker import embedded

ENVIRONMENT = {
    **os.environ,
    "BENCH_KEY": "sk_test_bench",
    "BENCH_OTHER_KEY": "sk_test_other",
}
CARD = {"number": "4242424242424242", "exp_month": "12", "exp_year": "2034"}


def run(arguments: list[str], environment: dict[str, str] | None = None) -> None:
    """One command to its end."""
    subprocess.run(arguments, check=True, env=environment or ENVIRONMENT, stdout=subprocess.DEVNULL)


def tokenferry(*arguments: str) -> list[str]:
    """A command of ours."""
    return [sys.executable, "-m", "tokenferry", *arguments]


@contextmanager
def worker(
    arguments: list[str], folder: Path, environment: dict[str, str] | None = None, *, ready: int = 0
) -> Iterator[Callable[[], float]]:
    """A worker with all its processes, *ready* of them waited for; once stopped, the CPU seconds all have used."""
    seconds = 0.0
    log = folder / "worker.log"
    with log.open("wb") as out:
        process = subprocess.Popen(arguments, cwd=folder, env=environment or ENVIRONMENT, stdout=out, stderr=out)
        try:
            deadline = time.monotonic() + 60
            while log.read_text().count("ready, reading") < ready:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(log.read_text())
                time.sleep(0.05)
            yield lambda: seconds
        finally:
            process.terminate()
            _, _, usage = os.wait4(process.pid, 0)
            seconds = usage.ru_utime + usage.ru_stime


@contextmanager
def emulator(folder: Path, *options: str) -> Iterator[str]:
    """The endpoint; its URL."""
    log = folder / "emulator.log"
    with log.open("wb") as out:
        arguments = tokenferry("emulator", "--port", "0", *options)
        process = subprocess.Popen(arguments, stdout=out, stderr=out)
        try:
            while "listening on " not in (text := log.read_text()):
                if process.poll() is not None:
                    raise SystemExit(text)
                time.sleep(0.05)
            yield text.split("listening on ")[1].split()[0]
        finally:
            process.terminate()
            process.wait()


def ledger(endpoint: str) -> dict[str, Any]:
    """What the endpoint has counted so far."""
    with urlopen(f"{endpoint}/_ledger") as answer:
        return dict(json.load(answer))


@contextmanager
def limited(folder: Path, rate: float) -> Iterator[tuple[str, Path]]:
    """An endpoint that admits *rate* calls per second, 250 ms each, and a fleet configured for it: URL, configuration.

    The broker is the embedded one, in *folder*.
    """
    limits = ("--endpoint-rate", str(rate), "--burst", "5", "--latency-ms", "250")
    with emulator(folder, *limits) as endpoint, embedded.running(folder / ".tokenferry"):
        config = folder / "tokenferry.toml"
        config.write_text(
            f'[platforms.bench]\nbase_url = "{endpoint}"\nsecret_key = {{ env = "BENCH_KEY" }}\n'
            f"[platforms.bench.limits]\nglobal_per_second = {4 * rate}\nendpoint_per_second = {rate}\n"
        )
        run(tokenferry("keys", "generate", "--out", str(folder / "keys")))
        yield endpoint, config


def send(config: Path, count: int) -> int:
    """Put so many card requests into the queue."""
    with Producer(load(config)) as producer:
        return sum(1 for _ in producer.send_many(Order(CardRequest(**CARD)) for _ in range(count)))
