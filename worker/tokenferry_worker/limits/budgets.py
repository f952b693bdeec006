"""Which budgets a call draws on. Their names are keys of the store, so a new name needs a migration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tokenferry.configuration import Platform
from tokenferry.contract.targets import ENDPOINTS, Target
from tokenferry_worker.limits.pacing import Budget, BudgetScope

TOKENS = "tokens"

ENDPOINT: Final[tuple[BudgetScope, ...]] = ("account_creation", "endpoint")
"""The limit of one path. Stripe counts one operation as one endpoint, and creating an account is one."""
REFUSED: Final[tuple[tuple[str, tuple[BudgetScope, ...]], ...]] = (
    ("global", ("platform",)),
    ("endpoint", ENDPOINT),
    # No page of Stripe lists these two. A limit of one account must never slow the others down.
    ("account", ("connected_account", *ENDPOINT)),
    ("connected-account", ("connected_account", *ENDPOINT)),
    # A limit of one object or feature. The account that the call is for uses it; the other accounts may go on. Where
    # they meet the same limit, their own refusals slow them down.
    ("resource-specific", ("account_creation", "connected_account", "endpoint")),
    # Unknown reasons. This path refuses calls, whoever makes them. To slow the whole platform would be too much.
    ("", ENDPOINT),
)
"""By the beginning of a `Stripe-Rate-Limited-Reason`: which scopes it may mean. The first that the call has drawn on
is slowed down, for the whole fleet. The reasons are those of docs.stripe.com/rate-limits."""


@dataclass(frozen=True)
class Budgets:
    """The budgets of one platform: all calls, calls per path, account creations, calls per connected account."""

    name: str
    platform: Platform

    def tokens(self, connected_account: str | None = None) -> tuple[Budget, ...]:
        """Return the budgets of `POST /v1/tokens`."""
        return self.of(TOKENS, connected_account)

    def spending(self, target: Target, connected_account: str | None = None) -> tuple[Budget, ...]:
        """Return the budgets of the call that spends a token on *target*."""
        return self.of(target.endpoint(), connected_account, creates_account=target.creates_account)

    def of(
        self, endpoint: str, connected_account: str | None = None, *, creates_account: bool = False
    ) -> tuple[Budget, ...]:
        """Return every budget that a call draws on."""
        budgets = [self.whole, self.endpoint(endpoint)]
        if creates_account:
            budgets.append(self.account_creation)
        per_account = self.platform.limits.connected_account_per_second
        if connected_account is not None and per_account is not None:
            budgets.append(self._budget(f"account:{connected_account}", per_account, "connected_account"))
        return tuple(budgets)

    def all(self) -> Iterator[Budget]:
        """Yield every budget but those of connected accounts, which are known only when they call."""
        yield self.whole
        for endpoint in sorted(ENDPOINTS):
            yield self.endpoint(endpoint)
        yield self.account_creation

    @property
    def whole(self) -> Budget:
        """The budget of every call of the platform."""
        return self._budget("global", self.platform.global_per_second, "platform")

    @property
    def account_creation(self) -> Budget:
        """The budget of `POST /v1/accounts`."""
        return self._budget("account_creation", self.platform.account_creation_per_second, "account_creation")

    def endpoint(self, name: str) -> Budget:
        """Return the budget of the calls of one path."""
        return self._budget(f"endpoint:{name}", self.platform.endpoint_per_second(name), "endpoint")

    def setting(self, budget: Budget) -> str:
        """Return the name of the setting that *budget* has its rate from."""
        what, _, path = budget.name.removeprefix(f"{self.name}:").partition(":")
        match what:
            case "endpoint" if path in self.platform.limits.endpoints:
                name = f"endpoints.{path}"
            case "account":
                name = "connected_account_per_second"
            case _:
                name = f"{what}_per_second"
        return f"[platforms.{self.name}.limits] {name}"

    def refused(self, reason: str, used: tuple[Budget, ...]) -> Budget:
        """Return the budget to slow down after a 429 with this `Stripe-Rate-Limited-Reason`.

        *used*: what the call drew on, in any order. See `REFUSED`.
        """
        drawn: dict[BudgetScope, Budget] = {budget.scope: budget for budget in used}
        meant = next(scopes for beginning, scopes in REFUSED if reason.startswith(beginning))
        return next(drawn[scope] for scope in meant if scope in drawn)

    def _budget(self, what: str, per_second: float, scope: BudgetScope) -> Budget:
        limits = self.platform.limits
        in_flight = limits.in_flight.get(what.removeprefix("endpoint:"), 0)
        return Budget(f"{self.name}:{what}", per_second * (1 - limits.reserved), limits.burst, in_flight, scope)
