"""Checks the broker: is it there, does it keep messages, and are its queues as a worker declares them?"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

from amqp.exceptions import AccessRefused, NotFound, PreconditionFailed
from redis.exceptions import ResponseError

from tokenferry.addresses import masked
from tokenferry.broker import connecting, redis_transport
from tokenferry.broker.error_text import BROKER, explain
from tokenferry.broker.errors import QueueUnanswered
from tokenferry.broker.patience import ask
from tokenferry.configuration import Configuration
from tokenferry.contract.queues import DEAD_LETTERS, QUARANTINE, full_name
from tokenferry_worker.doctor import servers, strangers
from tokenferry_worker.doctor.verdicts import Check, failed, ok, unreachable, warning

PATIENCE = 5.0
"""Seconds for the answers of all queues together: all checks of the broker have ten."""
CURE = "start it, or correct [broker] url in the configuration"
LEFTOVERS = {
    QUARANTINE: "somebody sends what no worker can read: look who writes to this broker, and with which keys "
    "(`tokenferry dead-letters list --quarantine`)",
    DEAD_LETTERS: "requests were given up on: find the cause (`tokenferry dead-letters list`), mend it, redrive them",
}
"""Queues that should be empty, and what to do where they are not."""


def examine(configuration: Configuration, queues: Sequence[str], *, reads: bool) -> Iterator[Check]:
    """Connects exactly as our programs do, and declares nothing that is not there yet.

    *reads*: for a worker, which reads *queues*. A producer writes to them, and needs them to be there.
    """
    where = masked(configuration.broker.url)
    connection = connecting.connect(configuration)
    try:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0.05, reraise_as_library_errors=False)
            channel = connection.default_channel  # opening it is what makes Redis answer
        except Exception as error:
            yield unreachable("broker connection", where, error, BROKER)
            return
        yield ok("broker connection", where, "answers")
        yield from servers.certificate("broker", where, configuration.broker.url)
        if connecting.is_amqp(connecting.broker_url(configuration)):
            yield from _rabbitmq(connection, configuration, queues, reads=reads)
        else:
            yield from _redis(channel, configuration, queues, reads=reads)
    finally:
        connection.collect(socket_timeout=0.1)
    if reads:
        yield from strangers.examine(configuration)


def _redis(channel: Any, configuration: Configuration, queues: Sequence[str], *, reads: bool) -> Iterator[Check]:
    where, told = masked(configuration.broker.url), servers.facts(channel.bare_client)
    if reads or told:  # a producer needs no right to ask, and the worker's doctor says the rest
        yield from servers.version("broker", where, told, prefix=configuration.broker.prefix)
        yield from servers.persistence("broker", where, told)
        yield from servers.eviction("broker", where, told)
    if reads:
        yield _notifications(channel, where)
        yield servers.scripts("broker", where, channel.bare_client, BROKER)
    for queue in queues:
        try:
            yield _counted(queue, _waiting(channel, channel.key_of(queue)), channel.key_of(queue))
        except ResponseError as error:
            if "WRONGTYPE" in str(error):
                do = "give Tokenferry a database of its own, or set [broker] prefix"
                yield failed("broker queue", channel.key_of(queue), "is a key of another type", do)
            else:
                yield unreachable("broker queue", channel.key_of(queue), error, BROKER)


def _waiting(channel: Any, key: str) -> int:
    """Count a list, and again within a transaction, as workers and producers do: a user may lack the right."""
    channel.bare_client.llen(key)  # in a cluster, this finds the node that has it
    with channel.bare_client.pipeline(transaction=True) as pipe:
        (waiting,) = pipe.llen(key).execute()
    return int(waiting)


def _notifications(channel: Any, where: str) -> Check:
    """Whether a reader would hear of new messages: without, a worker cannot work."""
    name = "broker notifications"
    try:
        redis_transport.ask_to_track(channel)
    except ResponseError as error:
        failure = explain(error, BROKER)
        do = f"{failure.do}; hosted servers and proxies without CLIENT TRACKING cannot be used"
        return failed(name, where, failure.says, do)
    return ok(name, where, "tells readers of new messages (CLIENT TRACKING)")


def _rabbitmq(connection: Any, configuration: Configuration, queues: Sequence[str], *, reads: bool) -> Iterator[Check]:
    where, prefix = masked(configuration.broker.url), configuration.broker.prefix
    properties = connection.connection.server_properties
    number = str(properties.get("version", "of an unknown version"))
    product = str(properties.get("product", "an AMQP server"))
    if tuple(map(int, re.findall(r"\d+", number)[:2])) < (3, 10):
        says = f"{product} {number} knows no dead-lettering that loses nothing (at-least-once)"
        yield failed("broker version", where, says, "use RabbitMQ 3.10 or newer")
    else:
        yield ok("broker version", where, f"{product} {number}")
    yield _exchange(connection, full_name(prefix, connecting.EXCHANGE))
    until = time.monotonic() + PATIENCE
    for queue in queues:
        seconds = max(0.0, until - time.monotonic())
        yield _queue(connection, queue, full_name(prefix, queue), seconds=seconds, reads=reads)


def _exchange(connection: Any, shown: str) -> Check:
    name, exchange = "broker exchange", connecting.EXCHANGE
    try:
        # Passive first, so that nothing is created. Then with our settings, which changes nothing where they are equal.
        connection.channel().exchange_declare(exchange, type="topic", passive=True)
        connection.channel().exchange_declare(exchange, type="topic", durable=True, auto_delete=False)
    except NotFound:
        return ok(name, shown, "is not there yet; whoever starts first declares it")
    except PreconditionFailed as error:
        return failed(name, shown, f"exists as another kind of exchange ({connecting.difference(error)})", "delete it")
    except AccessRefused:
        return failed(name, shown, "this user may not declare it", "give the user `configure` permission")
    return ok(name, shown, "a durable topic exchange")


def _queue(connection: Any, queue: str, shown: str, *, seconds: float, reads: bool) -> Check:
    """*shown*: the name of the queue on the broker."""
    name = "broker queue"
    ours = connecting.quorum_arguments(queue)

    def look(connection: Any) -> int:
        # A refusal closes the channel, so each question has its own.
        with connection.channel() as channel:
            waiting = channel.queue_declare(queue, passive=True).message_count
        with connection.channel() as channel:
            channel.queue_declare(queue, durable=True, auto_delete=False, arguments=ours)
        return int(waiting)

    try:
        waiting = ask(connection, look, queue=shown, seconds=seconds)
    except QueueUnanswered as error:
        return failed(name, shown, str(error), "look at the queue there: `rabbitmq-queues quorum_status`")
    except NotFound:  # any other meaning of this code would have been asked again
        if reads:
            return ok(name, shown, "is not there yet; whoever starts first declares it")
        return warning(
            name, shown, "is not there yet: no worker has declared it", "start a worker; until then requests wait"
        )
    except PreconditionFailed as error:
        other = _of_another_type(connection, queue)
        says = (
            f"exists as another kind of queue ({other}), not as a quorum queue"
            if other
            else (f"exists with other settings than ours ({connecting.difference(error)})")
        )
        return failed(name, shown, f"{says}: nobody can use it", connecting.cure(shown))
    except AccessRefused:
        return failed(name, shown, "this user may not declare it", "give the user `configure` permission")
    return _counted(queue, waiting, shown)


def _of_another_type(connection: Any, queue: str) -> str | None:
    """Return the type of a queue that is no quorum queue. A question of its own: RabbitMQ names only one difference."""
    try:
        with connection.channel() as channel:
            channel.queue_declare(queue, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
    except PreconditionFailed as error:
        other = connecting.difference(error)
        # A queue without a type is a classic queue.
        return other.replace("none", "classic") if other.startswith("x-queue-type:") else None
    return None


def _counted(queue: str, waiting: int, shown: str) -> Check:
    says = "empty" if not waiting else f"{waiting} message{'' if waiting == 1 else 's'} waiting"
    if waiting and queue in LEFTOVERS:
        return warning("broker queue", shown, says, LEFTOVERS[queue])
    return ok("broker queue", shown, says)
