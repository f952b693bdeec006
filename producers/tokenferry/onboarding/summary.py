"""What is told of a run: one line while it works, a summary at its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tokenferry.bulk.progress import spelled
from tokenferry.bulk.run_summary import RunSummary
from tokenferry.onboarding.accounts import Accounts, OnboardingCounts


def progress(accounts: Accounts) -> str:
    """The run so far in one line."""
    counts = accounts.counts
    seconds = max(0.001, time.monotonic() - accounts.started)
    parts = [
        f"{counts.read} accounts read",
        f"{len(accounts)} under way",
        f"{counts.complete} complete",
        f"{counts.incomplete} incomplete",
        f"{counts.refused} refused",
        f"{accounts.steps_done} steps done",
        f"{counts.steps_failed} failed",
        f"{(counts.complete + counts.incomplete) / seconds:.1f} accounts/s",
    ]
    if accounts.waits is not None:
        parts.append(f"waiting: {accounts.waits}")
    return " | ".join(parts)


@dataclass(frozen=True)
class OnboardingSummary(RunSummary[OnboardingCounts]):
    """How a run ended."""

    most_reasons = 10

    def as_json(self) -> dict[str, Any]:
        counts = self.counts
        names = ("read", "refused", "sent", "complete", "incomplete", "unfinished", "still_due")
        return {
            **{name: getattr(counts, name) for name in names},
            "steps": {"done": counts.steps_done, "done_earlier": counts.steps_earlier, "failed": counts.steps_failed},
            "failures": dict(counts.failures_by_code.most_common()),
            "refusals": dict(counts.refusals_by_reason.most_common()),
            "seconds": round(self.seconds, 3),
            **self._where("last_read"),
        }

    def _numbers(self) -> Iterator[str]:
        counts = self.counts
        if self.route is None:
            good = counts.read - counts.refused
            yield f"{counts.read} accounts read, {good} can be sent, {counts.refused} refused; nothing was sent"
        else:
            yield (
                f"{counts.read} accounts in {spelled(self.seconds)}: {counts.complete} complete, "
                f"{counts.incomplete} incomplete, {counts.refused} refused, {counts.unfinished} unfinished"
            )
            earlier = f"{counts.steps_earlier} in earlier runs"
            yield f"{counts.steps_done} steps done ({earlier}), {counts.steps_failed} failed"
        if counts.still_due:
            due = f"{counts.still_due} accounts were created, but Stripe still needs information"
            yield f'{due} (see "requirements" in the results)'

    def _left(self) -> Iterator[str]:
        counts = self.counts
        yield f"onboarding stopped: {self.reason}"
        if counts.unfinished:
            accounts = "account has" if counts.unfinished == 1 else "accounts have"
            yield (
                f'{counts.unfinished} {accounts} no outcome yet: they are in {self.results} as "unfinished". Workers '
                "go on with those that were handed over; read what becomes of them with "
                f"`tokenferry results {self.route}`"
            )
        if not self.read_all:
            yield f"what comes after document {self.last} was not read" if self.last else "no document was read"
        yield "run it again with the same file: what is done is not done again"
