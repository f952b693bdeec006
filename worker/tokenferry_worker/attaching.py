"""One delivery of an attach order: one token, spent once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.codes import Code
from tokenferry.contract.queues import ATTACH_TASK
from tokenferry.contract.results import AttachResult, Attempt
from tokenferry.contract.targets import InvalidTarget, digest
from tokenferry_worker.answers import Answer
from tokenferry_worker.calling import Attempts, Desk, Exhausted, TooLate, World, excused
from tokenferry_worker.circuits import About, Park
from tokenferry_worker.errors import Declined, Unavailable, Unopenable
from tokenferry_worker.identities import Signers
from tokenferry_worker.opening import read_attach
from tokenferry_worker.outcomes import DeadLettered, Outcome, Parked, Quarantined, Settled
from tokenferry_worker.ports import Claim, Journal, Ledger, Limiter
from tokenferry_worker.switchboard import Switchboard
from tokenferry_worker.tokenizing import failure

log = logging.getLogger(__name__)

LEASE: Final = 120.0
"""Seconds a claim on a token lasts: longer than one call. The claimant itself may take it again at any time."""
HELD_PAUSE: Final = 0.5
"""Seconds between two looks at a token that somebody else is spending."""
KEPT: Final = frozenset(
    {Code.ATTEMPTS_EXHAUSTED, Code.DELIVERIES_EXHAUSTED, Code.OUTCOME_UNKNOWN, Code.UNKNOWN_PLATFORM}
)
"""Failures that somebody must look into: the order is kept, with its history."""
SPENT_CODES: Final = frozenset({"token_already_used"})


@dataclass(frozen=True)
class Attacher:
    """Spends tokens. Holds the endpoint's secret key through its desks, and no private key of the envelope."""

    signers: Signers
    desks: Mapping[str, Desk]
    ledgers: Mapping[str, Ledger]
    journal: Journal
    limiter: Limiter
    circuits: Switchboard
    world: World
    attempts: int
    deliveries: int

    async def handle(self, body: str) -> Outcome:
        """Claim, call, record. Delivered twice, it tells the same outcome twice and spends once."""
        try:
            request = read_attach(body, self.signers).request
        except Unopenable as error:
            return Quarantined(str(error))
        begun = await self.journal.begin(request.attach_id)
        if begun.outcome is not None:
            return _say(AttachResult.model_validate_json(begun.outcome), request)
        try:
            async with excused(self.journal, request.attach_id):
                result = await self._attach(request, begun.deliveries)
        except Park as error:
            return Parked(error.scope, ATTACH_TASK, request.attach_id)
        recorded = await self.journal.record(request.attach_id, result.model_dump_json(exclude_none=True))
        return _say(AttachResult.model_validate_json(recorded), request)

    async def _attach(self, request: AttachRequest, deliveries: int) -> AttachResult:
        desk = self.desks.get(request.platform)
        if desk is None:
            return self._failed(request, Code.UNKNOWN_PLATFORM)
        if deliveries > self.deliveries:
            return self._failed(request, Code.DELIVERIES_EXHAUSTED)
        try:
            request.target.check(request.kind)
        except InvalidTarget:
            return self._failed(request, Code.WRONG_KIND)
        ledger = self.ledgers[request.platform]
        claim = await ledger.claim(request.token, request.attach_id, lease=LEASE)
        while claim.state == "held":
            await self.world.sleep(HELD_PAUSE)
            claim = await ledger.claim(request.token, request.attach_id, lease=LEASE)
        if claim.state in ("spent", "burnt") and claim.by != request.attach_id:
            return self._failed(request, Code.TOKEN_SPENT, spent_by=claim.by)
        # Spent by this very order, and yet no outcome: the worker died in between. The same key repeats the answer.
        attempted = claim.again or claim.state != "granted"
        if not attempted and self.world.now() * 1000 > request.attach_before:
            await ledger.release(request.token, claim)
            return self._failed(request, Code.TOKEN_EXPIRED)
        async with ledger.writing(request.target.serialised_on(), lease=LEASE):
            return await self._spend(desk, ledger, request, claim, attempted)

    async def _spend(
        self, desk: Desk, ledger: Ledger, request: AttachRequest, claim: Claim, attempted: bool
    ) -> AttachResult:
        target, token = request.target, request.token
        call = target.call(token, request.kind)
        attempts = self._attempts(desk, request, until_begun=None if attempted else request.attach_before / 1000)

        async def spend() -> Answer:
            return await desk.endpoint.post(
                call.path,
                call.form,
                idempotency_key=idempotency_key(request, "spend"),
                connected_account=request.connected_account,
            )

        async def keep_claim(_: Unavailable) -> bool:
            # Attempts and pauses may outlast the lease: hold on to the token for as long as we go on trying.
            nonlocal claim
            renewed = await ledger.claim(token, request.attach_id, lease=LEASE)
            if renewed.state == "granted":
                claim = renewed
            return False

        try:
            answer = await attempts.run(spend, keep_claim)
        except Declined as error:
            # A declined card may or may not have used up its token (undocumented): it counts as burnt. After any other
            # refusal the token is as it was before.
            if error.status == 402 or error.code in SPENT_CODES:
                await ledger.close(token, claim, "burnt")
            else:
                await ledger.release(token, claim)
            return self._failed(request, error.code, declined=error, attempts=attempts.made + 1)
        except (TooLate, Park) as error:
            if not (attempts.maybe_done or attempted):
                await ledger.release(token, claim)
            if isinstance(error, Park):
                raise
            return self._failed(request, Code.TOKEN_EXPIRED)
        except Exhausted as error:
            unknown = error.maybe_done or attempted
            if not unknown:
                await ledger.release(token, claim)
            last = Declined(error.last.status or 0, "", request_id=error.last.request_id, ours=True)
            code = Code.OUTCOME_UNKNOWN if unknown else Code.ATTEMPTS_EXHAUSTED
            return self._failed(request, code, declined=last, attempts=error.attempts, history=error.history)
        await ledger.close(token, claim, "spent")
        follow_up = target.follow_up(answer.id)
        if follow_up is None:
            return self._attached(request, answer)

        async def attach() -> Answer:
            return await desk.endpoint.post(
                follow_up.path,
                follow_up.form,
                idempotency_key=idempotency_key(request, "follow-up"),
                connected_account=request.connected_account,
            )

        try:
            await self._attempts(desk, request).run(attach)
        except Declined as error:
            return self._failed(request, error.code, declined=error, attempts=1, made=answer)
        except (Exhausted, TooLate):
            return self._failed(request, Code.OUTCOME_UNKNOWN, made=answer)
        return self._attached(request, answer)

    def _attempts(self, desk: Desk, request: AttachRequest, *, until_begun: float | None = None) -> Attempts:
        return Attempts(
            self.limiter,
            self.circuits,
            self.world,
            desk,
            About(desk.name, request.target.endpoint(), connected_account=request.connected_account),
            "bulk",
            desk.budgets.spending(request.target, request.connected_account),
            self.attempts,
            until=None,
            may_park=True,
            until_begun=until_begun,
        )

    def _attached(self, request: AttachRequest, answer: Answer) -> AttachResult:
        return AttachResult(
            **self._common(request),
            object_id=answer.id,
            object_type=answer.object,
            stored_id=answer.text("default_source") or (request.display.object_id if request.display else None),
        )

    def _failed(
        self,
        request: AttachRequest,
        code: str,
        *,
        declined: Declined | None = None,
        attempts: int = 0,
        history: tuple[Attempt, ...] = (),
        spent_by: str | None = None,
        made: Answer | None = None,
    ) -> AttachResult:
        return AttachResult(
            **self._common(request),
            failure=failure(code, declined, attempts, history, spent_by),
            object_id=made.id if made else None,
            object_type=made.object if made else None,
        )

    def _common(self, request: AttachRequest) -> dict[str, Any]:
        return {
            "outcome_id": f"{request.attach_id}:attach",
            "request_id": request.request_id,
            "attach_id": request.attach_id,
            "kind": request.kind,
            "platform": request.platform,
            "connected_account": request.connected_account,
            "settled_at": int(self.world.now() * 1000),
            "to": request.target.to,
            "token": request.token,
        }


def _say(result: AttachResult, request: AttachRequest) -> Outcome:
    settled = Settled(result, request.reply_to)
    code = result.failure.code if result.failure and result.failure.source == "tokenferry" else None
    return DeadLettered(settled, code) if code in KEPT else settled


def idempotency_key(request: AttachRequest, step: str) -> str:
    """Derived from token and target: the same attach repeats it, in whatever message it comes."""
    both = f"{request.token}|{request.connected_account}|{digest(request.target)}"
    return f"tokenferry:attach:{hashlib.sha256(both.encode()).hexdigest()[:40]}:{step}"
