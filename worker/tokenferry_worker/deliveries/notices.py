"""Tells reply routes why their requests wait. Lossy by design: nothing waits for a notice, and none is sent again."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from tokenferry.broker.alarm import Alarm
from tokenferry.broker.publishing import CanPublish
from tokenferry.contract.notices import Notice
from tokenferry_worker.circuits.breaker import LOOK_EVERY, CircuitBreaker, CircuitStore
from tokenferry_worker.keys.result_signing import ResultSigner
from tokenferry_worker.limits.pacing import Budget
from tokenferry_worker.limits.waits import Asker, Wait, Waits

log = logging.getLogger(__name__)

FIRST_INTERVAL: Final = 10.0
LAST_INTERVAL: Final = 60.0
"""Seconds between two notices about the same thing on one route. Each interval is twice the one before."""
ORDINARY: Final = 2.0
"""Seconds that a call waits for a permit, or the store is away, before anybody is told: shorter waits are ordinary."""
LONGEST_LOOK: Final = 5.0
"""Seconds after which a look is given up: the store has gone away in its middle. The next look says so."""
MOST_TOLD: Final = 100
"""Routes and reasons that one process tells at a time. More are not told."""
DUTY: Final = "notice:"
"""Prefix of the names under which one process of the fleet tells a route."""
PERMITS_ASKED: Final = 20
"""Budgets that one look asks the store about."""

Key = tuple[str, str, str]
"""Route, reason, scope."""


class BudgetState(Protocol):
    """What the store says of a budget."""

    @property
    def factor(self) -> float: ...
    @property
    def wait(self) -> float: ...
    @property
    def paused(self) -> str | None: ...
    @property
    def set_to(self) -> float | None: ...


@dataclass
class _Told:
    notice: Notice
    interval: float
    again_at: float
    """Monotonic seconds."""


@dataclass
class Notifier:
    """Publishes the notices of this process. For each route and reason one process of the fleet does it at a time."""

    waits: Waits
    breaker: CircuitBreaker
    circuits: CircuitStore
    look_at: Callable[[Budget], Awaitable[BudgetState]]
    store_away: Callable[[], bool]
    publisher: CanPublish
    results: ResultSigner
    now: Callable[[], float] = time.time
    """Unix seconds."""
    interval: float = FIRST_INTERVAL
    ordinary: float = ORDINARY
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    _told: dict[Key, _Told] = field(default_factory=dict)
    _since: dict[Key, int] = field(default_factory=dict)
    """When this process saw first what has no beginning of its own."""
    _away_since: float | None = None
    """Monotonic seconds. None: the store was there at the last look."""

    async def run(self) -> None:
        """Tell whoever waits, for ever."""
        alarm = Alarm(log, "telling why requests wait")
        while True:
            try:
                async with asyncio.timeout(LOOK_EVERY):
                    await self.waits.changed.wait()
            except TimeoutError:
                pass
            self.waits.changed.clear()
            try:
                async with asyncio.timeout(LONGEST_LOOK):
                    await self.look()
            except Exception as error:
                alarm.failed(f"{type(error).__name__}; trying again")
            else:
                alarm.worked()

    async def look(self) -> None:
        """Tell what begins, what lasts, and what is over."""
        away = self.store_away()
        found = dict(self._without_store() if away else await self._with_store())
        self._since = {key: notice.since for key, notice in found.items()}
        # Without the store nobody knows whether anything else is over.
        over = [key for key in self._told if key not in found and (not away or key[1] == "store_away")]
        for key in over:
            self._end(key, self._told.pop(key))
        for key, notice in found.items():
            if key in self._told or len(self._told) < MOST_TOLD:
                await self._tell(key, notice)
        self.waits.watched = bool(self._told)

    async def _tell(self, key: Key, notice: Notice) -> None:
        told, now = self._told.get(key), self.waits.monotonic()
        if told is not None and now < told.again_at:
            return
        interval = self.interval if told is None else min(2 * told.interval, LAST_INTERVAL)
        # Without its store, nobody can be asked who tells: each process does.
        alone = notice.reason == "store_away"
        if alone or await self.circuits.try_lead(DUTY + ":".join(key), self.name, lease=interval):
            self._told[key] = _Told(notice, interval, now + interval)
            self._publish(key, notice)

    def _end(self, key: Key, told: _Told) -> None:
        """Say that it is over, where a request of the route is in hand.

        Its result comes later. Without one, the route may be gone, and a message would make it again.
        """
        if Asker(key[0], told.notice.platform) in self.waits.in_hand:
            self._publish(key, told.notice.model_copy(update={"over": True}))

    def _publish(self, key: Key, notice: Notice) -> None:
        self.publisher.submit(self.results.message(key[0], notice.model_dump_json(exclude_none=True)))

    def _without_store(self) -> list[tuple[Key, Notice]]:
        now = self.waits.monotonic()
        self._away_since = now if self._away_since is None else self._away_since
        askers = list(self.waits.in_hand) if now - self._away_since >= self.ordinary else []
        return [self._of(asker, "store_away", "no_answer", "store") for asker in askers]

    async def _with_store(self) -> list[tuple[Key, Notice]]:
        self._away_since = None
        waits = self.waits.current()
        return [*self._circuits(waits), *await self._budgets(waits)]

    def _circuits(self, waits: list[Wait]) -> Iterator[tuple[Key, Notice]]:
        open_ = self.breaker.snapshot.open
        self.waits.parked = {scope: askers for scope, askers in self.waits.parked.items() if scope in open_}
        in_hand = [(scope, wait.asker) for wait in waits for scope in wait.scopes if scope in open_]
        parked = [(scope, asker) for scope, askers in self.waits.parked.items() for asker in askers]
        for scope, asker in (*in_hand, *parked):
            circuit = open_[scope]
            yield self._of(asker, "circuit_open", circuit.code, scope, since=int(circuit.opened_at * 1000))

    async def _budgets(self, waits: list[Wait]) -> list[tuple[Key, Notice]]:
        late = self.waits.monotonic() - self.ordinary
        askers: dict[Budget, set[Asker]] = {}
        for wait in waits:
            for budget in wait.budgets if wait.since <= late else ():
                askers.setdefault(budget, set()).add(wait.asker)
        found = []
        for budget in list(askers)[:PERMITS_ASKED]:
            state = await self.look_at(budget)
            until = int((self.now() + state.wait) * 1000)
            for asker in askers[budget]:
                if state.paused is not None:
                    found.append(self._of(asker, "paused", "operator", budget.name, until=until))
                elif state.factor < 1.0 or state.set_to is not None:
                    code = "rate_limited" if state.factor < 1.0 else "operator"
                    found.append(self._of(asker, "slowed", code, budget.name))
        return found

    def _of(
        self, asker: Asker, reason: str, code: str, scope: str, *, since: int | None = None, until: int | None = None
    ) -> tuple[Key, Notice]:
        key = (asker.route, reason, scope)
        began = self._since.get(key, int(self.now() * 1000)) if since is None else since
        fields = {"platform": asker.platform, "reason": reason, "code": code, "scope": scope[:200]}
        return key, Notice.model_validate({**fields, "since": began, "until": until})
