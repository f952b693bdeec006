"""One step of an onboarding: make its token, spend it, and note what that left behind.

A worker may die between any two lines. What was noted is not done again; what was not is repeated under the same
keys, so the endpoint answers with what it has made already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.codes import DOUBTFUL, Code
from tokenferry.contract.form import encode, flatten
from tokenferry.contract.onboarding import OnboardingHeader
from tokenferry.contract.requests import TokenRequest
from tokenferry.contract.results import Display, Failure, StepResult
from tokenferry.contract.steps import Step
from tokenferry.contract.target import Target
from tokenferry_worker.circuits.scopes import CallScope
from tokenferry_worker.errors import Blocked, Declined, Reused, Unavailable
from tokenferry_worker.limits.pacing import Budget
from tokenferry_worker.onboarding.progress import (
    OnboardingStore,
    Status,
    StepRecord,
    as_known,
    is_final,
    is_stored,
)
from tokenferry_worker.provider.answers import Answer
from tokenferry_worker.provider.attempts import KEY_IS_SAFE, Attempts, Caller, CallPlan, Exhausted, TooLate
from tokenferry_worker.provider.platforms import PlatformContext
from tokenferry_worker.tokens.creating import TokenCall, TokenCreator
from tokenferry_worker.tokens.journal import Journal
from tokenferry_worker.tokens.orders import named_account
from tokenferry_worker.tokens.results import failure
from tokenferry_worker.tokens.spending import Spender

NEW_TOKENS: Final = 3
"""Tokens made for one step in one delivery, where each grows too old before it is spent."""
STEP: Final = "step of an onboarding"
"""What the journal is told that a step's id stands for. The id itself is a digest of everything that names the step."""


@dataclass(frozen=True)
class DocumentRun:
    """One delivery's work on one onboarding."""

    platform: PlatformContext
    header: OnboardingHeader
    onboarding_id: str

    @property
    def namespace(self) -> str:
        """Whose onboardings are remembered together: what was made in test mode is not there in live mode."""
        return self.platform.name if self.platform.live else f"{self.platform.name}:test"


@dataclass(frozen=True)
class StepRunner:
    """Takes steps. Everything it needs of the world comes in here."""

    creator: TokenCreator
    spender: Spender
    journal: Journal
    store: OnboardingStore
    token_lifetime: float
    """Seconds after which an unspent token is made anew."""

    async def run(self, run: DocumentRun, step: Step, known: StepRecord | None, made: Mapping[str, str]) -> StepResult:
        """Take *step*, of which *known* is known, with the ids of what was *made* before. Raises `Park`."""
        mine = known is not None and known.message == run.header.request_id
        if known is not None and (known.status == "done" or (known.status == "refused" and mine)):
            return as_known(step.name, known, run.header.request_id)
        round_ = known.round if known is not None else 0
        if known is not None and known.status != "begun" and (not mine or is_stored(known.failure)):
            round_, known = round_ + 1, None
        if known is not None and known.status == "begun" and (known.token is None) is not (step.request is None):
            # Begun in the other manner, with a token or without one: only its own document can find out.
            return as_known(step.name, known, run.header.request_id)
        here = _StepContext(run, step.name, round_)
        target = step.target(made)
        if step.request is None:
            return await self._conclude(here, await self._call(here, target, known))
        became = await self._make_and_spend(here, step.request, target, known)
        return await self._conclude(here, became, earlier=known is not None and known.token is not None and not mine)

    async def _make_and_spend(
        self, here: _StepContext, request: TokenRequest, target: Target, known: StepRecord | None
    ) -> str | Failure:
        """The id of the object, or why there is none."""
        entry = known if known is not None and known.token is not None else None
        try:
            begun = await self.journal.begin(here.id, STEP)
        except Reused:  # a request that somebody has sent under the id of this step
            return failure(Code.REQUEST_ID_REUSED, None, 0)
        epoch, remembered = begun.epoch, begun.deliveries > 1
        expired = None
        for _ in range(NEW_TOKENS):
            if entry is None:
                made = await self.creator.create(
                    here.run.platform, _wanted(here, request), epoch, remembered=remembered
                )
                if made.token is None:
                    return made.failure or failure(Code.REFUSED, None, 0)
                stored_id = made.display.object_id if made.display else None
                entry = here.entry("begun", at=made.settled_at, token=made.token, stored_id=stored_id, epoch=epoch)
                # Noted before it is spent: whoever comes after us spends this token, and no other.
                entry = await self._note(here, entry)
                if entry.object_id is not None:
                    return entry.object_id  # a twin has done the step meanwhile
            order = self._order(here, request, target, entry)
            # The book outlives the ledger: a noted token of which that knows nothing may have been spent long ago.
            spent = await self.spender.spend(here.run.platform, order, forgotten=entry is known and not remembered)
            if spent.failure is None and spent.object_id is not None:
                return spent.object_id
            if spent.failure is None or spent.failure.code != Code.TOKEN_EXPIRED:
                return spent.failure or failure(Code.OUTCOME_UNKNOWN, None, 0)
            expired = spent.failure
            epoch = await self.journal.next_epoch(here.id, entry.epoch)
            entry = None
        assert expired is not None
        return expired

    def _order(self, here: _StepContext, request: TokenRequest, target: Target, entry: StepRecord) -> AttachRequest:
        assert entry.token is not None
        header = here.run.header
        return AttachRequest(
            attach_id=here.id,
            request_id=here.id,
            token=entry.token,
            kind=request.kind,
            platform=header.platform,
            target=target,
            token_created_at=entry.at,
            attach_before=entry.at + int(self.token_lifetime * 1000),
            signer_id=header.producer_id,
            display=Display(object_id=entry.stored_id) if entry.stored_id else None,
        )

    async def _call(self, here: _StepContext, target: Target, known: StepRecord | None) -> str | Failure:
        """A call that spends no token: the id of the object, or why there is none."""
        begun = known is not None and known.at > 0
        if begun and known is not None and self._now_ms() - known.at > KEY_IS_SAFE * 1000:
            return failure(Code.OUTCOME_UNKNOWN, None, 0)
        form = encode(flatten(target, without=target.local))
        first_at = known.at if begun and known is not None else 0

        async def call() -> Answer:
            # Noted when it is made, not while it waits for leave, and no more once it is refused unexecuted: what waits
            # for days at an open circuit has had no effect.
            nonlocal first_at
            first = not begun and not attempts.maybe_done
            if first:
                first_at = self._now_ms()
                await self._note(here, here.entry("begun", at=first_at))
            elif self._now_ms() - first_at > KEY_IS_SAFE * 1000:
                raise TooLate(True)  # it waited so long that its key may make a second object
            try:
                return await here.run.platform.client.post(
                    target.path(), form, idempotency_key=idempotency_key(here.id)
                )
            except (Blocked, Unavailable) as error:
                if first and not error.maybe_done:
                    await self._note(here, here.entry("stopped"))
                raise

        budgets = here.run.platform.budgets.spending(target)
        attempts = self.attempts(
            here.run,
            CallScope(here.run.platform.name, target.endpoint(), named_account=named_account(target)),
            budgets,
            until=None if begun else here.run.header.expires_at,
        )
        try:
            return (await attempts.run(call)).id
        except Declined as error:
            if begun and known is not None and known.message != here.run.header.request_id:
                # About this document. What the other one's call did, it does not say.
                error = Declined(error.status, Code.OUTCOME_UNKNOWN, request_id=error.request_id, ours=True)
            return failure(error.code, error, attempts.made + 1)
        except TooLate as error:
            return failure(Code.OUTCOME_UNKNOWN if error.maybe_done else Code.EXPIRED, None, attempts.made)
        except Exhausted as error:
            code = Code.OUTCOME_UNKNOWN if error.maybe_done or begun else Code.ATTEMPTS_EXHAUSTED
            last = Declined(error.last.status or 0, code, request_id=error.last.request_id, ours=True)
            return failure(code, last, error.attempts, error.history)

    def attempts(
        self, run: DocumentRun, about: CallScope, budgets: tuple[Budget, ...], *, until: int | None, asks: bool = False
    ) -> Attempts:
        """The attempts of a call that spends no token. *until*: Unix milliseconds after which none is begun.

        *asks*: whether it is a question, which is never parked: all that it is about is done.
        """
        spender = self.spender
        plan = CallPlan(
            platform=run.platform,
            scope=about,
            lane=run.header.lane,
            budgets=budgets,
            request=run.header.request_id,
            until=until / 1000 if until is not None else None,
            may_park=not asks,
            asks=asks,
        )
        return Attempts(Caller(spender.limiter, spender.circuits, spender.clock, spender.attempts), plan)

    async def _conclude(self, here: _StepContext, became: str | Failure, *, earlier: bool = False) -> StepResult:
        """*earlier*: the token was made of an earlier document."""
        if isinstance(became, str):
            done = await self._note(here, here.entry("done", object_id=became))
            return StepResult(step=here.step, status="done", object_id=done.object_id, earlier=earlier)
        if became.code in DOUBTFUL:
            return StepResult(step=here.step, status="unknown", failure=became)
        await self._note(here, here.entry("refused" if is_final(became) else "stopped", failure=became))
        return StepResult(step=here.step, status="failed", failure=became)

    def _now_ms(self) -> int:
        return int(self.spender.clock.now() * 1000)

    async def _note(self, here: _StepContext, entry: StepRecord) -> StepRecord:
        text = entry.model_dump_json(exclude_none=True)
        run = here.run
        return StepRecord.model_validate_json(
            await self.store.record(run.namespace, run.onboarding_id, here.step, text)
        )


@dataclass(frozen=True)
class _StepContext:
    """One step in one round, and the id that its keys come from."""

    run: DocumentRun
    step: str
    round: int

    @property
    def id(self) -> str:
        return step_id(self.run.namespace, self.run.onboarding_id, self.step, self.round)

    def entry(self, status: Status, *, at: int = 0, **known: object) -> StepRecord:
        fields = {"status": status, "round": self.round, "message": self.run.header.request_id, "at": at, **known}
        return StepRecord.model_validate(fields)


def step_id(shelf: str, onboarding_id: str, step: str, round_: int) -> str:
    """The request and attach id of a step, the same in every delivery: made of names only.

    >>> step_id("main", "seller-7", "person:jenny", 0)
    'onb-15b961afd247d207a167a5d54ceb822ef31e6367'
    """
    named = "|".join((shelf, onboarding_id, step, str(round_)))
    return f"onb-{hashlib.sha256(named.encode()).hexdigest()[:40]}"


def idempotency_key(step: str) -> str:
    """The key of a step's call that spends no token. *step*: the id of the step.

    >>> idempotency_key("onb-1")
    'tokenferry:onboard:onb-1'
    """
    return f"tokenferry:onboard:{step}"


def _wanted(here: _StepContext, request: TokenRequest) -> TokenCall:
    header = here.run.header
    return TokenCall(
        here.id,
        request.kind,
        header.platform,
        None,
        header.lane,
        header.expires_at,
        may_park=True,
        form=request.form(),
    )
