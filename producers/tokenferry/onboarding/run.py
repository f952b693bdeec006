"""The onboarding itself: each document becomes one sealed message, and is under way until its outcome is there."""

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
    question = "does a worker run? Start one with `tokenferry worker --role onboard`"

    def __init__(
        self,
        producer: Producer,
        results: Results,
        accounts: Accounts,
        outputs: Outputs,
        *,
        platform: str | None,
        patience: RunLimits,
        note: Callable[[str], None],
        progress: bool = True,
    ) -> None:
        """*progress*: have each step told, not the outcome alone."""
        outbox = producer.outbox
        handing = Submitter(
            outbox.submit if outbox is not None else producer.publisher.submit,
            producer.configuration,
            accounts,
            taken=_let_go,
            goes_on="The onboarding goes on by itself; Ctrl-C ends it",
            note=note,
        )
        super().__init__(producer, results, accounts, outputs, handing, patience=patience, note=note)
        self._counts = accounts.counts
        self._route = results.route
        self._platform = platform
        self._progress = progress

    def _one(self, item: NumberedDocument) -> None:
        self._counts.read += 1
        if item.document is None:
            refuse(item, item.problems, self._counts, self._outputs)
            return
        try:
            _, request_id, message = self._producer.sealer.onboarding_message(
                item.document, platform=self._platform, reply_to=self._route, progress=self._progress
            )
        except InvalidRequest as error:
            refuse(item, error.problems, self._counts, self._outputs)
            return
        account = Pending(item.number, item.reference, message=message)
        self._window.enter(request_id, account, self._outputs.result)
        self._handing.hand_over(request_id, account)


def _let_go(account: Pending) -> None:
    """A document can be large; and an account may be in a worker's hands for longer than any silence that tells."""
    account.message = None


def refuse(item: NumberedDocument, problems: Iterable[Problem], counts: OnboardingCounts, outputs: Outputs) -> None:
    """Write down why a document is not sent."""
    problems = tuple(problems)
    outputs.reject(item.number, item.reference, problems)
    counts.refuse(problems)
