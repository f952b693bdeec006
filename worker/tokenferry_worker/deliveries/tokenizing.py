"""One delivery of a sealed request, from its body to its outcome."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from tokenferry.contract.attach import AttachRequest, SignedAttach
from tokenferry.contract.codes import KEPT, Code
from tokenferry.contract.envelope import MAX_ENVELOPE_BYTES
from tokenferry.contract.envelope2 import Header2, RequestHeader, SealedRequest
from tokenferry.contract.plaintext import Plaintext
from tokenferry.contract.queues import TOKENIZE_TASK, tokenize_queue
from tokenferry.contract.requests import Kind
from tokenferry.contract.results import TokenResult
from tokenferry.contract.targets import AttachTarget, digest
from tokenferry_worker.circuits.scopes import Park
from tokenferry_worker.clock import Clock
from tokenferry_worker.deliveries.answering import answer
from tokenferry_worker.deliveries.lifetimes import LifetimeCheck, lifetime_refused, store_is_younger
from tokenferry_worker.deliveries.places import misplaced
from tokenferry_worker.deliveries.poison import uncounted_if_called_off, unless_poison
from tokenferry_worker.deliveries.recording import Recorded, record_refusal, to_record, what_counts
from tokenferry_worker.deliveries.refusing import refused
from tokenferry_worker.errors import HiddenCvc, NotGranted, Reused, Unopenable
from tokenferry_worker.keys.opening import Opener
from tokenferry_worker.keys.rights import Rights
from tokenferry_worker.limits.backpressure import Backpressure, Slot, all_slots, slots_of
from tokenferry_worker.limits.waits import Waits
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

FIRST_PAUSE: Final = 0.1
LAST_PAUSE: Final = 2.0
"""Seconds between two looks for room for another token, give or take a half. Each is twice the one before."""
SOME_PLAN: Final = "plan"
"""Stands for the plan of a version 2 request in its fingerprint."""
BESIDE_THE_REQUEST: Final = 16_384
"""Bytes of an attach order beside the sealed request and the plan. A longer order than an envelope cannot be read."""


@dataclass(frozen=True)
class Tokenizer:
    """Makes tokens of sealed requests."""

    opener: Opener
    creator: TokenCreator
    platforms: Mapping[str, PlatformContext]
    journal: Journal
    backpressure: Backpressure
    clock: Clock
    rights: Rights
    sign: Callable[[AttachRequest], SignedAttach]
    signer_id: str
    deliveries: int
    token_lifetime: float
    """Seconds."""
    lifetimes: LifetimeCheck
    waits: Waits = field(default_factory=Waits)

    async def handle(self, body: str, queue: str | None = None) -> Outcome:
        """Open, call, record. Safe to repeat at any point, because of the journal and the idempotency key.

        *queue*: where it was found, if that is known.
        """
        try:
            envelope = self.opener.read(body)
        except Unopenable as error:
            return Quarantined(str(error))
        header = envelope.header
        if (aside := misplaced(queue, tokenize_queue(header.lane, header.platform))) is not None:
            return aside
        return await answer(self._handle(envelope, body), header, self.waits)

    async def _handle(self, envelope: SealedRequest, body: str) -> Outcome:
        header = envelope.header
        if not self.lifetimes.allows(header):
            refusal = self.creator.failed(_token_call(header), Code.INVALID_LIFETIME)
            keep = not header.may_carry_cvc
            return lifetime_refused(refusal, header.request_id, envelope.signature, header.reply_to, keep=keep)
        try:
            await self.rights.check_request(header)
        except NotGranted as missing:
            return self._refused(header, missing, body)
        try:
            begun = await self._begin(envelope)
        except Reused:
            refusal = self.creator.failed(_token_call(header), Code.REQUEST_ID_REUSED)
            recorded = await record_refusal(self.journal, header.request_id, fingerprint(header), refusal)
            return Settled(recorded.result, header.reply_to, recorded.body)
        return await unless_poison(
            self._deliver(envelope, begun, body),
            begun,
            self.deliveries,
            lambda: self.creator.failed(_token_call(header), Code.DELIVERIES_EXHAUSTED),
            keep=not header.may_carry_cvc,
        )

    async def _begin(self, envelope: SealedRequest) -> Begun:
        """Note the delivery. The other version of the same request has its journal entry, too. Raises `Reused`."""
        header = envelope.header
        try:
            return await self.journal.begin(header.request_id, fingerprint(header))
        except Reused:
            other = self._other_fingerprint(envelope) if header.has_plan else None
            if other is None:
                raise
        return await self.journal.begin(header.request_id, other)

    def _other_fingerprint(self, envelope: SealedRequest) -> str | None:
        """Return the fingerprint of this request with a plan in the other version. None where it does not open."""
        header = envelope.header
        if not isinstance(header, Header2):
            return _digest(header, SOME_PLAN)
        try:
            plan = self.opener.open(envelope).attach
        except Unopenable:
            return None
        return _digest(header, digest(plan)) if plan else None

    async def _deliver(self, envelope: SealedRequest, begun: Begun, body: str) -> Outcome:
        header = envelope.header
        if begun.outcome is not None:
            # A redelivery: publish the recorded outcome again, call nothing.
            try:
                plan = await self._plan(envelope)
            except NotGranted as missing:
                return self._refused(header, missing, body)
            if plan is None:
                await self.backpressure.release(header.request_id, self._slots(header))
            recorded = Recorded(TokenResult.model_validate_json(begun.outcome), begun.outcome)
            return self._outcome(header, recorded, plan, body)
        plan = None
        platform = self.platforms.get(header.platform)
        if platform is None:
            result = self.creator.failed(_token_call(header), Code.UNKNOWN_PLATFORM)
        elif begun.deliveries > self.deliveries:
            result = self.creator.failed(_token_call(header), Code.DELIVERIES_EXHAUSTED)
        else:
            try:
                async with uncounted_if_called_off(self.journal, header.request_id):
                    result, plan = await self._create(envelope, begun, platform)
            except HiddenCvc:  # not kept: what it hides must not be stored
                result = self.creator.failed(_token_call(header), Code.CVC_NOT_DECLARED)
            except Unopenable as error:
                log.warning("request %s: %s", header.request_id, error)
                result = self.creator.failed(_token_call(header), Code.UNOPENABLE)
            except NotGranted as missing:
                await self.backpressure.release(header.request_id, self._slots(header))
                return self._refused(header, missing, body)
            except Park as error:
                await self.backpressure.release(header.request_id, self._slots(header))
                return Parked(error.scope, TOKENIZE_TASK, header.request_id)
        return self._outcome(header, await self._record(platform, header, result, plan), plan, body)

    async def _create(
        self, envelope: SealedRequest, begun: Begun, platform: PlatformContext
    ) -> tuple[TokenResult, AttachTarget | None]:
        """Open the request and create its token. Returns the result, and what the token is to be spent on.

        Raises `Unopenable`, `NotGranted`, `Park`.
        """
        header = envelope.header
        plaintext = await self._open(envelope)
        plan = plaintext.attach
        if plan is not None:
            if store_is_younger(header.request_id, plan, header.issued_at, begun):
                return self.creator.failed(_token_call(header), Code.STORE_IS_YOUNGER), plan
            slots = slots_of(platform.budgets, plan, header.lane, lifetime=self.token_lifetime)
            if not await self._has_room(header, slots):
                del plaintext  # nothing stays open for as long as the wait may take
                try:
                    await self._wait_for_room(header, slots)
                except TooLate:
                    return self.creator.failed(_token_call(header), Code.EXPIRED), plan
                plaintext = await self._open(envelope)
        wanted = _token_call(header, plaintext.form)
        return await self.creator.create(platform, wanted, begun.epoch, remembered=begun.deliveries > 1), plan

    async def _open(self, envelope: SealedRequest) -> Plaintext:
        """Return the content, if its signer may ask for it. Raises `Unopenable`, `NotGranted`."""
        plaintext = self.opener.open(envelope)
        await self.rights.check_content(envelope.header, plaintext)
        return plaintext

    async def _has_room(self, header: RequestHeader, slots: tuple[Slot, ...]) -> bool:
        """Take a place for one more token, if it can be spent while it is fresh.

        The place is held for as long as the request lasts: while nothing is spent, a token that got too old makes no
        room.
        """
        left = header.expires_at / 1000 - self.clock.now()
        return await self.backpressure.acquire(header.request_id, slots, lasts=max(self.token_lifetime, left))

    async def _wait_for_room(self, header: RequestHeader, slots: tuple[Slot, ...]) -> None:
        """Return when the request has a place. Raises `TooLate`."""
        pause = FIRST_PAUSE
        while not await self._has_room(header, slots):
            left = header.expires_at / 1000 - self.clock.now()
            if left <= 0:
                raise TooLate(False)
            await self.clock.sleep(min(left, pause * (0.5 + self.clock.random())))
            pause = min(2 * pause, LAST_PAUSE)

    def _slots(self, header: RequestHeader, plan: AttachTarget | None = None) -> tuple[Slot, ...]:
        """Return the slots where this request may hold a place: those of its plan, or all while that is unknown."""
        platform = self.platforms.get(header.platform)
        if platform is None or not header.has_plan:
            return ()
        return all_slots(platform.budgets, plan)

    async def _record(
        self, platform: PlatformContext | None, header: RequestHeader, result: TokenResult, plan: AttachTarget | None
    ) -> Recorded[TokenResult]:
        offered = to_record(result)
        if platform is None or result.token is None:
            is_ours = own_failure_code(result) is not None
            recorded = await self.journal.record(
                header.request_id, offered, ours=is_ours, leaving=self._slots(header, plan)
            )
        else:
            scope = TokenScope(platform.name, mode_of(platform), header.connected_account or "", _kind(header))
            recorded = await self.journal.record_token(
                header.request_id, offered, result.token, scope, at=result.settled_at
            )
        return what_counts(result, offered, recorded)

    def _outcome(
        self, header: RequestHeader, recorded: Recorded[TokenResult], plan: AttachTarget | None, body: str
    ) -> Outcome:
        result = recorded.result
        if result.token is not None and plan is not None:
            return HandedOn(self._order(header, result, result.token, plan, body))
        settled = Settled(result, header.reply_to, recorded.body)
        code = own_failure_code(result)
        if code is None or code not in KEPT:
            return settled
        return Dropped(settled) if header.may_carry_cvc else DeadLettered(settled, code)

    def _order(
        self, header: RequestHeader, result: TokenResult, token: str, plan: AttachTarget, body: str
    ) -> SignedAttach:
        made_at = result.settled_at
        fits = len(body) + len(plan.model_dump_json()) <= MAX_ENVELOPE_BYTES - BESIDE_THE_REQUEST
        return self.sign(
            AttachRequest(
                attach_id=header.request_id,
                request_id=header.request_id,
                token=token,
                kind=_kind(header),
                platform=header.platform,
                lane=header.lane,
                connected_account=header.connected_account,
                target=plan,
                reply_to=header.reply_to,
                token_created_at=made_at,
                # The requester waits for token and attach together, so the request's deadline holds for both.
                attach_before=min(made_at + int(self.token_lifetime * 1000), header.expires_at),
                signer_id=self.signer_id,
                display=result.display,
                sealed=body if fits and not header.may_carry_cvc else None,
                version=header.version,
                group=header.group,
                generation=header.generation,
                batch=header.batch,
                traceparent=header.traceparent,
            )
        )

    async def _plan(self, envelope: SealedRequest) -> AttachTarget | None:
        """Return the attach plan of a request whose token is made. Where its key is retired, nothing is attached.

        Raises `NotGranted`.
        """
        if not envelope.header.has_plan:
            return None
        try:
            return (await self._open(envelope)).attach
        except Unopenable:
            return None

    def _refused(self, header: RequestHeader, missing: NotGranted, body: str) -> Outcome:
        result = self.creator.failed(_token_call(header), Code.NOT_GRANTED)
        return refused(result, missing, body, header.reply_to, keep=not header.may_carry_cvc)


def fingerprint(header: RequestHeader) -> str:
    """Return a digest of what a request id stands for, by the clear header. Sealed or sent again, it is the same.

    The digest of a plan in version 2 is salted, so it is another one each time: only whether there is a plan counts.
    """
    if isinstance(header, Header2):
        return _digest(header, SOME_PLAN if header.has_plan else "")
    return _digest(header, header.attach_digest or "")


def _digest(header: RequestHeader, plan: str) -> str:
    named = (header.platform, header.connected_account or "", header.kind, plan)
    return hashlib.sha256("|".join(named).encode()).hexdigest()[:40]


def _token_call(header: RequestHeader, form: str = "") -> TokenCall:
    return TokenCall(
        header.request_id,
        _kind(header),
        header.platform,
        header.connected_account,
        header.lane,
        header.expires_at,
        may_park=not header.may_carry_cvc,
        form=form,
    )


def _kind(header: RequestHeader) -> Kind:
    """The kind of token. `read_request` refuses a header of an onboarding."""
    return cast(Kind, header.kind)
