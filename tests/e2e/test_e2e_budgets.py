"""Budgets as the endpoint counts them: a mix of operations is as fast as it allows, and nothing is refused."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest
from e2e.cargo import card
from e2e.house import House, least, until

from tokenferry import Order
from tokenferry.configuration.platforms import By
from tokenferry.contract.targets import CustomerCreate, CustomerUpdate

CALLS = 60
LIVE = {"global_rate": 100, "endpoint_rate": 25, "burst": 5, "count_by": "operation"}
"""What Stripe allows in live mode, per second (docs.stripe.com/rate-limits)."""
ONE_BUDGET = (CALLS - 3) / 25
"""Seconds that all calls take out of one budget of 25 per second, with a burst of 3."""


def configured(house: House, by: By) -> str:
    """Write the configuration of an attach worker at live limits; its name."""
    text = (house.folder / "attach.toml").read_text()
    text = text.replace("global_per_second = 400", f'by = "{by}"\nglobal_per_second = 100')
    (house.folder / f"{by}.toml").write_text(text.replace("endpoint_per_second = 100", "operation_per_second = 25"))
    return f"{by}.toml"


def seconds_to_spend(house: House, *workers: By) -> float:
    """Spend tokens that are there already, half of them on new customers and half on customers that exist.

    Attach *workers* spend them, which count in these ways. None of their calls is refused.
    """
    house.fresh()
    customers = [house.make("/v1/customers") for _ in range(CALLS // 2)]
    route = house.route()
    with house.working(role="tokenize"):
        house.send(
            Order(card(), platform="main", reply_to=route.name, attach=target)
            for customer in customers
            for target in (CustomerCreate(), CustomerUpdate(customer=customer, may_collect_open_invoices=True))
        )
        until(lambda: house.ledger()["tokens_created"] == CALLS, "every token")
    assert house.http.post("/_limits", json=LIVE).status_code == 200

    def spent() -> int:
        return int(house.ledger()["uses"]["total"])

    with ExitStack() as working:
        for by in workers:
            working.enter_context(house.working(role="attach", config=configured(house, by)))
        until(lambda: spent() > 0, "the first use")
        began, already = time.monotonic(), spent()
        until(lambda: spent() == CALLS, "the last use")
        took = (time.monotonic() - began) * CALLS / (CALLS - already)
        route.gather(CALLS)
    assert house.ledger()["rate_limited"] == 0
    return took


@pytest.mark.parametrize("house", ["embedded"], indirect=True)
def test_creates_and_updates_are_nearly_twice_as_fast_by_operation_and_never_refused(house: House) -> None:
    by_resource = seconds_to_spend(house, "resource")
    by_operation = least(lambda: seconds_to_spend(house, "operation"), by_resource / 1.8)
    assert by_resource / by_operation >= 1.8


@pytest.mark.parametrize("house", ["embedded"], indirect=True)
def test_a_fleet_that_is_rolled_to_the_way_through_both_is_never_refused(house: House) -> None:
    assert seconds_to_spend(house, "resource", "both") >= 0.9 * ONE_BUDGET
    seconds_to_spend(house, "both", "operation")
