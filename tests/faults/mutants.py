"""How each mutation is found out: by which crime, in what kind of round, and beside a control of the same plan."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from e2e.house import BrokerKind
from faults.judging import Crime, Verdict
from faults.parts import LONG_LEASE, PLAIN, SHORT_LIVED, frozen_while_idle, long_call, old_news
from faults.plans import one_round, stage
from faults.rounds import Plan
from faults.troubles import AFTER_THE_EFFECT
from faults.workload import Mixture

Play = Callable[[BrokerKind, int, str | None, Path], Verdict]
"""Play it on a broker by a seed, with workers of this mutation (None: sound ones)."""
EVERYWHERE: Final[Collection[BrokerKind]] = ("embedded", "redis", "rabbitmq", "own-rabbitmq")
ON_REDIS: Final[Collection[BrokerKind]] = ("embedded", "redis")


@dataclass(frozen=True)
class Mutant:
    """What a mutation must be found out by."""

    crimes: frozenset[Crime]
    play: Play
    brokers: Collection[BrokerKind] = EVERYWHERE
    """Where it means anything: RabbitMQ has no transport of ours, and no leases but its connections."""


@dataclass(frozen=True)
class Proof:
    """The same plan with sound workers and with broken ones."""

    crimes: frozenset[Crime]
    control: Verdict
    mutated: Verdict

    @property
    def holds(self) -> bool:
        """Whether the broken ones are found out by what they do, and the sound ones are accused of nothing."""
        return not self.control.findings and any(self.mutated.of(crime) for crime in self.crimes)


def prove(name: str, kind: BrokerKind, seed: int, out: Path) -> Proof:
    """Play it both ways."""
    mutant = MUTANTS[name]
    return Proof(mutant.crimes, mutant.play(kind, seed, None, out), mutant.play(kind, seed, name, out))


def _round(plan: Plan) -> Play:
    return lambda kind, seed, mutation, out: one_round(kind, seed, plan, out, mutation=mutation).verdict


def _long_call(kind: BrokerKind, seed: int, mutation: str | None, out: Path) -> Verdict:
    with stage(kind, seed, mutation=mutation, configuration=LONG_LEASE) as opened:
        return long_call(opened, seconds=15.0, seed=seed).verdict


def _frozen(kind: BrokerKind, seed: int, mutation: str | None, out: Path) -> Verdict:
    with stage(kind, seed, mutation=mutation) as opened:
        return frozen_while_idle(opened, rounds=2, seed=seed).verdict


def _old_news(kind: BrokerKind, seed: int, mutation: str | None, out: Path) -> Verdict:
    with stage(kind, seed, mutation=mutation, configuration=SHORT_LIVED) as opened:
        return old_news(opened, seed=seed).verdict


# Calls that last: whenever the kill comes, something is in hand.
_KILLS: Final = Plan(requests=600, endpoint={"slow_drip": 0.5}, mixture=PLAIN, troubles=("kill-all", "kill-all"))
_DROPPED: Final = Plan(requests=300, mixture=PLAIN, endpoint=AFTER_THE_EFFECT)
# What such a key makes of a spend whose answer was lost: nobody can say, or, now and then, something untrue.
_DROPPED_SPENT: Final = Plan(
    requests=1500, mixture=Mixture(spent=1.0, refused=0.0, twice=1.0), endpoint=AFTER_THE_EFFECT
)
_TELLING: Final = Plan(requests=400, endpoint={}, mixture=PLAIN, steps=("about to tell",) * 3)

MUTANTS: Final[dict[str, Mutant]] = {
    "early-ack": Mutant(frozenset({"lost"}), _round(_KILLS)),
    "random-key": Mutant(frozenset({"second token"}), _round(_DROPPED)),
    "no-fence": Mutant(frozenset({"second token"}), _old_news),
    "no-renewal": Mutant(frozenset({"two starts"}), _long_call, ON_REDIS),
    "stock-transport": Mutant(frozenset({"lost"}), _frozen, ON_REDIS),
    "random-attach-key": Mutant(frozenset({"gave up", "wrong outcome"}), _round(_DROPPED_SPENT)),
    "told-unconfirmed": Mutant(frozenset({"lost"}), _round(_TELLING)),
}
"""By the name of the mutation (`mutations.MUTATIONS`)."""
