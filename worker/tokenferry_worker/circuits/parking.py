"""Moves parked messages back to their queues: one to probe a circuit, all of them once it is closed."""

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

from amqp.exceptions import AccessRefused, AMQPError
from kombu import Connection, Queue
from kombu.message import Message as Delivery
from redis.exceptions import NoPermissionError

from tokenferry.broker import connecting
from tokenferry.broker.alarm import Alarm
from tokenferry.broker.patience import ask, passes
from tokenferry.broker.publishing import CanPublish, Outgoing, wait
from tokenferry.configuration import Configuration
from tokenferry.contract.attach import read_order
from tokenferry.contract.envelope2 import Envelope2
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
"""Messages moved before the first of them is acknowledged. Fewer where they are long (`MAX_TAKEN_BYTES`)."""
MOST_PER_VISIT: Final = 2000
"""Messages moved before it is the turn of another circuit."""
DUTY: Final = 30.0
"""Seconds for which one process alone moves the messages of a circuit: longer than a visit. Two would do no harm."""
PATIENCE: Final = 10.0
"""Seconds for a message that was moved back to be delivered and probe, before another one is sent after it."""


@dataclass
class ParkedRequeuer:
    """Moves parked messages for this process. In the fleet, one process at a time does it for each circuit."""

    configuration: Configuration
    publisher: CanPublish
    circuits: CircuitStore
    breaker: CircuitBreaker
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    _sent: dict[str, tuple[int, float]] = field(default_factory=dict)
    """By circuit to probe: how many probes had failed when a message was sent back, and how long to wait for it."""

    async def run(self) -> None:
        """Move back every parked message whose time has come, for ever."""
        alarm = Alarm(log, "moving parked messages back")
        while True:
            await asyncio.sleep(LOOK_EVERY)
            snapshot = self.breaker.snapshot
            for scope, count in snapshot.parked.items():
                circuit = snapshot.open.get(scope)
                if circuit is not None and (circuit.due_in > 0 or self._is_probing(circuit)):
                    continue
                try:
                    await self._visit(scope, count, circuit)
                except (NoPermissionError, AccessRefused):
                    log.info("this user may not read parked messages, so workers of another user move them back")
                    return
                except Exception as error:
                    alarm.failed(f"those of '{scope}' still wait ({type(error).__name__}); trying again")
                else:
                    alarm.worked()

    def _is_probing(self, circuit: Circuit) -> bool:
        """True while a message that was sent back to probe *circuit* may still do so."""
        probes, until = self._sent.get(circuit.scope, (-1, 0.0))
        return probes == circuit.probes and time.monotonic() < until

    async def _visit(self, scope: str, count: int, circuit: Circuit | None) -> None:
        if not await self.circuits.try_lead(scope, self.name, lease=DUTY):
            return
        if circuit is not None:
            self._sent[scope] = circuit.probes, time.monotonic() + PATIENCE
        empty = await asyncio.to_thread(self._move, scope, circuit is not None)
        if empty and circuit is None:
            await self.circuits.forget_parked(scope, count)

    def _move(self, scope: str, probing: bool) -> bool:
        """Publish messages to their own queues, wait for the confirmations, then acknowledge them here.

        What is interrupted is delivered twice, and the journal recognises it. *probing*: only until one message can
        probe. Returns True if the queue was empty at the end. Runs in a thread, because it waits for the broker.
        """
        with connecting.connect(self.configuration) as connection:
            amqp = connecting.is_amqp(connecting.broker_url(self.configuration))
            parked = _ParkedQueue(connection, connecting.queue(parked_queue(scope), amqp=amqp), declare=amqp)
            moved, empty, enough = 0, False, False
            batch: list[_Moved] = []
            while moved < MOST_PER_VISIT and not (empty or enough):
                fresh = bytes_ = 0
                while fresh < TOGETHER and bytes_ < MAX_TAKEN_BYTES and not (empty or enough):
                    message = parked.get()
                    if message is None:
                        empty = True
                        continue
                    if parked.came_again(message, batch):
                        continue
                    bytes_ += len(message.body or b"")
                    outgoing, can_probe = _to_its_queue(scope, message)
                    batch.append(_Moved(message, self.publisher.submit(outgoing)))
                    fresh += 1
                    enough = probing and can_probe
                for one in batch:
                    wait(one.confirmed, self.configuration.broker.publish_timeout)
                batch = [one for one in batch if not parked.acknowledge(one)]
                moved += fresh
            return empty and not parked.interrupted


@dataclass(eq=False)
class _Moved:
    """A parked message that was published to its own queue, and is still to be acknowledged in the parked one."""

    message: Delivery
    confirmed: Future[None]


class _ParkedQueue:
    """The parked messages of one scope, over a connection that RabbitMQ may end at any moment.

    Then the messages in hand go back to the queue and are delivered again. Those published are not published twice.
    """

    def __init__(self, connection: Connection, queue: Queue, *, declare: bool) -> None:
        """*declare*: True to make the queue where it is missing."""
        self._connection = connection
        self._queue = queue
        self._declare = declare
        self._channel: Any = None
        self.interrupted = False
        """True if a connection has ended. Then the queue may look empty while messages are on their way back to it."""

    def get(self) -> Delivery | None:
        """Return the next message, or None where there is none left.

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

    def came_again(self, message: Delivery, batch: Iterable[_Moved]) -> bool:
        """True if *message* is one of *batch*, delivered again. Then it replaces the earlier delivery."""
        for one in batch:
            if one.message.channel is not message.channel and _same(one.message, message):
                one.message = message
                return True
        return False

    def acknowledge(self, one: _Moved) -> bool:
        """Take it off the queue. False where its connection has ended: then it is delivered once more."""
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


def _to_its_queue(scope: str, message: Delivery) -> tuple[Outgoing, bool]:
    """Return the message for its own queue, and True if it can probe: its deadline has not passed."""
    platform = scope.partition("/")[0]
    body = message.body.decode("utf-8", "backslashreplace") if isinstance(message.body, bytes) else str(message.body)
    attach = message.headers.get("task") == ATTACH_TASK
    queue = attach_queue("bulk", platform) if attach else tokenize_queue("bulk", platform)
    if message.headers.get("task") == ONBOARD_TASK:
        queue = onboard_queue(platform)
    headers: Mapping[str, Any] = {name: value for name, value in message.headers.items() if name != "redelivered"}
    try:
        ends, lane = _says(json.loads(body)[0][0], attach=attach)
        can_probe = float(ends) > time.time() * 1000
        if attach and lane == "realtime":
            queue = attach_queue("realtime", platform)
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError, AttributeError):
        can_probe = False  # not ours: the worker of its queue sets it aside
    return Outgoing(queue, body, headers, {"correlation_id": message.properties.get("correlation_id")}), can_probe


def _says(argument: str, *, attach: bool) -> tuple[Any, Any]:
    """Return when the message ends, in Unix milliseconds, and its lane. Raises like `json.loads`, and `LookupError`."""
    if attach and argument.startswith("tf2o."):
        order = read_order(argument).request
        return order.attach_before, order.lane
    if argument.startswith("tf2e."):
        header = Envelope2.read(argument).header
        return header.expires_at, header.lane
    inner = json.loads(argument)
    part = inner["request"] if attach else inner["header"]
    return part["attach_before" if attach else "expires_at"], part.get("lane")
