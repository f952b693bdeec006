"""The accounts of a run that have no outcome yet, and the counts of the run."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tokenferry.bulk.window import Counters, Pending, Window, Write
from tokenferry.contract.results import OnboardingProgress, OnboardingResult
from tokenferry.contract.steps import COMPLETE

LATER: Final = 1000
"""Incomplete accounts that are remembered: one that is redriven meanwhile gets another outcome."""
_REPORTED = {"account", "persons", "external_accounts", "steps", "requirements", "failure"}


@dataclass
class OnboardingCounts(Counters):
    """The counts so far. Failures are counted by step and code."""

    read: int = 0
    sent: int = 0
    complete: int = 0
    incomplete: int = 0
    steps_done: int = 0
    steps_earlier: int = 0
    """Of those, done before this run."""
    steps_failed: int = 0
    still_due: int = 0
    """Complete accounts for which Stripe still needs information."""

    @property
    def all_well(self) -> bool:
        """True if every account is complete."""
        return super().all_well and not self.incomplete


class Accounts(Window[Pending, OnboardingResult]):
    """The accounts without an outcome, and how many steps of each are done."""

    counts: OnboardingCounts
    outcomes = (OnboardingResult,)

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock=clock)
        self.counts = OnboardingCounts()
        self.report: Callable[[str], None] = lambda _: None
        """Called with a line for each step and each outcome."""
        self._steps: dict[str, int] = {}
        """Steps done, by request id."""
        self._incomplete: OrderedDict[str, tuple[Pending, OnboardingResult]] = OrderedDict()

    def progress(self, step: OnboardingProgress) -> None:
        """Record that a step was done."""
        with self._changed:
            if (item := self._items.get(step.request_id)) is not None:
                self._steps[step.request_id] = max(self._steps.get(step.request_id, 0), step.done)
                self.last_result = self._clock()
                name = "the last update" if step.step.step == COMPLETE else step.step.step
                self.report(f"{item.key}: {name} {step.step.status}, {step.done} of {step.steps} steps done")

    @property
    def steps_done(self) -> int:
        """Steps done of all accounts, including those without an outcome."""
        with self._changed:
            return self.counts.steps_done + sum(self._steps.values())

    def line(self, request_id: str, item: Pending, result: OnboardingResult | None) -> dict[str, Any]:
        line = {"key": item.key, "row": item.number, "request_id": request_id}
        if result is None:
            return {**line, "status": "unfinished", "handed_over": item.handed_over}
        details = result.model_dump(exclude_none=True, include=_REPORTED)
        return {**line, "status": "complete" if result.complete else "incomplete", **details}

    def _count_entered(self, item: Pending) -> None:
        self.counts.sent += 1

    def _count(self, item: Pending, result: OnboardingResult, *, last: bool) -> None:
        self._steps.pop(result.request_id, None)
        self._add(result, 1)
        if not result.complete:
            self._incomplete[result.request_id] = item, result
            if len(self._incomplete) > LATER:
                self._incomplete.popitem(last=False)
        reason = f", {result.failure.code}" if result.failure is not None else ""
        self.report(f"{item.key}: complete" if result.complete else f"{item.key}: incomplete{reason}")

    def _unexpected(self, result: OnboardingResult, write: Write) -> None:
        """Process a second outcome of an account that was redriven. It gets a second line, and replaces the first."""
        item, before = self._incomplete.get(result.request_id, (None, None))
        if item is None or before is None or before.outcome_id == result.outcome_id:
            return
        write(self.line(result.request_id, item, result))
        del self._incomplete[result.request_id]
        self._add(before, -1)
        self._count(item, result, last=True)

    def _add(self, result: OnboardingResult, sign: int) -> None:
        """Add *result* to the counts (*sign* 1), or subtract it (-1)."""
        counts = self.counts
        counts.complete += sign * result.complete
        counts.incomplete += sign * (not result.complete)
        counts.still_due += sign * bool(result.complete and result.requirements and result.requirements.currently_due)
        if result.failure is not None and all(step.failure != result.failure for step in result.steps):
            counts.failures_by_code[result.failure.code] += sign
        for step in result.steps:
            counts.steps_done += sign * (step.status == "done")
            counts.steps_earlier += sign * step.earlier
            if step.failure is not None:
                counts.steps_failed += sign
                param = f" ({step.failure.param})" if step.failure.param else ""
                counts.failures_by_code[f"{step.step.partition(':')[0]}: {step.failure.code}{param}"] += sign
        counts.failures_by_code = +counts.failures_by_code  # without codes whose count is 0
