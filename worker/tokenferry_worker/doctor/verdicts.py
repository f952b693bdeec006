"""The result of a check: a state, a reason, and what to do about it. It never holds a value or a secret."""

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
"""Seconds by which two clocks may differ before a warning. Stripe reports its time in whole seconds."""
HARMFUL: Final = 60.0
"""Seconds by which two clocks may differ before realtime requests, which live two minutes, may be lost."""

OURS: Final = (EmbeddedServerError, InvalidConfiguration, QueueUnanswered, UnusableKey)
"""Errors whose text is made of our words."""


@dataclass(frozen=True)
class Check:
    """One check. The first word of *name* is the area, *subject* says where."""

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
    """Return a check that passed."""
    return Check(name, subject, "ok", says)


def warning(name: str, subject: str, says: str, do: str | None = None) -> Check:
    """Return a check that works but needs attention, or that could not be made."""
    return Check(name, subject, "warning", says, do)


def failed(name: str, subject: str, says: str, do: str | None = None) -> Check:
    """Return a check of something that would stop a worker, or lose or refuse requests."""
    return Check(name, subject, "failed", says, do)


def refused(name: str, subject: str, error: Exception, do: str) -> Check:
    """Return a failed check from an error of ours: "what is wrong; what to do". *do*: where the text has no cure."""
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
    """Check the clock of another machine, which is *ahead* seconds before ours."""
    if abs(ahead) < NOTICED:
        return ok(name, subject, f"agrees with ours within {max(1.0, abs(ahead)):.0f} s")
    judge = warning if abs(ahead) < HARMFUL else failed
    says = f"is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} ours"
    return judge(name, subject, says, "one of the two clocks is wrong: run a time service (NTP) on both machines")
