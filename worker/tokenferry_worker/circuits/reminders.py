"""Says once a minute, for the whole fleet, which circuits are still open and how much waits for them."""

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
"""What begins the name of the duty to say so."""


@dataclass
class Reminder:
    """One process's readiness to say it; in the fleet one at a time does for each circuit."""

    configuration: Configuration
    circuits: CircuitStore
    breaker: CircuitBreaker
    every: float = EVERY
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    _since: dict[str, float] = field(default_factory=dict)
    """Open circuits, and since when this process has seen or said nothing new of them; in the loop's time."""

    async def run(self) -> None:
        """Look at what is open, for ever."""
        while True:
            await asyncio.sleep(min(LOOK_EVERY, self.every))
            try:
                await self.look()
            except Exception as error:
                log.warning("open circuits could not be told of (%s); trying again", type(error).__name__)

    async def look(self) -> None:
        """Say what is due to be said."""
        board, now = self.breaker.snapshot, asyncio.get_running_loop().time()
        self._since = {scope: self._since.get(scope, now) for scope in board.open}
        for scope, circuit in board.open.items():
            if now - self._since[scope] < self.every:
                continue
            self._since[scope] = now
            if await self.circuits.try_lead(DUTY + scope, self.name, lease=self.every):
                await self._say(circuit, scope in board.parked)

    async def _say(self, circuit: Circuit, has_parked: bool) -> None:
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
        """Where requests of *scope* wait. A queue for parked ones is there only once something was parked."""
        if parks(scope):
            return [parked_queue(scope)] if has_parked else []
        platform = scope.partition("/")[0]
        if "/" in scope and scope.endswith("/tokens"):
            return [*tokenize_queues(platform), onboard_queue(platform)]
        return [*tokenize_queues(platform), *attach_queues(platform), onboard_queue(platform)]
