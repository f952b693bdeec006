"""One message on its way, and what a sender needs of a publisher."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from tokenferry.broker.depth import Bound


@dataclass(frozen=True)
class Outgoing:
    """One message on its way: where to, and the bytes."""

    queue: str
    body: str
    headers: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    keep_seconds: float | None = None
    """RabbitMQ drops the message unread a minute after these seconds; a worker goes by the deadline in the header."""
    bound: Bound | None = None
    """How long its queue may be: `BrokerFull` at once where it is longer. None: nobody asks."""
    expires_at: int | None = None
    """Unix milliseconds. Only a message that says so may rest in an outbox: a verification code never does."""
    reply_to: str | None = None
    """The route that hears of its outcome."""

    @property
    def id(self) -> str:
        """The request or attach it is about."""
        return str(self.properties["correlation_id"])

    @classmethod
    def task(cls, queue: str, task: str, id_: str, body: str, *, keep_seconds: float | None = None) -> Outgoing:
        """A Celery task message (protocol 2) with one argument, and nothing else that could leak it.

        https://docs.celeryq.dev/en/stable/internals/protocol.html
        """
        headers = {
            "lang": "py",
            "task": task,
            "id": id_,
            "root_id": id_,
            "parent_id": None,
            "group": None,
            "eta": None,
            "expires": None,
            "retries": 0,
            "timelimit": [None, None],
            "argsrepr": "(***)",
            "kwargsrepr": "{}",
            "ignore_result": True,
            "origin": "tokenferry",
        }
        embed = '{"callbacks": null, "errbacks": null, "chain": null, "chord": null}'
        return cls(queue, f"[[{json.dumps(body)}], {{}}, {embed}]", headers, {"correlation_id": id_}, keep_seconds)


class CanPublish(Protocol):
    """What a sender needs of a publisher."""

    def submit(self, message: Outgoing, *, timeout: float | None = None) -> Future[None]:
        """Start handing *message* over; the future tells how it went."""
        ...
