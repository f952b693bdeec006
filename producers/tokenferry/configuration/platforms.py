"""The platforms of `tokenferry.toml`: one Stripe account in one mode each, its keys and its limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, ValidationInfo, field_validator, model_validator

from tokenferry.addresses import checked_endpoint
from tokenferry.configuration.sections import SecretReference, Section
from tokenferry.contract.operations import NEW_ACCOUNT, OPERATIONS, resource_of
from tokenferry.contract.targets import ENDPOINTS

PerSecond = Annotated[float, Field(gt=0, le=100_000)]
OperationName = Annotated[str, StringConstraints(max_length=64)]


By = Literal["resource", "both", "operation"]
"""What is counted as one endpoint of Stripe."""

RENAMED: Final[Mapping[str, str]] = {"endpoint_per_second": "operation_per_second", "endpoints": "operations"}
"""Names of the version before, and today's. Both are read."""


class LimitSettings(Section):
    """Calls per second that Stripe allows the account. Not set: the documented default of the mode.

    Live: 100 in all, 25 per operation, 30 account creations. Test: 25, 25 and 5 (docs.stripe.com/rate-limits).
    """

    by: By = "both"
    """What a budget counts: the calls of one operation, as Stripe does, those of one resource, as the version before
    did, or both.

    The whole fleet must share a budget to obey it. `both` shares one with workers of either kind: it is the way over
    from `resource` to `operation`, and as fast as `resource`. It is the default because workers of the version before
    may still run.
    """
    global_per_second: PerSecond | None = None
    operation_per_second: PerSecond | None = None
    account_creation_per_second: PerSecond | None = None
    connected_account_per_second: PerSecond | None = None
    """Calls for each connected account. Not set: there is no budget per connected account."""
    operations: dict[OperationName, PerSecond] = Field(default_factory=dict)
    """Rates of single operations (`POST /v1/customers`), or of every operation of a resource (`customers`)."""
    in_flight: dict[OperationName, Annotated[int, Field(ge=1, le=10_000)]] = Field(default_factory=dict)
    """Calls of the whole fleet that may be under way at the same time, by operation, resource, or `global`.

    Not set: as many as the rate and the latency make. Writes to one object are always one at a time.
    """
    reserved: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    """Share of every budget that is left to other applications."""
    burst: Annotated[int, Field(ge=1, le=100)] = 3
    """Calls that may follow each other at once after a pause. The last of them is kept for the realtime lane.

    Even pacing needs two; more only make up for moments in which no worker was ready to call.
    """

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        for old, new in RENAMED.items():
            if old in given and new in given:
                raise ValueError(f"{old} is the older name of {new}; write {new} alone")
        return {RENAMED.get(name, name): value for name, value in given.items()}

    @field_validator("operations", "in_flight")
    @classmethod
    def _known(cls, given: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        known = ENDPOINTS | set(OPERATIONS) | ({"global"} if info.field_name == "in_flight" else set())
        if unknown := sorted(set(given) - known):
            raise ValueError(f"there is no endpoint {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        if info.field_name == "operations" and NEW_ACCOUNT in given:
            raise ValueError(f"the rate of {NEW_ACCOUNT} is account_creation_per_second; write it there")
        return given


class Platform(Section):
    """One Stripe account in one mode."""

    mode: Literal["test", "live"] = "test"
    base_url: str = "https://api.stripe.com"
    """URL of Stripe, without /v1. Plain http only to this machine, with test keys."""
    secret_key: SecretReference | None = None
    """Secret or restricted key. Workers only."""
    publishable_key: SecretReference | None = None
    """Needed in live mode for account and person tokens, which cannot be made with a secret key."""
    limits: LimitSettings = LimitSettings()

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, url: str, info: ValidationInfo) -> str:
        return checked_endpoint(url, live=info.data.get("mode") == "live")

    @property
    def live(self) -> bool:
        """Whether it is about real money."""
        return self.mode == "live"

    @property
    def global_per_second(self) -> float:
        """Calls per second, all together."""
        return self.limits.global_per_second or (100.0 if self.live else 25.0)

    def operation_per_second(self, name: str) -> float:
        """Calls per second of one operation, `POST /v1/tokens` for instance, or of one resource, `tokens`."""
        given = self.limits.operations
        return given.get(name) or given.get(resource_of(name)) or self.limits.operation_per_second or 25.0

    def endpoint_per_second(self, endpoint: str) -> float:
        """The name of `operation_per_second` in the version before."""
        return self.operation_per_second(endpoint)

    def counted_by(self, by: By) -> Platform:
        """Return this platform with budgets that count in another way."""
        return self.model_copy(update={"limits": self.limits.model_copy(update={"by": by})})

    @property
    def account_creation_per_second(self) -> float:
        """Calls per second of `POST /v1/accounts`."""
        return self.limits.account_creation_per_second or (30.0 if self.live else 5.0)
