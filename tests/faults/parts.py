"""Measurements with one subject each: workers that freeze, one that dies beside a peer, one call that lasts."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from e2e.brokers import RabbitMQ
from e2e.house import until
from faults.facts import Facts, Wish
from faults.judging import TOKEN_KEY, Finding, Verdict, judge
from faults.line import Trap
from faults.scene import CONFIGURATION, Lines, Scene
from faults.steps import step_traps
from faults.workload import Errand, Mixture, Sender

STEADY: Final = (
    CONFIGURATION.replace("global_per_second = 10000", "global_per_second = 100")
    .replace("endpoint_per_second = 5000", "endpoint_per_second = 100")
    .replace("burst = 50", "burst = 3")
)
"""For an even flow of calls."""
LIFETIME: Final = 8.0
"""Seconds until a token is too old to be spent, in `SHORT_LIVED`."""
PATIENT: Final = CONFIGURATION.replace("read_timeout = 4.0", "read_timeout = 120.0")
"""For calls that last."""
LONG_LEASE: Final = PATIENT.replace("lease_seconds = 2.0", "lease_seconds = 6.0")
"""The same on a machine that may stand still for some seconds: a lease that lapses meanwhile is nobody's fault."""
SHORT_LIVED: Final = PATIENT.replace("attempts = 5", f"attempts = 5\ntoken_lifetime = {LIFETIME}")
"""For tokens that grow too old while somebody has them in hand."""
PLAIN: Final = Mixture(spent=0.0, refused=0.0, twice=0.0)


@dataclass(frozen=True)
class Part:
    """One measurement and its verdict."""

    name: str
    broker: str
    verdict: Verdict
    figures: dict[str, float]


def frozen_while_idle(scene: Scene, *, rounds: int, seed: int, quiet: float = 12.0) -> Part:
    """SIGSTOP an idle worker, publish five requests, SIGKILL it: what the server had handed to it must come back.

    Stands for a frozen virtual machine and for half-open connections, too.
    """
    scene.fresh()
    dice = random.Random(seed)
    route = f"frozen-{seed}"
    accepted: dict[str, Wish] = {}
    idle = scene.hire()
    for _ in range(rounds):
        scene.until_ready(idle)
        time.sleep(0.5)  # until what it asks for is out
        _until_quiet(scene, route, len(accepted), quiet)
        os.kill(idle.pid, signal.SIGSTOP)
        accepted |= _send(scene, list(PLAIN.errands(5, route, dice)))
        time.sleep(0.2)  # time for the server to hand out whatever the idle worker has asked for
        idle.kill()
        idle = scene.hire()
    scene.until_ready(idle)
    _until_quiet(scene, route, len(accepted), quiet)
    scene.crew = [idle]
    verdict = _verdict(scene, route, accepted)
    scene.dismiss()
    return Part("frozen while idle", scene.kind, verdict, {"rounds": rounds, "lost": len(verdict.of("lost"))})


def recovery(scene: Scene, *, kills: int, seed: int) -> Part:
    """SIGKILL one of two workers under load: seconds until the calls it was making are made again by the other one.

    By the endpoint's clock, from the kill to the arrival of the second call under the same key. The scene's endpoint
    should be slow and its rate low (`STEADY`), so that there are calls under way at every moment. Between two kills
    there is time for all of it: how long it takes to die twice is another question.
    """
    scene.fresh()
    dice = random.Random(seed)
    route = f"recovery-{seed}"
    scene.staff(2)
    scene.until_ready(*scene.crew)
    sender = Sender(scene.house.producer, list(PLAIN.errands(900 * kills, route, dice)), per_second=110.0)
    sender.start()
    killed_at: list[float] = []
    while len(killed_at) < kills:
        time.sleep(dice.uniform(0.5, 1.0) + (RECOVERED if killed_at else 0.0))
        if not _calls_under_way(scene, sender):
            break
        victim = dice.choice(scene.crew)
        killed_at.append(time.time())
        victim.kill()
        scene.staff(2)
        scene.until_ready(*scene.crew)
    sender.join(600.0)
    _until_quiet(scene, route, len(sender.accepted), 25.0)
    facts = _facts(scene, route, sender.accepted)
    verdict = judge(facts)
    scene.dismiss()
    waits = sorted(_second_starts(facts, killed_at))
    figures: dict[str, float] = {"kills": len(killed_at), "calls cut short": len(waits)}
    if waits:
        figures |= {name: round(waits[int(share * (len(waits) - 1))], 2) for name, share in SHARES.items()}
    return Part("recovery", scene.kind, verdict, figures)


def _calls_under_way(scene: Scene, sender: Sender) -> bool:
    """Wait until there are some; False when there will be none any more."""
    while scene.house.ledger()["in_flight"] < 10:
        if not sender.is_alive() and not scene.house.broker.unfinished():
            return False
        time.sleep(0.02)
    return True


RECOVERED: Final = 5.0
"""Seconds from a kill (and a new worker that is ready) to the next."""
SHARES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def _second_starts(facts: Facts, killed_at: list[float]) -> list[float]:
    """Seconds from a kill to the second call of each request whose first call it cut short."""
    waits = []
    for key, calls in facts.calls.items():
        if TOKEN_KEY.fullmatch(key) and len(calls) > 1:
            first, second = sorted(call.at for call in calls)[:2]
            between = [at for at in killed_at if first <= at <= second]
            if between:
                waits.append(second - between[0])
    return waits


def long_call(scene: Scene, *, seconds: float, seed: int) -> Part:
    """One call whose answer takes *seconds*, many times the lease, while two workers live: nobody else may begin it."""
    scene.fresh()
    route = f"long-{seed}"
    errands = list(PLAIN.errands(20, route, random.Random(seed)))
    lines = Lines(scene)
    held = lines.endpoint.set_trap(Trap(re.compile(rb"POST /v1/tokens"), after=True))
    scene.crew = [scene.hire(lines=lines)]
    try:
        scene.until_ready(*scene.crew)
        accepted = _send(scene, errands)
        until(held.sprung.is_set, "a call that is held")
        scene.crew.append(scene.hire())  # only now: it must not come first
        scene.until_ready(*scene.crew)
        time.sleep(seconds)
        lines.endpoint.release()
        _until_quiet(scene, route, len(accepted), 15.0)
        facts = _facts(scene, route, accepted)
    finally:
        scene.dismiss()
        lines.close()
    begun = _deliveries(scene, accepted)
    verdict = judge(facts)
    again = [
        Finding("two starts", id_, f"delivered {count} times while its worker was alive")
        for id_, count in begun.items()
        if count > 1
    ]
    verdict = Verdict((*verdict.findings, *again), verdict.counts)
    return Part("long call", scene.kind, verdict, {"seconds": seconds, "delivered twice": len(again)})


def old_news(scene: Scene, *, seed: int) -> Part:
    """A worker freezes when it has claimed a token, and wakes when that has grown too old and a peer is spending it.

    It believes in its claim and has made no call: on its own it would give the token up for another one. The scene's
    tokens should live for seconds, and its calls may last (`SHORT_LIVED`).
    """
    scene.fresh()
    route = f"old-news-{seed}"
    first, second = Lines(scene), Lines(scene)
    store, claimed = step_traps(scene, first)["claimed"]
    endpoint, spent = step_traps(scene, second)["spent, no answer"]
    store.set_trap(claimed)
    endpoint.set_trap(spent)
    sleeper = scene.hire(lines=first)
    scene.crew = [sleeper]
    try:
        scene.until_ready(sleeper)
        accepted = _send(scene, list(Mixture(spent=1.0, refused=0.0, twice=0.0).errands(1, route, random.Random(seed))))
        until(claimed.sprung.is_set, "a claim")
        too_old = time.monotonic() + LIFETIME
        os.kill(sleeper.pid, signal.SIGSTOP)
        if isinstance(scene.house.broker, RabbitMQ):
            scene.house.broker.cut()  # else it would wait for its heartbeat
        scene.crew.append(scene.hire(lines=second))
        until(spent.sprung.is_set, "a peer that spends the token")
        time.sleep(max(0.0, too_old - time.monotonic()))
        for line in first.each():
            line.release()
        os.kill(sleeper.pid, signal.SIGCONT)
        _until_quiet(scene, route, 1, 15.0)
        endpoint.release()
        facts = _facts(scene, route, accepted)
    finally:
        scene.dismiss()
        first.close()
        second.close()
    return Part("old news", scene.kind, judge(facts), {"tokens": sum(map(len, facts.tokens.values()))})


def _deliveries(scene: Scene, accepted: dict[str, Wish]) -> dict[str, int]:
    """How often each request was handed to a worker, as the journal has counted (docs/state.md)."""
    counts = {}
    for id_ in accepted:
        counts[id_] = int(scene.valkey.hget(f"tokenferry:journal:request:{id_}", "deliveries") or 0)
    return counts


def _send(scene: Scene, errands: list[Errand]) -> dict[str, Wish]:
    sender = Sender(scene.house.producer, errands)
    sender.run()
    return sender.accepted


def _until_quiet(scene: Scene, route: str, count: int, quiet: float) -> None:
    """Wait for *count* outcomes, or until none has come for so many seconds."""
    heard, since = -1, time.monotonic()
    while heard < count and time.monotonic() - since < quiet:
        now = scene.listen(route)
        if now > heard:
            heard, since = now, time.monotonic()
        time.sleep(0.02)


def _facts(scene: Scene, route: str, accepted: dict[str, Wish]) -> Facts:
    with suppress(AssertionError):
        scene.house.until_all_is_done(5.0)
    scene.listen(route)
    return scene.facts(accepted, {})


def _verdict(scene: Scene, route: str, accepted: dict[str, Wish]) -> Verdict:
    return judge(_facts(scene, route, accepted))
