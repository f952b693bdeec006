"""The one place where an outcome becomes messages, before the delivery is acknowledged."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass

from tokenferry.broker.publishing import Outgoing, PublishError, Publishes
from tokenferry.contract.queues import ATTACH_TASK, DEAD_LETTERS, QUARANTINE, attach_queue, parked_queue, results_queue
from tokenferry_worker.outcomes import DeadLettered, Dropped, HandedOn, Outcome, Parked, Quarantined, Settled
from tokenferry_worker.ports import CircuitBook

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settler:
    """Publishes what an outcome asks for and returns only when the broker has confirmed all of it."""

    publisher: Publishes
    circuits: CircuitBook

    async def settle(self, outcome: Outcome, body: str) -> None:
        """Tell whoever is to be told. *body*: the delivery's message, kept as it came where it must be kept."""
        match outcome:
            case Settled():
                await self._tell(outcome)
            case HandedOn(order):
                request = order.request
                queue = attach_queue(request.platform)
                await self._publish(Outgoing.task(queue, ATTACH_TASK, request.attach_id, order.model_dump_json()))
            case DeadLettered(settled, code):
                why = settled.result.failure
                history = [attempt.model_dump() for attempt in why.history] if why else []
                await self._publish(set_aside(DEAD_LETTERS, body, code, history=history))
                await self._tell(settled)
            case Dropped(settled):
                await self._tell(settled)
            case Quarantined(reason):
                log.warning("a message is not ours or not readable (%s); moved to %s", reason, QUARANTINE)
                await self._publish(set_aside(QUARANTINE, body, reason))
            case Parked(scope, task, id_):
                await self._publish(Outgoing.task(parked_queue(scope), task, id_, body))
                # Only now: who carries parked messages back forgets a queue that it finds empty.
                await self.circuits.parked(scope)

    async def _tell(self, settled: Settled) -> None:
        if settled.reply_to is not None:
            body = settled.result.model_dump_json(exclude_none=True)
            await self._publish(Outgoing(results_queue(settled.reply_to), body))

    async def _publish(self, message: Outgoing) -> None:
        """Publish until it is confirmed: the delivery waits unacknowledged, so nothing is lost meanwhile."""
        pause = 0.2
        while True:
            try:
                await asyncio.wrap_future(self.publisher.submit(message))
                return
            except PublishError as error:
                log.warning("publish to %s failed (%s); trying again", message.queue, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 10.0)


def set_aside(queue: str, body: str, reason: str, **more: object) -> Outgoing:
    """A message as it came, with the reason, the time (Unix milliseconds) it was set aside, and what else is known."""
    return Outgoing(queue, json.dumps({"reason": reason, "at": int(time.time() * 1000), **more, "message": body}))
