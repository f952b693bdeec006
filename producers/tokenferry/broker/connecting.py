"""Connections and queues, the same for both halves: chosen by one setting, declared in one place."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from kombu import Connection, Exchange, Queue

from tokenferry.broker import embedded, redis_transport
from tokenferry.configuration import EMBEDDED, Configuration, InvalidConfiguration

EXCHANGE: Final = "tokenferry"
"""RabbitMQ only: a topic exchange, because Celery's delayed delivery for quorum queues can bind to no other."""

AMQP_SCHEMES: Final = frozenset({"amqp", "amqps"})
REDIS_SCHEMES: Final = frozenset({"redis", "rediss", "unix", "redis+socket"})


def broker_url(configuration: Configuration) -> str:
    """The URL kombu connects to. Starts the embedded server where that is what is configured.

    Raises `InvalidConfiguration` for a scheme that is none of ours, `EmbeddedServerError` when it does not start.
    """
    url = configuration.broker.url
    if url == EMBEDDED:
        return redis_transport.kombu_url(embedded.ensure(configuration.path(configuration.data)).redis_url)
    scheme = urlsplit(url).scheme
    if scheme in AMQP_SCHEMES:
        return url
    if scheme in REDIS_SCHEMES:
        return redis_transport.kombu_url(url)
    raise InvalidConfiguration(
        f"[broker] url begins with '{scheme}://'; write embedded, redis://, rediss://, unix://, amqp:// or amqps://"
    )


def store_url(configuration: Configuration) -> str:
    """The URL redis-py connects to for journal, ledger and limiter. Starts the embedded server where configured.

    Raises `InvalidConfiguration` for a scheme that is no Redis or Valkey.
    """
    url = configuration.store.url
    if url == EMBEDDED:
        return embedded.ensure(configuration.path(configuration.data)).redis_url
    scheme = urlsplit(url).scheme
    if scheme not in {"redis", "rediss", "unix"}:
        raise InvalidConfiguration(
            f"[store] url begins with '{scheme}://'; write embedded, redis://, rediss:// or unix://"
        )
    return url


def keep_embedded_server(configuration: Configuration) -> None:
    """Start the embedded server again where it is configured and has died. Costs next to nothing while it lives.

    Raises `EmbeddedServerError`.
    """
    if EMBEDDED in (configuration.broker.url, configuration.store.url):
        embedded.ensure(configuration.path(configuration.data))


def is_amqp(url: str) -> bool:
    """Whether the broker is RabbitMQ rather than Redis or Valkey."""
    return urlsplit(url).scheme in AMQP_SCHEMES


def transport_options(url: str, configuration: Configuration) -> dict[str, Any]:
    """What each broker must be told so that nothing is lost and nothing waits for ever."""
    timeout = configuration.broker.publish_timeout
    if is_amqp(url):
        return {"confirm_publish": True, "read_timeout": timeout, "write_timeout": timeout}
    return {
        "lease_seconds": configuration.broker.lease_seconds,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "socket_keepalive": not url.startswith("tokenferry+socket"),
    }


def connect(configuration: Configuration) -> Connection:
    """A lazy connection: nothing is sent before its first use."""
    url = broker_url(configuration)
    return Connection(
        url,
        transport_options=transport_options(url, configuration),
        connect_timeout=configuration.broker.publish_timeout,
        heartbeat=10 if is_amqp(url) else 0,
    )


def queue(name: str, *, amqp: bool) -> Queue:
    """The declaration of one queue: quorum on RabbitMQ, a plain list on Redis and Valkey."""
    if amqp:
        return Queue(
            name,
            Exchange(EXCHANGE, type="topic", durable=True),
            routing_key=name,
            durable=True,
            queue_arguments={"x-queue-type": "quorum"},
        )
    return Queue(name, Exchange(""), routing_key=name)
