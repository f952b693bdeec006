"""Which budgets a call draws on. Names are the store's keys, so they change with a migration only."""

from __future__ import annotations

from dataclasses import dataclass

from tokenferry.configuration import Platform
from tokenferry.contract.targets import Target
from tokenferry_worker.pacing import Budget


@dataclass(frozen=True)
class Budgets:
    """The budgets of one platform: all calls, calls per endpoint, account creations."""

    name: str
    platform: Platform

    def tokens(self) -> tuple[Budget, ...]:
        """Of `POST /v1/tokens`."""
        return self.whole, self.endpoint("tokens")

    def spending(self, target: Target) -> tuple[Budget, ...]:
        """Of the call that spends a token on *target*."""
        own = (self._creation(),) if target.creates_account else ()
        return (self.whole, self.endpoint(target.endpoint()), *own)

    @property
    def whole(self) -> Budget:
        """Every call of the platform."""
        return Budget(f"{self.name}:global", self.platform.global_per_second, self.platform.limits.burst)

    def endpoint(self, name: str) -> Budget:
        """Calls of one endpoint."""
        return Budget(f"{self.name}:endpoint:{name}", self.platform.endpoint_per_second, self.platform.limits.burst)

    def refused(self, reason: str, used: tuple[Budget, ...]) -> Budget:
        """The budget a `Stripe-Rate-Limited-Reason` speaks of, among those the call had *used*."""
        return used[0] if reason.startswith("global") else used[-1]

    def _creation(self) -> Budget:
        return Budget(
            f"{self.name}:account_creation", self.platform.account_creation_per_second, self.platform.limits.burst
        )
