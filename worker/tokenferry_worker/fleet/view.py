"""The whole fleet at one moment, from what the store and the broker know. It changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tokenferry.configuration import Configuration
from tokenferry.contract.operations import resource_of
from tokenferry_worker.circuits.scopes import Circuit, CircuitSnapshot, plainly
from tokenferry_worker.fleet.queues import SET_ASIDE, QueueState
from tokenferry_worker.fleet.useful import Work, useful_processes
from tokenferry_worker.health.reporter import ProcessRecord
from tokenferry_worker.limits.budgets import Budgets
from tokenferry_worker.on_redis.circuits import RedisCircuits
from tokenferry_worker.on_redis.controls import Controls, State
from tokenferry_worker.on_redis.processes import RedisProcesses
from tokenferry_worker.on_redis.store import Store


@dataclass(frozen=True)
class StoreView:
    """What the store knows of the fleet."""

    budgets: Sequence[State]
    circuits: CircuitSnapshot
    processes: Sequence[ProcessRecord]

    @classmethod
    async def look(cls, configuration: Configuration, store: Store) -> StoreView:
        """Ask the store. Raises what its client raises."""
        budgets = [each for name, platform in configuration.platforms.items() for each in Budgets(name, platform).all()]
        return cls(
            await Controls(store).show(budgets),
            await RedisCircuits(store).snapshot(),
            await RedisProcesses(store).all(),
        )

    def used(self) -> Counter[str]:
        """Return the calls per second of the whole fleet in the last minute, by budget."""
        used: Counter[str] = Counter()
        for process in self.processes:
            used.update(process.rates)
        return used

    def failures(self) -> Counter[str]:
        """Return the failed outcomes of the last five minutes, by code."""
        return sum((Counter(process.failures) for process in self.processes), Counter())

    def waiting(self) -> Counter[str]:
        """Return how many requests in hand wait, by cause."""
        return sum((Counter(process.waiting) for process in self.processes), Counter())


@dataclass(frozen=True)
class FleetView:
    """What store and broker know. *queues*: None where the broker is away."""

    store: StoreView
    queues: Sequence[QueueState] | None

    def useful_processes(self, configuration: Configuration) -> int | None:
        """Return how many processes can be kept busy. None while the broker is away."""
        if self.queues is None:
            return None
        latencies = [each.latency for each in self.store.processes if each.latency is not None]
        return useful_processes(
            [Work(self._waiting(name), self._rate(name)) for name in configuration.platforms],
            latency=sum(latencies) / len(latencies) if latencies else None,
            concurrency=configuration.worker.concurrency,
        )

    def _waiting(self, platform: str) -> int:
        work = (each for each in self.queues or () if each.name not in SET_ASIDE and "parked." not in each.name)
        waiting = sum(each.waiting for each in work if each.name.rpartition(".")[2] == platform)
        return waiting + (sum(each.in_hand for each in self.store.processes) if waiting else 0)

    def _rate(self, platform: str) -> float:
        closed = {platform, f"{platform}/outage"}
        if closed & self.store.circuits.open.keys():
            return 0.0
        return sum(0.0 if each.paused else each.now for each in self.store.budgets if each.name == f"{platform}:global")


def why_less(state: State, circuits: Iterable[Circuit]) -> list[str]:
    """Return why a budget allows fewer calls than the configuration, or why none are made."""
    reasons = []
    if state.paused:
        reasons.append(f"paused{_by(state)}: {state.paused}")
    if state.set_to is not None and state.set_to < state.configured:
        reasons.append(f"set to {state.set_to:g}{_by(state)}")
    if state.factor < 1:
        reasons.append(f"slowed to {100 * state.factor:.0f} %: Stripe answered 429")
    platform, _, what = state.name.partition(":")
    for circuit in circuits:
        if _covers(circuit.scope, platform, what):
            reasons.append(f"circuit {circuit.scope}: {plainly(circuit.scope, circuit.status, circuit.code)}")
    return reasons


def _by(state: State) -> str:
    return f" by {state.by}" if state.by else ""


def _covers(scope: str, platform: str, what: str) -> bool:
    """True if an open *scope* stops all calls of a budget."""
    if scope in (platform, f"{platform}/outage"):
        return what == "global"
    endpoint = resource_of(what.partition(":")[2])
    return scope in (f"{platform}/outage/{endpoint}", f"{platform}/endpoint/{endpoint}")
