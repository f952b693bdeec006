"""Which budgets a call draws on, and which of them a refusal slows down."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tokenferry.configuration import LimitSettings, Platform
from tokenferry.configuration.platforms import By
from tokenferry.contract.operations import OPERATIONS, operation_of
from tokenferry.contract.targets import (
    TARGETS,
    AccountCreate,
    AccountUpdate,
    Charge,
    CustomerCreate,
    CustomerSource,
    CustomerUpdate,
    ExternalAccount,
    PaymentIntent,
    PaymentIntentConfirm,
    PaymentMethod,
    PersonCreate,
    PersonUpdate,
    Source,
    Target,
    Topup,
)
from tokenferry_worker.limits.backpressure import all_slots, slots_of
from tokenferry_worker.limits.budgets import Budgets
from tokenferry_worker.limits.pacing import Budget
from tokenferry_worker.on_redis.controls import Controls
from tokenferry_worker.on_redis.limiter import RedisLimiter
from tokenferry_worker.on_redis.store import Store


def counted(by: By, **limits: Any) -> Budgets:
    return Budgets("main", Platform(limits=LimitSettings(by=by, connected_account_per_second=5.0, **limits)))


WAYS: dict[By, tuple[str, ...]] = {
    "resource": ("main:endpoint:tokens",),
    "both": ("main:endpoint:tokens", "main:operation:POST /v1/tokens"),
    "operation": ("main:operation:POST /v1/tokens",),
}


def used_by(budgets: Budgets, call: str) -> tuple[Budget, ...]:
    match call:
        case "a token":
            return budgets.tokens()
        case "a token for an account":
            return budgets.tokens("acct_1")
        case "an account":
            return budgets.spending(AccountCreate())
        case _:
            return budgets.spending(AccountCreate(), "acct_1")


CALLS = ("a token", "a token for an account", "an account", "an account for an account")


def meant(reason: str, call: str, by: By) -> tuple[str, ...]:
    """The budgets that *reason* slows down."""
    if reason.startswith("global"):
        return ("main:global",)
    by_account = reason in ("account-rate", "connected-account-rate") or (
        reason == "resource-specific" and call == "a token for an account"
    )
    if by_account and call.endswith("for an account"):
        return ("main:account:acct_1",)
    return WAYS[by] if call.startswith("a token") else ("main:account_creation",)


@pytest.mark.parametrize("by", WAYS)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "reason",
    [
        "global-rate",
        "global-concurrency",
        "endpoint-rate",
        "endpoint-concurrency",
        "a-word-of-next-year",
        "",
        "account-rate",
        "connected-account-rate",
        "resource-specific",
    ],
)
def test_a_refusal_slows_the_budgets_that_its_reason_means(reason: str, call: str, by: By) -> None:
    budgets = counted(by)
    used = list(used_by(budgets, call))
    random.Random(reason + call).shuffle(used)  # the order in which a call draws on its budgets means nothing
    assert sorted(budget.name for budget in budgets.refused(reason, tuple(used))) == sorted(meant(reason, call, by))


EXAMPLES: tuple[Target, ...] = (
    CustomerCreate(),
    CustomerUpdate(customer="cus_1", may_collect_open_invoices=True),
    CustomerSource(customer="cus_1"),
    Charge(amount=5, currency="eur"),
    PaymentMethod(customer="cus_1"),
    PaymentIntent(amount=5, currency="eur"),
    PaymentIntentConfirm(payment_intent="pi_1"),
    ExternalAccount(account="acct_1"),
    AccountCreate(),
    AccountUpdate(account="acct_1"),
    PersonCreate(account="acct_1"),
    PersonUpdate(account="acct_1", person="person_1"),
    Topup(amount=5, currency="usd"),
    Source(type="card"),
)


def test_every_call_that_spends_a_token_is_an_operation_of_its_resource() -> None:
    assert {target.to for target in EXAMPLES} == set(TARGETS)
    for target in EXAMPLES:
        operation = operation_of("POST", target.path())
        assert OPERATIONS[operation] == target.endpoint()
    follow_up = PaymentMethod(customer="cus_1").follow_up("pm_1")
    assert follow_up is not None
    assert operation_of("POST", follow_up.path) in OPERATIONS


def names(budgets: tuple[Budget, ...]) -> list[str]:
    return [budget.name.removeprefix("main:") for budget in budgets]


def test_creating_and_updating_draw_on_one_budget_by_resource_and_on_two_by_operation() -> None:
    create, update = EXAMPLES[:2]
    assert names(counted("resource").spending(create)) == names(counted("resource").spending(update))
    drawn = names(counted("operation").spending(create)), names(counted("operation").spending(update))
    assert drawn == (
        ["global", "operation:POST /v1/customers"],
        ["global", "operation:POST /v1/customers/{id}"],
    )


@pytest.mark.parametrize("target", EXAMPLES, ids=lambda target: target.to)
def test_by_both_a_call_shares_a_budget_with_workers_of_either_kind(target: Target) -> None:
    """So no way of counting ever allows more calls than its own budgets, while a fleet is rolled."""
    both = set(names(counted("both").spending(target)))
    assert set(names(counted("resource").spending(target))) <= both
    assert set(names(counted("operation").spending(target))) <= both


def test_creating_an_account_has_its_own_rate_and_no_other_by_operation() -> None:
    """Stripe grants 30 account creations a second in live mode, more than the 25 of every other operation."""
    live = Budgets("main", Platform(mode="live", limits=LimitSettings(by="operation")))
    assert [(each.name, each.per_second) for each in live.spending(AccountCreate())] == [
        ("main:global", 100.0),
        ("main:account_creation", 30.0),
    ]


def test_a_rate_is_of_one_operation_or_of_every_operation_of_a_resource() -> None:
    given = {"POST /v1/customers": 50, "payment_methods": 10}
    budgets = counted("operation", operations=given, in_flight={"customers": 4, "POST /v1/customers/{id}": 2})
    rates = {
        budget.name.removeprefix("main:operation:"): (budget.per_second, budget.in_flight) for budget in budgets.all()
    }
    assert rates["POST /v1/customers"] == (50.0, 4)
    assert rates["POST /v1/customers/{id}"] == (25.0, 2)
    assert rates["POST /v1/payment_methods/{id}/attach"] == (10.0, 0)


def test_an_application_that_names_a_resource_draws_on_all_its_operations() -> None:
    assert names(counted("operation").of("customers")) == [
        "global",
        "operation:POST /v1/customers",
        "operation:POST /v1/customers/{id}",
    ]
    assert names(counted("operation").of("GET /v1/invoices/{id}")) == ["global", "operation:GET /v1/invoices/{id}"]
    assert names(counted("operation").of("invoices")) == ["global", "endpoint:invoices"]


def test_a_slot_that_a_worker_with_another_setting_took_is_released_too() -> None:
    for target in EXAMPLES:
        released = {slot.name for slot in all_slots(counted("operation"), target)}
        for by in WAYS:
            assert {slot.name for slot in slots_of(counted(by), target, "bulk", lifetime=600.0)} <= released
    for by in WAYS:
        taken = {slot.name for target in EXAMPLES for slot in slots_of(counted(by), target, "bulk", lifetime=600.0)}
        assert taken <= {slot.name for slot in all_slots(counted("operation"))}


async def shares(store: Store, *budgets: Budget) -> list[float]:
    return [(await Controls(store).look(budget)).factor for budget in budgets]


@pytest.mark.anyio
@pytest.mark.parametrize("by", ["resource", "operation"])
async def test_an_endpoint_that_refuses_one_account_is_slowed_for_every_account(store: Store, by: By) -> None:
    budgets = counted(by)
    one, other = ({budget.scope: budget for budget in budgets.tokens(account)} for account in ("acct_1", "acct_2"))
    for budget in budgets.refused("endpoint-rate", tuple(one.values())):
        await RedisLimiter(store).back_off(budget, 0.25)
    assert await shares(store, other["endpoint"], one["connected_account"], one["platform"]) == [0.93, 1.0, 1.0]
    for budget in budgets.refused("resource-specific", tuple(one.values())):
        await RedisLimiter(store).back_off(budget, 0.25)
    assert await shares(store, one["connected_account"], other["connected_account"]) == [0.93, 1.0]
