"""Every error of the worker. Few, because there are three things to do about trouble: set aside, report, try again.

    TokenferryError
      Unopenable     cannot be read                                  -> quarantine
      Declined       Stripe has read the call and refused it         -> a result with the code
        Blocked      refused because of the account or its key       -> a circuit opens, the operator is told
      Unavailable    no answer, or none that says what happened      -> the same call again
      Forgotten      the store has lost what it knew                 -> begin again
      Reused         the id stands for another request or order      -> a result with the code
      NotGranted     the policy does not let its signer ask for it   -> a dead letter

Every text here is safe to log: ids, codes, parameter names. Free text of Stripe stays outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NOT_OF_A_PRODUCER: Final = "not signed by a known producer"
NOT_OF_A_SIGNER: Final = "not signed by a known signer"
OF_STRANGERS: Final = frozenset({NOT_OF_A_PRODUCER, NOT_OF_A_SIGNER})
"""The reasons with which messages of unknown signers are set aside."""


class TokenferryError(Exception):
    """The base class."""


class Unopenable(TokenferryError):
    """Not a well-formed, known, correctly signed envelope for this worker. The text is a reason, never content."""

    signer_id: str | None = None
    """Who is said to have signed it, where no known key has."""


class OfStranger(Unopenable):
    """No known key has signed it. Where another fleet uses the same queues, these are its messages."""

    def __init__(self, reason: str, signer_id: str) -> None:
        """*signer_id*: who is said to have signed it."""
        super().__init__(reason)
        self.signer_id = signer_id


class HiddenCvc(Unopenable):
    """A card verification code is inside, and the header does not say so. Nothing of the message may be kept."""


class Forgotten(TokenferryError):
    """The store has lost an entry that it had a moment ago. A requester may have got an outcome that was in it."""


class Reused(TokenferryError):
    """This id stands for another request or order, which is not touched."""

    def __init__(self, next_generation: int | None = None, *, mark: str = "") -> None:
        """*mark*: of the content that was refused, if it was opened."""
        super().__init__("the id stands for something else")
        self.next_generation = next_generation
        """The generation that would begin the id again. None: none would."""
        self.mark = mark

    @property
    def param(self) -> str:
        """What the requester is told of it."""
        return "none" if self.next_generation is None else f"generation={self.next_generation}"


@dataclass
class NotGranted(TokenferryError):
    """The signer may not ask for this."""

    line: str
    """What the policy lacks: `roles.order`, `targets.charge.max_amount`."""
    may_tell: bool
    """True if the signer may name the message's reply route, so that the refusal is published there."""

    def __str__(self) -> str:
        return f"not granted: {self.line}"


@dataclass
class Declined(TokenferryError):
    """Stripe has read the call and refused it: the same call again would be answered the same."""

    status: int
    """HTTP status. 0: we refused the call ourselves, before it was sent."""
    code: str
    error_type: str | None = None
    param: str | None = None
    decline_code: str | None = None
    request_id: str | None = None
    ours: bool = False
    """True if *code* is one of `tokenferry.contract.codes`, because Stripe named none."""

    def __str__(self) -> str:
        return f"declined: {self.status} {self.code} param={self.param} request={self.request_id}"


@dataclass
class Blocked(Declined):
    """Refused for a reason that every next call of this platform will meet too: key, permission, card data access.

    Also where something else than Stripe answers: base_url is wrong, or a proxy.
    """

    maybe_done: bool = False
    """True if the call may have taken effect all the same: a proxy may answer for Stripe behind it."""


@dataclass
class Unavailable(TokenferryError):
    """No usable answer: a lost connection, a time-out, 409, 424, 429, 5xx, an answer that is not Stripe's."""

    reason: str
    status: int | None = None
    request_id: str | None = None
    maybe_done: bool = True
    """True if the call may have taken effect. False for a refusal before execution: 429, 400 `token_in_use`, no
    connection. True for a 409: the first call with this key is still under way, and may succeed."""
    rate_limited: str | None = None
    """`Stripe-Rate-Limited-Reason` of a 429. Such a call was never executed, and counts as no attempt."""
    retry_after: float | None = None
    """Seconds that Stripe asked to wait, if it did."""
    final: bool = False
    """True if the same call would be answered the same: `Stripe-Should-Retry: false`, or a stored answer."""
    answered: bool = False
    """True if Stripe itself has answered below 500: it works, and the trouble is about this one call."""
    replayed: bool = False
    """True if Stripe repeated a 5xx that it keeps for this key. That says nothing about its state now."""

    @property
    def silent(self) -> bool:
        """True if nobody answered: a sign of an outage."""
        return not (self.answered or self.replayed or self.rate_limited is not None)

    def __str__(self) -> str:
        return f"unavailable: {self.reason} status={self.status} request={self.request_id}"
