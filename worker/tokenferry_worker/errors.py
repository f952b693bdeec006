"""The whole family. Few, because there are three things to do about trouble: set aside, report, try again.

    TokenferryError
      Unopenable     cannot be read               -> quarantine
      Declined       read, and refused            -> a result with the code
      Unavailable    nobody read it, or nobody can say whether somebody did -> the same call again
      Blocked        refused because of the account or its key, not the request -> stop the platform, tell the operator
      Forgotten      the store has lost what we knew        -> begin again
      Reused         an id that stands for something else   -> a result with the code, and the other one is not touched

Every text here is safe to log: ids, codes, parameter names. A provider's free text stays outside.
"""

from __future__ import annotations

from dataclasses import dataclass


class TokenferryError(Exception):
    """The root."""


class Unopenable(TokenferryError):
    """Not a well-formed, known, correctly signed envelope for this worker. The text is a reason, never content."""


class Forgotten(TokenferryError):
    """The store has lost an entry that was in it a moment ago, and with it perhaps an outcome that was told."""


class Reused(TokenferryError):
    """This id stands for another request or order."""


@dataclass
class Declined(TokenferryError):
    """The endpoint read the call and said no: the same call again would be answered the same."""

    status: int
    code: str
    error_type: str | None = None
    param: str | None = None
    decline_code: str | None = None
    request_id: str | None = None
    ours: bool = False
    """Whether *code* is one of `tokenferry.contract.codes`, because the endpoint named none."""

    def __str__(self) -> str:
        return f"declined: {self.status} {self.code} param={self.param} request={self.request_id}"


@dataclass
class Blocked(Declined):
    """Refused for a reason that every next call of this platform will meet too: key, permission, card data access.

    Also where something else than the endpoint answers: a wrong base_url, a proxy.
    """

    maybe_done: bool = False
    """Whether the call may have had its effect all the same: a proxy may answer for the endpoint behind it."""


@dataclass
class Unavailable(TokenferryError):
    """No usable answer: a lost connection, a time-out, 409, 424, 429, 5xx, an answer that is not the endpoint's."""

    reason: str
    status: int | None = None
    request_id: str | None = None
    maybe_done: bool = True
    """Whether the call may have had its effect. False for a refusal before execution: 429, 400 `token_in_use`, no
    connection. True for a 409: the first call with this key is still under way, and may succeed."""
    rate_limited: str | None = None
    """`Stripe-Rate-Limited-Reason` of a 429; such a call was never executed and counts as no attempt."""
    retry_after: float | None = None
    """Seconds the endpoint asked to wait, if it did."""
    final: bool = False
    """Whether the same call would be answered the same: `Stripe-Should-Retry: false`, or a stored answer."""
    answered: bool = False
    """Whether the endpoint itself has answered below 500: it works, and the trouble is about this one call."""
    replayed: bool = False
    """Whether it repeated a 5xx that it keeps for this key: that says nothing of how it is now."""

    @property
    def silent(self) -> bool:
        """Whether nobody was there to answer: a sign of an outage."""
        return not (self.answered or self.replayed or self.rate_limited is not None)

    def __str__(self) -> str:
        return f"unavailable: {self.reason} status={self.status} request={self.request_id}"
