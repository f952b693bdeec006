"""How many messages wait in a queue, and whether one more may."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tokenferry.broker import connecting
from tokenferry.broker.error_text import BROKER, explain
from tokenferry.configuration import Configuration

log = logging.getLogger(__name__)

FRESH: Final = 1.0
"""Seconds for which a count is used. What we put there meanwhile is added to it."""


@dataclass(frozen=True, slots=True)
class Bound:
    """How long a queue may get."""

    most: int
    """Messages that may wait in it."""
    per_second: float
    """How fast they are worked off at best: the rate of the account."""


def bound_of(queue: str, configuration: Configuration) -> Bound | None:
    """The bound of a tokenize or onboard queue of this configuration; None where there is none."""
    platform = configuration.platforms.get(queue.rpartition(".")[2])
    if not configuration.broker.max_waiting or platform is None:
        return None
    return Bound(configuration.broker.max_waiting, platform.endpoint_per_second("tokens"))


def waiting_in(channel: Any, queue: str, *, amqp: bool, declare: bool = True) -> int:
    """Messages in *queue* that no consumer has in hand. On RabbitMQ: *declare* it where it is not there.

    Raises what the broker's client raises.
    """
    if not amqp:
        return int(channel._size(queue))
    declared = connecting.queue(queue, amqp=True).bind(channel)
    if declare:
        declared.declare()  # with its binding; to ask for one that is not there would cost the channel
    return int(declared.queue_declare(passive=True).message_count)


def ask(configuration: Configuration, queues: Iterable[str]) -> dict[str, int]:
    """How many messages wait in each of *queues*, over a connection of its own; nothing while the broker is silent."""
    amqp = connecting.is_amqp(connecting.broker_url(configuration))
    try:
        with connecting.connect(configuration) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0.05, reraise_as_library_errors=False)
            return {queue: waiting_in(connection.default_channel, queue, amqp=amqp) for queue in queues}
    except Exception as error:  # whatever the client raises: it is asked again later
        log.info("the depth of queues is unknown: %s", explain(error, BROKER).of(BROKER))
        return {}


def why_silent(waiting: Mapping[str, int], start: str = "`tokenferry worker`") -> str:
    """Why no result may have come, by how many messages wait in the queues of the requests. *start*: starts a worker.

    A requester sees no more than that: who reads a queue, and whether requests are paused, only workers know.

    >>> print(why_silent({"tokenize.bulk.main": 40}))
    40 messages wait in tokenize.bulk.main: does a worker of this fleet read it? Start one with `tokenferry worker`
    """
    queue, count = max(waiting.items(), key=lambda one: one[1], default=("", 0))
    if count:
        messages = "a message waits" if count == 1 else f"{count} messages wait"
        return f"{messages} in {queue}: does a worker of this fleet read it? Start one with {start}"
    if waiting:
        return (
            "its queue is empty, so a worker has taken it: see `tokenferry doctor` and `tokenferry circuits` where the "
            "workers run. If another fleet uses this broker, set [broker] prefix for each"
        )
    return f"is a worker running? Start one with {start}"


class Depths:
    """The depth of queues, asked about once a second. For one thread."""

    def __init__(self, ask: Callable[[str], int], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._known: dict[str, tuple[float, int]] = {}

    def refusal(self, queue: str, bound: Bound) -> str | None:
        """Why *queue* takes no message more; None when it takes one, which is then counted."""
        now = self._clock()
        at, count = self._known.get(queue, (-FRESH, 0))
        if now - at >= FRESH:
            at, count = now, self._ask(queue)
        full = count >= bound.most
        self._known[queue] = at, count + (not full)
        if not full:
            return None
        return (
            f"the queue {queue} is full: {count} messages wait, [broker] max_waiting is {bound.most}; "
            f"at {bound.per_second:g} per second at best they take {roughly(count / bound.per_second)}. "
            "Wait, run more workers, or raise the limit"
        )


def roughly(seconds: float) -> str:
    """A duration for a person.

    >>> roughly(7), roughly(95), roughly(40_000)
    ('about 7 s', 'about 2 min', 'about 11 h')
    """
    if seconds < 60:
        return f"about {max(1, round(seconds))} s"
    if seconds < 5400:
        return f"about {round(seconds / 60)} min"
    return f"about {round(seconds / 3600)} h"
