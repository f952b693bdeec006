"""Making one token: permit, call, and a new generation of the key where the endpoint stored an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tokenferry.contract.codes import Code
from tokenferry.contract.names import Lane
from tokenferry.contract.requests import Kind
from tokenferry.contract.results import Attempt, TokenResult
from tokenferry_worker.circuits.breaker import CircuitBreaker
from tokenferry_worker.circuits.scopes import CallScope
from tokenferry_worker.clock import Clock
from tokenferry_worker.errors import Declined, Unavailable
from tokenferry_worker.limits.pacing import Limiter
from tokenferry_worker.provider.answers import Answer
from tokenferry_worker.provider.attempts import Attempts, Exhausted, TooLate
from tokenferry_worker.provider.client import PUBLISHABLE_IN_LIVE
from tokenferry_worker.provider.platforms import PlatformContext
from tokenferry_worker.tokens.journal import Journal
from tokenferry_worker.tokens.results import display, failure

STORED_ERRORS: Final = 3
"""500s under one key before the next generation of it, where none says that it is a stored one (`Idempotent-Replayed`,
after which the next generation begins at once): the endpoint stores a 500 and would repeat it for ever.
"""


@dataclass(frozen=True)
class TokenCall:
    """One token that is wanted. `form`, the body of the call, is in clear: it is kept no longer than the call."""

    request_id: str
    kind: Kind
    platform: str
    connected_account: str | None
    lane: Lane
    expires_at: int
    """Unix milliseconds after which no call is begun."""
    may_park: bool
    """Whether it may wait elsewhere while a circuit is open."""
    form: str = ""

    def __repr__(self) -> str:
        return f"Wanted({self.request_id}, {self.kind})"


@dataclass(frozen=True)
class TokenCreator:
    """Makes tokens. Everything it needs of the world comes in here."""

    journal: Journal
    limiter: Limiter
    circuits: CircuitBreaker
    clock: Clock
    attempts: int

    async def create(
        self, platform: PlatformContext, wanted: TokenCall, epoch: int, *, remembered: bool
    ) -> TokenResult:
        """Call until there is a token or a reason why there is none. The same *epoch* gets the same token.

        *remembered*: whether the store knows of an earlier delivery. Then a repeated answer is one that nobody could
        note, and its token, which nobody has tried to spend, is as old as it says. A store that remembers none may have
        forgotten that it was spent: such a token counts as new, because only under its own key that can be found out.
        Raises `Park`.
        """
        server_errors = 0

        async def call() -> Answer:
            return await platform.client.create_token(
                wanted.kind,
                wanted.form,
                idempotency_key=idempotency_key(wanted.request_id, epoch),
                connected_account=wanted.connected_account,
            )

        async def on_unavailable(error: Unavailable) -> bool:
            nonlocal epoch, server_errors
            if error.status != 500 and not error.replayed:
                return False
            server_errors += 1
            if not error.final and server_errors % STORED_ERRORS:
                return False
            # An unused token of the earlier generation may be left behind: nobody learns its id.
            epoch = await self.journal.next_epoch(wanted.request_id, epoch)
            return True

        publishable = platform.live and wanted.kind in PUBLISHABLE_IN_LIVE
        attempts = Attempts(
            self.limiter,
            self.circuits,
            self.clock,
            platform,
            CallScope(platform.name, "tokens", wanted.kind, wanted.connected_account, publishable),
            wanted.lane,
            platform.budgets.tokens(wanted.connected_account),
            self.attempts,
            until=wanted.expires_at / 1000,
            may_park=wanted.may_park,
            request=wanted.request_id,
        )
        try:
            answer = await attempts.run(call, on_unavailable)
        except Declined as error:
            return self.failed(wanted, error.code, declined=error, attempts=attempts.made + 1)
        except TooLate:
            return self.failed(wanted, Code.EXPIRED, attempts=attempts.made)
        except Exhausted as error:
            code = Code.ATTEMPTS_EXHAUSTED
            last = Declined(error.last.status or 0, code, request_id=error.last.request_id, ours=True)
            return self.failed(wanted, code, declined=last, attempts=error.attempts, history=error.history)
        if answer.body.get("livemode") is not platform.live:
            return self.failed(wanted, Code.WRONG_SCOPE, attempts=attempts.made + 1)
        made_at, created = self._now_ms(), answer.number("created")
        if answer.replayed and remembered and created is not None:
            made_at = min(made_at, created * 1000)
        return TokenResult(
            outcome_id=f"{wanted.request_id}:token",
            request_id=wanted.request_id,
            kind=wanted.kind,
            platform=wanted.platform,
            connected_account=wanted.connected_account,
            settled_at=made_at,
            token=answer.id,
            created=created,
            livemode=platform.live,
            client_ip=answer.text("client_ip"),
            display=display(answer),
        )

    def failed(
        self,
        wanted: TokenCall,
        code: str,
        *,
        declined: Declined | None = None,
        attempts: int = 0,
        history: tuple[Attempt, ...] = (),
    ) -> TokenResult:
        """The result of a request without a token."""
        return TokenResult(
            outcome_id=f"{wanted.request_id}:token",
            request_id=wanted.request_id,
            kind=wanted.kind,
            platform=wanted.platform,
            connected_account=wanted.connected_account,
            settled_at=self._now_ms(),
            failure=failure(code, declined, attempts, history),
        )

    def _now_ms(self) -> int:
        return int(self.clock.now() * 1000)


def idempotency_key(request_id: str, epoch: int) -> str:
    """Derived from ids only: never random, so a redelivery repeats it, and never from card data, which it would leak.

    >>> idempotency_key("req-1", 0)
    'tokenferry:req-1:0'
    """
    return f"tokenferry:{request_id}:{epoch}"
