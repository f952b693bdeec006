"""The progress line and the summary of an onboarding run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tokenferry.bulk.progress import counted, spelled
from tokenferry.bulk.run_summary import RunSummary
from tokenferry.bulk.waiting import WaitingReasons
from tokenferry.onboarding.accounts import Accounts, OnboardingCounts


def progress(accounts: Accounts, reasons: WaitingReasons) -> str:
    """The progress line. What matters most comes first: a narrow terminal shows only that."""
    counts = accounts.counts
    seconds = max(0.001, time.monotonic() - accounts.started)
    parts = [f"{(counts.complete + counts.incomplete) / seconds:.1f} accounts/s"]
    if why := [*map(str, reasons.current), accounts.waits or accounts.guess]:
        parts += [f"waiting: {why[0]}"] if why[0] else []
    parts += [f"{count} {outcome}" for outcome, count in counts.outcomes().items() if count or outcome == "pending"]
    parts += [f"{accounts.steps_done} steps done", f"{counts.steps_failed} steps failed", f"{counts.read} read"]
    return " | ".join(parts)


@dataclass(frozen=True)
class OnboardingSummary(RunSummary[OnboardingCounts]):
    """One run, finished or not."""

    run = "onboarding"
    item = "document"
    most_reasons = 10

    def items_read(self) -> int:
        return self.counts.read

    def _more(self) -> dict[str, Any]:
        counts = self.counts
        return {
            "still_due": counts.still_due,
            "steps": {"done": counts.steps_done, "done_earlier": counts.steps_earlier, "failed": counts.steps_failed},
        }

    def _earlier_names(self) -> dict[str, Any]:
        counts = self.counts
        return {
            "read": counts.read,
            "refused": counts.rejected,
            "sent": counts.sent,
            "complete": counts.complete,
            "incomplete": counts.incomplete,
            "unfinished": counts.unfinished,
            "failures": dict(counts.failures_by_code.most_common()),
            "refusals": dict(counts.rejections_by_reason.most_common()),
        }

    def _totals(self) -> Iterator[str]:
        counts = self.counts
        if self.route is None:
            good = counts.read - counts.rejected
            yield f"{counts.read} accounts read, {good} can be sent, {counts.rejected} rejected; nothing was sent"
        else:
            yield (
                f"{counted(counts.read, 'account')} in {spelled(self.seconds)}: "
                + ", ".join(f"{count} {outcome}" for outcome, count in counts.outcomes().items())
            )
            earlier = f"{counts.steps_earlier} in earlier runs"
            yield f"{counts.steps_done} steps done ({earlier}), {counts.steps_failed} failed"
        if counts.still_due:
            due = f"{counts.still_due} accounts were created, but Stripe still needs information"
            yield f'{due} (see "requirements" in the results)'

    def _unfinished_items(self) -> str:
        count = self.counts.unfinished
        return (
            f'{count} {"account has" if count == 1 else "accounts have"} no outcome yet: see "pending" in '
            f"{self.results}. Workers still process those that the broker has; read their outcome with "
            f"`tokenferry results {self.route}`"
        )

    def _how_to_continue(self) -> Iterator[str]:
        yield "run it again with the same file: what is done is not done again"
