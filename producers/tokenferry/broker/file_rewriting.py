"""Rewrites the files of the embedded server, so that what has left its queues leaves its disk, too.

An append-only file holds each message until it is rewritten, which the server itself does at 64 MB: with a few
requests a day, after months.
"""

from __future__ import annotations

from redis.exceptions import ResponseError

from tokenferry.addresses import EMBEDDED
from tokenferry.broker import connecting
from tokenferry.configuration import Configuration


def is_ours(configuration: Configuration) -> bool:
    """True if the broker is the embedded server. How another one keeps its files is its operator's choice."""
    return configuration.broker.url == EMBEDDED


def rewrite_files(configuration: Configuration) -> None:
    """Let the embedded server begin to rewrite its append-only file. It serves meanwhile.

    Raises what the broker's client raises when the server is away.
    """
    with connecting.connect(configuration) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0.05, reraise_as_library_errors=False)
        try:
            connection.default_channel.bare_client.bgrewriteaof()
        except ResponseError:  # it does so already, or will after a snapshot that is under way
            pass
