"""The calls of an onboarding that spend no token: they make an object, or ask what Stripe still requires."""

from __future__ import annotations

from dataclasses import dataclass

from tokenferry.contract.codes import Code
from tokenferry.contract.form import encode, flatten
from tokenferry.contract.results import Failure, Requirements
from tokenferry.contract.target import path_of
from tokenferry_worker.circuits.scopes import CallScope
from tokenferry_worker.clock import Clock
from tokenferry_worker.errors import Blocked, Declined, Unavailable
from tokenferry_worker.limits.pacing import Budget
from tokenferry_worker.onboarding.plan import DocumentRun, StepPlan, idempotency_key
from tokenferry_worker.onboarding.progress import Status, StepRecord, StepRecords
from tokenferry_worker.onboarding.requirements import requirements_of
from tokenferry_worker.provider.answers import Answer
from tokenferry_worker.provider.attempts import KEY_IS_SAFE, Attempts, Caller, CallPlan, Exhausted, TooLate
from tokenferry_worker.tokens.orders import named_account
from tokenferry_worker.tokens.results import failure


@dataclass
class _StepCall:
    """The call of one step, as `Attempts` repeats it."""

    plan: StepPlan
    form: str
    records: StepRecords
    clock: Clock
    begun_at: int
    """Unix milliseconds of the first call that may have had its effect. 0: there is none."""

    async def make(self) -> Answer:
        """Record the first call right before it is made.

        Not earlier, and no longer once it was refused unexecuted: a step that waits for days at an open circuit has had
        no effect.
        """
        first, now = self.begun_at == 0, int(self.clock.now() * 1000)
        if first:
            self.begun_at = now
            await self._record("begun")
        elif now - self.begun_at > KEY_IS_SAFE * 1000:
            raise TooLate(True)  # Stripe may have forgotten the key, and would make a second object
        try:
            return await self.plan.run.platform.client.post(
                self.plan.target.path(), self.form, idempotency_key=idempotency_key(self.plan.id)
            )
        except (Blocked, Unavailable) as error:
            if first and not error.maybe_done:
                self.begun_at = 0
                await self._record("stopped")
            raise

    async def _record(self, status: Status) -> None:
        run = self.plan.run
        record = self.plan.record(status, at=self.begun_at)
        await self.records.write(run.namespace, run.record_id, self.plan.step.name, record)


@dataclass(frozen=True)
class AccountCalls:
    """Makes the calls of an onboarding that spend no token."""

    records: StepRecords
    caller: Caller
    clock: Clock

    async def make(self, plan: StepPlan, known: StepRecord | None) -> str | Failure:
        """Make the object of a step. Return its id, or why there is none."""
        begun_at = known.at if known is not None else 0
        if begun_at and self.clock.now() * 1000 - begun_at > KEY_IS_SAFE * 1000:
            return failure(Code.OUTCOME_UNKNOWN, None, 0)
        target, run = plan.target, plan.run
        call = _StepCall(plan, encode(flatten(target, without=target.local)), self.records, self.clock, begun_at)
        attempts = self._attempts(
            run,
            CallScope(run.platform.name, target.endpoint(), named_account=named_account(target)),
            run.platform.budgets.spending(target),
            until=None if begun_at else run.header.expires_at / 1000,
        )
        try:
            return (await attempts.run(call.make)).id
        except Declined as error:
            if begun_at and known is not None and known.message != run.message:
                # The refusal is about this document. It does not say what the call of the other document did.
                error = Declined(error.status, Code.OUTCOME_UNKNOWN, request_id=error.request_id, ours=True)
            return failure(error.code, error, attempts.made + 1)
        except TooLate as error:
            return failure(Code.OUTCOME_UNKNOWN if error.maybe_done else Code.EXPIRED, None, attempts.made)
        except Exhausted as error:
            code = Code.OUTCOME_UNKNOWN if error.maybe_done or begun_at else Code.ATTEMPTS_EXHAUSTED
            last = Declined(error.last.status or 0, code, request_id=error.last.request_id, ours=True)
            return failure(code, last, error.attempts, error.history)

    async def requirements(self, run: DocumentRun, account: str) -> Requirements | None:
        """Ask what Stripe still requires of the account. None where it does not say: the outcome is the same without.

        During an outage this waits.
        """

        path = path_of("accounts", account)

        async def read() -> Answer:
            return await run.platform.client.get(path)

        scope = CallScope(run.platform.name, "accounts", named_account=account)
        attempts = self._attempts(run, scope, run.platform.budgets.call("GET", path), until=None, asks=True)
        try:
            return requirements_of(await attempts.run(read))
        except (Declined, Exhausted):
            return None

    def _attempts(
        self,
        run: DocumentRun,
        scope: CallScope,
        budgets: tuple[Budget, ...],
        *,
        until: float | None,
        asks: bool = False,
    ) -> Attempts:
        """*until*: Unix seconds after which no call begins. *asks*: a question, which never parks the message."""
        plan = CallPlan(
            run.platform,
            scope,
            run.header.lane,
            budgets,
            run.name.key,
            until=until,
            may_park=not asks,
            asks=asks,
        )
        return Attempts(self.caller, plan)
