"""One run of an onboarding. Each document becomes one sealed message, and waits for its outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tokenferry.bulk.bulk_run import BulkRun, RunLimits
from tokenferry.bulk.outputs import Outputs
from tokenferry.bulk.submitter import Submitter
from tokenferry.bulk.window import Pending
from tokenferry.consuming import Results
from tokenferry.contract.requests import InvalidRequest, Problem
from tokenferry.onboarding.accounts import Accounts, OnboardingCounts
from tokenferry.onboarding.documents import NumberedDocument
from tokenferry.producer import Producer


class OnboardingRun(BulkRun[NumberedDocument]):
    """One run over a file of accounts."""

    silence = 90.0  # an account takes a minute at times
    start = "`tokenferry worker --role onboard`"

    def __init__(
        self,
        producer: Producer,
        results: Results,
        accounts: Accounts,
        outputs: Outputs,
        *,
        platform: str | None,
        limits: RunLimits,
        note: Callable[[str], None],
        progress: bool = True,
    ) -> None:
        """*progress*: get a message for each step, not for the outcome alone."""
        outbox = producer.outbox
        submitter = Submitter(
            outbox.submit if outbox is not None else producer.publisher.submit,
            producer.configuration,
            accounts,
            accepted=_delete_message,
            while_waiting="The onboarding continues by itself; Ctrl-C ends it",
            note=note,
        )
        super().__init__(producer, results, accounts, outputs, submitter, limits=limits, note=note)
        self._counts = accounts.counts
        self._route = results.route
        self._platform = platform
        self._progress = progress

    def _process(self, item: NumberedDocument) -> None:
        self._counts.read += 1
        if item.document is None:
            reject(item, item.problems, self._counts, self._outputs)
            return
        try:
            _, request_id, message = self._producer.sealer.onboarding_message(
                item.document,
                platform=self._platform,
                reply_to=self._route,
                progress=self._progress,
                batch=self._route,
            )
        except InvalidRequest as error:
            reject(item, error.problems, self._counts, self._outputs)
            return
        account = Pending(item.number, item.reference, message=message)
        self._window.enter(request_id, account, self._outputs.result)
        self._submitter.submit(request_id, account)


def _delete_message(account: Pending) -> None:
    """Free the memory: a document can be large. The run does not look for lost ones: a worker may take very long."""
    account.message = None


def reject(item: NumberedDocument, problems: Iterable[Problem], counts: OnboardingCounts, outputs: Outputs) -> None:
    """Record why a document is not sent."""
    problems = tuple(problems)
    outputs.reject(item.number, item.reference, problems)
    counts.reject(problems)
