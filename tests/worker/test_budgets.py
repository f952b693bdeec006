"""Which budget a refusal slows down."""

from __future__ import annotations

import random

import pytest

from tokenferry.configuration import LimitSettings, Platform
from tokenferry.contract.targets import AccountCreate
from tokenferry_worker.limits.budgets import Budgets
from tokenferry_worker.limits.pacing import Budget
from tokenferry_worker.on_redis.controls import Controls
from tokenferry_worker.on_redis.limiter import RedisLimiter
from tokenferry_worker.on_redis.store import Store

BUDGETS = Budgets("main", Platform(limits=LimitSettings(connected_account_per_second=5.0)))
USED = {
    "a token": BUDGETS.tokens(),
    "a token for an account": BUDGETS.tokens("acct_1"),
    "an account": BUDGETS.spending(AccountCreate()),
    "an account for an account": BUDGETS.spending(AccountCreate(), "acct_1"),
}


@pytest.mark.parametrize(
    ("reason", "call", "slowed"),
    [
        *((reason, call, "main:global") for reason in ("global-rate", "global-concurrency") for call in USED),
        *(
            (reason, call, budget)
            for reason in ("endpoint-rate", "endpoint-concurrency", "a-word-of-next-year", "")
            for call, budget in {
                "a token": "main:endpoint:tokens",
                "a token for an account": "main:endpoint:tokens",
                "an account": "main:account_creation",
                "an account for an account": "main:account_creation",
            }.items()
        ),
        *(
            (reason, call, budget)
            for reason in ("account-rate", "connected-account-rate")
            for call, budget in {
                "a token": "main:endpoint:tokens",
                "a token for an account": "main:account:acct_1",
                "an account": "main:account_creation",
                "an account for an account": "main:account:acct_1",
            }.items()
        ),
        ("resource-specific", "a token", "main:endpoint:tokens"),
        ("resource-specific", "a token for an account", "main:account:acct_1"),
        ("resource-specific", "an account", "main:account_creation"),
        ("resource-specific", "an account for an account", "main:account_creation"),
    ],
)
def test_a_refusal_slows_the_budget_that_its_reason_means(reason: str, call: str, slowed: str) -> None:
    used = list(USED[call])
    random.Random(reason + call).shuffle(used)  # the order in which a call draws on its budgets means nothing
    assert BUDGETS.refused(reason, tuple(used)).name == slowed


async def shares(store: Store, *budgets: Budget) -> list[float]:
    return [(await Controls(store).look(budget)).factor for budget in budgets]


@pytest.mark.anyio
async def test_an_endpoint_that_refuses_one_account_is_slowed_for_every_account(store: Store) -> None:
    one, other = ({budget.scope: budget for budget in BUDGETS.tokens(account)} for account in ("acct_1", "acct_2"))
    await RedisLimiter(store).back_off(BUDGETS.refused("endpoint-rate", tuple(one.values())), 0.25)
    assert await shares(store, other["endpoint"], one["connected_account"], one["platform"]) == [0.93, 1.0, 1.0]
    await RedisLimiter(store).back_off(BUDGETS.refused("resource-specific", tuple(one.values())), 0.25)
    assert await shares(store, one["connected_account"], other["connected_account"]) == [0.93, 1.0]
