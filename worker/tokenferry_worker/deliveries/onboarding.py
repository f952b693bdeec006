"""One delivery of a sealed document: a whole connected account, step by step, and one outcome of it all."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tokenferry.contract.codes import KEPT, Code
from tokenferry.contract.onboarding import Onboarding, OnboardingEnvelope, OnboardingHeader
from tokenferry.contract.queues import ONBOARD_TASK
from tokenferry.contract.results import (
    Failure,
    OnboardingProgress,
    OnboardingResult,
    RequirementError,
    Requirements,
    StepResult,
)
from tokenferry.contract.steps import ACCOUNT, external_account_step, person_step, steps
from tokenferry.contract.target import path_of
from tokenferry_worker.circuits.scopes import CallScope, Park
from tokenferry_worker.deliveries.poison import uncounted_if_called_off, unless_poison
from tokenferry_worker.deliveries.recording import record_refusal
from tokenferry_worker.errors import Declined, Reused, Unopenable
from tokenferry_worker.keys.opening import Opener
from tokenferry_worker.onboarding.progress import StepRecord, as_known
from tokenferry_worker.onboarding.steps import DocumentRun, StepRunner
from tokenferry_worker.outcomes import DeadLettered, Outcome, Parked, Quarantined, Settled
from tokenferry_worker.provider.answers import Answer
from tokenferry_worker.provider.attempts import Exhausted
from tokenferry_worker.provider.platforms import PlatformContext
from tokenferry_worker.tokens.journal import Begun, Journal
from tokenferry_worker.tokens.results import failure

log = logging.getLogger(__name__)

HOLD: Final = 6.0
"""Seconds, renewed: how long nobody else works on an onboarding after the worker that did has died."""
MOST_REQUIREMENTS: Final = 200


@dataclass(frozen=True)
class Onboarder:
    """Makes whole accounts. Holds private keys of the envelope and, through its platforms, the endpoint's."""

    opener: Opener
    steps: StepRunner
    platforms: Mapping[str, PlatformContext]
    journal: Journal
    deliveries: int
    tell: Callable[[str, OnboardingProgress], None] = lambda _route, _progress: None
    """Says on a reply route how far an account is, if that can be done at once. Nobody waits for it."""

    async def handle(self, body: str) -> Outcome:
        """Open, take every step that is not done, record. Delivered again it goes on where it stopped."""
        try:
            envelope = self.opener.read_onboarding(body)
        except Unopenable as error:
            return Quarantined(str(error))
        header = envelope.header
        try:
            begun = await self.journal.begin(header.request_id, fingerprint(header))
        except Reused:
            return await self._reused(header)
        return await unless_poison(
            self._deliver(envelope, begun),
            begun,
            self.deliveries,
            lambda: self._failed(header, begun.deliveries, Code.DELIVERIES_EXHAUSTED),
        )

    async def _deliver(self, envelope: OnboardingEnvelope, begun: Begun) -> Outcome:
        header = envelope.header
        if begun.outcome is not None:
            return _say(OnboardingResult.model_validate_json(begun.outcome), header)
        try:
            async with uncounted_if_called_off(self.journal, header.request_id):
                result = await self._onboard(envelope, begun.deliveries)
        except Park as error:
            return Parked(error.scope, ONBOARD_TASK, header.request_id)
        outcome = result.model_dump_json(exclude_none=True)
        recorded = await self.journal.record(header.request_id, outcome, ours=not result.complete)
        return _say(OnboardingResult.model_validate_json(recorded), header)

    async def _reused(self, header: OnboardingHeader) -> Outcome:
        """Something else has this request id. The refusal gets an outcome id of its own."""
        refusal = self._failed(header, 1, Code.REQUEST_ID_REUSED)
        recorded = await record_refusal(self.journal, header.request_id, fingerprint(header), refusal)
        return _say(recorded.result, header)

    async def _onboard(self, envelope: OnboardingEnvelope, deliveries: int) -> OnboardingResult:
        header = envelope.header
        platform = self.platforms.get(header.platform)
        if platform is None:
            return self._failed(header, deliveries, Code.UNKNOWN_PLATFORM)
        given_up = deliveries > self.deliveries
        if deliveries > self.deliveries + 1:  # so opening it may be what workers die of
            return self._failed(header, deliveries, Code.DELIVERIES_EXHAUSTED)
        try:
            document = self.opener.open_onboarding(envelope)
        except Unopenable as error:
            log.warning("onboarding message %s: %s", header.request_id, error)
            return self._failed(header, deliveries, Code.DELIVERIES_EXHAUSTED if given_up else Code.UNOPENABLE)
        run = DocumentRun(platform, header, document.reference or header.request_id)
        if given_up:
            return await self._as_it_is(run, document, deliveries, failure(Code.DELIVERIES_EXHAUSTED, None, 0))
        # Two messages about one account follow each other, wherever they are worked on.
        ledger = self.steps.spender.ledgers[platform.name]
        async with ledger.writing(f"onboarding:{run.onboarding_id}", lease=HOLD):
            return await self._walk(run, document, deliveries)

    async def _walk(self, run: DocumentRun, document: Onboarding, deliveries: int) -> OnboardingResult:
        known = await self._known(run)
        made: dict[str, str] = {}
        taken: list[StepResult] = []
        plan = steps(document)
        for step in plan:
            if not step.needs <= made.keys():
                taken.append(StepResult(step=step.name, status="not_begun"))
                continue
            result = await self.steps.run(run, step, known.get(step.name), made)
            if result.status == "done" and result.object_id is not None:
                made[step.name] = result.object_id
            taken.append(result)
            if document.progress and run.header.reply_to is not None:
                self.tell(run.header.reply_to, self._progress(run, taken, len(plan)))
        requirements = await self._requirements(run, made[ACCOUNT]) if ACCOUNT in made else None
        return self._result(run, document, deliveries, taken, _worst(taken), requirements)

    async def _as_it_is(
        self, run: DocumentRun, document: Onboarding, deliveries: int, why: Failure
    ) -> OnboardingResult:
        """What there is of an account that is given up on. Nothing is called."""
        known = await self._known(run)
        found = [as_known(step.name, known.get(step.name), run.header.request_id) for step in steps(document)]
        return self._result(run, document, deliveries, found, why)

    async def _known(self, run: DocumentRun) -> dict[str, StepRecord]:
        entries = await self.steps.store.records(run.namespace, run.onboarding_id)
        return {step: StepRecord.model_validate_json(entry) for step, entry in entries.items()}

    def _result(
        self,
        run: DocumentRun,
        document: Onboarding,
        deliveries: int,
        taken: Sequence[StepResult],
        why: Failure | None,
        requirements: Requirements | None = None,
    ) -> OnboardingResult:
        made = {step.step: step.object_id for step in taken if step.object_id is not None}
        persons = {person.reference: person_step(person.reference) for person in document.persons}
        external = {name: external_account_step(name) for name, _ in document.numbered()}
        return OnboardingResult(
            **self._common(run.header, deliveries),
            onboarding_id=run.onboarding_id,
            account=made.get(ACCOUNT),
            persons={reference: made[name] for reference, name in persons.items() if name in made},
            external_accounts={name: made[step] for name, step in external.items() if step in made},
            steps=tuple(taken),
            complete=all(step.status == "done" for step in taken),
            requirements=requirements,
            failure=why,
        )

    def _progress(self, run: DocumentRun, taken: Sequence[StepResult], planned: int) -> OnboardingProgress:
        return OnboardingProgress(
            request_id=run.header.request_id,
            onboarding_id=run.onboarding_id,
            step=taken[-1],
            taken=len(taken),
            done=sum(step.status == "done" for step in taken),
            steps=planned,
        )

    async def _requirements(self, run: DocumentRun, account: str) -> Requirements | None:
        """What the endpoint says is due. Nice to know: where it refuses to say, the outcome is the same without.

        While the endpoint answers nobody, this waits.
        """

        async def read() -> Answer:
            return await run.platform.client.get(path_of("accounts", account))

        about = CallScope(run.platform.name, "accounts", named_account=account)
        attempts = self.steps.attempts(run, about, run.platform.budgets.of("accounts"), until=None, asks=True)
        try:
            return requirements_of(await attempts.run(read))
        except (Declined, Exhausted):
            return None

    def _failed(self, header: OnboardingHeader, deliveries: int, code: str) -> OnboardingResult:
        """Given up on before anything is known of the account."""
        return OnboardingResult(**self._common(header, deliveries), failure=failure(code, None, 0))

    def _common(self, header: OnboardingHeader, deliveries: int) -> dict[str, Any]:
        return {
            "outcome_id": f"{header.request_id}:onboarding",
            "request_id": header.request_id,
            "platform": header.platform,
            "deliveries": deliveries,
            "settled_at": int(self.steps.spender.clock.now() * 1000),
        }


def fingerprint(header: OnboardingHeader) -> str:
    """Return the digest of what a request id stands for. It stays the same when the document is sealed anew.

    The version before wrote no digest for an onboarding. The journal takes an entry without one as the same.
    """
    return hashlib.sha256(f"onboarding|{header.platform}".encode()).hexdigest()[:40]


def requirements_of(answer: Answer) -> Requirements | None:
    """The requirements in an account's answer: names of fields and codes, no values."""
    found = answer.body.get("requirements")
    if not isinstance(found, Mapping):
        return None
    lists = ("currently_due", "past_due", "eventually_due", "pending_verification")
    errors = [error for error in _list(found.get("errors")) if isinstance(error, Mapping)]
    return Requirements(
        **{name: tuple(word for word in _list(found.get(name)) if _is_word(word)) for name in lists},
        errors=tuple(
            RequirementError(requirement=error["requirement"], code=error["code"])
            for error in errors
            if _is_word(error.get("requirement")) and _is_word(error.get("code"))
        ),
        disabled_reason=answer.text("requirements", "disabled_reason"),
    )


def _list(value: object) -> Sequence[Any]:
    return value[:MOST_REQUIREMENTS] if isinstance(value, list) else ()


def _is_word(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable()


def _worst(taken: Sequence[StepResult]) -> Failure | None:
    """The failure to tell of: the first that somebody can mend, else the first."""
    found = [step.failure for step in taken if step.failure is not None]
    return next(iter([*filter(_is_kept, found), *found]), None)


def _is_kept(why: Failure) -> bool:
    return why.source == "tokenferry" and why.code in KEPT


def _say(result: OnboardingResult, header: OnboardingHeader) -> Outcome:
    settled = Settled(result, header.reply_to)
    return DeadLettered(settled, result.failure.code) if result.failure and _is_kept(result.failure) else settled
