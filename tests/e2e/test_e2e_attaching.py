"""Tokens between being made and being spent: never too many, never too old, never in doubt for longer than a look."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from e2e.cargo import bank_account, card
from e2e.house import House, Worker, until

from tokenferry import Order
from tokenferry.contract.results import AttachResult, TokenResult
from tokenferry.contract.targets import CustomerCreate, CustomerSource

pytestmark = pytest.mark.any_broker


def configured(house: House, name: str, *, keys: bool = True, **lines: str) -> str:
    """A configuration of this house in which some lines are others; *keys*: also those a tokenize worker needs."""
    base: Path = house.folder / ("tokenferry.toml" if keys else "attach.toml")
    text = base.read_text()
    for section, line in lines.items():
        heading = {"worker": "[worker]\n", "limits": "[platforms.main.limits]\n"}[section]
        assert heading in text
        text = text.replace(heading, heading + line + "\n")
    (house.folder / name).write_text(text)
    return name


def attach_worker(house: House, config: str) -> Worker:
    return house.worker(role="attach", config=config)


def test_while_nothing_is_spent_tokens_are_made_up_to_a_limit_and_then_all_of_them_are_spent_fresh(
    house: House,
) -> None:
    route, lifetime = house.route(), "token_lifetime = 60"
    slow = configured(house, "slow.toml", worker=lifetime, limits="endpoints = { customers = 1 }")
    fast = configured(house, "fast.toml", keys=False, worker=lifetime)
    orders = [Order(card(at), platform="main", reply_to=route.name, attach=CustomerCreate()) for at in range(50)]
    house.worker(role="tokenize", processes=2, config=slow)
    request_ids = house.send([*orders, Order(card(), platform="main", reply_to=route.name)])
    route.gather(1)  # what is only tokenized passes those that wait, and came after all of them
    until(lambda: house.ledger()["tokens_created"] >= 31, "as many tokens as can be spent in half a lifetime")
    assert house.ledger()["tokens_created"] == 31
    attach_worker(house, fast)
    route.gather(51)
    assert all(result.ok for result in route.of(request_ids).values())
    book = house.ledger()
    assert (book["tokens_created"], book["uses"]["total"], book["uses"]["max_per_token"]) == (51, 50, 1)


def test_with_nothing_spent_for_two_lifetimes_of_a_token_no_more_tokens_are_made_and_then_all_are_spent(
    house: House,
) -> None:
    route, lifetime = house.route(), "token_lifetime = 4"
    slow = configured(house, "idle.toml", worker=lifetime, limits="endpoints = { customers = 5 }")
    orders = [Order(card(at), platform="main", reply_to=route.name, attach=CustomerCreate()) for at in range(20)]
    house.worker(role="tokenize", config=slow)
    request_ids = house.send(orders)
    until(lambda: house.ledger()["tokens_created"] >= 10, "as many tokens as can be spent in half a lifetime")
    later = time.monotonic() + 9.0
    until(lambda: time.monotonic() > later, "the end of two lifetimes")
    assert house.ledger()["tokens_created"] == 10
    attach_worker(house, configured(house, "idle-attach.toml", keys=False, worker=lifetime))
    route.gather(20, seconds=60.0)
    assert all(result.ok for result in route.of(request_ids).values())
    assert (house.ledger()["uses"]["total"], house.ledger()["uses"]["max_per_token"]) == (20, 1)


def test_tokens_that_got_too_old_are_made_anew_and_each_request_is_spent_once(house: House) -> None:
    route = house.route()
    config = configured(house, "short.toml", worker="token_lifetime = 4")
    orders = [Order(card(at), platform="main", reply_to=route.name, attach=CustomerCreate()) for at in range(10)]
    house.worker(role="tokenize", config=config)
    request_ids = house.send(orders)
    until(lambda: house.ledger()["tokens_created"] == 10, "the first tokens")
    old = time.monotonic() + 4.5
    until(lambda: time.monotonic() > old, "the end of their life")
    attach_worker(house, configured(house, "short-attach.toml", keys=False, worker="token_lifetime = 4"))
    route.gather(10, seconds=60.0)
    results = route.of(request_ids)
    assert all(result.ok for result in results.values())
    for request_id, result in results.items():
        assert isinstance(result, AttachResult)
        assert result.token not in house.tokens_of(request_id, epoch=0)
    book = house.ledger()
    assert book["tokens_by_idempotency_key"]["max"] == 1
    assert (book["uses"]["total"], book["objects"]["customer"], book["uses"]["max_per_token"]) == (10, 10, 1)
    assert house.broker.take("dead-letters") == []


def test_who_waits_for_an_attach_does_not_wait_for_an_import(house: House) -> None:
    route, person = house.route(), house.route()
    config = configured(house, "lanes.toml", limits="endpoints = { customers = 5 }")
    with house.working(config=config):
        house.send(Order(card(at), platform="main", reply_to=route.name, attach=CustomerCreate()) for at in range(60))
        until(lambda: house.ledger()["tokens_created"] >= 60, "the tokens of the import")
        house.send([Order(card(), platform="main", lane="realtime", reply_to=person.name, attach=CustomerCreate())])
        (result,) = person.gather(1)
        assert result.ok
        assert route.look() < 60
        route.gather(60, seconds=60.0)


def test_a_stored_500_behind_which_the_call_had_its_effect_is_seen_through(house: House) -> None:
    route = house.route()
    customers = [house.make("/v1/customers") for _ in range(2)]
    lost = [{"kind": "error_500", "path": f"/v1/customers/{each}/sources", "method": "POST"} for each in customers]
    assert house.http.post("/_faults", json={"script": lost}).status_code == 200
    with house.working():
        request_ids = house.send(
            Order(request, platform="main", reply_to=route.name, attach=CustomerSource(customer=customer))
            for request, customer in zip((card(), bank_account()), customers, strict=True)
        )
        route.gather(2, seconds=60.0)
    for result, customer in zip(map(route.of(request_ids).get, request_ids), customers, strict=True):
        assert isinstance(result, AttachResult)
        assert result.ok
        there = house.http.get(
            f"/v1/customers/{customer}/sources/{result.object_id}", headers={"authorization": "Bearer sk_test_alpha"}
        )
        assert (there.status_code, there.json()["id"]) == (200, result.stored_id)
    book = house.ledger()
    assert (book["uses"]["total"], book["uses"]["max_per_token"]) == (2, 1)
    assert house.broker.take("dead-letters") == []


def test_what_the_requester_hears_of_an_order_that_cannot_be_carried_out(house: House) -> None:
    route = house.route()
    with house.working():
        (made,) = house.send([Order(card(), platform="main", reply_to=route.name)])
        route.gather(1)
        token = route.of([made])[made]
        assert isinstance(token, TokenResult)
        nowhere = CustomerSource(customer="cus_nobody")
        (nobody,) = house.send([Order(card(), platform="main", reply_to=route.name, attach=nowhere)])
        elsewhere = token.model_copy(update={"platform": "paced"})
        other = token.model_copy(update={"kind": "bank_account"})
        source = CustomerSource(customer=house.make("/v1/customers"))
        foreign = house.producer.attach(elsewhere, source, reply_to=route.name)
        mistaken = house.producer.attach(other, source, reply_to=route.name)
        route.gather(4)
        spent = house.producer.attach(token, source, reply_to=route.name)
        route.gather(5)
        too_late = house.producer.attach(token, CustomerCreate(), reply_to=route.name)
        route.gather(6)
    heard = {result.attach_id: result for result in route.results.values() if isinstance(result, AttachResult)}
    why = {id_: result.failure for id_, result in heard.items()}
    told = {id_: (failure.source, failure.code, failure.status) if failure else None for id_, failure in why.items()}
    assert told == {
        nobody: ("endpoint", "resource_missing", 404),
        foreign: ("tokenferry", "token_of_another_platform", None),
        mistaken: ("tokenferry", "token_of_another_kind", None),
        spent: None,
        too_late: ("tokenferry", "token_spent", None),
    }
    assert (why[too_late].spent_by, why[too_late].spent_on) == (spent, heard[spent].object_id)  # type: ignore[union-attr]
    assert house.ledger()["uses"]["total"] == 1
