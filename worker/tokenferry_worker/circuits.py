"""What a refusal of the account or its key shuts off, and what somebody should do about it. Pure.

A *scope* is what one refusal speaks for; as long as its circuit is open, no call that depends on it is made:

    main                      the platform: 401 (its key), 3xx (its base_url)
    main/endpoint/customers   one endpoint: 403 without a connected account (a permission of the key)
    main/account/acct_1       one connected account: 403 with it
    main/kind/card            one kind of token: 402 (raw card data), or the publishable key that makes it is refused

Where the path names an account, a 403 speaks for nothing but this one call: see `is_its_own`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenferry.contract.requests import Kind
from tokenferry_worker.errors import Blocked, TokenferryError


@dataclass(frozen=True)
class About:
    """What one call depends on besides its own content."""

    platform: str
    endpoint: str
    kind: Kind | None = None
    """Of the token it makes; None where it spends one."""
    connected_account: str | None = None
    publishable: bool = False
    """Whether it is made with the publishable key: then neither key says anything of the other."""
    named_account: str | None = None
    """The one its path names."""


@dataclass(frozen=True)
class Circuit:
    """An open circuit, as the whole fleet knows it."""

    scope: str
    status: int
    code: str
    request_id: str
    """The endpoint's own id of the refused call; empty where it named none."""
    opened_at: float
    """Unix seconds of the server's clock."""
    probes: int
    due_in: float
    """Seconds until one call may try whether it is mended; none or less: now."""


@dataclass(frozen=True)
class Board:
    """Every open circuit by scope, and how often a message of a scope was parked since its queue was last empty."""

    open: dict[str, Circuit] = field(default_factory=dict)
    parked: dict[str, int] = field(default_factory=dict)


class Park(TokenferryError):
    """A circuit is open that holds up few requests of many: this one is to wait elsewhere."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"the circuit '{scope}' is open")
        self.scope = scope


def scopes_of(about: About) -> tuple[str, ...]:
    """Every scope the call depends on, the widest first.

    >>> scopes_of(About("main", "tokens", "card"))
    ('main', 'main/endpoint/tokens', 'main/kind/card')
    """
    platform = about.platform
    scopes: tuple[str, ...] = () if about.publishable else (platform, f"{platform}/endpoint/{about.endpoint}")
    if about.connected_account is not None:
        scopes += (f"{platform}/account/{about.connected_account}",)
    return (*scopes, f"{platform}/kind/{about.kind}") if about.kind is not None else scopes


def scope_of(error: Blocked, about: About) -> str:
    """Which of its scopes a refused call speaks for.

    >>> scope_of(Blocked(401, "unauthorized"), About("main", "tokens", "card", "acct_1"))
    'main'
    """
    if error.status == 403 and about.connected_account is not None:
        return f"{about.platform}/account/{about.connected_account}"
    if about.kind is not None and (error.status == 402 or about.publishable):
        return f"{about.platform}/kind/{about.kind}"
    return f"{about.platform}/endpoint/{about.endpoint}" if error.status in (402, 403) else about.platform


def is_its_own(error: Blocked, about: About) -> bool:
    """Whether a refusal says something of this call alone: the account in its path does not take it, or is not ours.

    The next call names another account. The endpoint says the same of a key without permission, and does not tell the
    two apart; to hold up every account because of one would be worse than to refuse each of them.

    >>> is_its_own(Blocked(403, "account_invalid"), About("main", "persons", named_account="acct_1"))
    True
    """
    return error.status == 403 and about.named_account is not None and about.connected_account is None


def parks(scope: str) -> bool:
    """Whether requests of an open *scope* leave their queue, because others behind them can go on."""
    return "/" in scope and not scope.endswith("/endpoint/tokens")


def cure(scope: str, status: int) -> str:
    """What the operator should do, in one sentence."""
    platform, _, narrow = scope.partition("/")
    what, _, name = narrow.partition("/")
    match what:
        case "account":
            return f"Let {name} connect to the platform's account again, or send nothing more for it."
        case "endpoint":
            return f"Give the key of [platforms.{platform}] the permission to write {name.replace('_', ' ')}."
        case "kind" if status == 402:
            return f"Ask the provider to enable raw card data for the account of [platforms.{platform}]."
        case "kind":
            return f"Put an accepted key where [platforms.{platform}] publishable_key points, and restart the workers."
        case _ if 300 <= status < 400:
            return f"Correct [platforms.{platform}] base_url, which is not the endpoint's, and restart the workers."
        case _:
            return f"Put an accepted key where [platforms.{platform}] secret_key points, and restart the workers."
