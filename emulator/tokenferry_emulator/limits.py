"""Rate limits: token buckets per account, per endpoint and for account creation.

An endpoint is one operation: a method and a path, whatever ids stand in it (docs.stripe.com/rate-limits). Account
creation is an operation with a rate of its own.

The platform is always charged; a call for a connected account is charged to that account as well. A refused call
costs nothing, and no bucket is charged unless all of them have room.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenferry_emulator.authentication import KeyScope
from tokenferry_emulator.errors import Refusal, invalid
from tokenferry_emulator.settings import Rates


@dataclass(slots=True)
class Bucket:
    """Room for *room* more calls at the second *at*."""

    room: float
    at: float

    def refill(self, now: float, rate: float, burst: float) -> bool:
        """Bring the room up to *now*; true if one call fits."""
        self.room = min(burst, self.room + max(0.0, now - self.at) * rate)
        self.at = now
        return self.room >= 1.0 - 1e-9


class RateLimiter:
    """Lets calls pass, or says why not. *clock* gives seconds that never go back."""

    def __init__(self, rates: Rates, clock: Callable[[], float]) -> None:
        self.rates = rates
        self._clock = clock
        self._buckets: dict[tuple[Any, ...], Bucket] = {}
        self._answering: dict[tuple[str, bool], int] = {}

    def set(self, rates: Rates) -> None:
        """Set new rates, with full buckets."""
        self.rates = rates
        self._buckets.clear()

    def admit(self, scope: KeyScope, endpoint: str, *, creates_account: bool = False) -> str | None:
        """Return why the call may not pass, or None."""
        rates = self.rates
        if rates.concurrency is not None and self._answering.get(scope[:2], 0) >= rates.concurrency:
            return "global-concurrency"
        now, counted = self._clock(), endpoint if rates.count_by == "operation" else resource_of(endpoint)
        of_its_own = rates.account_creation_rate if creates_account else None
        endpoint_rate = rates.by_endpoint.get(endpoint, rates.endpoint_rate)
        charged: list[Bucket] = []
        for owner in {scope, scope.platform}:
            for reason, rate, name in (
                ("global-rate", rates.global_rate, ""),
                ("endpoint-rate", None if of_its_own and rates.count_by == "operation" else endpoint_rate, counted),
                ("endpoint-rate", of_its_own, "account creation"),
            ):
                if rate is None:
                    continue
                bucket = self._buckets.setdefault((owner, name), Bucket(max(1.0, rates.burst), now))
                if not bucket.refill(now, rate, max(1.0, rates.burst)):
                    return reason
                charged.append(bucket)
        for bucket in charged:
            bucket.room -= 1.0
        return None

    def enter(self, scope: KeyScope) -> None:
        self._answering[scope[:2]] = self._answering.get(scope[:2], 0) + 1

    def leave(self, scope: KeyScope) -> None:
        self._answering[scope[:2]] -= 1


def resource_of(operation: str) -> str:
    """Return the resource of an operation: the names in its path that are no actions.

    >>> resource_of("POST /v1/customers/:id/sources"), resource_of("POST /v1/payment_intents/:id/confirm")
    ('customers/sources', 'payment_intents')
    """
    names = operation.split("/")[2::2]
    return "/".join(name for name in names if name not in ("attach", "confirm"))


def rate_limited(reason: str, *, live: bool) -> Refusal:
    message = "Request rate limit exceeded."
    if not live:
        message = (
            "Testmode request rate limit exceeded, the rate limits in testmode are lower than livemode. You can learn "
            "more about rate limits here https://stripe.com/docs/rate-limits."
        )
    return invalid(
        message, status=429, code="rate_limit", headers=((b"stripe-rate-limited-reason", reason.encode("ascii")),)
    )
