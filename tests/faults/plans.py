"""What a round of the campaign is made of, and how to play one on a scene of its own."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from e2e.house import BrokerKind
from faults.facts import Facts
from faults.judging import Verdict
from faults.rounds import Plan, Report, play
from faults.scene import Scene, scene
from faults.steps import STEPS
from faults.troubles import AFTER_THE_EFFECT, TROUBLES
from faults.workload import Mixture

SIZE: Final = 5000
"""Requests of one round. Another size is another round, whatever the seed."""
STEPS_A_ROUND: Final = 7
IMPOSSIBLE: Final[dict[BrokerKind, set[str]]] = {
    "embedded": {"wipe-store", "restart-store"},  # its store is its broker
    "redis": {"wipe-store", "restart-store", "full", "restart", "crash"},  # a shared server
    "rabbitmq": {"restart", "crash"},  # another one
}


def storm(kind: BrokerKind, seed: int, requests: int, only: Sequence[str] = (), *, steps: int = STEPS_A_ROUND) -> Plan:
    """Everything at once, or what is asked for alone. *steps*: at how many of them a worker is stopped."""
    dice = random.Random(seed)
    names = [name for name in TROUBLES if name not in IMPOSSIBLE.get(kind, ())]
    troubles = [name for name in names if not only or name in only]
    dice.shuffle(troubles)
    everything = not only
    return Plan(
        requests=requests,
        troubles=troubles if everything else troubles * 3,
        steps=dice.sample(STEPS, steps) if everything or "steps" in only else (),
        producers=1 if everything or "producer" in only else 0,
        outbox=everything or "outbox" in only,
    )


def duplicates(requests: int) -> Plan:
    """Every message twice, every token to be spent, workers that die, an endpoint that acts and does not say so."""
    return Plan(
        requests=requests,
        mixture=Mixture(spent=1.0, refused=0.02, twice=1.0),
        endpoint=AFTER_THE_EFFECT,
        troubles=("kill-one", "kill-all", "kill-one", "kill-all"),
        per_second=150.0,
    )


def one_round(kind: BrokerKind, seed: int, plan: Plan, out: Path, *, mutation: str | None = None) -> Report:
    """A round on a scene of its own; where something was found, its logs are kept in *out*."""
    with stage(kind, seed, mutation=mutation) as opened:
        report, facts = play(opened, plan, seed=seed)
        if report.verdict.findings and mutation is None:
            keep(opened, report.verdict, facts, out / f"{kind}-{seed}")
    return report


def keep(opened: Scene, verdict: Verdict, facts: Facts, folder: Path) -> None:
    """Leave in *folder* the logs of every process, the diary, and all that is known of what was found."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(opened.house.logs, folder)
    suspects = {finding.who for finding in verdict.findings}
    told = [result.model_dump() for result in facts.told if result.request_id in suspects]
    calls = {key: calls for key, calls in facts.calls.items() if not suspects.isdisjoint(key.split(":"))}
    page = {"findings": list(map(str, verdict.findings)), "told": told, "calls": calls, "diary": opened.diary}
    (folder / "findings.json").write_text(json.dumps(page, indent=1, default=asdict))


@contextmanager
def stage(kind: BrokerKind, seed: int, **options: Any) -> Iterator[Scene]:
    """A scene in a folder that passes away with it."""
    with (
        tempfile.TemporaryDirectory(prefix="tokenferry-faults-") as folder,
        scene(Path(folder, "house"), kind, seed=seed, **options) as opened,
    ):
        yield opened
