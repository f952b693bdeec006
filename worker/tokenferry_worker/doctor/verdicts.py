"""What an examination finds: a state, a reason in words, and what to do about it. Never a value, never a secret."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from tokenferry.broker.embedded import EmbeddedServerError
from tokenferry.broker.error_text import Server, explain
from tokenferry.broker.errors import QueueUnanswered
from tokenferry.configuration import InvalidConfiguration
from tokenferry.sealing import UnusableKey

State = Literal["ok", "warning", "failed"]

NOTICED: Final = 5.0
"""Seconds two clocks may differ before it is worth a word; the endpoint tells its own in whole seconds."""
HARMFUL: Final = 60.0
"""Seconds two clocks may differ before requests of the realtime lane, which live two minutes, are at stake."""

OURS: Final = (EmbeddedServerError, InvalidConfiguration, QueueUnanswered, UnusableKey)
"""Errors whose text is made of our words."""


@dataclass(frozen=True)
class Check:
    """One question and its answer. The first word of *name* is the area, *subject* says where."""

    name: str
    subject: str
    state: State
    says: str
    do: str | None = None

    @property
    def area(self) -> str:
        """keys, broker, store, endpoint, ..."""
        return self.name.partition(" ")[0]


def ok(name: str, subject: str, says: str) -> Check:
    """As it should be."""
    return Check(name, subject, "ok", says)


def warning(name: str, subject: str, says: str, do: str | None = None) -> Check:
    """Works, but somebody should know; or could not be found out."""
    return Check(name, subject, "warning", says, do)


def failed(name: str, subject: str, says: str, do: str | None = None) -> Check:
    """Would stop a worker, or lose or refuse requests."""
    return Check(name, subject, "failed", says, do)


def refused(name: str, subject: str, error: Exception, do: str) -> Check:
    """Failed with an error of ours, whose text is "what is wrong; what to do". *do*: the cure where it names none."""
    says, _, cure = str(error).partition("; ")
    return failed(name, subject, says.removeprefix(f"{subject}: "), cure or do)


def unreachable(name: str, subject: str, error: BaseException, server: Server) -> Check:
    """Failed with what *error* of a client library means about *server*."""
    if isinstance(error, OURS):
        return failed(name, subject, str(error), f"see {server.setting}")
    failure = explain(error, server)
    return failed(name, subject, failure.says, failure.do)


def reason(error: BaseException) -> str:
    """Why an examination ended early. Of an error that is not ours only the type: its text may quote a password."""
    return str(error) if isinstance(error, OURS) else f"could not be finished ({type(error).__name__})"


def clock(name: str, subject: str, ahead: float) -> Check:
    """The judgement on another machine's clock that is *ahead* seconds before ours."""
    if abs(ahead) < NOTICED:
        return ok(name, subject, f"agrees with ours within {max(1.0, abs(ahead)):.0f} s")
    judge = warning if abs(ahead) < HARMFUL else failed
    says = f"is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} ours"
    return judge(name, subject, says, "one of the two clocks is wrong: run a time service (NTP) on both machines")
