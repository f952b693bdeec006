"""Carries parked messages back to their queues: one to probe a circuit, all of them once it is closed."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

from amqp.exceptions import AMQPError
from kombu import Connection, Queue
from kombu.message import Message as Delivery

from tokenferry.broker import connecting
from tokenferry.broker.alarm import Alarm
from tokenferry.broker.patience import ask, passes
from tokenferry.broker.publishing import CanPublish, Outgoing, wait
from tokenferry.configuration import Configuration
from tokenferry.contract.queues import (
    ATTACH_TASK,
    MAX_TAKEN_BYTES,
    ONBOARD_TASK,
    attach_queue,
    onboard_queue,
    parked_queue,
    tokenize_queue,
)
from tokenferry_worker.circuits.breaker import LOOK_EVERY, CircuitBreaker, CircuitStore
from tokenferry_worker.circuits.scopes import Circuit

log = logging.getLogger(__name__)

TOGETHER: Final = 200
"""Messages carried back before the first of them is acknowledged; fewer where they are long (`MAX_TAKEN_BYTES`)."""
MOST_PER_VISIT: Final = 2000
"""Then it is the turn of another circuit."""
DUTY: Final = 30.0
"""Seconds for which one process is alone in carrying; longer than a visit. Two at once would do no harm."""
PATIENCE: Final = 10.0
"""Seconds for a message that was carried back to come up and probe, before another one is sent after it."""


@dataclass
class ParkedRequeuer:
    """One process's readiness to carry; in the fleet one at a time does it for each circuit."""

    configuration: Configuration
    publisher: CanPublish
    circuits: CircuitStore
    breaker: CircuitBreaker
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    _sent: dict[str, tuple[int, float]] = field(default_factory=dict)
    """To probe which circuit a message was sent back: after how many failed probes, and until when it may take."""

    async def run(self) -> None:
        """Look after every parked message, for ever."""
        alarm = Alarm(log, "carrying parked messages back")
        while True:
            await asyncio.sleep(LOOK_EVERY)
            board = self.breaker.snapshot
            for scope, count in board.parked.items():
                circuit = board.open.get(scope)
                if circuit is not None and (circuit.due_in > 0 or self._is_under_way(circuit)):
                    continue
                try:
                    await self._visit(scope, count, circuit)
                except Exception as error:
                    alarm.failed(f"those of '{scope}' still wait ({type(error).__name__}); trying again")
                else:
                    alarm.worked()

    def _is_under_way(self, circuit: Circuit) -> bool:
        probes, until = self._sent.get(circuit.scope, (-1, 0.0))
        return probes == circuit.probes and time.monotonic() < until

    async def _visit(self, scope: str, count: int, circuit: Circuit | None) -> None:
        if not await self.circuits.try_lead(scope, self.name, lease=DUTY):
            return
        if circuit is not None:
            self._sent[scope] = circuit.probes, time.monotonic() + PATIENCE
        empty = await asyncio.to_thread(self._carry, scope, circuit is not None)
        if empty and circuit is None:
            await self.circuits.forget_parked(scope, count)

    def _carry(self, scope: str, probing: bool) -> bool:
        """Publish back, confirmed, then acknowledge here: what is cut short comes twice, and the journal knows it.

        Whether the queue was empty at the end. A thread may wait here as long as it likes.
        """
        with connecting.connect(self.configuration) as connection:
            amqp = connecting.is_amqp(connecting.broker_url(self.configuration))
            lot = _Lot(connection, connecting.queue(parked_queue(scope), amqp=amqp), declare=amqp)
            carried, empty, enough = 0, False, False
            batch: list[_Carried] = []
            while carried < MOST_PER_VISIT and not (empty or enough):
                fresh = bytes_ = 0
                while fresh < TOGETHER and bytes_ < MAX_TAKEN_BYTES and not (empty or enough):
                    message = lot.get()
                    if message is None:
                        empty = True
                        continue
                    if lot.knows(message, batch):
                        continue
                    bytes_ += len(message.body or b"")
                    back, live = _way_back(scope, message)
                    batch.append(_Carried(message, self.publisher.submit(back)))
                    fresh += 1
                    enough = probing and live
                for one in batch:
                    wait(one.confirmed, self.configuration.broker.publish_timeout)
                batch = [one for one in batch if not lot.acknowledge(one)]
                carried += fresh
            return empty and not lot.interrupted


@dataclass(eq=False)
class _Carried:
    """A parked message that was published to its own queue, and is still to be taken off the parked ones."""

    message: Delivery
    confirmed: Future[None]


class _Lot:
    """The parked messages of one scope, over a connection that RabbitMQ may end in the middle.

    Then what was fetched goes back to the queue and comes up again. What of it was published is not published twice.
    """

    def __init__(self, connection: Connection, queue: Queue, *, declare: bool) -> None:
        """*declare*: whether to make the queue where it is not there."""
        self._connection = connection
        self._queue = queue
        self._declare = declare
        self._channel: Any = None
        self.interrupted = False
        """Whether a connection has ended. Then the queue may look empty while something is on its way back to it."""

    def get(self) -> Delivery | None:
        """The next message, or None where there is none left.

        Raises `QueueUnanswered`, or the client library's error.
        """
        return ask(self._connection, self._get, queue=self._queue.name)

    def _get(self, connection: Connection) -> Delivery | None:
        channel = connection.default_channel
        self.interrupted |= self._channel not in (None, channel)
        self._channel = channel
        bound = self._queue.bind(channel)
        if self._declare:
            bound.declare()
            self._declare = False
        return bound.get()

    def knows(self, message: Delivery, batch: Iterable[_Carried]) -> bool:
        """Whether *message* is one of the *batch* that has come up again. Then it stands for it from now on."""
        for one in batch:
            if one.message.channel is not message.channel and _same(one.message, message):
                one.message = message
                return True
        return False

    def acknowledge(self, one: _Carried) -> bool:
        """Take it off the queue. False where its connection has ended: then it comes up once more."""
        try:
            one.message.ack()
        except (AMQPError, OSError) as error:
            if not passes(error):
                raise
            self.interrupted = True
            return False
        return True


def _same(one: Delivery, other: Delivery) -> bool:
    # Not all headers: RabbitMQ counts deliveries in one of them.
    return bool(one.body == other.body and one.headers.get("id") == other.headers.get("id"))


def _way_back(scope: str, message: Delivery) -> tuple[Outgoing, bool]:
    """The message on its way to its own queue, and whether its time is still to come: else it cannot probe anything."""
    platform = scope.partition("/")[0]
    body = message.body.decode("utf-8", "backslashreplace") if isinstance(message.body, bytes) else str(message.body)
    attach = message.headers.get("task") == ATTACH_TASK
    queue = attach_queue("bulk", platform) if attach else tokenize_queue("bulk", platform)
    if message.headers.get("task") == ONBOARD_TASK:
        queue = onboard_queue(platform)
    headers: Mapping[str, Any] = {name: value for name, value in message.headers.items() if name != "redelivered"}
    try:
        inner = json.loads(json.loads(body)[0][0])
        ends = inner["request"]["attach_before"] if attach else inner["header"]["expires_at"]
        live = float(ends) > time.time() * 1000
        if attach and inner["request"].get("lane") == "realtime":
            queue = attach_queue("realtime", platform)
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
        live = False  # not ours: its own queue's worker sets it aside
    return Outgoing(queue, body, headers, {"correlation_id": message.properties.get("correlation_id")}), live
