"""One delivery of an attach order, from its body to its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.codes import KEPT, Code
from tokenferry.contract.envelope import Envelope
from tokenferry.contract.queues import ATTACH_TASK
from tokenferry.contract.results import AttachResult
from tokenferry_worker.circuits.scopes import Park
from tokenferry_worker.deliveries.poison import uncounted_if_called_off, unless_poison
from tokenferry_worker.errors import Reused, Unopenable
from tokenferry_worker.keys.identities import Signers
from tokenferry_worker.keys.opening import read_attach
from tokenferry_worker.limits.backpressure import Slot, slots_of
from tokenferry_worker.outcomes import DeadLettered, Outcome, Parked, Quarantined, Retokenize, Settled, own_failure_code
from tokenferry_worker.provider.platforms import PlatformContext
from tokenferry_worker.tokens.journal import Begun, Journal
from tokenferry_worker.tokens.orders import fingerprint
from tokenferry_worker.tokens.spending import AlreadySettled, Spender


@dataclass(frozen=True)
class Attacher:
    """Spends tokens on order. Its platforms hold the provider's secret keys; it has no key that opens envelopes."""

    signers: Signers
    spender: Spender
    platforms: Mapping[str, PlatformContext]
    journal: Journal
    deliveries: int

    async def handle(self, body: str) -> Outcome:
        """Claim, call, record. Delivered twice, it tells the same outcome twice and spends once."""
        try:
            request = read_attach(body, self.signers).request
        except Unopenable as error:
            return Quarantined(str(error))
        try:
            begun = await self.journal.begin(request.attach_id, fingerprint(request))
        except Reused:
            return await self._reused(request)
        return await unless_poison(
            self._deliver(request, begun),
            begun,
            self.deliveries,
            lambda: self.spender.failed(request, Code.DELIVERIES_EXHAUSTED),
        )

    async def _deliver(self, request: AttachRequest, begun: Begun) -> Outcome:
        if begun.outcome is not None:
            return await self._tell(request, begun.outcome)
        try:
            async with uncounted_if_called_off(self.journal, request.attach_id):
                result = await self._attach(request, begun.deliveries)
        except Park as error:
            return Parked(error.scope, ATTACH_TASK, request.attach_id)
        except AlreadySettled as error:
            return await self._tell(request, error.outcome)
        again = self._sealed(request) if own_failure_code(result) == Code.TOKEN_EXPIRED else None
        if again is not None and await self.journal.retokenize(request.request_id, request.token, self._ahead(request)):
            return again
        return await self._tell(
            request, result.model_dump_json(exclude_none=True), ours=own_failure_code(result) is not None
        )

    async def _tell(self, request: AttachRequest, outcome: str, *, ours: bool = False) -> Outcome:
        """Record *outcome*, unless there is one, and tell the one that counts."""
        recorded = await self.journal.record(request.attach_id, outcome, ours=ours, leaving=self._ahead(request))
        return _say(AttachResult.model_validate_json(recorded), request)

    async def _reused(self, request: AttachRequest) -> Outcome:
        """Another order has this attach id: the outcome of this one has an id of its own."""
        own = f"{request.attach_id}:{fingerprint(request)[:12]}"
        refusal = self.spender.failed(request, Code.ATTACH_ID_REUSED).model_copy(update={"outcome_id": f"{own}:attach"})
        recorded = await self.journal.record(own, refusal.model_dump_json(exclude_none=True))
        return _say(AttachResult.model_validate_json(recorded), request)

    async def _attach(self, request: AttachRequest, deliveries: int) -> AttachResult:
        platform = self.platforms.get(request.platform)
        if platform is None:
            return self.spender.failed(request, Code.UNKNOWN_PLATFORM)
        if deliveries > self.deliveries:
            return self.spender.failed(request, Code.DELIVERIES_EXHAUSTED)
        return await self.spender.spend(platform, request, journaled=True)

    def _ahead(self, request: AttachRequest) -> tuple[Slot, ...]:
        platform = self.platforms.get(request.platform)
        return slots_of(platform.budgets, request.target, request.lane, lifetime=1.0) if platform is not None else ()

    def _sealed(self, request: AttachRequest) -> Retokenize | None:
        """The request that the token was made of, if it travels with the order and has time left for another one."""
        if request.sealed is None or request.attach_id != request.request_id:
            return None
        try:
            header = Envelope.model_validate_json(request.sealed).header
        except ValidationError:
            return None
        if (header.request_id, header.platform, header.kind) != (request.request_id, request.platform, request.kind):
            return None
        if header.expires_at <= self.spender.clock.now() * 1000:
            return None
        return Retokenize(request.sealed, header.platform, header.lane, header.request_id)


def _say(result: AttachResult, request: AttachRequest) -> Outcome:
    settled = Settled(result, request.reply_to)
    code = own_failure_code(result)
    return DeadLettered(settled, code) if code is not None and code in KEPT else settled
