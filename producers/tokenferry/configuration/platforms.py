"""The platforms of `tokenferry.toml`: one Stripe account in one mode each, its keys and its limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from tokenferry.addresses import checked_endpoint
from tokenferry.configuration.sections import SecretReference, Section
from tokenferry.contract.names import Name
from tokenferry.contract.targets import ENDPOINTS

PerSecond = Annotated[float, Field(gt=0, le=100_000)]


class LimitSettings(Section):
    """Calls per second that Stripe allows the account. Not set: the documented default of the mode.

    Live: 100 in all, 25 per resource, 30 account creations. Test: 25, 25 and 5 (docs.stripe.com/rate-limits).
    """

    global_per_second: PerSecond | None = None
    endpoint_per_second: PerSecond | None = None
    account_creation_per_second: PerSecond | None = None
    connected_account_per_second: PerSecond | None = None
    """Calls for each connected account. Not set: there is no budget per connected account."""
    endpoints: dict[Name, PerSecond] = Field(default_factory=dict)
    """Rates of single resources: tokens, customers, payment_methods, accounts, ..."""
    in_flight: dict[Name, Annotated[int, Field(ge=1, le=10_000)]] = Field(default_factory=dict)
    """Calls of the whole fleet that may be under way at the same time, by resource, or `global`.

    Not set: as many as the rate and the latency make. Writes to one object are always one at a time.
    """
    reserved: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    """Share of every budget that is left to other applications."""
    burst: Annotated[int, Field(ge=1, le=100)] = 3
    """Calls that may follow each other at once after a pause. The last of them is kept for the realtime lane.

    Even pacing needs two; more only make up for moments in which no worker was ready to call.
    """

    @field_validator("endpoints", "in_flight")
    @classmethod
    def _known(cls, given: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        known = ENDPOINTS | ({"global"} if info.field_name == "in_flight" else set())
        if unknown := sorted(set(given) - known):
            raise ValueError(f"there is no endpoint {', '.join(unknown)}; known are {', '.join(sorted(known))}")
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

    def endpoint_per_second(self, endpoint: str) -> float:
        """Calls per second to one resource, `tokens` for instance."""
        return self.limits.endpoints.get(endpoint) or self.limits.endpoint_per_second or 25.0

    @property
    def account_creation_per_second(self) -> float:
        """Calls per second of `POST /v1/accounts`."""
        return self.limits.account_creation_per_second or (30.0 if self.live else 5.0)
