"""How full a queue of set aside messages is."""

from __future__ import annotations

from typing import Final

from tokenferry.broker import connecting
from tokenferry.broker.depth import waiting_in
from tokenferry.configuration import Configuration

ASSUMED_BYTES: Final = 2_048
"""Of one message on RabbitMQ, which tells the bytes of a queue over its management interface only."""


def fullness(configuration: Configuration, queue: str) -> tuple[int, int]:
    """Return how many messages are in *queue*, and about how many bytes. Over a connection of its own.

    Raises what the broker's client raises: `NoPermissionError` or `AccessRefused` where this user may not look.
    """
    amqp = connecting.is_amqp(connecting.broker_url(configuration))
    with connecting.connect(configuration) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0.05, reraise_as_library_errors=False)
        channel = connection.default_channel
        count = waiting_in(channel, queue, amqp=amqp)
        if amqp:
            return count, count * ASSUMED_BYTES
        return count, int(channel.bare_client.memory_usage(channel.key_of(queue), samples=50) or 0)
