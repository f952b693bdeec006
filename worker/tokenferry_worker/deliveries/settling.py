"""The one place where an outcome becomes messages, before the delivery is acknowledged."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final

from tokenferry.broker.publishing import CanPublish, Outgoing, PublishError
from tokenferry.contract.codes import Code
from tokenferry.contract.queues import (
    ATTACH_TASK,
    DEAD_LETTERS,
    QUARANTINE,
    TOKENIZE_TASK,
    attach_queue,
    parked_queue,
    tokenize_queue,
)
from tokenferry_worker.circuits.breaker import CircuitStore
from tokenferry_worker.dead_letters.retention import retained
from tokenferry_worker.deliveries.recording import to_json
from tokenferry_worker.keys.result_signing import ResultSigner
from tokenferry_worker.log_fields import fields
from tokenferry_worker.metrics.names import (
    DEAD_LETTERED,
    NO_FAILURE,
    OTHER,
    OUTCOMES,
    PARKED_TOTAL,
    REFUSALS,
    bounded,
)
from tokenferry_worker.metrics.registry import Meters, NoMeters
from tokenferry_worker.outcomes import (
    DeadLettered,
    Dropped,
    HandedOn,
    Outcome,
    Parked,
    Quarantined,
    Retokenize,
    Settled,
)

Handler = Callable[[str], Awaitable[None]]
"""Takes one delivery from its body to its settled outcome. When it returns, the delivery is acknowledged."""

log = logging.getLogger(__name__)

BEFORE_ANY_CALL: Final = frozenset(
    {
        Code.NOT_GRANTED,
        Code.INVALID_LIFETIME,
        Code.STORE_IS_YOUNGER,
        Code.UNKNOWN_PLATFORM,
        Code.UNOPENABLE,
        Code.CVC_NOT_DECLARED,
        Code.WRONG_KIND,
        Code.WRONG_OPTIONS,
        Code.ATTACH_ID_REUSED,
        Code.REQUEST_ID_REUSED,
    }
)
"""Codes of refusals: no call to Stripe was made."""


@dataclass(frozen=True)
class Settler:
    """Publishes the messages of an outcome, and returns only when the broker has confirmed all of them."""

    publisher: CanPublish
    circuits: CircuitStore
    clock: Callable[[], Awaitable[float]]
    """Unix seconds, by the store."""
    results: ResultSigner
    set_aside: Counter[str] = field(default_factory=Counter)
    """Messages moved to the quarantine, by reason."""
    meters: Meters = field(default_factory=NoMeters)
    platforms: Collection[str] = ()
    """Those that are configured. A message may name any other: it counts as `other`."""

    async def settle(self, outcome: Outcome, body: str, *, realtime: bool = True) -> None:
        """Publish what *outcome* asks for. *body*: the delivery's message.

        *realtime*: True if it may have come by the realtime lane.
        """
        match outcome:
            case Settled():
                await self._publish_result(outcome)
                self._count(outcome)
            case HandedOn(order):
                request = order.request
                queue = attach_queue(request.lane, request.platform)
                await self._publish(Outgoing.task(queue, ATTACH_TASK, request.attach_id, order.text()))
            case Retokenize(sealed, platform, lane, request_id):
                await self._publish(Outgoing.task(tokenize_queue(lane, platform), TOKENIZE_TASK, request_id, sealed))
            case DeadLettered(settled, code):
                kept = retained(body, code, at=await self.clock(), realtime=realtime, **_history(settled))
                await self._publish(Outgoing(DEAD_LETTERS, kept))
                await self._publish_result(settled)
                self._count(settled)
                self._report_dead(settled, code)
            case Dropped(settled):
                await self._publish_result(settled)
                self._count(settled)
            case Quarantined(reason, stranger):
                kept = retained(body, reason, at=await self.clock(), realtime=realtime)
                await self._publish(Outgoing(QUARANTINE, kept))
                self.set_aside[reason] += 1
                log.warning(
                    "a message is not ours or not readable (%s); moved to %s%s", reason, QUARANTINE, _of(stranger)
                )
            case Parked(scope, task, id_):
                await self._publish(Outgoing.task(parked_queue(scope), task, id_, body))
                # Only now: the process that carries parked messages back forgets a queue that it finds empty.
                await self.circuits.count_parked(scope)
                self.meters.count(PARKED_TOTAL, scope.partition("/")[0])

    def _count(self, settled: Settled) -> None:
        result = settled.result
        failure = result.failure
        kind = getattr(result, "kind", "onboarding")
        code = bounded(failure.code) if failure is not None else NO_FAILURE
        self.meters.count(OUTCOMES, self._platform(result.platform), settled.lane or OTHER, kind, code)
        if failure is not None and failure.source == "tokenferry" and failure.code in BEFORE_ANY_CALL:
            self.meters.count(REFUSALS, bounded(failure.param) if failure.code == Code.NOT_GRANTED else code)

    def _platform(self, name: str) -> str:
        return name if name in self.platforms else OTHER

    def _report_dead(self, settled: Settled, code: str) -> None:
        result = settled.result
        id_ = getattr(result, "attach_id", result.request_id)
        self.meters.count(DEAD_LETTERED, self._platform(result.platform), bounded(code))
        log.info(
            "%s: given up (%s); it is a dead letter",
            id_,
            code,
            extra=fields(id_, result.platform, code=code, trace=settled.trace),
        )

    async def _publish_result(self, settled: Settled) -> None:
        if settled.reply_to is not None:
            body = settled.recorded or to_json(settled.result)
            await self._publish(self.results.message(settled.reply_to, body))

    async def _publish(self, message: Outgoing) -> None:
        """Publish until the broker confirms it. The delivery waits unacknowledged, so nothing is lost meanwhile."""
        pause = 0.2
        while True:
            try:
                await asyncio.wrap_future(self.publisher.submit(message))
                return
            except PublishError as error:
                log.warning("publish to %s failed (%s); trying again", message.queue, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 10.0)


def _of(stranger: str | None) -> str:
    """What a line of the log adds about an unknown signer."""
    if stranger is None:
        return ""
    return f". It says it is of signer '{stranger}': if another fleet uses this broker, set [broker] prefix for each"


def _history(settled: Settled) -> dict[str, Any]:
    """What a dead letter says of the calls that failed."""
    failure = settled.result.failure
    return {
        "outcome_id": settled.result.outcome_id,
        "attempts": failure.attempts if failure else 0,
        "history": [attempt.model_dump() for attempt in failure.history] if failure else [],
    }
