"""What a publisher can answer instead of a confirmation, and which answer of a broker means which."""

from __future__ import annotations

from amqp.exceptions import MessageNacked
from redis.exceptions import OutOfMemoryError, ResponseError


class PublishError(Exception):
    """The broker did not confirm a message. `maybe_sent` says whether it may hold it all the same."""

    request_id: str | None = None
    """The request it was about. Sending it again under this id is safe: one id, one token."""
    others: tuple[str, ...] = ()
    """Of a stream: the later requests that were on their way, and that have been accepted, or may have been."""

    def __init__(self, text: str, *, maybe_sent: bool) -> None:
        super().__init__(text)
        self.maybe_sent = maybe_sent


class BrokerUnavailable(PublishError):
    """No connection to the broker within the deadline: dead, refusing or cut."""


class BrokerFull(PublishError):
    """The broker takes nothing now: the queue is at its limit, its memory is used up, it cannot write to its disk, or
    has too few replicas.

    Nothing was queued, unless `maybe_sent`: then an earlier try of the same message had gone unanswered.
    """


class PublishTimeout(PublishError):
    """The broker took the message, or the connection, and did not answer within the deadline."""


class StillQueued(PublishTimeout):
    """The message was never tried: those before it took all of its time. Nothing was queued."""


class BrokerBlocked(Exception):
    """RabbitMQ reads nothing of what we send: an alarm about its memory or its disk is on."""


class Unroutable(Exception):
    """RabbitMQ has given a message back: its queue, or the way to it, has been deleted since we declared it."""


def want_of_room(answer: Exception) -> str | None:
    """What the broker has run out of and what to do, in our own words; None where its answer says something else."""
    match answer:
        case MessageNacked():
            return "the queue is full"
        case OutOfMemoryError():
            return "it is out of memory"
        case BrokerBlocked():
            return (
                "it is short of memory or disk, and its alarm stops all who publish; "
                "make room there (rabbitmq-diagnostics alarms says of what), and it goes on by itself"
            )
        case ResponseError() if str(answer).startswith("MISCONF "):
            return (
                "it cannot write to its disk (MISCONF), which is full or not writable; "
                "make room there (its log says what fails), and it goes on by itself"
            )
        case ResponseError() if str(answer).startswith("NOREPLICAS "):
            return "it has fewer replicas than min-replicas-to-write asks for, and goes on by itself once they are back"
    return None


def refused(answer: Exception, *, maybe_sent: bool) -> PublishError:
    """What a broker's *answer* to one message means."""
    if why := want_of_room(answer):
        return BrokerFull(f"the broker refused the message: {why}", maybe_sent=maybe_sent)
    return PublishError(f"the broker refused the message ({type(answer).__name__})", maybe_sent=maybe_sent)
