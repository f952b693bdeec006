"""One delivery of a sealed request, from its body to its outcome."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tokenferry.contract.attach import AttachRequest, SignedAttach
from tokenferry.contract.codes import Code
from tokenferry.contract.envelope import Envelope, Header
from tokenferry.contract.plaintext import Plaintext
from tokenferry.contract.queues import TOKENIZE_TASK
from tokenferry.contract.results import Attempt, Display, Failure, TokenResult
from tokenferry.contract.targets import AttachTarget
from tokenferry_worker.answers import Answer
from tokenferry_worker.calling import Attempts, Desk, Exhausted, TooLate, World, excused
from tokenferry_worker.circuits import About, Park
from tokenferry_worker.errors import Declined, Unavailable, Unopenable
from tokenferry_worker.opening import Opener
from tokenferry_worker.outcomes import DeadLettered, Dropped, HandedOn, Outcome, Parked, Quarantined, Settled
from tokenferry_worker.ports import Journal, Limiter
from tokenferry_worker.switchboard import Switchboard
from tokenferry_worker.token_client import PUBLISHABLE_IN_LIVE

log = logging.getLogger(__name__)

STORED_ERRORS: Final = 3
"""500s under one key before the next generation of it: the endpoint stores a 500 and would repeat it for ever."""

KEPT: Final = frozenset(
    {Code.ATTEMPTS_EXHAUSTED, Code.DELIVERIES_EXHAUSTED, Code.UNKNOWN_PLATFORM, Code.UNOPENABLE}
    | {Code.PUBLISHABLE_KEY_MISSING, Code.UNAUTHORIZED}
)
"""Failures that somebody can mend and redrive; after any other the request is of no more use."""


@dataclass(frozen=True)
class Tokenizer:
    """Makes tokens. Everything it needs of the world comes in here."""

    opener: Opener
    desks: Mapping[str, Desk]
    journal: Journal
    limiter: Limiter
    circuits: Switchboard
    world: World
    sign: Callable[[AttachRequest], SignedAttach]
    signer_id: str
    attempts: int
    deliveries: int
    token_lifetime: float
    """Seconds."""

    async def handle(self, body: str) -> Outcome:
        """Open, call, record. Safe to repeat at any point: the journal and the idempotency key see to that."""
        try:
            envelope = self.opener.read(body)
        except Unopenable as error:
            return Quarantined(str(error))
        header = envelope.header
        begun = await self.journal.begin(header.request_id)
        if begun.outcome is not None:
            # A redelivery: say it again, call nothing.
            return self._say(envelope, TokenResult.model_validate_json(begun.outcome), self._plan(envelope))
        plan: AttachTarget | None = None
        desk = self.desks.get(header.platform)
        if desk is None:
            result = self._failed(header, Code.UNKNOWN_PLATFORM)
        elif begun.deliveries > self.deliveries:
            result = self._failed(header, Code.DELIVERIES_EXHAUSTED)
        else:
            try:
                plaintext = self.opener.open(envelope)
            except Unopenable as error:
                log.warning("request %s: %s", header.request_id, error)
                result = self._failed(header, Code.UNOPENABLE)
            else:
                plan = plaintext.attach
                try:
                    async with excused(self.journal, header.request_id):
                        result = await self._tokenize(desk, header, plaintext, begun.epoch)
                except Park as error:
                    return Parked(error.scope, TOKENIZE_TASK, header.request_id)
        recorded = await self.journal.record(header.request_id, result.model_dump_json(exclude_none=True))
        return self._say(envelope, TokenResult.model_validate_json(recorded), plan)

    async def _tokenize(self, desk: Desk, header: Header, plaintext: Plaintext, epoch: int) -> TokenResult:
        server_errors = 0

        async def call() -> Answer:
            return await desk.endpoint.create_token(
                header.kind,
                plaintext.form,
                idempotency_key=idempotency_key(header.request_id, epoch),
                connected_account=header.connected_account,
            )

        async def on_unavailable(error: Unavailable) -> bool:
            nonlocal epoch, server_errors
            if error.status != 500:
                return False
            server_errors += 1
            if not error.final and server_errors % STORED_ERRORS:
                return False
            # An unused token of the earlier generation may be left behind: nobody learns its id.
            epoch = await self.journal.next_epoch(header.request_id, epoch)
            return True

        publishable = desk.live and header.kind in PUBLISHABLE_IN_LIVE
        attempts = Attempts(
            self.limiter,
            self.circuits,
            self.world,
            desk,
            About(desk.name, "tokens", header.kind, header.connected_account, publishable),
            header.lane,
            desk.budgets.tokens(header.connected_account),
            self.attempts,
            until=header.expires_at / 1000,
            may_park=not _may_carry_cvc(header),
        )
        try:
            answer = await attempts.run(call, on_unavailable)
        except Declined as error:
            return self._failed(header, error.code, declined=error, attempts=attempts.made + 1)
        except TooLate:
            return self._failed(header, Code.EXPIRED, attempts=attempts.made)
        except Exhausted as error:
            last = Declined(
                error.last.status or 0, Code.ATTEMPTS_EXHAUSTED, request_id=error.last.request_id, ours=True
            )
            code = Code.ATTEMPTS_EXHAUSTED
            return self._failed(header, code, declined=last, attempts=error.attempts, history=error.history)
        if answer.body.get("livemode") is not desk.live:
            return self._failed(header, Code.WRONG_SCOPE, attempts=attempts.made + 1)
        return TokenResult(
            outcome_id=f"{header.request_id}:token",
            request_id=header.request_id,
            kind=header.kind,
            platform=header.platform,
            connected_account=header.connected_account,
            settled_at=self._now_ms(),
            token=answer.id,
            created=answer.number("created"),
            livemode=desk.live,
            client_ip=answer.text("client_ip"),
            display=display(answer),
        )

    def _say(self, envelope: Envelope, result: TokenResult, plan: AttachTarget | None) -> Outcome:
        header = envelope.header
        if result.token is not None and plan is not None:
            return HandedOn(self._order(header, result, result.token, plan))
        settled = Settled(result, header.reply_to)
        code = result.failure.code if result.failure and result.failure.source == "tokenferry" else None
        if code is None or code not in KEPT:
            return settled
        if _may_carry_cvc(header):
            return Dropped(settled)
        return DeadLettered(settled, code)

    def _order(self, header: Header, result: TokenResult, token: str, plan: AttachTarget) -> SignedAttach:
        made_at = result.settled_at
        return self.sign(
            AttachRequest(
                attach_id=header.request_id,
                request_id=header.request_id,
                token=token,
                kind=header.kind,
                platform=header.platform,
                connected_account=header.connected_account,
                target=plan,
                reply_to=header.reply_to,
                token_created_at=made_at,
                attach_before=made_at + int(self.token_lifetime * 1000),
                signer_id=self.signer_id,
                display=result.display,
            )
        )

    def _plan(self, envelope: Envelope) -> AttachTarget | None:
        """The attach plan of an envelope whose token is already made. A retired key leaves the token unattached."""
        if envelope.header.attach_digest is None:
            return None
        try:
            return self.opener.open(envelope).attach
        except Unopenable:
            return None

    def _failed(
        self,
        header: Header,
        code: str,
        *,
        declined: Declined | None = None,
        attempts: int = 0,
        history: tuple[Attempt, ...] = (),
    ) -> TokenResult:
        return TokenResult(
            outcome_id=f"{header.request_id}:token",
            request_id=header.request_id,
            kind=header.kind,
            platform=header.platform,
            connected_account=header.connected_account,
            settled_at=self._now_ms(),
            failure=failure(code, declined, attempts, history),
        )

    def _now_ms(self) -> int:
        return int(self.world.now() * 1000)


def _may_carry_cvc(header: Header) -> bool:
    """Only realtime may carry a verification code, and whether this one does is sealed: none of them is kept."""
    return header.kind == "cvc_update" or header.lane == "realtime"


def idempotency_key(request_id: str, epoch: int) -> str:
    """Derived from ids only: never random, so a redelivery repeats it, and never from card data, which it would leak.

    >>> idempotency_key("req-1", 0)
    'tokenferry:req-1:0'
    """
    return f"tokenferry:{request_id}:{epoch}"


def failure(
    code: str, declined: Declined | None, attempts: int, history: tuple[Attempt, ...] = (), spent_by: str | None = None
) -> Failure:
    """What the requester is told. Codes and names; no text of the endpoint."""
    if declined is None:
        return Failure(code=code, source="tokenferry", attempts=attempts, spent_by=spent_by)
    return Failure(
        code=code,
        source="tokenferry" if declined.ours else "endpoint",
        param=declined.param,
        decline_code=declined.decline_code,
        status=declined.status or None,
        endpoint_request_id=declined.request_id,
        attempts=attempts,
        history=history,
    )


def display(answer: Answer) -> Display | None:
    """What may be shown of the card or bank account in a token's answer; None for kinds that show nothing."""
    kind = answer.text("type") or ""
    if not isinstance(answer.body.get(kind), Mapping):
        return None
    return Display(
        object_id=answer.text(kind, "id"),
        brand=answer.text(kind, "brand"),
        bank_name=answer.text(kind, "bank_name"),
        last4=(answer.text(kind, "last4") or "")[-4:] or None,
        country=answer.text(kind, "country"),
        currency=answer.text(kind, "currency"),
        funding=answer.text(kind, "funding"),
        fingerprint=answer.text(kind, "fingerprint"),
        exp_month=answer.number(kind, "exp_month"),
        exp_year=answer.number(kind, "exp_year"),
    )
