"""What a publisher raises when the broker did not confirm a message."""

from __future__ import annotations

from amqp.exceptions import RecoverableConnectionError

from tokenferry.errors import ProducerError


class PublishError(ProducerError):
    """The broker did not confirm a message. `maybe_sent` says whether the broker may hold it all the same."""

    request_id: str | None = None
    """The request of the message. It is safe to send it again under this id: one id, one token."""
    others: tuple[str, ...] = ()
    """For a stream: later requests that were under way. They were accepted, or may have been."""

    def __init__(self, text: str, *, maybe_sent: bool) -> None:
        super().__init__(text)
        self.maybe_sent = maybe_sent

    def on_command_line(self) -> str:
        """Its text, whether the broker may have the message, and how to repeat it."""
        if self.request_id is None:
            return str(self)
        doubt = "it may have been sent all the same: " if self.maybe_sent else "nothing was sent: "
        return f"{self}; {doubt}repeat it with --request-id {self.request_id}"


class BrokerUnavailable(PublishError):
    """No connection to the broker within the deadline: it is down, refuses us, or the connection was cut."""


class BrokerFull(PublishError):
    """The broker takes nothing now: the queue is at its limit, memory or disk is used up, or replicas are missing.

    Nothing was queued, unless `maybe_sent`: then an earlier try of the same message got no answer.
    """


class PublishTimeout(PublishError):
    """The broker took the message, or the connection, and did not answer within the deadline."""


class StillQueued(PublishTimeout):
    """The message was never tried: those before it took all of its time. Nothing was queued."""


class BrokerBlocked(Exception):
    """RabbitMQ reads nothing of what we send: an alarm about its memory or its disk is on."""


class Unroutable(Exception):
    """RabbitMQ gave a message back: its queue, or the binding to it, was deleted after we declared it."""


class QueueUnanswered(RecoverableConnectionError):  # type: ignore[misc]
    """RabbitMQ answers, but not about this queue, for as long as we asked."""
