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
from tokenferry.contract.queues import TOKENIZE_TASK
from tokenferry.contract.requests import Kind
from tokenferry.contract.results import TokenResult
from tokenferry.contract.targets import AttachTarget, digest
from tokenferry.sealing import id_in
from tokenferry_worker.circuits.scopes import Park
from tokenferry_worker.clock import Clock
from tokenferry_worker.deliveries.answering import answer
from tokenferry_worker.deliveries.lifetimes import LifetimeCheck, lifetime_refused, store_is_younger
from tokenferry_worker.deliveries.poison import uncounted_if_called_off, unless_poison
from tokenferry_worker.deliveries.recording import Recorded, check_same, record_refusal, to_record, what_counts
from tokenferry_worker.deliveries.refusing import refused, unopenable
from tokenferry_worker.errors import HiddenCvc, NotGranted, Reused, Unopenable
from tokenferry_worker.keys.contents import UNMARKED, ContentMarks
from tokenferry_worker.keys.opening import Opener
from tokenferry_worker.keys.rights import Rights
from tokenferry_worker.limits.backpressure import Backpressure, Slot, all_slots, slots_of
from tokenferry_worker.limits.waits import Waits
from tokenferry_worker.metrics.names import WAITING
from tokenferry_worker.metrics.registry import Meters, NoMeters
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
from tokenferry_worker.provider.attempts import KEY_IS_SAFE, TooLate
from tokenferry_worker.provider.platforms import PlatformContext, mode_of
from tokenferry_worker.tokens.creating import TokenCall, TokenCreator
from tokenferry_worker.tokens.grouped_ids import GroupedId
from tokenferry_worker.tokens.journal import About, Begun, Journal
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
class _Seen:
    """What is remembered of an opened request. Nothing of it is a secret."""

    plan: AttachTarget | None = None
    """On what the token is to be spent."""
    mark: str = ""
    """Of the content. Empty: nobody opened it."""


UNSEEN: Final = _Seen()


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
    marks: ContentMarks = UNMARKED
    meters: Meters = field(default_factory=NoMeters)
    waits: Waits = field(default_factory=Waits)

    async def handle(self, body: str) -> Outcome:
        """Open, call, record. Safe to repeat at any point, because of the journal and the idempotency key."""
        try:
            envelope = self.opener.read(body)
        except Unopenable as error:
            return Quarantined(str(error), error.signer_id)
        return await answer(self._handle(envelope, body), envelope.header, self.waits)

    async def _handle(self, envelope: SealedRequest, body: str) -> Outcome:
        header = envelope.header
        name = GroupedId(header.request_id, await self.rights.group_of(header), header.generation)
        if not self.lifetimes.allows(header):
            refusal = self._failed(name, header, Code.INVALID_LIFETIME)
            return lifetime_refused(refusal, envelope.signature, header.reply_to, keep=not header.may_carry_cvc)
        try:
            await self.rights.check_request(header)
        except NotGranted as missing:
            return self._refused(name, header, missing, body)
        try:
            begun = await self._begin(name, envelope)
        except Reused as reused:
            return await self._reused(name, header, reused)
        return await unless_poison(
            self._deliver(name, envelope, begun, body),
            begun,
            self.deliveries,
            lambda: self._failed(name, header, Code.DELIVERIES_EXHAUSTED),
            keep=not header.may_carry_cvc,
        )

    async def _begin(self, name: GroupedId, envelope: SealedRequest) -> Begun:
        """Note the delivery. The other version of the same request has its journal entry, too. Raises `Reused`."""
        header = envelope.header
        try:
            return await self.journal.begin(name.key, fingerprint(header), generation=name.generation)
        except Reused:
            other = self._other_fingerprint(envelope) if header.has_plan else None
            if other is None:
                raise
        return await self.journal.begin(name.key, other, generation=name.generation)

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

    async def _deliver(self, name: GroupedId, envelope: SealedRequest, begun: Begun, body: str) -> Outcome:
        header = envelope.header
        try:
            if begun.outcome is not None:
                return await self._tell_again(name, envelope, begun, begun.outcome, body)
            platform, seen = self.platforms.get(header.platform), UNSEEN
            if platform is None:
                result = self._failed(name, header, Code.UNKNOWN_PLATFORM)
            elif begun.deliveries > self.deliveries:
                result = self._failed(name, header, Code.DELIVERIES_EXHAUSTED)
            else:
                result, seen = await self._carry_out(name, envelope, begun, platform)
            recorded = await self._record(name, header, platform, result, seen)
        except NotGranted as missing:
            if begun.outcome is None:
                await self._give_way(name, header)
            return self._refused(name, header, missing, body)
        except Reused as reused:
            return await self._reused(name, header, reused)
        except Park as error:
            await self._give_way(name, header)
            return Parked(error.scope, TOKENIZE_TASK, header.request_id)
        return self._outcome(header, recorded, seen.plan, body, name)

    async def _tell_again(
        self, name: GroupedId, envelope: SealedRequest, begun: Begun, outcome: str, body: str
    ) -> Outcome:
        """Publish the recorded outcome again, and call nothing. Raises `Reused` where it is not about this request."""
        header = envelope.header
        comparable = self.marks.can_tell(begun.content)
        plan = None
        if comparable or header.has_plan:
            try:
                plaintext = await self._open(envelope)
            except Unopenable as error:
                if comparable:
                    code = Code.CVC_NOT_DECLARED if isinstance(error, HiddenCvc) else Code.UNOPENABLE
                    keep = not (header.may_carry_cvc or isinstance(error, HiddenCvc))
                    refusal = self._failed(name, header, code)
                    return unopenable(refusal, envelope.signature, header.reply_to, code=code, keep=keep)
                # Its key is retired: nothing is attached.
            else:
                plan = plaintext.attach
                await check_same(self.journal, name, begun, self.marks.of_request(name.key, plaintext))
        if plan is None:
            await self._give_way(name, header)
        recorded = Recorded(TokenResult.model_validate_json(outcome), outcome)
        return self._outcome(header, recorded, plan, body, name)

    async def _carry_out(
        self, name: GroupedId, envelope: SealedRequest, begun: Begun, platform: PlatformContext
    ) -> tuple[TokenResult, _Seen]:
        """Do as `_create`. A request that does not open is a failure."""
        header = envelope.header
        try:
            async with uncounted_if_called_off(self.journal, name.key):
                return await self._create(name, envelope, begun, platform)
        except HiddenCvc:  # not kept: what it hides must not be stored
            return self._failed(name, header, Code.CVC_NOT_DECLARED), UNSEEN
        except Unopenable as error:
            log.warning("request %s: %s", header.request_id, error)
            return self._failed(name, header, Code.UNOPENABLE), UNSEEN

    async def _create(
        self, name: GroupedId, envelope: SealedRequest, begun: Begun, platform: PlatformContext
    ) -> tuple[TokenResult, _Seen]:
        """Open the request and create its token. Returns the result, and what was seen of the request.

        Raises `Unopenable`, `NotGranted`, `Reused`, `Park`.
        """
        header = envelope.header
        plaintext = await self._open(envelope)
        seen = _Seen(plaintext.attach, self.marks.of_request(name.key, plaintext))
        await check_same(self.journal, name, begun, seen.mark)
        if begun.doubted and self.clock.now() - header.issued_at / 1000 > KEY_IS_SAFE:
            return self._failed(name, header, Code.OUTCOME_UNKNOWN), seen  # a call could make another token
        if seen.plan is not None:
            if store_is_younger(header.request_id, seen.plan, header.issued_at, begun):
                return self._failed(name, header, Code.STORE_IS_YOUNGER), seen
            slots = slots_of(platform.budgets, seen.plan, header.lane, lifetime=self.token_lifetime)
            if not await self._has_room(name, header, slots):
                del plaintext  # nothing stays open for as long as the wait may take
                self.meters.count(WAITING, "slot")
                try:
                    await self._wait_for_room(name, header, slots)
                except TooLate:
                    return self._failed(name, header, Code.EXPIRED), seen
                finally:
                    self.meters.count(WAITING, "slot", by=-1)
                plaintext = await self._open(envelope)
        wanted = _token_call(name, header, plaintext.form)
        made = await self.creator.create(platform, wanted, begun.epoch, remembered=begun.deliveries > 1)
        return made, seen

    async def _open(self, envelope: SealedRequest) -> Plaintext:
        """Return the content, if its signer may ask for it. Raises `Unopenable`, `NotGranted`."""
        plaintext = self.opener.open(envelope)
        await self.rights.check_content(envelope.header, plaintext)
        return plaintext

    async def _has_room(self, name: GroupedId, header: RequestHeader, slots: tuple[Slot, ...]) -> bool:
        """Take a place for one more token, if it can be spent while it is fresh.

        The place is held for as long as the request lasts: while nothing is spent, a token that got too old makes no
        room.
        """
        left = header.expires_at / 1000 - self.clock.now()
        return await self.backpressure.acquire(name.key, slots, lasts=max(self.token_lifetime, left))

    async def _wait_for_room(self, name: GroupedId, header: RequestHeader, slots: tuple[Slot, ...]) -> None:
        """Return when the request has a place. Raises `TooLate`."""
        pause = FIRST_PAUSE
        while not await self._has_room(name, header, slots):
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

    async def _give_way(self, name: GroupedId, header: RequestHeader) -> None:
        """Release the slots of a request that makes no token."""
        await self.backpressure.release(name.key, self._slots(header))

    async def _record(
        self,
        name: GroupedId,
        header: RequestHeader,
        platform: PlatformContext | None,
        result: TokenResult,
        seen: _Seen,
    ) -> Recorded[TokenResult]:
        offered, about = to_record(result), About(seen.mark, name.generation)
        if platform is None or result.token is None:
            is_ours = own_failure_code(result) is not None
            leaving = self._slots(header, seen.plan)
            recorded = await self.journal.record(name.key, offered, about=about, ours=is_ours, leaving=leaving)
        else:
            scope = TokenScope(platform.name, mode_of(platform), header.connected_account or "", _kind(header))
            recorded = await self.journal.record_token(
                name.key, offered, result.token, scope, at=result.settled_at, about=about
            )
        return what_counts(result, offered, recorded)

    def _outcome(
        self,
        header: RequestHeader,
        recorded: Recorded[TokenResult],
        plan: AttachTarget | None,
        body: str,
        name: GroupedId,
    ) -> Outcome:
        result = recorded.result
        if result.token is not None and plan is not None:
            return HandedOn(self._order(name, header, result, plan, body))
        settled = Settled(result, header.reply_to, recorded.body)
        code = own_failure_code(result)
        if code is None or code not in KEPT:
            return settled
        return Dropped(settled) if header.may_carry_cvc else DeadLettered(settled, code)

    def _order(
        self, name: GroupedId, header: RequestHeader, result: TokenResult, plan: AttachTarget, body: str
    ) -> SignedAttach:
        assert result.token is not None
        made_at = result.settled_at
        fits = len(body) + len(plan.model_dump_json()) <= MAX_ENVELOPE_BYTES - BESIDE_THE_REQUEST
        return self.sign(
            AttachRequest(
                attach_id=header.request_id,
                request_id=header.request_id,
                token=result.token,
                kind=_kind(header),
                platform=header.platform,
                lane=header.lane,
                connected_account=header.connected_account,
                target=plan,
                reply_to=header.reply_to,
                token_created_at=made_at,
                # The requester waits for token and attach together, so the request's deadline holds for both.
                attach_before=min(made_at + int(self.token_lifetime * 1000), header.expires_at),
                signer_id=id_in(header.version, self.signer_id),
                display=result.display,
                sealed=body if fits and not header.may_carry_cvc else None,
                # Version 1 of an order has no group.
                version=header.version if name.is_as_before else 2,
                answer_in=1 if header.answer_version == 1 and not name.is_as_before else None,
                group=name.group,
                generation=name.generation,
                batch=header.batch,
                traceparent=header.traceparent,
            )
        )

    async def _reused(self, name: GroupedId, header: RequestHeader, reused: Reused) -> Outcome:
        """Something else has this request id. The refusal gets an outcome id of its own."""
        refusal = self._failed(name, header, Code.REQUEST_ID_REUSED)
        recorded = await record_refusal(self.journal, name, fingerprint(header), refusal, reused)
        return Settled(recorded.result, header.reply_to, recorded.body)

    def _refused(self, name: GroupedId, header: RequestHeader, missing: NotGranted, body: str) -> Outcome:
        refusal = self._failed(name, header, Code.NOT_GRANTED)
        return refused(refusal, missing, body, header.reply_to, keep=not header.may_carry_cvc)

    def _failed(self, name: GroupedId, header: RequestHeader, code: str) -> TokenResult:
        return self.creator.failed(_token_call(name, header), code)


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


def _token_call(name: GroupedId, header: RequestHeader, form: str = "") -> TokenCall:
    return TokenCall(
        name,
        _kind(header),
        header.platform,
        header.connected_account,
        header.lane,
        header.expires_at,
        may_park=not header.may_carry_cvc,
        form=form,
        trace=header.traceparent,
    )


def _kind(header: RequestHeader) -> Kind:
    """The kind of token. `read_request` refuses a header of an onboarding."""
    return cast(Kind, header.kind)
