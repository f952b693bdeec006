"""A notice says why requests wait. It is no result: it may be lost, may come twice, and changes nothing."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from tokenferry.contract.envelope import Milliseconds
from tokenferry.contract.message import Message
from tokenferry.contract.names import Name
from tokenferry.contract.results import (
    AttachResult,
    OnboardingProgress,
    OnboardingResult,
    TokenResult,
    Word,
    parse_message,
)

NoticeReason = Literal["circuit_open", "paused", "slowed", "store_away"]
"""`circuit_open`: no call is made, see `code`. `paused`, `slowed`: by an operator, or because Stripe answers 429.
`store_away`: the workers do not reach their store."""

BEGINNING: Final = b'{"type":"notice",'
"""How the body of every notice begins, and no result. It is signed under a name of its own (`result_signature`)."""


class Notice(Message):
    """Why requests of one platform wait that were sent with this reply route."""

    type: Literal["notice"] = "notice"
    platform: Name
    reason: NoticeReason
    code: Word
    """What a circuit was opened for (`unauthorized`, `no_answer`, ...), `operator`, `rate_limited` or `no_answer`."""
    scope: Word
    """The circuit (`main/outage`), the budget (`main:global`), or `store`."""
    since: Milliseconds
    """When it began, or when a worker noticed it first."""
    until: Milliseconds | None = None
    """When it ends, where that is known."""
    over: bool = Field(default=False, exclude_if=lambda over: not over)
    """True for the last one: nothing of this route waits for that any more, as far as this worker knows."""


AnyMessage = TokenResult | AttachResult | OnboardingResult | OnboardingProgress | Notice


def read_message(body: str | bytes) -> AnyMessage:
    """Read any message of a reply route: a result, a step of an onboarding, or a notice. Raises as `parse_result`."""
    if (body.encode(errors="surrogatepass") if isinstance(body, str) else body).startswith(BEGINNING):
        return Notice.model_validate_json(body)
    return parse_message(body)
