"""Which budgets a call draws on. Names are the store's keys, so they change with a migration only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tokenferry.configuration import Platform
from tokenferry.contract.targets import ENDPOINTS, Target
from tokenferry_worker.pacing import Budget

TOKENS = "tokens"


@dataclass(frozen=True)
class Budgets:
    """The budgets of one platform: all calls, calls per endpoint, account creations, calls per connected account."""

    name: str
    platform: Platform

    def tokens(self, connected_account: str | None = None) -> tuple[Budget, ...]:
        """Of `POST /v1/tokens`."""
        return self.of(TOKENS, connected_account)

    def spending(self, target: Target, connected_account: str | None = None) -> tuple[Budget, ...]:
        """Of the call that spends a token on *target*."""
        return self.of(target.endpoint(), connected_account, creates_account=target.creates_account)

    def of(
        self, endpoint: str, connected_account: str | None = None, *, creates_account: bool = False
    ) -> tuple[Budget, ...]:
        """Of any call: the whole first, the endpoint second, then what else it draws on."""
        budgets = [self.whole, self.endpoint(endpoint)]
        if creates_account:
            budgets.append(self.account_creation)
        per_account = self.platform.limits.connected_account_per_second
        if connected_account is not None and per_account is not None:
            budgets.append(self._budget(f"account:{connected_account}", per_account))
        return tuple(budgets)

    def all(self) -> Iterator[Budget]:
        """Every budget that is known by name; those of connected accounts are known when they call."""
        yield self.whole
        for endpoint in sorted(ENDPOINTS):
            yield self.endpoint(endpoint)
        yield self.account_creation

    @property
    def whole(self) -> Budget:
        """Every call of the platform."""
        return self._budget("global", self.platform.global_per_second)

    @property
    def account_creation(self) -> Budget:
        """`POST /v1/accounts`."""
        return self._budget("account_creation", self.platform.account_creation_per_second)

    def endpoint(self, name: str) -> Budget:
        """Calls of one endpoint."""
        return self._budget(f"endpoint:{name}", self.platform.endpoint_per_second(name))

    def refused(self, reason: str, used: tuple[Budget, ...]) -> Budget:
        """The budget a `Stripe-Rate-Limited-Reason` speaks of, among those the call had *used*."""
        return used[0] if reason.startswith("global") else used[-1] if len(used) > 2 else used[1]

    def _budget(self, what: str, per_second: float) -> Budget:
        limits = self.platform.limits
        in_flight = limits.in_flight.get(what.removeprefix("endpoint:"), 0)
        return Budget(f"{self.name}:{what}", per_second * (1 - limits.reserved), limits.burst, in_flight)
