"""What one delivery and one step of an onboarding need, built once. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from tokenferry.contract.envelope import LEGACY
from tokenferry.contract.onboarding import DocumentHeader
from tokenferry.contract.steps import Step
from tokenferry.contract.target import Target
from tokenferry_worker.onboarding.progress import Status, StepRecord
from tokenferry_worker.provider.platforms import PlatformContext
from tokenferry_worker.tokens.grouped_ids import GroupedId


@dataclass(frozen=True)
class DocumentRun:
    """One delivery's work on one onboarding."""

    platform: PlatformContext
    header: DocumentHeader
    onboarding_id: str
    group: str = LEGACY
    may_repeat: bool = False
    """True if Stripe still knows the keys of every call that was made for this onboarding: no other message is about
    it, and this one is not old.
    """

    @property
    def record_id(self) -> str:
        """The onboarding's id in its group, as the store knows it."""
        return self.onboarding_id if self.group == LEGACY else f"group:{self.group}:{self.onboarding_id}"

    @property
    def name(self) -> GroupedId:
        """The message's id in its group."""
        return GroupedId(self.header.request_id, self.group, self.header.generation)

    @property
    def message(self) -> str:
        """This message, as the records of its steps name it: a later generation is another message."""
        header = self.header
        return header.request_id if header.generation == 1 else f"{header.request_id}:{header.generation}"

    @property
    def namespace(self) -> str:
        """Onboardings of test mode and of live mode are recorded apart: an object of one is not there in the other."""
        return self.platform.name if self.platform.live else f"{self.platform.name}:test"


@dataclass(frozen=True)
class StepPlan:
    """One step in one round, with the ids of the objects it needs."""

    run: DocumentRun
    step: Step
    round: int
    target: Target

    @property
    def id(self) -> str:
        """The request and attach id of the step. Its idempotency keys are derived from it."""
        run = self.run
        return step_id(run.namespace, run.onboarding_id, self.step.name, self.round, group=run.group)

    @property
    def name(self) -> GroupedId:
        """The id in its group."""
        return GroupedId(self.id, self.run.group)

    def record(self, status: Status, *, at: int = 0, **details: Any) -> StepRecord:
        """A record of this step. *at*: Unix milliseconds."""
        return StepRecord(status=status, round=self.round, message=self.run.message, at=at, **details)


def step_id(namespace: str, onboarding_id: str, step: str, round_: int, *, group: str = LEGACY) -> str:
    """The request and attach id of a step. It is made of names only, so it is the same in every delivery.

    >>> step_id("main", "seller-7", "person:jenny", 0)
    'onb-15b961afd247d207a167a5d54ceb822ef31e6367'
    """
    named = "|".join((namespace, onboarding_id, step, str(round_)))
    if group != LEGACY:
        named = f"{group}\n{named}"
    return f"onb-{hashlib.sha256(named.encode()).hexdigest()[:40]}"


def idempotency_key(step: str) -> str:
    """The key of a step's call that spends no token. *step*: the id of the step.

    >>> idempotency_key("onb-1")
    'tokenferry:onboard:onb-1'
    """
    return f"tokenferry:onboard:{step}"
