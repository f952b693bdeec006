"""What an order says of its token, in the words of the ledger and of the endpoint. Pure."""

from __future__ import annotations

import hashlib

from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.target import Target
from tokenferry.contract.targets import digest
from tokenferry_worker.provider.platforms import PlatformContext, mode_of
from tokenferry_worker.tokens.ledger import Claim, TokenScope


def begin_before(request: AttachRequest, claim: Claim) -> float:
    """Unix seconds after which no first call is begun.

    The ledger may know the token to be older than its order says.
    """
    older = 0 if claim.made_at is None else max(0, request.token_created_at - claim.made_at)
    return (request.attach_before - older) / 1000


def named_account(target: Target) -> str | None:
    """The connected account in the path of a call for *target*."""
    return getattr(target, "account", None)


def scope_of(platform: PlatformContext, request: AttachRequest) -> TokenScope:
    """What the token must be, to be spent by this order.

    An account's own tokens go into its external accounts in the platform's name too (recorded, not documented).
    """
    account = request.connected_account or ""
    of_account = request.kind in ("card", "bank_account") and not account
    also = (named_account(request.target) or "") if of_account else ""
    return TokenScope(platform.name, mode_of(platform), account, request.kind, also)


def fingerprint(request: AttachRequest) -> str:
    """What an attach id stands for. An order of the pipeline has its request's id, and may come with a newer token."""
    token = "" if request.attach_id == request.request_id else request.token
    named = (request.platform, request.connected_account or "", request.kind, digest(request.target), token)
    return hashlib.sha256("|".join(named).encode()).hexdigest()[:40]


def idempotency_key(request: AttachRequest, step: str) -> str:
    """Derived from token and target: the same attach repeats it, in whatever message it comes."""
    both = f"{request.token}|{request.connected_account}|{digest(request.target)}"
    return f"tokenferry:attach:{hashlib.sha256(both.encode()).hexdigest()[:40]}:{step}"
