"""One message to publish, and what a sender needs of a publisher."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from tokenferry.broker.depth import Bound


@dataclass(frozen=True)
class Outgoing:
    """One message to publish: its queue and its body."""

    queue: str
    body: str
    headers: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    keep_seconds: float | None = None
    """RabbitMQ drops the message unread a minute after these seconds. Workers use the deadline in the header."""
    bound: Bound | None = None
    """How long its queue may be; if it is longer, `BrokerFull` is raised at once. None: no limit."""
    expires_at: int | None = None
    """Unix milliseconds. Only a message with this may be kept in an outbox; one with a verification code has none."""
    reply_to: str | None = None
    """The route to which its outcome goes."""

    @property
    def id(self) -> str:
        """The id of its request or attach."""
        return str(self.properties["correlation_id"])

    @classmethod
    def task(cls, queue: str, task: str, id_: str, body: str, *, keep_seconds: float | None = None) -> Outgoing:
        """A Celery task message (protocol 2) with one argument, and no header that would show it.

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
        """Start to publish *message*. The future ends with None or with a `PublishError`."""
        ...
