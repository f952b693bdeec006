"""One delivery of a sealed request, from its body to its outcome."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tokenferry.contract.attach import AttachRequest, SignedAttach
from tokenferry.contract.codes import Code
from tokenferry.contract.envelope import MAX_ENVELOPE_BYTES, Envelope, Header
from tokenferry.contract.queues import TOKENIZE_TASK
from tokenferry.contract.results import TokenResult
from tokenferry.contract.targets import AttachTarget
from tokenferry_worker.circuits.scopes import Park
from tokenferry_worker.deliveries.poison import uncounted_if_called_off, unless_poison
from tokenferry_worker.errors import Reused, Unopenable
from tokenferry_worker.keys.opening import Opener
from tokenferry_worker.limits.backpressure import Backpressure, Slot, all_slots, slots_of
from tokenferry_worker.outcomes import (
    DeadLettered,
    Dropped,
    HandedOn,
    Outcome,
    Parked,
    Quarantined,
    Settled,
    own_failure_code,
)
from tokenferry_worker.provider.attempts import TooLate
from tokenferry_worker.provider.platforms import PlatformContext, mode_of
from tokenferry_worker.tokens.creating import TokenCall, TokenCreator
from tokenferry_worker.tokens.journal import Begun, Journal
from tokenferry_worker.tokens.ledger import TokenScope

log = logging.getLogger(__name__)

KEPT: Final = frozenset(
    {Code.ATTEMPTS_EXHAUSTED, Code.DELIVERIES_EXHAUSTED, Code.UNKNOWN_PLATFORM, Code.UNOPENABLE}
    | {Code.PUBLISHABLE_KEY_MISSING}
)
"""Failures that somebody can mend and redrive; after any other the request is of no more use."""
FIRST_LOOK: Final = 0.1
LAST_LOOK: Final = 2.0
"""Seconds between two looks whether there is room for another token, give or take a half; each twice the one before."""
BESIDE_THE_REQUEST: Final = 16_384
"""Bytes of an order for what stands beside the sealed request and the plan: it is read only up to the same length."""


@dataclass(frozen=True)
class Tokenizer:
    """Makes tokens of sealed requests."""

    opener: Opener
    creator: TokenCreator
    platforms: Mapping[str, PlatformContext]
    journal: Journal
    backpressure: Backpressure
    sign: Callable[[AttachRequest], SignedAttach]
    signer_id: str
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
        try:
            begun = await self.journal.begin(header.request_id, fingerprint(header))
        except Reused:
            return await self._reused(header)
        return await unless_poison(
            self._deliver(envelope, begun, body),
            begun,
            self.deliveries,
            lambda: self.creator.failed(_wanted(header), Code.DELIVERIES_EXHAUSTED),
            keep=not header.may_carry_cvc,
        )

    async def _deliver(self, envelope: Envelope, begun: Begun, body: str) -> Outcome:
        header = envelope.header
        if begun.outcome is not None:
            # A redelivery: say it again, call nothing.
            plan = self._plan(envelope)
            if plan is None:
                await self.backpressure.release(header.request_id, self._anywhere(header))
            return self._say(envelope, TokenResult.model_validate_json(begun.outcome), plan, body)
        plan = None
        ahead = self._anywhere(header)
        platform = self.platforms.get(header.platform)
        if platform is None:
            result = self.creator.failed(_wanted(header), Code.UNKNOWN_PLATFORM)
        elif begun.deliveries > self.deliveries:
            result = self.creator.failed(_wanted(header), Code.DELIVERIES_EXHAUSTED)
        else:
            try:
                plaintext = self.opener.open(envelope)
                async with uncounted_if_called_off(self.journal, header.request_id):
                    if (plan := plaintext.attach) is not None:
                        ahead = slots_of(platform.budgets, plan, header.lane, lifetime=self.token_lifetime)
                        if not await self._is_room(header, ahead):
                            del plaintext  # nothing stays open for as long as that may take
                            await self._find_room(header, ahead)
                            plaintext = self.opener.open(envelope)
                    wanted = _wanted(header, plaintext.form)
                    result = await self.creator.create(platform, wanted, begun.epoch, remembered=begun.deliveries > 1)
            except Unopenable as error:
                log.warning("request %s: %s", header.request_id, error)
                result = self.creator.failed(_wanted(header), Code.UNOPENABLE)
            except TooLate:
                result = self.creator.failed(_wanted(header), Code.EXPIRED)
            except Park as error:
                await self.backpressure.release(header.request_id, ahead)
                return Parked(error.scope, TOKENIZE_TASK, header.request_id)
        recorded = await self._record(platform, header, result, ahead)
        return self._say(envelope, TokenResult.model_validate_json(recorded), plan, body)

    async def _reused(self, header: Header) -> Outcome:
        """Another request has this id: the outcome of this one has an id of its own."""
        own = f"{header.request_id}:{fingerprint(header)[:12]}"
        refusal = self.creator.failed(_wanted(header), Code.REQUEST_ID_REUSED)
        refusal = refusal.model_copy(update={"outcome_id": f"{own}:token"})
        recorded = await self.journal.record(own, refusal.model_dump_json(exclude_none=True))
        return Settled(TokenResult.model_validate_json(recorded), header.reply_to)

    async def _is_room(self, header: Header, ahead: tuple[Slot, ...]) -> bool:
        """Whether one more token can be spent while it is fresh.

        The seat lasts for as long as the request does: while nothing is spent, a token that got too old makes no room.
        """
        left = header.expires_at / 1000 - self.creator.clock.now()
        return await self.backpressure.acquire(header.request_id, ahead, lasts=max(self.token_lifetime, left))

    def _anywhere(self, header: Header) -> tuple[Slot, ...]:
        """Where an earlier delivery may have taken a seat for it, as far as can be told without opening it."""
        platform = self.platforms.get(header.platform)
        return all_slots(platform.budgets) if platform is not None and header.attach_digest is not None else ()

    async def _find_room(self, header: Header, ahead: tuple[Slot, ...]) -> None:
        """Wait until there is room.

        Raises `TooLate`.
        """
        world, rest = self.creator.clock, FIRST_LOOK
        while not await self._is_room(header, ahead):
            left = header.expires_at / 1000 - world.now()
            if left <= 0:
                raise TooLate(False)
            await world.sleep(min(left, rest * (0.5 + world.random())))
            rest = min(2 * rest, LAST_LOOK)

    async def _record(
        self, platform: PlatformContext | None, header: Header, result: TokenResult, ahead: tuple[Slot, ...]
    ) -> str:
        outcome = result.model_dump_json(exclude_none=True)
        if platform is None or result.token is None:
            return await self.journal.record(
                header.request_id, outcome, ours=own_failure_code(result) is not None, leaving=ahead
            )
        scope = TokenScope(platform.name, mode_of(platform), header.connected_account or "", header.kind)
        return await self.journal.record_token(header.request_id, outcome, result.token, scope, at=result.settled_at)

    def _say(self, envelope: Envelope, result: TokenResult, plan: AttachTarget | None, body: str) -> Outcome:
        header = envelope.header
        if result.token is not None and plan is not None:
            return HandedOn(self._order(header, result, result.token, plan, body))
        settled = Settled(result, header.reply_to)
        code = own_failure_code(result)
        if code is None or code not in KEPT:
            return settled
        if header.may_carry_cvc:
            return Dropped(settled)
        return DeadLettered(settled, code)

    def _order(self, header: Header, result: TokenResult, token: str, plan: AttachTarget, body: str) -> SignedAttach:
        made_at = result.settled_at
        fits = len(body) + len(plan.model_dump_json()) <= MAX_ENVELOPE_BYTES - BESIDE_THE_REQUEST
        return self.sign(
            AttachRequest(
                attach_id=header.request_id,
                request_id=header.request_id,
                token=token,
                kind=header.kind,
                platform=header.platform,
                lane=header.lane,
                connected_account=header.connected_account,
                target=plan,
                reply_to=header.reply_to,
                token_created_at=made_at,
                # Who asked for both waits for both: what the request's deadline has passed, is wanted no more.
                attach_before=min(made_at + int(self.token_lifetime * 1000), header.expires_at),
                signer_id=self.signer_id,
                display=result.display,
                sealed=body if fits and not header.may_carry_cvc else None,
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


def fingerprint(header: Header) -> str:
    """What a request id stands for, as far as everybody may know. Sealed anew, or sent again later, it is the same."""
    named = (header.platform, header.connected_account or "", header.kind, header.attach_digest or "")
    return hashlib.sha256("|".join(named).encode()).hexdigest()[:40]


def _wanted(header: Header, form: str = "") -> TokenCall:
    return TokenCall(
        header.request_id,
        header.kind,
        header.platform,
        header.connected_account,
        header.lane,
        header.expires_at,
        may_park=not header.may_carry_cvc,
        form=form,
    )
