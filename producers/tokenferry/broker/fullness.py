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
        if amqp:
            count = waiting_in(channel, queue, amqp=True)
            return count, count * ASSUMED_BYTES
        # Nothing set aside has a priority, so all of it is in one list, and a user needs a right on that one only.
        client, key = channel.bare_client, channel.key_of(queue)
        return int(client.llen(key)), int(client.memory_usage(key, samples=50) or 0)
