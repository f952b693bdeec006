"""Asking a broker for a sign of life, within a deadline, before anything depends on it."""

from __future__ import annotations

import threading
from typing import Final

from amqp.exceptions import AMQPError
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from tokenferry.broker import connecting
from tokenferry.broker.errors import BrokerFull, BrokerUnavailable, PublishError, PublishTimeout, want_of_room
from tokenferry.broker.patience import QueueUnanswered
from tokenferry.configuration import Configuration

CONNECTION_LOST: Final = (OSError, RedisError, AMQPError, KombuError)
"""What the client libraries raise when a broker goes away."""


def lost(error: Exception) -> PublishError:
    """The same in our words: the name of the error, not its text, which may quote the URL and its password."""
    if isinstance(error, QueueUnanswered):
        return BrokerUnavailable(str(error), maybe_sent=False)
    if why := want_of_room(error):
        return BrokerFull(f"the broker takes no messages: {why}", maybe_sent=False)
    return BrokerUnavailable(
        f"the broker could not be reached ({type(error).__name__}): is it running? See [broker] url", maybe_sent=False
    )


def reach(configuration: Configuration) -> None:
    """Return once the configured broker has answered.

    Raises `BrokerUnavailable` when it refuses, `BrokerFull` when it has no room, `PublishTimeout` when it says nothing
    within `publish_timeout`. The deadline is kept here, because client libraries count theirs anew for every step and
    every repetition.
    """
    connection = connecting.connect(configuration)
    trouble: list[Exception] = []

    def connect() -> None:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0.05, reraise_as_library_errors=False)
            _ = connection.default_channel  # opening the channel is what makes Redis answer
        except Exception as error:
            trouble.append(error)
        finally:
            connection.collect(socket_timeout=0.1)

    thread = threading.Thread(target=connect, name="tokenferry-reach", daemon=True)
    thread.start()
    thread.join(configuration.broker.publish_timeout)
    if thread.is_alive() or any("Timeout" in type(error).__name__ for error in trouble):
        seconds = configuration.broker.publish_timeout
        raise PublishTimeout(f"the broker did not answer within {seconds:g} s; see [broker] url", maybe_sent=False)
    if trouble:
        raise lost(trouble[0])
