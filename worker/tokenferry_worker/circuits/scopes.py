"""What a refusal or an outage stops, and what somebody should do about it. Pure.

A *scope* names the calls that one refusal concerns. As long as its circuit is open, none of these calls is made:

    main/outage               the platform: Stripe answers nobody
    main/outage/customers     one path: no call of it is answered, though others are
    main                      the platform: 401 (its key), 3xx or an answer of something else (its base_url)
    main/endpoint/customers   one path: 403 without a connected account (a permission of the key)
    main/account/acct_1       one connected account: 403 with it
    main/kind/card            one kind of token: 402 (raw card data), or the publishable key that makes it is refused

Where the path names an account, a 403 concerns this one call only: see `concerns_this_call_only`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from tokenferry.contract.codes import Code
from tokenferry.contract.requests import Kind
from tokenferry_worker.errors import Blocked, TokenferryError

OUTAGE: Final = "outage"
"""The part of a scope that marks an outage, as opposed to a refusal."""


@dataclass(frozen=True)
class CallScope:
    """What one call depends on besides its own content."""

    platform: str
    endpoint: str
    kind: Kind | None = None
    """Of the token that it makes. None where it spends one."""
    connected_account: str | None = None
    publishable: bool = False
    """True if it is made with the publishable key. A refusal of one key proves nothing about the other."""
    named_account: str | None = None
    """The connected account in its path."""


@dataclass(frozen=True)
class Circuit:
    """An open circuit, as the whole fleet knows it."""

    scope: str
    status: int
    code: str
    request_id: str
    """Stripe's own id of the refused call. Empty where it named none."""
    opened_at: float
    """Unix seconds of the server's clock."""
    probes: int
    due_in: float
    """Seconds until one call may probe it. 0.0 or less: now."""


@dataclass(frozen=True)
class CircuitSnapshot:
    """Every open circuit by scope, and how many messages were parked for a scope since its queue was last empty."""

    open: dict[str, Circuit] = field(default_factory=dict)
    parked: dict[str, int] = field(default_factory=dict)


class Park(TokenferryError):
    """A circuit is open that concerns few requests of many: this one should wait in a queue of its own."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"the circuit '{scope}' is open")
        self.scope = scope


def scopes_of(about: CallScope) -> tuple[str, ...]:
    """Return every scope that the call depends on, the widest first.

    >>> scopes_of(CallScope("main", "tokens", "card"))
    ('main/outage', 'main/outage/tokens', 'main', 'main/endpoint/tokens', 'main/kind/card')
    """
    platform = about.platform
    scopes: tuple[str, ...] = (outage_of(platform), outage_of(platform, about.endpoint))
    if not about.publishable:
        scopes += (platform, f"{platform}/endpoint/{about.endpoint}")
    if about.connected_account is not None:
        scopes += (f"{platform}/account/{about.connected_account}",)
    return (*scopes, f"{platform}/kind/{about.kind}") if about.kind is not None else scopes


def outage_of(platform: str, endpoint: str | None = None) -> str:
    """Return the scope of an outage: of the platform, or of one path (*endpoint*) alone.

    >>> outage_of("main"), outage_of("main", "customers")
    ('main/outage', 'main/outage/customers')
    """
    return f"{platform}/{OUTAGE}" if endpoint is None else f"{platform}/{OUTAGE}/{endpoint}"


def is_outage(scope: str) -> bool:
    """True for the scope of an outage: any answer at all closes its circuit."""
    return scope.split("/")[1:2] == [OUTAGE]


def is_elsewhere(error: Blocked) -> bool:
    """True if something else than Stripe refused the call: base_url or a proxy is wrong, not a key."""
    return error.code == Code.NOT_THE_ENDPOINT or error.status not in (401, 402, 403)


def scope_of(error: Blocked, about: CallScope) -> str:
    """Return the scope that the refusal of a call concerns.

    >>> scope_of(Blocked(401, "unauthorized"), CallScope("main", "tokens", "card", "acct_1"))
    'main'
    """
    if is_elsewhere(error) and not about.publishable:
        return about.platform
    if error.status == 403 and about.connected_account is not None:
        return f"{about.platform}/account/{about.connected_account}"
    if about.kind is not None and (error.status == 402 or about.publishable):
        return f"{about.platform}/kind/{about.kind}"
    return f"{about.platform}/endpoint/{about.endpoint}" if error.status in (402, 403) else about.platform


def concerns_this_call_only(error: Blocked, about: CallScope) -> bool:
    """True if a refusal concerns this call alone: the account in its path does not take it, or is not connected.

    The next call names another account. Stripe gives the same answer where the key lacks the permission, so the two
    cannot be told apart. To hold up every account because of one would be worse than to refuse each of them.

    >>> concerns_this_call_only(Blocked(403, "account_invalid"), CallScope("main", "persons", named_account="acct_1"))
    True
    """
    named_alone = about.named_account is not None and about.connected_account is None
    return error.status == 403 and named_alone and not is_elsewhere(error)


def parks(scope: str) -> bool:
    """True if requests of an open *scope* leave their queue, because others behind them can go on."""
    _, _, narrow = scope.partition("/")
    what, _, name = narrow.partition("/")
    return bool(name) and not (what in ("endpoint", OUTAGE) and name == "tokens")


def plainly(scope: str, status: int, code: str) -> str:
    """Return what an open circuit means, for a person.

    >>> plainly("main/outage", 503, "no_answer"), plainly("main/outage/customers", 0, "no_answer")
    ('Stripe answers nobody (503)', 'Stripe answers no call of customers (no connection, or no answer)')
    >>> plainly("main", 404, "not_the_endpoint"), plainly("main", 401, "unauthorized")
    ('what answers at base_url is not Stripe (404)', '401 unauthorized')
    """
    if is_outage(scope):
        _, _, endpoint = scope.split("/", 1)[1].partition("/")
        whom = f"no call of {endpoint.replace('_', ' ')}" if endpoint else "nobody"
        return f"Stripe answers {whom} ({status or 'no connection, or no answer'})"
    if code == Code.CERTIFICATE_NOT_TRUSTED:
        return "the certificate of what answers at base_url does not verify"
    if code == Code.NOT_THE_ENDPOINT:
        return f"what answers at base_url is not Stripe ({status})"
    return f"{status} {code}"


def counted(statuses: Counter[int]) -> str:
    """Return the failed calls by status, most first, for a person.

    >>> counted(Counter({503: 12, 0: 3}))
    '503 12 times, no answer 3 times'
    """
    return ", ".join(f"{status or 'no answer'} {times} times" for status, times in statuses.most_common(5))


def remedy(scope: str, status: int, code: str = "") -> str:
    """Return what the operator should do, in one sentence."""
    platform, _, narrow = scope.partition("/")
    what, _, name = narrow.partition("/")
    elsewhere = code == Code.NOT_THE_ENDPOINT or 300 <= status < 400
    match what:
        case "" | "kind" if code == Code.CERTIFICATE_NOT_TRUSTED:
            return (
                f"Find out who answers at [platforms.{platform}] base_url: an attacker, or a proxy of your own that "
                "opens TLS. Only for the latter name its authority in [worker] ca_file. Check this machine's clock."
            )
        case "outage" if name:
            return f"Look at Stripe's status page for {name.replace('_', ' ')}; requests go on by themselves."
        case "outage":
            return (
                f"Look at Stripe's status page, then at network, DNS, proxy and [platforms.{platform}] base_url; "
                "requests go on by themselves."
            )
        case "" | "kind" if elsewhere:
            return (
                f"Correct [platforms.{platform}] base_url (it does not end in /v1) or the proxy before it, so that "
                "Stripe itself answers, and restart the workers."
            )
        case "account":
            return f"Let {name} connect to the platform's account again, or send nothing more for it."
        case "endpoint":
            return f"Give the key of [platforms.{platform}] the permission to write {name.replace('_', ' ')}."
        case "kind" if status == 402:
            return f"Ask Stripe to enable raw card data for the account of [platforms.{platform}]."
        case "kind":
            return f"Put an accepted key where [platforms.{platform}] publishable_key points, and restart the workers."
        case _:
            return f"Put an accepted key where [platforms.{platform}] secret_key points, and restart the workers."
