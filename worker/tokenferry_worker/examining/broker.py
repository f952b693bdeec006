"""The broker: is it there, will it keep what it is given, and are its queues the ones a worker declares?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from amqp.exceptions import AccessRefused, NotFound, PreconditionFailed
from redis.exceptions import ResponseError

from tokenferry.broker import connecting
from tokenferry.configuration import Configuration
from tokenferry.contract.queues import DEAD_LETTERS, QUARANTINE
from tokenferry_worker import wiring
from tokenferry_worker.examining import servers
from tokenferry_worker.examining.verdicts import Check, failed, ok, warning
from tokenferry_worker.examining.words import masked, why
from tokenferry_worker.wiring import Role

CURE = "start it, or correct [broker] url in the configuration"
LEFTOVERS = {
    QUARANTINE: "somebody sends what no worker can read: look who writes to this broker, and with which keys",
    DEAD_LETTERS: "requests were given up on, each with a code and its history: find the cause before sending more",
}
"""Queues that should be empty, and what it means when they are not."""


def examine(configuration: Configuration, role: Role) -> Iterator[Check]:
    """Connects exactly as a worker does. Declares nothing that is not there yet."""
    where = masked(configuration.broker.url)
    connection = connecting.connect(configuration)
    try:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0.05, reraise_as_library_errors=False)
            channel = connection.default_channel  # opening it is what makes Redis answer
        except Exception as error:
            yield failed("broker connection", where, why(error), CURE)
            return
        yield ok("broker connection", where, "answers")
        queues = [*wiring.queues_of(configuration, role), QUARANTINE, DEAD_LETTERS]
        if connecting.is_amqp(connecting.broker_url(configuration)):
            yield from _rabbitmq(connection, where, queues)
        else:
            yield from _redis(channel.client, where, queues)
    finally:
        connection.collect(socket_timeout=0.1)


def _redis(client: Any, where: str, queues: list[str]) -> Iterator[Check]:
    told = servers.facts(client)
    yield from servers.version("broker", where, told)
    yield from servers.persistence("broker", where, told)
    yield from servers.eviction("broker", where, told)
    for queue in queues:
        try:
            yield _counted(queue, int(client.llen(queue)))
        except ResponseError as error:
            wrong = "is a key of another type" if "WRONGTYPE" in str(error) else why(error)
            do = "give Tokenferry a database of its own, or a user that may use this key"
            yield failed("broker queue", queue, wrong, do)


def _rabbitmq(connection: Any, where: str, queues: list[str]) -> Iterator[Check]:
    properties = connection.connection.server_properties
    number = str(properties.get("version", "of an unknown version"))
    product = str(properties.get("product", "an AMQP server"))
    if tuple(map(int, re.findall(r"\d+", number)[:2])) < (3, 8):
        yield failed("broker version", where, f"{product} {number} has no quorum queues", "use RabbitMQ 3.8 or newer")
    else:
        yield ok("broker version", where, f"{product} {number}")
    yield _exchange(connection)
    for queue in queues:
        yield _queue(connection, queue)


def _exchange(connection: Any) -> Check:
    name, exchange = "broker exchange", connecting.EXCHANGE
    try:
        # Passive first, so that nothing is made; then as ours, which changes nothing where it is ours.
        connection.channel().exchange_declare(exchange, type="topic", passive=True)
        connection.channel().exchange_declare(exchange, type="topic", durable=True, auto_delete=False)
    except NotFound:
        return ok(name, exchange, "is not there yet; whoever starts first declares it")
    except PreconditionFailed as error:
        return failed(name, exchange, f"exists as another kind of exchange ({_difference(error)})", "delete it")
    except AccessRefused:
        return failed(name, exchange, "this user may not declare it", "give the user `configure` permission")
    return ok(name, exchange, "a durable topic exchange")


def _queue(connection: Any, queue: str) -> Check:
    name = "broker queue"
    declared = connecting.queue(queue, amqp=True)
    try:
        # A refusal ends the channel, so each question has its own.
        with connection.channel() as channel:
            waiting = channel.queue_declare(queue, passive=True).message_count
        with connection.channel() as channel:
            channel.queue_declare(queue, durable=True, auto_delete=False, arguments=declared.queue_arguments)
    except NotFound:
        return ok(name, queue, "is not there yet; whoever starts first declares it")
    except PreconditionFailed as error:
        says = f"exists as another kind of queue ({_difference(error)}), not as a quorum queue: nobody can use it"
        do = f"empty it or move its messages, then `rabbitmqctl delete_queue {queue}`: the next start declares it anew"
        return failed(name, queue, says, do)
    except AccessRefused:
        return failed(name, queue, "this user may not declare it", "give the user `configure` permission")
    return _counted(queue, waiting)


def _difference(error: PreconditionFailed) -> str:
    """What the server says is different: "x-queue-type: classic". A queue without a type is a classic one."""
    text = str(error)
    argument = re.search(r"inequivalent arg '([\w-]+)'", text)
    current = re.search(r"current is (?:the value )?'?([\w-]+)'?", text)
    word = current[1] if current else "unknown"
    if argument and argument[1] == "x-queue-type" and word == "none":
        word = "classic"
    return f"{argument[1] if argument else 'declaration'}: {word}"


def _counted(queue: str, waiting: int) -> Check:
    says = "empty" if not waiting else f"{waiting} message{'' if waiting == 1 else 's'} waiting"
    if waiting and queue in LEFTOVERS:
        return warning("broker queue", queue, says, LEFTOVERS[queue])
    return ok("broker queue", queue, says)
