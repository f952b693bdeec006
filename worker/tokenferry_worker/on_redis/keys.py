"""The name of every key in the store. `docs/state.md` says what each one holds, and for how long."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tokenferry_worker.limits.pacing import Budget


@dataclass(frozen=True)
class StoreKeys:
    """Spells the keys below one prefix (`[store] prefix`). The names are stored state: they never change.

    >>> keys = StoreKeys("tokenferry")
    >>> keys.budget("main:global"), keys.journal("request", "req-1")
    ('tokenferry:budget:main:global', 'tokenferry:journal:request:req-1')
    """

    prefix: str

    def budget(self, name: str) -> str:
        """One budget. The scripts keep its calls in flight beside it, under `:calls`."""
        return f"{self.prefix}:budget:{name}"

    def line(self, budgets: Sequence[Budget]) -> str:
        """The line of all requests that wait for the same set of budgets."""
        names = "|".join(budget.name for budget in budgets)
        return f"{self.prefix}:line:{hashlib.sha256(names.encode()).hexdigest()[:16]}"

    @property
    def changes(self) -> str:
        """The list of changes to budgets."""
        return f"{self.prefix}:changes"

    def journal(self, subject: Literal["request", "attach"], id_: str) -> str:
        """The journal entry of a request or of an attach order."""
        return f"{self.prefix}:journal:{subject}:{id_}"

    def token(self, token: str) -> str:
        """One token in the ledger."""
        return f"{self.prefix}:token:{token}"

    def attempts(self, id_: str) -> str:
        """The latest calls of a request or order."""
        return f"{self.prefix}:attempts:{id_}"

    def object(self, object_id: str) -> str:
        """The token that became one object."""
        return f"{self.prefix}:object:{object_id}"

    @property
    def processes(self) -> str:
        """What every worker process of the fleet last reported."""
        return f"{self.prefix}:processes"

    def ahead(self, slot: str) -> str:
        """The requests whose token waits to be spent within one slot of the backpressure."""
        return f"{self.prefix}:ahead:{slot}"

    def writing(self, platform: str, object_id: str) -> str:
        """The lock of the one writer of an object."""
        return f"{self.prefix}:writing:{platform}:{object_id}"

    def onboarding(self, platform: str, onboarding_id: str) -> str:
        """The steps of one onboarding."""
        return f"{self.prefix}:onboarding:{platform}:{onboarding_id}"

    def onboarding_tags(self, platform: str, onboarding_id: str) -> str:
        """The tags of these steps. A hash of its own, because earlier versions read every field as a step."""
        return f"{self.prefix}:onboarding-tags:{platform}:{onboarding_id}"

    @property
    def state_since(self) -> str:
        """When the first worker with a state key started, with a tag."""
        return f"{self.prefix}:state-since"

    @property
    def policy(self) -> str:
        """Set for ever by the first worker that has read a policy."""
        return f"{self.prefix}:policy"

    @property
    def open_circuits(self) -> str:
        """The set of open scopes."""
        return f"{self.prefix}:circuits"

    def circuit(self, scope: str) -> str:
        """One open circuit. With an empty scope: what all these keys begin with."""
        return f"{self.prefix}:circuit:{scope}"

    def circuit_duty(self, duty: str) -> str:
        """The lock of the one process that does *duty* for the fleet."""
        return f"{self.prefix}:circuit-duty:{duty}"

    @property
    def parked(self) -> str:
        """The number of parked messages by scope."""
        return f"{self.prefix}:parked"

    @property
    def born(self) -> str:
        """When the store began."""
        return f"{self.prefix}:born"

    @property
    def accepted(self) -> str:
        """Which store an operator has said is new on purpose."""
        return f"{self.prefix}:accepted"

    def alive(self, process: str) -> str:
        """When one worker process last asked when the store began."""
        return f"{self.prefix}:alive:{process}"

    def trial(self) -> str:
        """A key that nobody else uses, for the doctor's trial of a script."""
        return f"{self.prefix}:doctor:{secrets.token_hex(8)}"
