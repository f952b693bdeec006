"""Workers die in every way there is; requests do not."""

from __future__ import annotations

import os
import signal

from e2e import cargo
from e2e.house import House, Route, is_alive, until

from tokenferry import Order
from tokenferry.contract.targets import CustomerCreate

REQUESTS = 200


def send_a_load(house: House, route: Route) -> list[str]:
    """Enough for seconds of work: every fourth token is to be spent, the rest is only made."""
    return house.send(
        Order(cargo.card(at), platform="main", reply_to=route.name, attach=None if at % 4 else CustomerCreate())
        for at in range(REQUESTS)
    )


def until_made(house: House, tokens: int) -> None:
    until(lambda: house.ledger()["tokens_created"] >= tokens, f"{tokens} tokens")


def assert_one_outcome_and_one_token_each(house: House, route: Route, request_ids: list[str]) -> None:
    route.gather(REQUESTS, seconds=40.0)
    house.until_all_is_done()
    route.look()
    outcomes = route.of(request_ids)
    assert all(result.ok for result in outcomes.values())
    for at, request_id in enumerate(request_ids):
        assert outcomes[request_id].type == ("token" if at % 4 else "attach")
        assert house.tokens_of(request_id) == [outcomes[request_id].token]
    book = house.ledger()
    assert book["tokens_created"] == REQUESTS
    assert book["tokens_by_idempotency_key"]["max"] == 1
    assert book["uses"]["tokens_used_more_than_once"] == []
    assert book["uses"]["total"] == book["objects"]["customer"] == REQUESTS // 4
    assert house.broker.take("dead-letters") == []
    assert house.broker.take("quarantine") == []


def test_sigkill_in_mid_flight_loses_nothing_and_makes_nothing_twice(house: House) -> None:
    route = house.route()
    request_ids = send_a_load(house, route)
    for tokens in (30, 80):
        worker = house.worker(processes=2)
        until_made(house, tokens)
        worker.kill()
    with house.working(processes=2) as worker:
        until_made(house, 120)
        victim = worker.children()[0]
        os.kill(victim, signal.SIGKILL)
        until(lambda: worker.is_ready(3), "the successor of one killed process")
        assert f"(pid {victim}) ended with -9; starting another" in worker.said()
        assert_one_outcome_and_one_token_each(house, route, request_ids)
        assert len(worker.children()) == 2


def test_stopping_in_the_middle_of_work_is_orderly_and_loses_nothing(house: House) -> None:
    route = house.route()
    request_ids = send_a_load(house, route)
    for tokens, number in ((30, signal.SIGTERM), (80, signal.SIGINT)):
        worker = house.worker()
        until_made(house, tokens)
        assert worker.stop(number, seconds=20.0) == 0, worker.said()
    orphaned = house.worker(processes=2)
    children = orphaned.children()
    until_made(house, 130)
    orphaned.process.kill()
    orphaned.process.wait(30)
    until(lambda: not any(map(is_alive, children)), "the end of processes without a supervisor", 60.0)
    with house.working(processes=2):
        assert_one_outcome_and_one_token_each(house, route, request_ids)
