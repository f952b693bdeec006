"""The accounts of one run that are under way, and the numbers of it all."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tokenferry.bulk.window import Counters, Pending, Window, Write
from tokenferry.contract.results import OnboardingProgress, OnboardingResult

LATER: Final = 1000
"""Incomplete accounts that are remembered, because one that is redriven meanwhile has another outcome."""
_TOLD = {"account", "persons", "external_accounts", "steps", "requirements", "failure"}


@dataclass
class OnboardingCounts(Counters):
    """The numbers so far. Failures are counted by step and code."""

    read: int = 0
    sent: int = 0
    complete: int = 0
    incomplete: int = 0
    steps_done: int = 0
    steps_earlier: int = 0
    """Of those, done before this run."""
    steps_failed: int = 0
    still_due: int = 0
    """Complete accounts of which the endpoint asks for more."""

    @property
    def all_well(self) -> bool:
        """Whether every account is complete."""
        return super().all_well and not self.incomplete


class Accounts(Window[Pending, OnboardingResult]):
    """What is under way, and how far."""

    counts: OnboardingCounts
    outcomes = (OnboardingResult,)

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock=clock)
        self.counts = OnboardingCounts()
        self.tell: Callable[[str], None] = lambda _: None
        """Is told of each account what it comes to, step by step."""
        self._steps: dict[str, int] = {}
        """Steps done of what is under way."""
        self._incomplete: OrderedDict[str, tuple[Pending, OnboardingResult]] = OrderedDict()

    def progress(self, word: OnboardingProgress) -> None:
        """A step was taken."""
        with self._changed:
            if (item := self._items.get(word.request_id)) is not None:
                self._steps[word.request_id] = max(self._steps.get(word.request_id, 0), word.done)
                self.last_result = self._clock()
                self.tell(f"{item.key}: {word.step.step} {word.step.status}, {word.done} of {word.steps} steps done")

    @property
    def steps_done(self) -> int:
        """Of all accounts, those under way included."""
        with self._changed:
            return self.counts.steps_done + sum(self._steps.values())

    def line(self, request_id: str, item: Pending, result: OnboardingResult | None) -> dict[str, Any]:
        about = {"key": item.key, "row": item.number, "request_id": request_id}
        if result is None:
            return {**about, "status": "unfinished", "handed_over": item.handed_over}
        told = result.model_dump(exclude_none=True, include=_TOLD)
        return {**about, "status": "complete" if result.complete else "incomplete", **told}

    def _count_entered(self, item: Pending) -> None:
        self.counts.sent += 1

    def _count(self, item: Pending, result: OnboardingResult, *, last: bool) -> None:
        self._steps.pop(result.request_id, None)
        self._add(result, 1)
        if not result.complete:
            self._incomplete[result.request_id] = item, result
            if len(self._incomplete) > LATER:
                self._incomplete.popitem(last=False)
        why = f"incomplete, {result.failure.code}" if result.failure is not None else "incomplete"
        self.tell(f"{item.key}: {'complete' if result.complete else why}")

    def _unexpected(self, result: OnboardingResult, write: Write) -> None:
        """Another outcome of an account: it was redriven. It gets another line, and counts in place of the first."""
        item, before = self._incomplete.get(result.request_id, (None, None))
        if item is None or before is None or before.outcome_id == result.outcome_id:
            return
        write(self.line(result.request_id, item, result))
        del self._incomplete[result.request_id]
        self._add(before, -1)
        self._count(item, result, last=True)

    def _add(self, result: OnboardingResult, sign: int) -> None:
        """Count *result* in, or out again."""
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
        counts.failures_by_code = +counts.failures_by_code  # without what was counted out
