"""An endpoint that fails in every way, and one that counts every call: both get what they are owed."""

from __future__ import annotations

import json
import threading
import time

import pytest
from e2e import cargo
from e2e.house import PACE, House, until

from tokenferry import Order
from tokenferry.contract.targets import CustomerCreate

pytestmark = pytest.mark.any_broker

FAULTS = (
    "rate_429_global",
    "rate_429_endpoint",
    "lock_timeout",
    "error_502_html",
    "error_502_html_after",
    "error_503",
    "reset_before",
    "reset_after",
    "reset_mid_body",
    "truncated_json",
    "empty_200",
    "not_a_token_200",
)
FORGIVEN = (5 - 2) / PACE
"""Seconds by which calls may bunch: the endpoint takes 5 at once, of which pacing itself uses 2."""
STORED = 2
"""Requests whose first call is answered with a 500 that the endpoint keeps and repeats under the same key."""


def script(path: str, faults: tuple[str, ...], times: int) -> dict[str, object]:
    """The next calls of *path* get these faults."""
    return {"script": [{"kind": kind, "times": times, "path": path} for kind in faults]}


def test_a_failing_endpoint_costs_time_and_never_a_second_outcome_token_or_use(house: House) -> None:
    route = house.route()

    def send(count: int) -> list[str]:
        return house.send(
            Order(cargo.card(at), platform="main", reply_to=route.name, attach=None if at % 2 else CustomerCreate())
            for at in range(count)
        )

    request_ids = send(STORED)
    house.http.post("/_faults", json=script("/v1/tokens", ("error_500",), STORED))
    with house.working(processes=2):
        until(lambda: house.ledger()["faults"].get("error_500", 0) >= STORED, "the stored errors")
        for kind in FAULTS:
            # One after the other: more than three at once without an answer between them would be an outage.
            house.http.post("/_faults", json=script("/v1/tokens", (kind,), 3))
            house.http.post("/_faults", json=script("/v1/customers", (kind,), 1))
            request_ids += send(8)
            route.gather(len(request_ids), seconds=60.0)
        # And at last a use whose answer is a stored 500: whether it took place, nobody can say.
        house.http.post("/_faults", json=script("/v1/customers", ("error_500",), 1))
        doubtful = send(1)
        route.gather(len(request_ids) + 1, seconds=40.0)
        house.until_all_is_done()
    book, outcomes = house.ledger(), route.of(request_ids + doubtful)
    assert sum(book["faults"].values()) == 4 * len(FAULTS) + STORED + 1, "every fault took place"
    (failed,) = [result for result in outcomes.values() if not result.ok]
    assert failed.request_id == doubtful[0]
    assert failed.failure is not None
    assert failed.failure.code == "outcome_unknown"
    assert book["tokens_by_idempotency_key"]["max"] == 1
    for request_id, result in outcomes.items():
        generations = [house.tokens_of(request_id, epoch) for epoch in range(3)]
        made = [token for tokens in generations for token in tokens]
        assert result.token == made[-1]
        assert len(made) == (2 if request_id in request_ids[:STORED] else 1), "a second token only after a stored 500"
    uses = sum(result.type == "attach" for result in outcomes.values())
    assert book["uses"]["tokens_used_more_than_once"] == []
    assert book["uses"]["total"] == book["objects"]["customer"] == uses
    (kept,) = map(json.loads, house.broker.take("dead-letters"))
    assert kept["reason"] == "outcome_unknown", "somebody must look: the order is kept"
    assert [attempt["status"] for attempt in kept["history"]] == [500] * failed.failure.attempts


class Stalls(threading.Thread):
    """Notes the longest time in which this machine let nobody run: calls sent apart then arrive together."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.longest = 0.0
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            before = time.monotonic()
            time.sleep(0.005)
            self.longest = max(self.longest, time.monotonic() - before)

    def __enter__(self) -> Stalls:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def measured(house: House, seconds: float) -> tuple[float, int, float]:
    """Utilisation of the rate by two processes after the first second, refused calls, and the longest stall."""
    house.fresh()
    house.http.post("/_limits", json={"endpoint_rate": PACE, "burst": 5})
    route = house.route()
    request_ids = house.send(cargo.cards(int(PACE * (seconds + 2)), route.name, platform="paced"))

    def calls() -> int:
        return int(house.ledger()["calls"]["total"])

    with house.working(processes=2):
        until(lambda: calls() > PACE, "the first second")
        with Stalls() as stalls:
            began, at_first = time.monotonic(), calls()
            time.sleep(seconds)  # the rate is measured over this time
            took, made = time.monotonic() - began, calls() - at_first
            route.gather(len(request_ids))
        house.until_all_is_done()
    assert all(result.ok for result in route.of(request_ids).values())
    return made / (took * PACE), house.ledger()["rate_limited"], stalls.longest


def test_the_whole_fleet_keeps_the_rate_and_wastes_none_of_it(house: House) -> None:
    for _ in range(3):
        utilisation, refused, stall = measured(house, seconds=8.0)
        if refused and stall < FORGIVEN / 2:
            break  # else the machine itself stood still for so long that the calls must have arrived in a heap
        if not refused and 0.95 <= utilisation <= 1.03:
            break  # else it stood still while we measured
    assert refused == 0
    assert 0.95 <= utilisation <= 1.03, f"{utilisation:.1%} of the rate"
