"""What an order says about its token, as the ledger and Stripe need it. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.target import Target, TargetCall
from tokenferry.contract.targets import digest
from tokenferry_worker.circuits.scopes import CallScope
from tokenferry_worker.limits.pacing import Budget
from tokenferry_worker.provider.platforms import PlatformContext, mode_of
from tokenferry_worker.tokens.grouped_ids import GroupedId
from tokenferry_worker.tokens.ledger import TokenScope


@dataclass(frozen=True)
class SpendPlan:
    """One order, ready to be carried out. Nothing of it changes while the order waits."""

    platform: PlatformContext
    order: AttachRequest
    call: TargetCall
    token_scope: TokenScope
    call_scope: CallScope
    budgets: tuple[Budget, ...]
    journaled: bool
    """True if the order has an entry in the journal of orders. Steps of an onboarding have none."""
    was_recorded: bool
    """True if the ledger must have had a record of the token. If it has none, the store was wiped."""

    def key(self, step: str) -> str:
        """The idempotency key of one of its calls."""
        return idempotency_key(self.order, step)


def plan_of(platform: PlatformContext, order: AttachRequest, *, journaled: bool, was_recorded: bool) -> SpendPlan:
    """Build the plan, the whole call included: nothing about the target can go wrong once the token is in hand.

    Raises `InvalidTarget`.
    """
    target, account = order.target, order.connected_account
    return SpendPlan(
        platform=platform,
        order=order,
        call=target.call(order.token, order.kind),
        token_scope=scope_of(platform, order),
        call_scope=CallScope(
            platform.name, target.endpoint(), connected_account=account, named_account=named_account(target)
        ),
        budgets=platform.budgets.spending(target, account),
        journaled=journaled,
        was_recorded=was_recorded,
    )


def begin_before(order: AttachRequest, made_at: int | None) -> float:
    """Unix seconds after which no first call begins.

    The ledger may know that the token is older than the order says: *made_at*, in Unix milliseconds.
    """
    older = 0 if made_at is None else max(0, order.token_created_at - made_at)
    return (order.attach_before - older) / 1000


def named_account(target: Target) -> str | None:
    """The connected account in the path of a call for *target*."""
    return getattr(target, "account", None)


def scope_of(platform: PlatformContext, order: AttachRequest) -> TokenScope:
    """To whom the token must belong, so that this order may spend it.

    The platform may put an account's own tokens into that account's external accounts (recorded, not documented).
    """
    account = order.connected_account or ""
    may_be_of_account = order.kind in ("card", "bank_account") and not account
    also = (named_account(order.target) or "") if may_be_of_account else ""
    return TokenScope(platform.name, mode_of(platform), account, order.kind, also)


def name_of(order: AttachRequest) -> GroupedId:
    """Return the attach id in its group."""
    return GroupedId(order.attach_id, order.group, order.generation)


def fingerprint(order: AttachRequest) -> str:
    """A digest of what an attach id stands for.

    An order of the pipeline has the id of its request, and may come with a newer token.
    """
    token = "" if order.attach_id == order.request_id else order.token
    named = (order.platform, order.connected_account or "", order.kind, digest(order.target), token)
    return hashlib.sha256("|".join(named).encode()).hexdigest()[:40]


def idempotency_key(order: AttachRequest, step: str) -> str:
    """Derived from token and target: the same order of a group repeats it, whatever message it comes in."""
    both = f"{order.token}|{order.connected_account}|{digest(order.target)}"
    if not name_of(order).is_as_before:
        both = f"{order.group}\n{both}"
    return f"tokenferry:attach:{hashlib.sha256(both.encode()).hexdigest()[:40]}:{step}"
