"""Which budgets a call draws on. Their names are keys of the store, so a new name needs a migration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tokenferry.configuration import Platform
from tokenferry.contract.operations import (
    NEW_ACCOUNT,
    OPERATIONS,
    operation_of,
    operations_of,
    resource_of,
)
from tokenferry.contract.targets import ENDPOINTS, Target
from tokenferry_worker.limits.pacing import Budget, BudgetScope

ENDPOINT: Final[tuple[BudgetScope, ...]] = ("account_creation", "endpoint")
"""The limit of one operation. Creating an account is an operation with a limit of its own."""
REFUSED: Final[tuple[tuple[str, tuple[BudgetScope, ...]], ...]] = (
    ("global", ("platform",)),
    ("endpoint", ENDPOINT),
    # No page of Stripe lists these two. A limit of one account must never slow the others down.
    ("account", ("connected_account", *ENDPOINT)),
    ("connected-account", ("connected_account", *ENDPOINT)),
    # A limit of one object or feature. The account that the call is for uses it; the other accounts may go on. Where
    # they meet the same limit, their own refusals slow them down.
    ("resource-specific", ("account_creation", "connected_account", "endpoint")),
    # Unknown reasons. This operation refuses calls, whoever makes them. To slow the whole platform would be too much.
    ("", ENDPOINT),
)
"""By the beginning of a `Stripe-Rate-Limited-Reason`: which scopes it may mean. The first that the call has drawn on
is slowed down, for the whole fleet. The reasons are those of docs.stripe.com/rate-limits."""


@dataclass(frozen=True)
class Budgets:
    """The budgets of one platform: all calls, calls per operation, account creations, calls per connected account.

    Where `by` is "resource", the calls of all operations of a resource share one budget, as in the version before.
    Where it is "both", a call draws on the budgets of its operation and of its resource.
    """

    name: str
    platform: Platform

    def tokens(self, connected_account: str | None = None) -> tuple[Budget, ...]:
        """Return the budgets of `POST /v1/tokens`."""
        return self.of("POST /v1/tokens", connected_account)

    def spending(self, target: Target, connected_account: str | None = None) -> tuple[Budget, ...]:
        """Return the budgets of the call that spends a token on *target*."""
        return self.call("POST", target.path(), connected_account)

    def call(self, method: str, path: str, connected_account: str | None = None) -> tuple[Budget, ...]:
        """Return every budget that a call of *path* draws on."""
        return self.of(operation_of(method, path), connected_account)

    def of(
        self, endpoint: str, connected_account: str | None = None, *, creates_account: bool = False
    ) -> tuple[Budget, ...]:
        """Return every budget that a call of *endpoint* draws on: an operation, or a resource.

        Who names a resource does not say which operation is called. So it draws on each of them.
        """
        budgets = [self.whole, *self._endpoints(endpoint, creates_account or endpoint == NEW_ACCOUNT)]
        per_account = self.platform.limits.connected_account_per_second
        if connected_account is not None and per_account is not None:
            budgets.append(self._budget(f"account:{connected_account}", per_account, "connected_account"))
        return tuple(budgets)

    def all(self) -> Iterator[Budget]:
        """Yield every budget but those of connected accounts, which are known only when they call."""
        by = self.platform.limits.by
        yield self.whole
        if by != "operation":
            yield from map(self.resource, sorted(ENDPOINTS))
        if by != "resource":
            yield from (self.operation(name) for name in sorted(OPERATIONS) if name != NEW_ACCOUNT)
        yield self.account_creation

    @property
    def whole(self) -> Budget:
        """The budget of every call of the platform."""
        return self._budget("global", self.platform.global_per_second, "platform", "global")

    @property
    def account_creation(self) -> Budget:
        """The budget of `POST /v1/accounts`: Stripe grants it a rate of its own."""
        per_second = self.platform.account_creation_per_second
        counted = "" if self.platform.limits.by == "resource" else NEW_ACCOUNT
        return self._budget("account_creation", per_second, "account_creation", counted)

    def operation(self, name: str) -> Budget:
        """Return the budget of the calls of one operation."""
        return self._budget(f"operation:{name}", self.platform.operation_per_second(name), "endpoint", name)

    def resource(self, name: str) -> Budget:
        """Return the budget of the calls of one resource. The version before called it an endpoint."""
        return self._budget(f"endpoint:{name}", self.platform.operation_per_second(name), "endpoint", name)

    def setting(self, budget: Budget) -> str:
        """Return the name of the setting that *budget* has its rate from."""
        what, _, counted = budget.name.removeprefix(f"{self.name}:").partition(":")
        given = self.platform.limits.operations
        match what:
            case "endpoint" | "operation" if counted in given or resource_of(counted) in given:
                name = counted if counted in given else resource_of(counted)
                name = f"operations.{name}" if name.isidentifier() else f'operations."{name}"'
            case "endpoint" | "operation":
                name = "operation_per_second"
            case "account":
                name = "connected_account_per_second"
            case _:
                name = f"{what}_per_second"
        return f"[platforms.{self.name}.limits] {name}"

    def refused(self, reason: str, used: tuple[Budget, ...]) -> tuple[Budget, ...]:
        """Return the budgets to slow down after a 429 with this `Stripe-Rate-Limited-Reason`.

        *used*: what the call drew on, in any order. See `REFUSED`. There are several where a call draws on the budgets
        of its operation and of its resource: workers that know only one of them must slow down too.
        """
        drawn = {budget.scope for budget in used}
        meant = next(scopes for beginning, scopes in REFUSED if reason.startswith(beginning))
        slowed = next(scope for scope in meant if scope in drawn)
        return tuple(budget for budget in used if budget.scope == slowed)

    def _endpoints(self, endpoint: str, creates_account: bool) -> Iterator[Budget]:
        """Yield the budgets of *endpoint*, and of account creation."""
        by, resource = self.platform.limits.by, resource_of(endpoint)
        operations = operations_of(endpoint) or (() if endpoint == resource else (endpoint,))
        if by != "operation" or not operations:
            yield self.resource(resource)
        if by != "resource":
            yield from (self.operation(name) for name in operations if name != NEW_ACCOUNT)
        if creates_account:
            yield self.account_creation

    def _budget(self, what: str, per_second: float, scope: BudgetScope, counted: str = "") -> Budget:
        """*counted*: the operation, the resource, or `global`, as the setting `in_flight` names it."""
        limits = self.platform.limits
        in_flight = limits.in_flight.get(counted) or limits.in_flight.get(resource_of(counted), 0)
        return Budget(f"{self.name}:{what}", per_second * (1 - limits.reserved), limits.burst, in_flight, scope)
