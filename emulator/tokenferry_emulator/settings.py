"""What one run of the emulator is told at its start."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Rates:
    """Limits in calls per second; ``None`` means no limit. The provider's documented test mode numbers are 25/25/5.

    In any window of one second at most ``rate + burst`` calls pass a bucket.
    """

    global_rate: float | None = None
    endpoint_rate: float | None = None
    account_creation_rate: float | None = None
    burst: float = 5.0
    #: calls of one account answered at the same time; above it the answer is 429 ``global-concurrency``
    concurrency: int | None = None
    #: endpoint name (as "POST /v1/tokens") to its own rate, instead of ``endpoint_rate``
    by_endpoint: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """Everything that differs between two runs. Times are milliseconds where the name says so."""

    rates: Rates = field(default_factory=Rates)
    latency_ms: float = 0.0
    #: sample the latencies measured on the real endpoint in test mode instead of a fixed one
    sampled_latency: bool = False
    #: added to every write below /v1/accounts, which are slow on the real endpoint
    connect_latency_ms: float = 0.0
    #: how long a write waits for another write on the same object before 429 ``lock_timeout``
    lock_timeout_ms: float = 5000.0
    #: probability of each fault kind, 0 to 1, see ``faults.KINDS``
    faults: dict[str, float] = field(default_factory=dict)
    #: seeds faults and sampled latencies, never ids
    seed: int = 0
    #: accept only these keys; empty accepts every key of a known shape
    keys: frozenset[str] = frozenset()
    #: connected accounts there are from the start; the first platform to name one owns it
    connected_accounts: tuple[str, ...] = ()
    #: whether raw card numbers are allowed (a key containing "noraw" never may)
    raw_cards: bool = True
    #: whether platforms may make accounts with POST /v1/accounts (a key containing "nov1" never may): new ones may not
    v1_accounts: bool = True
    #: not documented by the provider: whether a declined attach or charge spends the token
    decline_consumes: bool = True
    #: not documented by the provider: whether GET shows ``used: true`` after the consumption
    show_used: bool = True
    #: seconds after which an unused token is unknown; None keeps it for ever (the provider documents no lifetime)
    token_lifetime: float | None = None
    #: seconds a "hang" fault holds the connection before closing it
    hang_seconds: float = 120.0
