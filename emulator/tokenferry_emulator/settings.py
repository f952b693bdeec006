"""The settings of one run of the emulator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Rates:
    """Limits in calls per second; `None` means no limit. The provider's documented test mode numbers are 25/25/5.

    In any window of one second at most `rate + burst` calls pass a bucket.
    """

    global_rate: float | None = None
    endpoint_rate: float | None = None
    account_creation_rate: float | None = None
    burst: float = 5.0
    concurrency: int | None = None
    """Calls of one account answered at the same time; above it the answer is 429 `global-concurrency`."""
    by_endpoint: dict[str, float] = field(default_factory=dict)
    """Endpoint name (as "POST /v1/tokens") to its own rate, instead of `endpoint_rate`."""
    count_by: Literal["operation", "resource"] = "operation"
    """What is one endpoint: one operation, as the provider documents it, or all operations of one resource."""


@dataclass(frozen=True)
class Settings:
    """Everything that differs between two runs. Times are milliseconds where the name says so."""

    rates: Rates = field(default_factory=Rates)
    latency_ms: float = 0.0
    sampled_latency: bool = False
    """Sample the latencies measured on the real endpoint in test mode instead of a fixed one."""
    connect_latency_ms: float = 0.0
    """Added to every write below /v1/accounts, which are slow on the real endpoint."""
    lock_timeout_ms: float = 5000.0
    """How long a write waits for another write on the same object before 429 `lock_timeout`."""
    faults: dict[str, float] = field(default_factory=dict)
    """Probability of each fault kind, 0 to 1, see `faults.KINDS`."""
    seed: int = 0
    """Seeds faults and sampled latencies, never ids."""
    keys: frozenset[str] = frozenset()
    """Accept only these keys; empty accepts every key of a known shape."""
    connected_accounts: tuple[str, ...] = ()
    """Connected accounts there are from the start; the first platform to name one owns it."""
    raw_cards: bool = True
    """Whether raw card numbers are allowed (a key containing "noraw" never may)."""
    v1_accounts: bool = True
    """Whether platforms may create v1 accounts (a key containing "nov1" never may). Stripe's new platforms may not."""
    decline_consumes: bool = True
    """Not documented by the provider: whether a declined attach or charge spends the token."""
    show_used: bool = True
    """Not documented by the provider: whether GET shows `used: true` after the consumption."""
    token_lifetime: float | None = None
    """Seconds after which an unused token is unknown; None keeps it for ever (the provider documents no lifetime)."""
    hang_seconds: float = 120.0
    """Seconds a "hang" fault holds the connection before closing it."""
