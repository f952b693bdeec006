"""One delivery of an attach order, from its body to its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tokenferry.contract.attach import AttachRequest, SignedAttach
from tokenferry.contract.codes import KEPT, Code
from tokenferry.contract.envelope2 import Header2, read_request
from tokenferry.contract.queues import ATTACH_TASK
from tokenferry.contract.results import AttachResult
from tokenferry.contract.text_form import NotCanonical
from tokenferry_worker.circuits.scopes import Park
from tokenferry_worker.clock import Clock
from tokenferry_worker.deliveries.answering import answer
from tokenferry_worker.deliveries.lifetimes import LifetimeCheck, lifetime_refused, store_is_younger
from tokenferry_worker.deliveries.poison import uncounted_if_called_off, unless_poison
from tokenferry_worker.deliveries.recording import Recorded, record_refusal, to_record, what_counts
from tokenferry_worker.deliveries.refusing import refused
from tokenferry_worker.errors import NotGranted, Reused, Unopenable
from tokenferry_worker.keys.identities import Signers
from tokenferry_worker.keys.opening import read_attach
from tokenferry_worker.keys.rights import Rights
from tokenferry_worker.limits.backpressure import Slot, all_slots
from tokenferry_worker.limits.waits import Waits
from tokenferry_worker.outcomes import DeadLettered, Outcome, Parked, Quarantined, Retokenize, Settled, own_failure_code
from tokenferry_worker.provider.platforms import PlatformContext
from tokenferry_worker.tokens.journal import About, Begun, Journal
from tokenferry_worker.tokens.orders import fingerprint, name_of
from tokenferry_worker.tokens.results import failed
from tokenferry_worker.tokens.spending import AlreadySettled, Spender


@dataclass(frozen=True)
class Attacher:
    """Spends tokens on order. Its platforms hold Stripe's secret keys. It has no key that opens envelopes."""

    signers: Signers
    rights: Rights
    spender: Spender
    platforms: Mapping[str, PlatformContext]
    journal: Journal
    clock: Clock
    deliveries: int
    lifetimes: LifetimeCheck
    waits: Waits = field(default_factory=Waits)

    async def handle(self, body: str) -> Outcome:
        """Claim, call, record. An order that is delivered twice has the same outcome twice, and spends once."""
        try:
            signed = read_attach(body, self.signers)
        except Unopenable as error:
            return Quarantined(str(error), error.signer_id)
        return await answer(self._handle(signed, body), signed.request, self.waits)

    async def _handle(self, signed: SignedAttach, body: str) -> Outcome:
        order = await self.rights.in_its_group(signed.request)
        if not self.lifetimes.allows_order(order):
            refusal = self._failed(order, Code.INVALID_LIFETIME)
            return lifetime_refused(refusal, signed.signature, order.reply_to)
        try:
            await self.rights.check_order(order)
        except NotGranted as missing:
            return refused(self._failed(order, Code.NOT_GRANTED), missing, body, order.reply_to)
        try:
            begun = await self.journal.begin(name_of(order).key, fingerprint(order), generation=order.generation)
        except Reused as reused:
            return await self._reused(order, reused)
        return await unless_poison(
            self._deliver(order, begun),
            begun,
            self.deliveries,
            lambda: self._failed(order, Code.DELIVERIES_EXHAUSTED),
        )

    async def _deliver(self, order: AttachRequest, begun: Begun) -> Outcome:
        if begun.outcome is not None:
            return await self._repeat(order, begun.outcome)
        try:
            async with uncounted_if_called_off(self.journal, name_of(order).key):
                result = await self._attach(order, begun)
        except Park as error:
            return Parked(error.scope, ATTACH_TASK, order.attach_id)
        except AlreadySettled as error:
            return await self._repeat(order, error.outcome)
        except Reused as reused:
            return await self._reused(order, reused)
        code = own_failure_code(result)
        retokenize = self._sealed_request(order) if code == Code.TOKEN_EXPIRED else None
        request = replace(name_of(order), id=order.request_id)
        if retokenize is not None and await self.journal.retokenize(request.key, order.token, self._slots(order)):
            return retokenize
        offered = to_record(result)
        try:
            recorded = await self._record(order, offered, ours=code is not None)
        except Reused as reused:
            return await self._reused(order, reused)
        return _outcome(what_counts(result, offered, recorded), order)

    async def _record(self, order: AttachRequest, outcome: str, *, ours: bool = False) -> str:
        about = About(generation=order.generation)
        return await self.journal.record(
            name_of(order).key, outcome, about=about, ours=ours, leaving=self._slots(order)
        )

    async def _repeat(self, order: AttachRequest, outcome: str) -> Outcome:
        """The order has this outcome already. It is published again, and its slots are given up again."""
        recorded = await self._record(order, outcome)
        return _outcome(Recorded(AttachResult.model_validate_json(recorded), recorded), order)

    async def _reused(self, order: AttachRequest, reused: Reused) -> Outcome:
        """Another order has this attach id. The refusal gets an outcome id of its own."""
        refusal = self._failed(order, Code.ATTACH_ID_REUSED)
        return _outcome(await record_refusal(self.journal, name_of(order), fingerprint(order), refusal, reused), order)

    async def _attach(self, order: AttachRequest, begun: Begun) -> AttachResult:
        platform = self.platforms.get(order.platform)
        if platform is None:
            return self._failed(order, Code.UNKNOWN_PLATFORM)
        if begun.deliveries > self.deliveries:
            return self._failed(order, Code.DELIVERIES_EXHAUSTED)
        if store_is_younger(order.attach_id, order.target, order.token_created_at, begun):
            return self._failed(order, Code.STORE_IS_YOUNGER)
        return await self.spender.spend(platform, order, journaled=True, doubted=begun.doubted)

    def _slots(self, order: AttachRequest) -> tuple[Slot, ...]:
        """The slots that the order may have under the backpressure limit."""
        platform = self.platforms.get(order.platform)
        return all_slots(platform.budgets, order.target) if platform is not None else ()

    def _sealed_request(self, order: AttachRequest) -> Retokenize | None:
        """The request of the token, if it came with the order, and if there is time left to make another token."""
        if order.sealed is None or order.attach_id != order.request_id:
            return None
        try:
            header = read_request(order.sealed).header
        except NotCanonical:
            return None
        if (header.request_id, header.platform, header.kind) != (order.request_id, order.platform, order.kind):
            return None
        if isinstance(header, Header2) and (header.group, header.generation) != (order.group, order.generation):
            return None
        if header.expires_at <= self.clock.now() * 1000:
            return None
        return Retokenize(order.sealed, header.platform, header.lane, header.request_id)

    def _failed(self, order: AttachRequest, code: str) -> AttachResult:
        return failed(order, code, settled_at=int(self.clock.now() * 1000))


def _outcome(recorded: Recorded[AttachResult], order: AttachRequest) -> Outcome:
    settled = Settled(recorded.result, order.reply_to, recorded.body)
    code = own_failure_code(recorded.result)
    return DeadLettered(settled, code) if code is not None and code in KEPT else settled
