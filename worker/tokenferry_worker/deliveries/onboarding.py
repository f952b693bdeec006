"""One delivery of a sealed document: a whole connected account, step by step, and one outcome of it all."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tokenferry.contract.codes import KEPT, Code
from tokenferry.contract.onboarding import DocumentHeader, Onboarding, SealedDocument
from tokenferry.contract.queues import ONBOARD_TASK
from tokenferry.contract.results import Failure, OnboardingProgress, OnboardingResult, Requirements, StepResult
from tokenferry.contract.steps import ACCOUNT, external_account_step, person_step, steps
from tokenferry_worker.circuits.scopes import Park
from tokenferry_worker.clock import Clock
from tokenferry_worker.deliveries.answering import answer
from tokenferry_worker.deliveries.lifetimes import LifetimeCheck, lifetime_refused
from tokenferry_worker.deliveries.poison import uncounted_if_called_off, unless_poison
from tokenferry_worker.deliveries.recording import Recorded, check_same, record_refusal, to_record, what_counts
from tokenferry_worker.deliveries.refusing import refused, unopenable
from tokenferry_worker.errors import NotGranted, Reused, Unopenable
from tokenferry_worker.keys.contents import UNMARKED, ContentMarks
from tokenferry_worker.keys.opening import Opener
from tokenferry_worker.keys.rights import Rights
from tokenferry_worker.limits.waits import Waits
from tokenferry_worker.onboarding.calls import AccountCalls
from tokenferry_worker.onboarding.plan import DocumentRun
from tokenferry_worker.onboarding.progress import Known, StepRecords, as_known
from tokenferry_worker.onboarding.steps import StepRunner
from tokenferry_worker.outcomes import DeadLettered, Outcome, Parked, Quarantined, Settled
from tokenferry_worker.provider.attempts import KEY_IS_SAFE
from tokenferry_worker.provider.platforms import PlatformContext
from tokenferry_worker.tokens.grouped_ids import GroupedId
from tokenferry_worker.tokens.journal import About, Begun, Journal
from tokenferry_worker.tokens.ledger import Ledger
from tokenferry_worker.tokens.results import failure

log = logging.getLogger(__name__)

HOLD: Final = 6.0
"""Seconds for which nobody else works on an onboarding after its worker has died. Renewed while the worker lives."""


@dataclass(frozen=True)
class Onboarder:
    """Makes whole accounts. It holds the private keys of the envelope, and through its platforms Stripe's."""

    opener: Opener
    rights: Rights
    steps: StepRunner
    calls: AccountCalls
    records: StepRecords
    ledgers: Mapping[str, Ledger]
    platforms: Mapping[str, PlatformContext]
    journal: Journal
    clock: Clock
    deliveries: int
    lifetimes: LifetimeCheck
    marks: ContentMarks = UNMARKED
    waits: Waits = field(default_factory=Waits)
    publish_progress: Callable[[str, OnboardingProgress], None] = lambda _route, _progress: None
    """Publishes to a reply route how far an account is. Nobody waits for the broker's confirmation."""

    async def handle(self, body: str) -> Outcome:
        """Open the document, carry out every step that is not done, record. A redelivery goes on where it stopped."""
        try:
            envelope = self.opener.read_onboarding(body)
        except Unopenable as error:
            return Quarantined(str(error), error.signer_id)
        return await answer(self._handle(envelope, body), envelope.header, self.waits)

    async def _handle(self, envelope: SealedDocument, body: str) -> Outcome:
        header = envelope.header
        name = GroupedId(header.request_id, await self.rights.group_of(header), header.generation)
        if not self.lifetimes.allows(header):
            refusal = self._failed(name, header, 1, Code.INVALID_LIFETIME)
            return lifetime_refused(refusal, envelope.signature, header.reply_to)
        try:
            await self.rights.check_onboarding(header)
        except NotGranted as missing:
            return self._refused(name, header, missing, body)
        try:
            begun = await self.journal.begin(name.key, fingerprint(header), generation=name.generation)
        except Reused as reused:
            return await self._reused(name, header, reused)
        return await unless_poison(
            self._deliver(name, envelope, begun, body),
            begun,
            self.deliveries,
            lambda: self._failed(name, header, begun.deliveries, Code.DELIVERIES_EXHAUSTED),
        )

    async def _deliver(self, name: GroupedId, envelope: SealedDocument, begun: Begun, body: str) -> Outcome:
        header = envelope.header
        try:
            if begun.outcome is not None:
                return await self._tell_again(name, envelope, begun, begun.outcome)
            async with uncounted_if_called_off(self.journal, name.key):
                result, mark = await self._onboard(name, envelope, begun)
            offered = to_record(result)
            about = About(mark, name.generation)
            recorded = await self.journal.record(name.key, offered, about=about, ours=not result.complete)
        except Park as error:
            return Parked(error.scope, ONBOARD_TASK, header.request_id)
        except NotGranted as missing:
            return self._refused(name, header, missing, body)
        except Reused as reused:
            return await self._reused(name, header, reused)
        return _outcome(what_counts(result, offered, recorded), header)

    async def _tell_again(self, name: GroupedId, envelope: SealedDocument, begun: Begun, outcome: str) -> Outcome:
        """Tell the recorded outcome, if it is about this document. Raises `Reused` where it is not."""
        if self.marks.can_tell(begun.content):
            try:
                document = self.opener.open_onboarding(envelope)
            except Unopenable:
                refusal = self._failed(name, envelope.header, begun.deliveries, Code.UNOPENABLE)
                return unopenable(refusal, envelope.signature, envelope.header.reply_to)
            await check_same(self.journal, name, begun, self.marks.of_document(name.key, document))
        return _outcome(Recorded(OnboardingResult.model_validate_json(outcome), outcome), envelope.header)

    async def _reused(self, name: GroupedId, header: DocumentHeader, reused: Reused) -> Outcome:
        """Something else has this request id. The refusal gets an outcome id of its own."""
        refusal = self._failed(name, header, 1, Code.REQUEST_ID_REUSED)
        return _outcome(await record_refusal(self.journal, name, fingerprint(header), refusal, reused), header)

    def _refused(self, name: GroupedId, header: DocumentHeader, missing: NotGranted, body: str) -> Outcome:
        return refused(self._failed(name, header, 1, Code.NOT_GRANTED), missing, body, header.reply_to)

    async def _onboard(self, name: GroupedId, envelope: SealedDocument, begun: Begun) -> tuple[OnboardingResult, str]:
        """Return the result, and the mark of the document, empty where nobody opened it.

        Raises `Park`, `NotGranted`, `Reused`.
        """
        header, deliveries = envelope.header, begun.deliveries
        platform = self.platforms.get(header.platform)
        if platform is None:
            return self._failed(name, header, deliveries, Code.UNKNOWN_PLATFORM), ""
        given_up = deliveries > self.deliveries
        if deliveries > self.deliveries + 1:  # so workers may die of opening it
            return self._failed(name, header, deliveries, Code.DELIVERIES_EXHAUSTED), ""
        try:
            document = self.opener.open_onboarding(envelope)
        except Unopenable as error:
            log.warning("onboarding message %s: %s", header.request_id, error)
            code = Code.DELIVERIES_EXHAUSTED if given_up else Code.UNOPENABLE
            return self._failed(name, header, deliveries, code), ""
        await self.rights.check_document(header, document)
        mark = self.marks.of_document(name.key, document)
        await check_same(self.journal, name, begun, mark)
        run = self._run_of(platform, header, document, name.group)
        if given_up:
            return await self._give_up(run, document, deliveries), mark
        # Two messages about one account follow each other, whichever workers have them.
        async with self.ledgers[platform.name].writing(f"onboarding:{run.record_id}", lease=HOLD):
            return await self._carry_out(run, document, deliveries), mark

    def _run_of(
        self, platform: PlatformContext, header: DocumentHeader, document: Onboarding, group: str
    ) -> DocumentRun:
        onboarding_id = document.reference or header.request_id
        is_its_own = onboarding_id == header.request_id and header.generation == 1
        is_new = self.clock.now() - header.issued_at / 1000 <= KEY_IS_SAFE
        return DocumentRun(platform, header, onboarding_id, group, may_repeat=is_its_own and is_new)

    async def _carry_out(self, run: DocumentRun, document: Onboarding, deliveries: int) -> OnboardingResult:
        known = await self._known(run)
        made: dict[str, str] = {}
        results: list[StepResult] = []
        plan = steps(document)
        for step in plan:
            if not step.needs <= made.keys():
                results.append(StepResult(step=step.name, status="not_begun"))
                continue
            result = await self.steps.run(run, step, known.get(step.name), made)
            if result.status == "done" and result.object_id is not None:
                made[step.name] = result.object_id
            results.append(result)
            if document.progress and run.header.reply_to is not None:
                self.publish_progress(run.header.reply_to, _progress(run, results, len(plan)))
        requirements = await self.calls.requirements(run, made[ACCOUNT]) if ACCOUNT in made else None
        return self._result(run, document, deliveries, results, _worst(results), requirements)

    async def _give_up(self, run: DocumentRun, document: Onboarding, deliveries: int) -> OnboardingResult:
        """Return what is known of the account. Nothing is called."""
        known = await self._known(run)
        results = [as_known(step.name, known.get(step.name), run.message) for step in steps(document)]
        return self._result(run, document, deliveries, results, failure(Code.DELIVERIES_EXHAUSTED, None, 0))

    async def _known(self, run: DocumentRun) -> dict[str, Known]:
        return await self.records.read(run.namespace, run.record_id)

    def _result(
        self,
        run: DocumentRun,
        document: Onboarding,
        deliveries: int,
        results: Sequence[StepResult],
        why: Failure | None,
        requirements: Requirements | None = None,
    ) -> OnboardingResult:
        made = {step.step: step.object_id for step in results if step.object_id is not None}
        persons = {person.reference: person_step(person.reference) for person in document.persons}
        external = {name: external_account_step(name) for name, _ in document.numbered()}
        return OnboardingResult(
            **self._common(run.name, run.header, deliveries),
            onboarding_id=run.onboarding_id,
            account=made.get(ACCOUNT),
            persons={reference: made[name] for reference, name in persons.items() if name in made},
            external_accounts={name: made[step] for name, step in external.items() if step in made},
            steps=tuple(results),
            complete=all(step.status == "done" for step in results),
            requirements=requirements,
            failure=why,
        )

    def _failed(self, name: GroupedId, header: DocumentHeader, deliveries: int, code: str) -> OnboardingResult:
        """The result of a message that was given up before anything is known of the account."""
        return OnboardingResult(**self._common(name, header, deliveries), failure=failure(code, None, 0))

    def _common(self, name: GroupedId, header: DocumentHeader, deliveries: int) -> dict[str, Any]:
        return {
            "outcome_id": f"{name.shown}:onboarding",
            "request_id": header.request_id,
            "platform": header.platform,
            "deliveries": deliveries,
            "settled_at": int(self.clock.now() * 1000),
        }


def fingerprint(header: DocumentHeader) -> str:
    """Return the digest of what a request id stands for. It stays the same when the document is sealed anew.

    The version before wrote no digest for an onboarding. The journal takes an entry without one as the same.
    """
    return hashlib.sha256(f"onboarding|{header.platform}".encode()).hexdigest()[:40]


def _progress(run: DocumentRun, results: Sequence[StepResult], planned: int) -> OnboardingProgress:
    return OnboardingProgress(
        request_id=run.header.request_id,
        onboarding_id=run.onboarding_id,
        step=results[-1],
        taken=len(results),
        done=sum(step.status == "done" for step in results),
        steps=planned,
    )


def _worst(results: Sequence[StepResult]) -> Failure | None:
    """The failure of the whole: the first whose cause somebody can remove, else the first."""
    found = [step.failure for step in results if step.failure is not None]
    return next(iter([*filter(_is_kept, found), *found]), None)


def _is_kept(why: Failure) -> bool:
    return why.source == "tokenferry" and why.code in KEPT


def _outcome(recorded: Recorded[OnboardingResult], header: DocumentHeader) -> Outcome:
    result = recorded.result
    settled = Settled(result, header.reply_to, recorded.body)
    return DeadLettered(settled, result.failure.code) if result.failure and _is_kept(result.failure) else settled
