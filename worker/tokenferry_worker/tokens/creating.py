"""Creating one token: the call, and a new generation of its key where Stripe has stored an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tokenferry.contract.codes import Code
from tokenferry.contract.names import Lane
from tokenferry.contract.requests import Kind
from tokenferry.contract.results import Attempt, TokenResult
from tokenferry_worker.circuits.scopes import CallScope
from tokenferry_worker.clock import Clock
from tokenferry_worker.errors import Declined, Unavailable
from tokenferry_worker.provider.answers import Answer
from tokenferry_worker.provider.attempts import Attempts, Caller, CallPlan, Exhausted, TooLate
from tokenferry_worker.provider.client import PUBLISHABLE_IN_LIVE
from tokenferry_worker.provider.platforms import PlatformContext
from tokenferry_worker.tokens.grouped_ids import GroupedId
from tokenferry_worker.tokens.journal import Journal
from tokenferry_worker.tokens.results import display, failure

STORED_ERRORS: Final = 3
"""500s under one key before the next generation of it begins. Stripe stores a 500 and would repeat it for ever. Where
an answer says that it is a stored one (`Idempotent-Replayed`), the next generation begins at once.
"""


@dataclass(frozen=True)
class TokenCall:
    """One token to create. `form`, the body of the call, is in clear: it is kept no longer than the call."""

    name: GroupedId
    kind: Kind
    platform: str
    connected_account: str | None
    lane: Lane
    expires_at: int
    """Unix milliseconds after which no call begins."""
    may_park: bool
    """True if it may wait in a queue of its own while a circuit is open."""
    form: str = ""
    trace: str | None = None
    """`traceparent` of the request, for logs."""

    def __repr__(self) -> str:
        return f"TokenCall({self.name.shown}, {self.kind})"


@dataclass
class _KeyedCall:
    """The call that creates a token, under a key that is renewed where Stripe would repeat a stored error."""

    journal: Journal
    platform: PlatformContext
    wanted: TokenCall
    epoch: int
    """Generation of the idempotency key. The same one gets the same token."""
    server_errors: int = 0

    async def send(self) -> Answer:
        wanted = self.wanted
        return await self.platform.client.create_token(
            wanted.kind,
            wanted.form,
            idempotency_key=key_of(wanted.name, self.epoch),
            connected_account=wanted.connected_account,
        )

    async def renew_key(self, error: Unavailable) -> bool:
        """Begin the next generation of the key if the answers under this one are stored errors. True if it began."""
        if error.status != 500 and not error.replayed:
            return False
        self.server_errors += 1
        if not error.final and self.server_errors % STORED_ERRORS:
            return False
        # An unused token of the earlier generation may be left behind: nobody learns its id.
        self.epoch = await self.journal.next_epoch(self.wanted.name.key, self.epoch)
        return True


@dataclass(frozen=True)
class TokenCreator:
    """Creates tokens."""

    journal: Journal
    caller: Caller
    clock: Clock

    async def create(
        self, platform: PlatformContext, wanted: TokenCall, epoch: int, *, remembered: bool
    ) -> TokenResult:
        """Call until there is a token, or a reason why there is none. The same *epoch* gets the same token.

        *remembered*: True if the store knows of an earlier delivery. Then a replayed answer is one that was never
        recorded: nobody has tried to spend its token, which is as old as the answer says. A store that knows of none
        may have lost the record that it was spent. Such a token counts as new, because only a call under its own key
        can find that out.
        Raises `Park`.
        """
        attempts = Attempts(self.caller, _plan(platform, wanted))
        call = _KeyedCall(self.journal, platform, wanted, epoch)
        try:
            answer = await attempts.run(call.send, call.renew_key)
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
        return self._created(platform, wanted, answer, is_old=answer.replayed and remembered)

    def failed(
        self,
        wanted: TokenCall,
        code: str,
        *,
        declined: Declined | None = None,
        attempts: int = 0,
        history: tuple[Attempt, ...] = (),
    ) -> TokenResult:
        """Return the result of a request without a token."""
        return TokenResult(
            outcome_id=f"{wanted.name.shown}:token",
            request_id=wanted.name.id,
            kind=wanted.kind,
            platform=wanted.platform,
            connected_account=wanted.connected_account,
            settled_at=self._now_ms(),
            failure=failure(code, declined, attempts, history),
        )

    def _created(self, platform: PlatformContext, wanted: TokenCall, answer: Answer, *, is_old: bool) -> TokenResult:
        made_at, created = self._now_ms(), answer.number("created")
        if is_old and created is not None:
            made_at = min(made_at, created * 1000)
        return TokenResult(
            outcome_id=f"{wanted.name.shown}:token",
            request_id=wanted.name.id,
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

    def _now_ms(self) -> int:
        return int(self.clock.now() * 1000)


def _plan(platform: PlatformContext, wanted: TokenCall) -> CallPlan:
    publishable = platform.live and wanted.kind in PUBLISHABLE_IN_LIVE
    return CallPlan(
        platform=platform,
        scope=CallScope(platform.name, "tokens", wanted.kind, wanted.connected_account, publishable),
        lane=wanted.lane,
        budgets=platform.budgets.tokens(wanted.connected_account),
        request=wanted.name.key,
        until=wanted.expires_at / 1000,
        may_park=wanted.may_park,
        trace=wanted.trace,
    )


def key_of(name: GroupedId, epoch: int) -> str:
    """Return a key derived from ids only: a redelivery repeats it, and it leaks no card data.

    >>> key_of(GroupedId("req-1", "shop"), 0), key_of(GroupedId("req-1", generation=2), 0)
    ('tokenferry:shop:req-1:1:0', 'tokenferry:legacy:req-1:2:0')
    """
    if name.is_as_before:
        return idempotency_key(name.id, epoch)
    return f"tokenferry:{name.group}:{name.id}:{name.generation}:{epoch}"


def idempotency_key(request_id: str, epoch: int) -> str:
    """Return the key of generation 1 in the group `legacy`.

    >>> idempotency_key("req-1", 0)
    'tokenferry:req-1:0'
    """
    return f"tokenferry:{request_id}:{epoch}"
