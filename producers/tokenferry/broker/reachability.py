"""Asking a broker for a sign of life, within a deadline, before anything depends on it."""

from __future__ import annotations

import threading

from tokenferry.broker import connecting
from tokenferry.broker.error_text import CONNECTION_LOST, connection_failure
from tokenferry.broker.errors import PublishError, PublishTimeout
from tokenferry.configuration import Configuration

__all__ = ["CONNECTION_LOST", "lost", "reach"]

lost = connection_failure


def reach(configuration: Configuration) -> None:
    """Return once the configured broker has answered.

    Raises `BrokerUnavailable` when it refuses, `BrokerFull` when it has no room, `PublishTimeout` when it says nothing
    within `publish_timeout`. The deadline is kept here, because client libraries start theirs again for every step and
    every try.
    """
    seconds = configuration.broker.publish_timeout
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
    thread.join(seconds)
    if thread.is_alive():
        raise _silent(seconds)
    if trouble:
        failure = lost(trouble[0])
        raise _silent(seconds) if isinstance(failure, PublishTimeout) and "handshake" not in str(failure) else failure


def _silent(seconds: float) -> PublishError:
    return PublishTimeout(f"the broker did not answer within {seconds:g} s; see [broker] url", maybe_sent=False)
