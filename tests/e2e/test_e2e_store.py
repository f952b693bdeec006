"""The store dies, or forgets everything, in the middle of work that the broker holds safely elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import redis
from e2e import cargo
from e2e.house import House, until

from tokenferry import Order
from tokenferry.broker import embedded
from tokenferry.contract.targets import CustomerCreate

REQUESTS = 200


@pytest.mark.parametrize("house", ["rabbitmq"], indirect=True)
def test_a_store_that_is_killed_and_one_that_is_wiped_cost_no_request_no_token_and_no_use_too_many(
    house: House,
) -> None:
    house.fresh()
    route, data = house.route(), Path(house.folder / "data")
    with house.working(processes=2) as worker:
        request_ids = house.send(
            Order(
                cargo.card(at), platform="main", reply_to=route.name, attach=CustomerCreate() if at % 4 == 0 else None
            )
            for at in range(REQUESTS)
        )
        until(lambda: house.ledger()["tokens_created"] >= 30, "the first tokens")
        os.kill(int((data / "valkey.pid").read_text()), 9)  # the worker starts it again
        until(lambda: house.ledger()["tokens_created"] >= 90, "tokens after the store was back")
        redis.Redis.from_url(embedded.ensure(data).redis_url).flushall()
        route.gather(REQUESTS, seconds=60.0)
        house.until_all_is_done()
        assert "store: away" in worker.said()
        assert "store: back" in worker.said()
        assert "Traceback" not in worker.said()
    outcomes, book = route.of(request_ids), house.ledger()
    assert all(result.ok for result in outcomes.values())
    assert all(house.tokens_of(request_id) == [outcomes[request_id].token] for request_id in request_ids)
    assert book["uses"]["tokens_used_more_than_once"] == []
    assert book["uses"]["total"] == book["objects"]["customer"] == REQUESTS / 4
