"""Logs once a minute, for the whole fleet, which circuits are still open and how many requests wait for them."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tokenferry.broker import depth
from tokenferry.configuration import Configuration
from tokenferry.contract.queues import attach_queues, onboard_queue, parked_queue, tokenize_queues
from tokenferry_worker.circuits.breaker import LOOK_EVERY, CircuitBreaker, CircuitStore
from tokenferry_worker.circuits.scopes import Circuit, parks, plainly, remedy

log = logging.getLogger(__name__)

EVERY: Final = 60.0
"""Seconds between two lines about one circuit. The first comes as long after its alarm."""
DUTY: Final = "still-open:"
"""Prefix of the name of this duty."""


@dataclass
class Reminder:
    """Logs for this process. In the fleet, one process at a time does it for each circuit."""

    configuration: Configuration
    circuits: CircuitStore
    breaker: CircuitBreaker
    every: float = EVERY
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    _since: dict[str, float] = field(default_factory=dict)
    """By open circuit, in the loop's time: when this process saw it first, or logged it last."""

    async def run(self) -> None:
        """Log the open circuits, for ever."""
        while True:
            await asyncio.sleep(min(LOOK_EVERY, self.every))
            try:
                await self.look()
            except Exception as error:
                log.warning("the open circuits could not be listed (%s); trying again", type(error).__name__)

    async def look(self) -> None:
        """Log the circuits whose time has come."""
        snapshot, now = self.breaker.snapshot, asyncio.get_running_loop().time()
        self._since = {scope: self._since.get(scope, now) for scope in snapshot.open}
        for scope, circuit in snapshot.open.items():
            if now - self._since[scope] < self.every:
                continue
            self._since[scope] = now
            if await self.circuits.try_lead(DUTY + scope, self.name, lease=self.every):
                await self._log(circuit, scope in snapshot.parked)

    async def _log(self, circuit: Circuit, has_parked: bool) -> None:
        queues = self._queues(circuit.scope, has_parked)
        waiting = await asyncio.to_thread(depth.ask, self.configuration, queues)
        log.warning(
            "circuit '%s' is still open, since %s: %s. %s requests wait in queues, and %d in the hands of this "
            "process; %d probes have failed. %s",
            circuit.scope,
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(circuit.opened_at)),
            plainly(circuit.scope, circuit.status, circuit.code),
            sum(waiting.values()) if waiting or not queues else "An unknown number of",
            self.breaker.waiting_for(circuit.scope),
            circuit.probes,
            remedy(circuit.scope, circuit.status, circuit.code),
        )

    def _queues(self, scope: str, has_parked: bool) -> Sequence[str]:
        """Return the queues where requests of *scope* wait. A queue of parked ones exists once one was parked."""
        if parks(scope):
            return [parked_queue(scope)] if has_parked else []
        platform = scope.partition("/")[0]
        if "/" in scope and scope.endswith("/tokens"):
            return [*tokenize_queues(platform), onboard_queue(platform)]
        return [*tokenize_queues(platform), *attach_queues(platform), onboard_queue(platform)]
