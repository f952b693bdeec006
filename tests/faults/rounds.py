"""One round: a seeded load, troubles in a seeded order at seeded moments, then calm, then the verdict."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from faults.facts import ON_THE_WAY, Facts, Wish
from faults.judging import Verdict, judge
from faults.outboxed import Outboxed
from faults.scene import Scene
from faults.troubles import LATE, STORM, TROUBLES, StepVictim
from faults.workload import Mixture, Sender, killed_producer

from tokenferry import Results

QUIET: Final = 25.0
"""Seconds without any new outcome after which what is missing counts as lost. Longer than a lease, and than the longest
chain of pauses between five attempts."""
MOST: Final = 0.8
"""Share of the requests that have been told when the endpoint's faults end: they meet the work of slow machines too."""
SETTLED: Final = 2.0
"""Seconds from the last queue to the first trouble: a RabbitMQ node (3.10) that is killed within half a second after a
quorum queue was declared never finds a leader for it again (docs/brokers.md)."""


@dataclass(frozen=True)
class Plan:
    """What a round consists of."""

    requests: int
    mixture: Mixture = field(default_factory=Mixture)
    endpoint: Mapping[str, float] = field(default_factory=lambda: STORM)
    """Faults of the endpoint by probability."""
    troubles: Sequence[str] = ()
    """Names of `TROUBLES`, in this order."""
    steps: Sequence[str] = ()
    """Steps of a delivery at each of which one worker is killed or frozen."""
    producers: int = 0
    """Producers that are killed while they send."""
    outbox: bool = False
    """Whether some more requests go through an outbox, whose producer and reader are killed and started again."""
    crew: int = 2
    per_second: float | None = 300.0
    """Requests sent per second; None: as fast as can be."""


@dataclass
class Report:
    """What came of it."""

    seed: int
    broker: str
    verdict: Verdict
    seconds: float
    steps: Counter[str] = field(default_factory=Counter)
    """Steps at which a worker was stopped."""
    troubles: Counter[str] = field(default_factory=Counter)
    refusals: int = 0
    """Sends the broker did not confirm in time; each was repeated under its id."""
    crashes: int = 0
    """Deliveries given back for an error that nobody foresaw: nothing lost, and yet a bug to look for."""
    diary: list[str] = field(default_factory=list)


def play(scene: Scene, plan: Plan, *, seed: int) -> tuple[Report, Facts]:
    """Play one round of *plan* and judge it."""
    dice = random.Random(seed)
    scene.fresh()
    began = time.monotonic()
    route = f"faults-{seed}-{dice.getrandbits(32):08x}"
    errands = list(plan.mixture.errands(plan.requests, route, random.Random(dice.getrandbits(64))))
    scene.staff(plan.crew)
    scene.house.http.post("/_faults", json=dict(plan.endpoint))
    victims = [StepVictim(scene, step, dice.randint(1, 25), freeze=dice.random() < 0.3) for step in plan.steps]
    for victim in victims:
        victim.start()
    scene.until_ready(*scene.crew)
    for name in (route, f"{route}-outbox"):
        with Results(name, scene.house.folder / "tokenferry.toml") as results:
            results.take(0.0)  # declares its queue
    time.sleep(SETTLED)
    sender = Sender(scene.house.producer, errands, per_second=plan.per_second)
    sender.start()
    outboxed = Outboxed(scene, f"{route}-outbox", dice.getrandbits(48)) if plan.outbox else None
    if outboxed is not None:
        outboxed.start()
    accepted: dict[str, Wish] = {}
    uncertain: dict[str, Wish] = {}
    for _ in range(plan.producers):
        confirmed, perhaps = killed_producer(scene, route, dice)
        accepted |= confirmed
        uncertain |= perhaps
    troubles: Counter[str] = Counter()
    for name in plan.troubles:
        time.sleep(dice.uniform(0.2, 1.2))
        TROUBLES[name](scene, dice)
        troubles[name] += 1
        scene.staff(plan.crew)
    sender.join(1200.0)  # on a busy machine a broker that confirms one by one takes its time
    assert not sender.is_alive(), "the sender is still not done"
    assert sender.trouble is None, f"the sender did not end well: {sender.trouble!r}"
    accepted |= sender.accepted | (outboxed.accepted if outboxed else {})
    _calm(scene, plan, route, accepted, victims, outboxed)
    steps = Counter(victim.step for victim in victims if victim.sprung)
    deaths = sum(troubles.values()) + sum(steps.values())
    late = ON_THE_WAY if steps or LATE & troubles.keys() else 0
    facts = scene.facts(accepted, uncertain, deaths=deaths, on_the_way=late)
    if outboxed is not None:
        facts = replace(facts, told=[*facts.told, *outboxed.told()], left={**facts.left, "outbox": outboxed.held()})
    verdict = judge(facts)
    crashes = scene.house.everything_said().count(" crashed (")
    seconds = time.monotonic() - began
    return Report(
        seed, scene.kind, verdict, seconds, steps, troubles, sender.refusals, crashes, list(scene.diary)
    ), facts


def _calm(
    scene: Scene,
    plan: Plan,
    route: str,
    accepted: Mapping[str, Wish],
    victims: Sequence[StepVictim],
    outboxed: Outboxed | None,
) -> None:
    """No more troubles, and soon a sound endpoint: until everybody has been told, or nothing happens any more."""
    heard: set[str] = set()
    since = time.monotonic()
    while not accepted.keys() <= heard:
        scene.listen(route)
        now = {result.request_id for result in (*scene.told, *(outboxed.told() if outboxed else ()))}
        if len(now) > len(heard):
            heard, since = now, time.monotonic()
        if len(heard) > MOST * len(accepted):
            scene.house.http.delete("/_faults")
        if time.monotonic() - since > QUIET:
            break
        scene.staff(plan.crew)
        time.sleep(0.2)
    scene.house.http.delete("/_faults")
    for victim in victims:
        victim.give_up()
    for victim in victims:
        victim.join(60.0)
    if outboxed is not None:
        outboxed.end(QUIET)
    try:
        scene.house.until_all_is_done(QUIET)
    except AssertionError:
        pass  # what is left is counted
    scene.listen(route)
