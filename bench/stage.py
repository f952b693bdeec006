"""What every measurement starts: an endpoint, workers, a configuration. All of it on the loopback interface."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENT = {
    **os.environ,
    "BENCH_KEY": "sk_test_bench",
    "BENCH_OTHER_KEY": "sk_test_other",
    "PYTHONPATH": str(HERE),
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
