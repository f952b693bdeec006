"""A request of which workers die is tried so often and no more; then somebody can look into it."""

from __future__ import annotations

import json
import os
import signal

from e2e import cargo
from e2e.house import House, Worker, is_alive, until

from tokenferry import Order

DELIVERIES = 2


def calls(house: House) -> int:
    return int(house.ledger()["calls"]["by_endpoint"].get("POST /v1/tokens", 0))


def die_of_it(house: House, worker: Worker, times: int) -> None:
    """Kill the process that has the request in hand, each time the endpoint has seen its call."""
    for call in range(1, times + 1):
        until(lambda call=call: calls(house) >= call, f"call {call}", 60.0)
        (victim,) = worker.children()
        os.kill(victim, signal.SIGKILL)
        until(lambda victim=victim: not is_alive(victim), "its end")


def test_a_request_that_kills_its_worker_is_delivered_so_often_and_is_then_a_dead_letter(house: House) -> None:
    route = house.route()
    path = house.configure("poison.toml")
    # A lease that outlives a machine standing still for two seconds: else that would count as a delivery.
    text = path.read_text().replace("lease_seconds = 2.0", "lease_seconds = 4.0")
    path.write_text(text.replace("[worker]\n", f"[worker]\ndeliveries = {DELIVERIES}\n"))
    house.http.post("/_faults", json={"script": [{"kind": "hang", "times": DELIVERIES, "path": "/v1/tokens"}]})
    with house.working(config=path.name) as worker:
        (poison,) = house.send([Order(cargo.card(), platform="main", reply_to=route.name)])
        die_of_it(house, worker, DELIVERIES)
        (outcome,) = route.gather(1, seconds=60.0)
        house.until_all_is_done(60.0)
        assert outcome.failure is not None
        assert (outcome.request_id, outcome.failure.code) == (poison, "deliveries_exhausted")
        assert calls(house) == DELIVERIES, "the delivery after the last makes no call"
        healthy = house.send(cargo.cards(5, route.name))
        route.gather(1 + len(healthy), seconds=60.0)
        assert all(route.of([poison, *healthy])[request_id].ok for request_id in healthy), "nobody else is held up"
    (letter,) = house.broker.take("dead-letters")
    note = json.loads(letter)
    assert note["reason"] == "deliveries_exhausted"
    assert json.loads(note["message"])["header"]["request_id"] == poison
