"""A key or account is refused, or nobody is answered: calls stop, nothing is lost, and nobody else is slower."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner
from e2e.cargo import bank_account, card, pii
from e2e.house import ENDPOINT_KEYS, House, Route, least, until

from tokenferry import Order, TokenRequest
from tokenferry.cli import main
from tokenferry.contract.targets import CustomerCreate

pytestmark = pytest.mark.any_broker

MAIN_KEY, PACED_KEY = ENDPOINT_KEYS["TF_SECRET"], ENDPOINT_KEYS["TF_PACED"]


def reject(house: House, *what: str) -> None:
    assert house.http.post("/_keys", json={"reject": what}).status_code == 200


def accept(house: House, *what: str) -> None:
    assert house.http.post("/_keys", json={"accept": what}).status_code == 200


def circuits(house: House, *arguments: str) -> str:
    """What `tokenferry circuits` prints."""
    command = ["circuits", *arguments, "--config", str(house.folder / "tokenferry.toml")]
    done = CliRunner().invoke(main, command, env=ENDPOINT_KEYS)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def open_circuits(house: House) -> dict[str, Any]:
    return {row["scope"]: row for row in json.loads(circuits(house, "--json"))}


def calls(house: House) -> int:
    """How many calls of any kind have reached the endpoint."""
    return int(house.ledger()["calls"]["total"])


def orders(requests: list[TokenRequest], route: Route, platform: str, account: str | None = None) -> list[Order]:
    return [Order(each, platform=platform, reply_to=route.name, connected_account=account) for each in requests]


def seconds_for(house: House, sent: list[Order], route: Route) -> float:
    """Send, and wait for a token for each."""
    began = time.monotonic()
    ids = house.send(sent)
    route.gather(len(ids), 60.0)
    assert all(result.ok for result in route.of(ids).values())
    return time.monotonic() - began


def assert_as_fast(house: House, requests: Sequence[TokenRequest], usual: float, account: str | None = None) -> None:
    """They take no longer than *usual*: seconds."""

    def measure() -> float:
        route = house.route()
        return seconds_for(house, orders(list(requests), route, "paced", account), route)

    good = 1.2 * usual + 1.0
    assert least(measure, good) <= good


def alarms(said: str, scope: str) -> int:
    return said.count(f"circuit '{scope}' is open")


def account_of(house: House, key: str) -> str:
    answer = house.http.post("/v1/accounts", data={"type": "custom"}, headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def nothing_was_given_up(house: House) -> bool:
    return house.broker.take("dead-letters") == [] == house.broker.take("quarantine")


def test_a_key_revoked_in_mid_flight_stops_all_calls_but_a_probe_and_costs_no_request(house: House) -> None:
    route = house.route()
    with house.working(processes=2) as worker:
        ids = house.send(orders([card(n) for n in range(120)], route, "paced"))
        until(lambda: route.look() >= 15, "the first results")
        reject(house, PACED_KEY)
        time.sleep(1.0)
        stopped_at, before = time.monotonic(), calls(house)
        until(lambda: calls(house) > before, "a probe", 30.0)
        time.sleep(max(0.0, stopped_at + 7.0 - time.monotonic()))
        assert calls(house) - before <= 2
        done = route.look()
        assert done < 120
        assert all(result.ok for result in route.results.values())
        assert open_circuits(house)["paced"]["status"] == 401
        assert "Put an accepted key where [platforms.paced] secret_key points" in circuits(house)
        assert alarms(worker.said(), "paced") == 1
        accept(house, PACED_KEY)
        circuits(house, "close", "paced")
        route.gather(120)
        assert all(result.ok for result in route.of(ids).values())
        assert all(len(house.tokens_of(id_)) == 1 for id_ in ids)
        assert open_circuits(house) == {}
        assert worker.said().count("circuit 'paced' is closed") == 1
        house.until_all_is_done()
    assert nothing_was_given_up(house)


def test_a_circuit_closes_by_itself_after_the_cure(house: House) -> None:
    route = house.route()
    with house.working() as worker:
        reject(house, MAIN_KEY)
        ids = house.send(orders([card(n) for n in range(20)], route, "main"))
        until(lambda: alarms(worker.said(), "main"), "the alarm")
        accept(house, MAIN_KEY)
        route.gather(20, 60.0)
        assert all(result.ok for result in route.of(ids).values())


def test_a_platform_with_a_refused_key_never_slows_another(house: House) -> None:
    refused, alone = house.route(), house.route()
    with house.working():
        usual = seconds_for(house, orders([card(n) for n in range(50)], alone, "paced"), alone)
        reject(house, MAIN_KEY)
        ids = house.send(orders([card(n) for n in range(150)], refused, "main"))
        assert_as_fast(house, [card(n) for n in range(50)], usual)
        accept(house, MAIN_KEY)
        circuits(house, "close", "main")
        refused.gather(150)
        assert all(result.ok for result in refused.of(ids).values())


def test_while_card_numbers_are_refused_everything_else_goes_on_at_full_rate(house: House) -> None:
    cards, alone = house.route(), house.route()
    others: list[TokenRequest] = [pii(), bank_account()] * 25
    with house.working() as worker:
        usual = seconds_for(house, orders(others, alone, "paced"), alone)
        reject(house, "raw_cards")
        ids = house.send(orders([card(n) for n in range(75)], cards, "paced"))
        assert_as_fast(house, others, usual)
        until(lambda: house.broker.unfinished() == 0, "work queues without a card")
        row = open_circuits(house)["paced/kind/card"]
        assert row["parked"] >= 74  # one may be on its way to probe
        assert "raw card data" in row["cure"]
        assert cards.look() == 0
        accept(house, "raw_cards")
        circuits(house, "close", "paced/kind/card")
        cards.gather(75)
        assert all(result.ok for result in cards.of(ids).values())
        assert all(len(house.tokens_of(id_)) == 1 for id_ in ids)
        assert alarms(worker.said(), "paced/kind/card") == 1
        house.until_all_is_done()
    assert nothing_was_given_up(house)


def test_a_refused_connected_account_never_slows_another(house: House) -> None:
    refused, alone = house.route(), house.route()
    a, b = account_of(house, PACED_KEY), account_of(house, PACED_KEY)
    of_b = [card(n) for n in range(50)]
    with house.working() as worker:
        usual = seconds_for(house, orders(list(of_b), alone, "paced", b), alone)
        reject(house, a)
        ids = house.send(orders([card(n) for n in range(100)], refused, "paced", a))
        assert_as_fast(house, list(of_b), usual, b)
        until(lambda: house.broker.unfinished() == 0, "work queues without requests of the account")
        assert open_circuits(house)[f"paced/account/{a}"]["parked"] >= 99
        accept(house, a)
        circuits(house, "close", f"paced/account/{a}")
        refused.gather(100)
        assert all(result.ok for result in refused.of(ids).values())
        assert alarms(worker.said(), f"paced/account/{a}") == 1
        house.until_all_is_done()
    assert nothing_was_given_up(house)


def test_orders_to_spend_the_tokens_of_a_refused_account_are_kept_and_spent_once_after_the_cure(house: House) -> None:
    refused, beside = house.route(), house.route()
    account = account_of(house, MAIN_KEY)
    spending = [Order(card(n), platform="main", reply_to=refused.name, connected_account=account) for n in range(20)]
    ids = house.send(replace(order, attach=CustomerCreate()) for order in spending)
    with house.working(role="tokenize"):
        until(lambda: house.ledger()["tokens_created"] == 20, "the tokens")
    reject(house, account)
    with house.working(role="attach", config="attach.toml") as worker, house.working(role="tokenize"):
        others = house.send(replace(order, attach=CustomerCreate()) for order in orders([card()] * 20, beside, "main"))
        beside.gather(20)
        assert all(result.ok for result in beside.of(others).values())
        until(lambda: house.broker.unfinished() == 0, "work queues without orders of the account")
        assert refused.look() == 0
        accept(house, account)
        circuits(house, "close", f"main/account/{account}")
        refused.gather(20)
        assert all(result.ok for result in refused.of(ids).values())
        assert alarms(worker.said(), f"main/account/{account}") == 1
    assert house.ledger()["uses"]["tokens_used_more_than_once"] == []
    assert nothing_was_given_up(house)


def test_an_outage_fails_no_request_and_everything_goes_on_once_after_it(house: House) -> None:
    """Half of the calls take effect, and only their answer is lost."""
    route = house.route()
    rows = [Order(card(n), platform="main", reply_to=route.name) for n in range(40)]
    with house.working(processes=2) as worker:
        house.http.post("/_faults", json={"error_503": 0.5, "reset_after": 0.5})
        began = time.monotonic()
        ids = house.send(row if at % 2 else replace(row, attach=CustomerCreate()) for at, row in enumerate(rows))
        until(lambda: alarms(worker.said(), "main/outage"), "the alarm")
        until(lambda: open_circuits(house)["main/outage"]["probes"] >= 1, "a probe that fails")
        assert (open_circuits(house)["main/outage"]["status"]) in (0, 503)
        assert "Stripe answers nobody" in circuits(house)
        before = calls(house)
        time.sleep(max(0.0, began + 10.0 - time.monotonic()))
        assert calls(house) - before <= 2, "calls stop"
        assert route.look() == 0
        house.http.delete("/_faults")
        circuits(house, "close", "main/outage")
        route.gather(40)
        house.until_all_is_done()
        said = worker.said()
    assert all(result.ok for result in route.of(ids).values())
    assert all(len(house.tokens_of(id_)) == 1 for id_ in ids)
    book = house.ledger()
    assert (book["tokens_created"], book["objects"]["customer"], book["uses"]["total"]) == (40, 20, 20)
    assert book["uses"]["tokens_used_more_than_once"] == []
    assert (alarms(said, "main/outage"), said.count("circuit 'main/outage' is closed")) == (1, 1)
    assert "answers nobody: " in said
    assert nothing_was_given_up(house)


def test_an_address_that_is_not_the_endpoints_is_said_with_its_cure_and_fails_no_request(house: House) -> None:
    route = house.route()
    wrong = house.configure("wrong.toml", endpoint=f"{house.endpoint}/elsewhere")
    with house.working(config=wrong.name) as worker:
        assert "what answers at base_url is not Stripe (404); requests will wait" in worker.said()
        ids = house.send(orders([card(n) for n in range(5)], route, "main"))
        until(lambda: alarms(worker.said(), "main"), "the alarm")
        assert open_circuits(house)["main"]["code"] == "not_the_endpoint"
        assert "base_url (it does not end in /v1)" in circuits(house)
        assert route.look() == 0
    with house.working():
        route.gather(5)
        assert all(result.ok for result in route.of(ids).values())
        house.until_all_is_done()
    assert open_circuits(house) == {}
    assert nothing_was_given_up(house)
