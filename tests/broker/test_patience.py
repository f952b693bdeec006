"""A question that RabbitMQ could not answer just now is asked again, and no other one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from amqp.exceptions import (
    AccessRefused,
    AMQPError,
    ConnectionForced,
    InternalError,
    NotFound,
    PreconditionFailed,
    RecoverableConnectionError,
)

from tokenferry.broker.patience import Patience, QueueUnanswered, ask, is_missing, passes

QUEUE = "dead-letters"
MISSING = "NOT_FOUND - no queue 'dead-letters' in vhost '/'"
BUSY = "INTERNAL_ERROR - Cannot get a message from queue 'queue 'dead-letters' in vhost '/'': noproc"


class Line:
    """A connection that counts how often it is opened and dropped."""

    def __init__(self) -> None:
        self.opened = 0
        self.open = False

    def ensure_connection(self, **_: object) -> None:
        self.opened += not self.open
        self.open = True

    def collect(self, socket_timeout: float) -> None:
        self.open = False


def answers(*said: Exception | int) -> Callable[[Any], int]:
    """A question that is answered so, one after the other."""
    left = iter(said)

    def question(_: object) -> int:
        answer = next(left)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return question


@pytest.mark.parametrize(
    "trouble",
    [
        InternalError(BUSY),
        ConnectionForced("CONNECTION_FORCED - broker forced connection closure"),
        RecoverableConnectionError("connection already closed"),
        NotFound("NOT_FOUND - failed to perform operation on queue 'dead-letters' in vhost '/' due to timeout"),
        NotFound(
            "NOT_FOUND - home node 'rabbit@b' of durable queue 'dead-letters' in vhost '/' is down or inaccessible"
        ),
        NotFound("NOT_FOUND - queue 'dead-letters' in vhost '/' process is stopped by supervisor"),
        ConnectionResetError("reset"),
        BrokenPipeError("pipe"),
        OSError("Server unexpectedly closed connection"),
        TimeoutError("timed out"),
    ],
    ids=lambda error: f"{type(error).__name__} {str(error)[:40]}",
)
def test_what_passes_is_asked_again_over_another_connection(trouble: Exception) -> None:
    line: Any = Line()
    assert ask(line, answers(trouble, trouble, 7), queue=QUEUE) == 7
    assert line.opened == 3


@pytest.mark.parametrize(
    "trouble",
    [
        NotFound(MISSING),
        NotFound("NOT_FOUND - no exchange 'tokenferry' in vhost '/'"),
        AccessRefused("ACCESS_REFUSED - access to queue 'dead-letters' in vhost '/' refused for user 'guest'"),
        PreconditionFailed("PRECONDITION_FAILED - unknown delivery tag 2"),
        ConnectionRefusedError("refused"),
    ],
    ids=lambda error: f"{type(error).__name__} {str(error)[:40]}",
)
def test_what_another_try_would_not_change_is_said_at_once(trouble: Exception) -> None:
    line: Any = Line()
    with pytest.raises(type(trouble)):
        ask(line, answers(trouble, 7), queue=QUEUE)
    assert line.opened == 1


def test_patience_ends_with_the_queue_and_what_to_do() -> None:
    line: Any = Line()
    with pytest.raises(QueueUnanswered) as told:
        ask(line, answers(InternalError(BUSY)), queue=QUEUE, seconds=0.0)
    assert str(told.value) == (
        "RabbitMQ could not answer for the queue dead-letters (541): it is busy or electing a leader; try again"
    )
    assert isinstance(told.value, AMQPError), "whoever expects errors of the client library expects this one"
    assert not passes(told.value), "it has been asked often enough"


def test_a_connection_that_is_lost_until_the_end_is_said_as_what_it_is() -> None:
    with pytest.raises(ConnectionResetError):
        Patience(QUEUE, seconds=0.0).again(ConnectionResetError())


def test_only_a_queue_that_is_not_there_counts_as_missing() -> None:
    assert is_missing(NotFound(MISSING))
    assert not is_missing(NotFound("NOT_FOUND - failed to perform operation on queue 'x' in vhost '/' due to timeout"))
    assert not is_missing(AccessRefused("ACCESS_REFUSED - access to queue 'x' refused"))
