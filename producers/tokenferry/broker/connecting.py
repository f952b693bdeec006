"""Connections and queues, the same for both halves."""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlencode, urlsplit

from amqp.exceptions import PreconditionFailed
from kombu import Connection, Exchange, Queue
from redis.exceptions import ResponseError

from tokenferry.addresses import AMQP_SCHEMES, EMBEDDED, trusts_anybody
from tokenferry.broker import amqp_transport, embedded, redis_transport
from tokenferry.broker.error_text import BROKER, explain, in_one_slot
from tokenferry.broker.sentinel import Sentinels, is_sentinel
from tokenferry.configuration import Broker, Configuration, InvalidConfiguration, StoreSettings
from tokenferry.contract.names import is_hash_tag
from tokenferry.contract.queues import DEAD_LETTERS, full_name, life_of

log = logging.getLogger(__name__)

EXCHANGE: Final = "tokenferry"
"""RabbitMQ only: a topic exchange, so that an operator may bind more to it. Routing keys are names of queues."""

DELIVERY_LIMIT: Final = 1000
"""RabbitMQ only: deliveries of one message after which the broker moves it to the dead letters."""
NO_DELIVERY_LIMIT: Final = 1_000_000
"""As good as no limit, in a form that every version understands: 3.x knows no -1."""
KEPT_AT_LIMIT: Final = ("tokenize.bulk.", "attach.", "onboard.", "parked.")
"""Queues whose messages become dead letters at the limit. Results and messages already set aside stay."""

UNVERIFIED: Final = (
    "the server's certificate is not checked (ssl_cert_reqs=none): anybody in between can read and answer; "
    "leave the parameter out, and set ca_file for an authority of your own"
)

TLS_SCHEMES: Final = frozenset({"amqps", "rediss", "sentinels"})


def broker_url(configuration: Configuration) -> str:
    """The URL kombu connects to. Starts the embedded server where that is what is configured.

    Raises `InvalidConfiguration` for a ca_file that cannot be meant, and where the embedded server does not run and may
    not be started; `EmbeddedServerError` when it does not start.
    """
    url = configuration.broker.url
    if url == EMBEDDED:
        return redis_transport.kombu_url(_embedded(configuration).redis_url)
    if is_amqp(url):
        _ca_file(configuration, "broker")
        return url
    _warn_if_unverified("broker", url)
    return redis_transport.kombu_url(_with_ca_file(configuration, "broker", url))


def store_url(configuration: Configuration) -> str:
    """The URL redis-py connects to for journal, ledger and limiter. Starts the embedded server where configured.

    Raises as `broker_url`.
    """
    url = configuration.store.url
    if url == EMBEDDED:
        return _embedded(configuration).redis_url
    _warn_if_unverified("store", url)
    return _with_ca_file(configuration, "store", url)


@cache
def _warn_if_unverified(section: str, url: str) -> None:
    """Warn once per process of TLS that does not check the certificate."""
    if trusts_anybody(url):
        log.warning("[%s] url: %s", section, UNVERIFIED)


def _embedded(configuration: Configuration) -> embedded.Embedded:
    data = configuration.path(configuration.data)
    if not configuration.may_start_server and not embedded.is_running(data):
        raise InvalidConfiguration(
            f"no embedded server runs with the data folder {data}, and this command starts none. Start a worker "
            "(`tokenferry worker`), which starts it with all it held; or go to the folder of the configuration, or "
            "name it with --config"
        )
    born_key = f"{configuration.store.prefix}:born" if configuration.store.url == EMBEDDED else None
    return embedded.ensure(data, born_key=born_key)


def keep_embedded_server(configuration: Configuration, *, store: bool = False) -> None:
    """Start the embedded server again where it is the broker and has died. Costs next to nothing while it lives.

    *store*: also where it is the store, which only workers need. Raises `EmbeddedServerError`.
    """
    if configuration.broker.url == EMBEDDED or (store and configuration.store.url == EMBEDDED):
        _embedded(configuration)


def is_amqp(url: str) -> bool:
    """Whether the broker is RabbitMQ rather than Redis or Valkey."""
    return urlsplit(url).scheme in AMQP_SCHEMES


def transport(url: str) -> str | None:
    """The name of the kombu transport for *url*; None: the URL says it itself."""
    return amqp_transport.NAMES.get(urlsplit(url).scheme)


def tls(configuration: Configuration) -> dict[str, Any] | bool:
    """Options with which kombu and Celery trust the right RabbitMQ only. For Redis they are in the URL.

    By default the AMQP client checks who signed the certificate, but not the host name in it.
    """
    parts = urlsplit(configuration.broker.url)
    if parts.scheme != "amqps":
        return False
    ca_file = _ca_file(configuration, "broker")
    return {
        "server_hostname": parts.hostname,
        "cert_reqs": ssl.CERT_REQUIRED,
        "ca_certs": None if ca_file is None else str(ca_file),
    }


def _ca_file(configuration: Configuration, section: Literal["broker", "store"]) -> Path | None:
    place: Broker | StoreSettings = getattr(configuration, section)
    if place.ca_file is None:
        return None
    path = configuration.path(place.ca_file)
    if urlsplit(place.url).scheme not in TLS_SCHEMES:
        raise InvalidConfiguration(
            f"[{section}] ca_file is for rediss://, sentinels:// and amqps://: correct url, or leave it out"
        )
    if not path.is_file():
        raise InvalidConfiguration(f"[{section}] ca_file: {path} is not there; copy the authority's certificate (PEM)")
    return path


def _with_ca_file(configuration: Configuration, section: Literal["broker", "store"], url: str) -> str:
    path = _ca_file(configuration, section)
    if path is None:
        return url
    return f"{url}{'&' if urlsplit(url).query else '?'}{urlencode({'ssl_ca_certs': str(path)})}"


def _connect_timeout(configuration: Configuration) -> float:
    """Seconds for a connection to stand. Two tries fit into `publish_timeout`, so that who waits learns the reason."""
    seconds = configuration.broker.publish_timeout
    return min(seconds, max(1.0, seconds / 3))


def transport_options(url: str, configuration: Configuration) -> dict[str, Any]:
    """Options with which nothing is lost and nothing waits for ever."""
    timeout, prefix = configuration.broker.publish_timeout, configuration.broker.prefix
    if is_amqp(url):
        return {"confirm_publish": True, "read_timeout": timeout, "write_timeout": timeout, "name_prefix": prefix}
    theirs = _with_ca_file(configuration, "broker", configuration.broker.url)
    behind = {"sentinels": Sentinels.parse(theirs)} if is_sentinel(theirs) else {}
    return behind | {
        "global_keyprefix": full_name(prefix, ""),
        "cluster": is_hash_tag(prefix),
        "lease_seconds": configuration.broker.lease_seconds,
        "socket_timeout": timeout,
        "socket_connect_timeout": _connect_timeout(configuration),
        "socket_keepalive": not url.startswith("tokenferry+socket"),
    }


def connect(configuration: Configuration) -> Connection:
    """A lazy connection: nothing is sent before its first use."""
    url = broker_url(configuration)
    return Connection(
        url,
        transport=transport(url),
        transport_options=transport_options(url, configuration),
        ssl=tls(configuration),
        connect_timeout=_connect_timeout(configuration),
        heartbeat=10 if is_amqp(url) else 0,
    )


def full(configuration: Configuration, name: str) -> str:
    """The name of a queue or exchange as the broker's own tools show it."""
    return full_name(configuration.broker.prefix, name)


def queue(name: str, *, amqp: bool) -> Queue:
    """The declaration of one queue: quorum on RabbitMQ, a plain list on Redis and Valkey.

    `deploy/rabbitmq/definitions.json` spells out the same.
    """
    if amqp:
        return Queue(
            name,
            Exchange(EXCHANGE, type="topic", durable=True),
            routing_key=name,
            durable=True,
            queue_arguments=quorum_arguments(name),
        )
    return Queue(name, Exchange(""), routing_key=name)


def quorum_arguments(name: str) -> dict[str, Any]:
    """What makes a queue of RabbitMQ keep everything. They cannot be changed once the queue is there.

    Since RabbitMQ 4.0 a quorum queue drops what was delivered 20 times, unless another limit is set. Workers count the
    deliveries of a request themselves (`[worker] deliveries`). The broker's count also goes up when a worker stops in
    good order, so it is the last resort: what reaches it becomes a dead letter. Not in the realtime lane, where a
    verification code may be inside: such a message is never set aside, it ends with its deadline.
    """
    if (life := life_of(name)) is not None:
        return {"x-queue-type": "quorum", "x-delivery-limit": NO_DELIVERY_LIMIT, "x-expires": int(life * 1000)}
    if not name.startswith(KEPT_AT_LIMIT):
        return {"x-queue-type": "quorum", "x-delivery-limit": NO_DELIVERY_LIMIT}
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": EXCHANGE,
        "x-dead-letter-routing-key": DEAD_LETTERS,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",  # without it the broker falls back to at most once
    }


def difference(error: PreconditionFailed) -> str:
    """What RabbitMQ says is different from our declaration: `x-delivery-limit: none`, for instance."""
    text = str(error)
    argument = re.search(r"inequivalent arg '([\w-]+)'", text)
    current = re.search(r"current is (?:the value )?'?([\w-]+)'?", text)
    return f"{argument[1] if argument else 'declaration'}: {current[1] if current else 'unknown'}"


def cure(name: str) -> str:
    """What to do about a queue of RabbitMQ that exists with other settings: they cannot be changed."""
    return f"empty it or move its messages, then `rabbitmqctl delete_queue {name}`: the next start declares it anew"


def mismatch(name: str, error: PreconditionFailed) -> str:
    """Which queue is not as we declare it, and the cure."""
    return f"the queue '{name}' exists with other settings than ours ({difference(error)}); {cure(name)}"


def _check_redis(channel: Any, configuration: Configuration) -> None:
    """Raise `InvalidConfiguration` for a server that no worker could work with, however long it waited."""
    try:
        in_cluster = redis_transport.ask_to_track(channel)
    except ResponseError as error:
        raise InvalidConfiguration(f"[broker] url: {explain(error, BROKER).of(BROKER)}") from None
    if in_cluster and not is_hash_tag(configuration.broker.prefix):
        raise InvalidConfiguration(f"[broker] url: the server is a node of a cluster; {in_one_slot('broker')}")


def check(configuration: Configuration, names: Iterable[str]) -> None:
    """Declare these queues on RabbitMQ, and ask Redis or Valkey for what a reader needs, if it answers.

    Raises `InvalidConfiguration` naming a queue that exists with other settings: nobody could read it; and where Redis
    or Valkey refuses to say when a queue has changed: a worker would be restarted for ever.
    """
    url = broker_url(configuration)
    connection = connect(configuration)
    try:
        connection.ensure_connection(max_retries=1, interval_start=0.05, reraise_as_library_errors=False)
        if not is_amqp(url):
            _check_redis(connection.default_channel, configuration)
            return
        for name in names:
            try:
                queue(name, amqp=True).bind(connection.channel()).declare()
            except PreconditionFailed as error:
                raise InvalidConfiguration(mismatch(full(configuration, name), error)) from None
    except (OSError, *connection.connection_errors, *connection.channel_errors):
        return  # the worker waits for it, and says so
    finally:
        connection.collect(socket_timeout=1.0)
