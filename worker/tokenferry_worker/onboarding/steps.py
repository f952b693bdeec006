"""One step of an onboarding: create its token, spend it, and record what was done.

A worker may die between any two lines. A step that is recorded as done is not done again. Any other is repeated under
the same keys, so Stripe answers with what it has made already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.codes import DOUBTFUL, Code
from tokenferry.contract.requests import TokenRequest
from tokenferry.contract.results import AttachResult, Display, Failure, StepResult
from tokenferry.contract.steps import Step
from tokenferry_worker.errors import Reused
from tokenferry_worker.onboarding.calls import AccountCalls
from tokenferry_worker.onboarding.plan import DocumentRun, StepPlan
from tokenferry_worker.onboarding.progress import Known, StepRecord, StepRecords, Unverified, as_known, is_final, resume
from tokenferry_worker.tokens.creating import TokenCall, TokenCreator
from tokenferry_worker.tokens.journal import Journal
from tokenferry_worker.tokens.results import failure
from tokenferry_worker.tokens.spending import Spender

NEW_TOKENS: Final = 3
"""Tokens made for one step in one delivery, where each becomes too old before it is spent."""
STEP: Final = "step of an onboarding"
"""What the id of a step stands for in the journal. The id itself is a digest of everything that names the step."""


@dataclass(frozen=True)
class StepRunner:
    """Carries out steps."""

    creator: TokenCreator
    spender: Spender
    calls: AccountCalls
    journal: Journal
    records: StepRecords
    token_lifetime: float
    """Seconds after which an unspent token is replaced by a new one."""

    async def run(self, run: DocumentRun, step: Step, known: Known | None, made: Mapping[str, str]) -> StepResult:
        """Carry out *step*. *known*: its record. *made*: ids of the objects of earlier steps. Raises `Park`."""
        message = run.message
        if isinstance(known, Unverified):
            if not run.may_repeat:
                return as_known(step.name, known, message)
            known = None  # the same calls again, under the same keys: Stripe says what was made
        resumption = resume(known, message, with_token=step.request is not None)
        if resumption is None:
            return as_known(step.name, known, message)
        known = resumption.known
        plan = StepPlan(run, step, resumption.round, step.target(made))
        if step.request is None:
            return await self._conclude(plan, await self.calls.make(plan, known))
        earlier = known is not None and known.token is not None and known.message != message
        return await self._conclude(plan, await self._make_and_spend(plan, step.request, known), earlier=earlier)

    async def _make_and_spend(self, plan: StepPlan, request: TokenRequest, known: StepRecord | None) -> str | Failure:
        """Return the id of the object, or why there is none."""
        try:
            begun = await self.journal.begin(plan.name.key, STEP)
        except Reused:  # somebody has sent a request under the id of this step
            return failure(Code.REQUEST_ID_REUSED, None, 0)
        epoch, remembered = begun.epoch, begun.deliveries > 1
        record = known if known is not None and known.token is not None else None
        result: AttachResult | None = None
        for _ in range(NEW_TOKENS):
            # The records outlive the ledger: a recorded token that the ledger does not know may have been spent.
            forgotten = record is not None and not remembered
            if record is None:
                token = await self._make_token(plan, request, epoch, remembered=remembered)
                if isinstance(token, Failure):
                    return token
                if token.object_id is not None:
                    return token.object_id  # another delivery has done the step meanwhile
                record = token
            result = await self.spender.spend(
                plan.run.platform, self._order(plan, request, record), forgotten=forgotten
            )
            if result.failure is None or result.failure.code != Code.TOKEN_EXPIRED:
                break
            epoch, record = await self.journal.next_epoch(plan.name.key, record.epoch), None
        assert result is not None
        if result.failure is None and result.object_id is not None:
            return result.object_id
        return result.failure or failure(Code.OUTCOME_UNKNOWN, None, 0)

    async def _make_token(
        self, plan: StepPlan, request: TokenRequest, epoch: int, *, remembered: bool
    ) -> StepRecord | Failure:
        """Create a token, and record it before it is spent: other deliveries then spend this token, and no other."""
        made = await self.creator.create(plan.run.platform, _token_call(plan, request), epoch, remembered=remembered)
        if made.token is None:
            return made.failure or failure(Code.REFUSED, None, 0)
        stored_id = made.display.object_id if made.display else None
        record = plan.record("begun", at=made.settled_at, token=made.token, stored_id=stored_id, epoch=epoch)
        return await self._write(plan, record)

    def _order(self, plan: StepPlan, request: TokenRequest, record: StepRecord) -> AttachRequest:
        assert record.token is not None
        header = plan.run.header
        return AttachRequest(
            version=2,  # it is not sent
            group=plan.run.group,
            attach_id=plan.id,
            request_id=plan.id,
            token=record.token,
            kind=request.kind,
            platform=header.platform,
            target=plan.target,
            token_created_at=record.at,
            attach_before=record.at + int(self.token_lifetime * 1000),
            signer_id=header.producer_id,
            display=Display(object_id=record.stored_id) if record.stored_id else None,
        )

    async def _conclude(self, plan: StepPlan, end: str | Failure, *, earlier: bool = False) -> StepResult:
        """Record how the step has ended. *earlier*: an earlier document is what the token was made of."""
        step = plan.step.name
        if isinstance(end, str):
            done = await self._write(plan, plan.record("done", object_id=end))
            return StepResult(step=step, status="done", object_id=done.object_id, earlier=earlier)
        if end.code in DOUBTFUL:
            return StepResult(step=step, status="unknown", failure=end)
        await self._write(plan, plan.record("refused" if is_final(end) else "stopped", failure=end))
        return StepResult(step=step, status="failed", failure=end)

    async def _write(self, plan: StepPlan, record: StepRecord) -> StepRecord:
        return await self.records.write(plan.run.namespace, plan.run.record_id, plan.step.name, record)


def _token_call(plan: StepPlan, request: TokenRequest) -> TokenCall:
    header = plan.run.header
    return TokenCall(
        plan.name,
        request.kind,
        header.platform,
        None,
        header.lane,
        header.expires_at,
        may_park=True,
        form=request.form(),
    )
