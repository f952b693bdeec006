"""Depth of the queues, and the age of the oldest message. Nothing is consumed, and nothing is opened."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from amqp.exceptions import AccessRefused
from kombu.exceptions import ChannelError
from redis.exceptions import NoPermissionError

from tokenferry.broker import connecting
from tokenferry.broker.depth import waiting_in
from tokenferry.broker.patience import is_missing
from tokenferry.configuration import Configuration
from tokenferry.contract.attach import SignedAttach
from tokenferry.contract.queues import DEAD_LETTERS, QUARANTINE, parked_queue
from tokenferry.contract.work_messages import ListItem, read_item
from tokenferry_worker.dead_letters.record import argument, json_object, shape_of
from tokenferry_worker.wiring import queues_of

SET_ASIDE: Final = (DEAD_LETTERS, QUARANTINE)


@dataclass(frozen=True)
class QueueState:
    """One queue at this moment."""

    name: str
    waiting: int
    """Messages that no worker has in hand."""
    oldest: float | None = None
    """Seconds since the oldest of them was sealed; of dead letters, since it was set aside. None: not known."""


def look(configuration: Configuration, scopes: Sequence[str]) -> list[QueueState]:
    """Return every work queue, then the parked messages of *scopes*, then what was set aside.

    RabbitMQ shows no message without delivering it, so there no age is known. A queue that this user may not read is
    left out: workers of a role have rights for their own queues. Raises what the broker's client raises.
    """
    amqp = connecting.is_amqp(connecting.broker_url(configuration))
    names = [*queues_of(configuration, "all"), *map(parked_queue, scopes), *SET_ASIDE]
    with connecting.connect(configuration) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0.05, reraise_as_library_errors=False)
        state = _on_rabbitmq if amqp else _on_redis
        return [found for name in names if (found := state(connection, name)) is not None]


def _on_redis(connection: Any, name: str) -> QueueState | None:
    channel = connection.default_channel
    try:
        waiting = waiting_in(channel, name, amqp=False)
        payload = channel.bare_client.lindex(channel.key_of(name), -1) if waiting else None
    except NoPermissionError:
        return None
    return QueueState(name, waiting, _age(payload) if isinstance(payload, bytes) else None)


def _on_rabbitmq(connection: Any, name: str) -> QueueState | None:
    """Count 0 for a queue that is not there: no worker has started yet."""
    with connection.channel() as channel:
        try:
            return QueueState(name, waiting_in(channel, name, amqp=True, declare=False))
        except AccessRefused:
            return None
        except ChannelError as error:
            if not is_missing(error):
                raise
    return QueueState(name, 0)


def _age(payload: bytes) -> float | None:
    item = read_item(payload)
    if not isinstance(item, ListItem):
        return None
    began = _began(item.body.decode("utf-8", "replace"))
    return None if began is None else max(0.0, time.time() - began / 1000)


def _began(body: str) -> int | None:
    """Return when a message began to wait, in Unix milliseconds."""
    with suppress(ValueError, TypeError):
        if isinstance(at := json_object(body).get("at"), int):
            return at  # a record of a message that was set aside
    shape = shape_of(argument(body))
    if shape is None:
        return None
    return shape.request.token_created_at if isinstance(shape, SignedAttach) else shape.header.issued_at


def as_json(state: QueueState) -> dict[str, object]:
    """Return *state* for programs."""
    oldest = None if state.oldest is None else round(state.oldest, 1)
    return {"queue": state.name, "waiting": state.waiting, "oldest_seconds": oldest}
