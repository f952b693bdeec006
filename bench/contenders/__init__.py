"""Who is measured. Each contender is a program of its own, run by the Python that has what it needs.

This module is what the bench itself knows of them: how to run their workers and their programs. Every program
understands `feed COUNT` (publish sealed requests), `collect COUNT` (wait for results, print how many different objects
they name), `latency COUNT RATE SEED` (random arrivals) and, where it has one, `producer COUNT`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.processes import ROOT, answer, environment

TO_START = 60.0
"""Seconds in which a small command must be done."""


@dataclass(frozen=True)
class Place:
    """Where one run takes place. *server* has a private Redis; *in_flight*: calls at the same time."""

    folder: Path
    server: str
    results: str
    endpoint: str
    in_flight: int


class Contender(Protocol):
    """One stack."""

    @property
    def name(self) -> str:
        """As in the tables."""

    @property
    def lacks(self) -> Mapping[str, str]:
        """Pieces it takes no part in, and why."""

    def prepare(self, place: Place) -> None:
        """Write what it needs to run there. Raises `NotMeasured`."""

    def worker(self, place: Place, role: str) -> list[str]:
        """The command of its worker. *role*: tokenize, attach or onboard."""

    def program(self, *arguments: object) -> list[str]:
        """The command of its program."""

    def environment(self, place: Place) -> dict[str, str]:
        """The environment of its program."""

    def worker_environment(self, place: Place) -> dict[str, str]:
        """The environment of its worker."""


@dataclass(frozen=True)
class Product:
    """Tokenferry, in one of its versions."""

    name: str
    python: Path
    home: Path
    """A folder of its own, kept for all rounds: keys, configuration."""
    lacks: Mapping[str, str] = field(default_factory=dict)

    @property
    def command(self) -> Path:
        """The `tokenferry` that this version installs."""
        return self.python.parent / "tokenferry"

    @property
    def config(self) -> Path:
        """Its configuration."""
        return self.home / "tokenferry.toml"

    def prepare(self, place: Place) -> None:
        """Write the configuration: 25 or 500 at a time, and no limit in the way."""
        keys = self.home / "keys"
        if not keys.exists():
            made = [str(self.command), "keys", "generate", "--out", str(keys)]
            answer(made, self.home / "keys.log", timeout=TO_START)
            policy = keys / "policy.toml"
            if policy.exists():  # a version that has one: let the producer order, too
                policy.write_text(policy.read_text().replace('["seal", "onboard"]', '["seal", "onboard", "order"]'))
        self.config.touch(mode=0o600)
        self.config.write_text(
            f'[broker]\nurl = "{place.server}"\n[store]\nurl = "{place.results}"\n'
            f"[worker]\nconcurrency = {place.in_flight}\n"
            f'[platforms.bench]\nbase_url = "{place.endpoint}"\nsecret_key = {{ env = "BENCH_KEY" }}\n'
            "[platforms.bench.limits]\nglobal_per_second = 10000\nendpoint_per_second = 10000\n"
            "account_creation_per_second = 10000\nburst = 100\n"
        )

    def worker(self, place: Place, role: str) -> list[str]:
        return [str(self.command), "worker", "--role", role, "--config", str(self.config)]

    def program(self, *arguments: object) -> list[str]:
        return [str(self.python), "-m", "bench.contenders.product", *map(str, arguments)]

    def environment(self, place: Place) -> dict[str, str]:
        return environment(PYTHONPATH=str(ROOT))

    def worker_environment(self, place: Place) -> dict[str, str]:
        return environment()


@dataclass(frozen=True)
class Other:
    """What one would write instead. Its module is in this folder, its worker a command with IN_FLIGHT in it."""

    name: str
    python: Path
    module: str
    works: tuple[str, ...]
    lacks: Mapping[str, str]

    def prepare(self, place: Place) -> None:
        """It reads everything from its environment."""

    def worker(self, place: Place, role: str) -> list[str]:
        words = (word.replace("IN_FLIGHT", str(place.in_flight)) for word in self.works)
        return [str(self.python), "-m", *words]

    def program(self, *arguments: object) -> list[str]:
        return [str(self.python), "-m", self.module, *map(str, arguments)]

    def environment(self, place: Place) -> dict[str, str]:
        return environment(
            PYTHONPATH=str(ROOT),
            BENCH_SERVER=place.server,
            BENCH_RESULTS=place.results,
            BENCH_ENDPOINT=place.endpoint,
        )

    def worker_environment(self, place: Place) -> dict[str, str]:
        return self.environment(place)


def others(python: Path) -> list[Other]:
    """The stacks beside the product. *python*: that of the bench, which has their libraries."""
    only_tokens = dict.fromkeys(("attach", "onboarding"), "it only makes tokens")
    only_tokens["reader"] = "it does not sign its results"
    celery, taskiq, raw = (f"bench.contenders.{name}" for name in ("celery_sdk", "taskiq_aiohttp", "raw_loop"))
    quiet = ("--loglevel", "ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat")
    silent = ("--log-level", "ERROR")
    beside_celery = "the cost of publishing is compared with Celery's"
    return [
        Other(
            "Celery prefork + stripe",
            python,
            celery,
            ("celery", "-A", celery, "worker", "-P", "prefork", "-c", "IN_FLIGHT", *quiet),
            {**only_tokens, "throughput": "500 calls in flight would be 500 processes"},
        ),
        Other(
            "taskiq + aiohttp",
            python,
            taskiq,
            ("taskiq", "worker", f"{taskiq}:broker", *("--workers", "1", "--max-async-tasks", "IN_FLIGHT"), *silent),
            {**only_tokens, "producer": beside_celery},
        ),
        Other(
            "raw asyncio loop",
            python,
            raw,
            (raw, "work", "IN_FLIGHT"),
            {**only_tokens, "producer": beside_celery, "start": "it has nothing to start"},
        ),
    ]
