"""What one known producer can do to another: only what the policy grants it, from the next second on."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from e2e import cargo
from e2e.house import House, until

from tokenferry import AttachResult, Order, Producer, TokenResult, onboarding_from
from tokenferry.contract.targets import Charge, CustomerCreate, CustomerSource, PaymentIntent, Target
from tokenferry_worker.commands.dead_letters import dead_letters
from tokenferry_worker.commands.health import health
from tokenferry_worker.commands.keys import keys
from tokenferry_worker.commands.signers import signers

embedded = pytest.mark.parametrize("house", ["embedded"], indirect=True)
on_each_kind = pytest.mark.parametrize("house", ["embedded", "rabbitmq"], indirect=True)

DOCUMENT = {
    "reference": "seller-7",
    "account": {"country": "US", "type": "custom", "capabilities": {"transfers": {"requested": True}}},
    "external_accounts": [
        {
            "bank_account": {
                "country": "US",
                "currency": "usd",
                "account_number": "000123456789",
                "routing_number": "110000000",
            }
        }
    ],
}
TAKES_WITHIN = 5.0
"""Seconds until every process must know a change."""


def run(house: House, command: Any, *words: str) -> tuple[int, str]:
    """Run a command as a person would; exit code and what it says."""
    done = CliRunner().invoke(command, [*words, "--config", str(house.folder / "tokenferry.toml")])
    return done.exit_code, done.output


class Second:
    """Another producer with keys of its own, and with as much as the policy says."""

    def __init__(self, house: House, name: str) -> None:
        self.house, self.name = house, name
        folder = house.folder / name
        CliRunner().invoke(keys, ["generate", "--out", str(folder)], catch_exceptions=False)
        (self.key,) = (folder / "signers").glob("producer-*.pem")
        paths = f'recipient = "keys/recipient.pem"\nproducer_signing_key = "{name}/producer.pem"'
        self.producer = Producer(house.configure(f"{name}.toml", keys=paths))

    def let_in(self, *options: str) -> None:
        code, said = run(self.house, signers, "add", str(self.key), "--name", self.name, *options)
        assert code == 0, said

    @property
    def file(self) -> Path:
        (file,) = (self.house.folder / "keys" / "signers").glob(f"*{self.key.stem.removeprefix('producer-')}.pem")
        return file


@pytest.fixture
def second(house: House, request: pytest.FixtureRequest) -> Iterator[Second]:
    producer = Second(house, f"second-{abs(hash(request.node.name)) % 10_000_000}")
    yield producer
    producer.producer.close()


def letters(house: House) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(house, dead_letters, "list", "--json")[1].splitlines()]


def calls(house: House) -> int:
    return int(house.ledger()["tokens_created"])


REFUSED: list[tuple[str, Callable[[Producer, str], object]]] = [
    ("platforms", lambda p, to: p.send(cargo.card(), platform="paced", reply_to=to)),
    ("kinds", lambda p, to: p.send(cargo.bank_account(), platform="main", reply_to=to)),
    (
        "connected_accounts",
        lambda p, to: p.send(cargo.card(), platform="main", reply_to=to, connected_account="acct_1"),
    ),
    ("lanes", lambda p, to: p.send(cargo.card(), platform="main", reply_to=to, lane="realtime")),
    ("targets.charge", lambda p, to: p.send(cargo.card(), platform="main", reply_to=to, attach=charge(1))),
    (
        "targets.payment_intent.max_amount",
        lambda p, to: p.send(cargo.card(), platform="main", reply_to=to, attach=payment(9_900)),
    ),
    (
        "targets.customer_source.destinations",
        lambda p, to: p.send(cargo.card(), platform="main", reply_to=to, attach=CustomerSource(customer="cus_theirs")),
    ),
    ("roles.onboard", lambda p, to: p.onboard(onboarding_from(DOCUMENT), platform="main", reply_to=to)),
]


def payment(amount: int) -> Target:
    return PaymentIntent(amount=amount, currency="usd")


def charge(amount: int) -> Target:
    return Charge(amount=amount, currency="usd")


@on_each_kind
def test_a_producer_gets_only_what_is_granted_and_nothing_is_called_for_the_rest(house: House, second: Second) -> None:
    limits = ["--platform", "main", "--kind", "card", "--lane", "bulk", "--target", "customer_create"]
    second.let_in("--role", "seal", *limits, "--connected-account", "acct_ours", "--reply-route", "second-*")
    for more in (
        ("--target", "payment_intent", "--max-amount", "usd=500"),
        ("--target", "customer_source", "--destination", "cus_ours"),
    ):
        assert run(house, signers, "grant", second.name, *more)[0] == 0
    theirs, own = house.route(), f"second-{house.route().name}"
    route = type(theirs)(house.broker, own)
    with house.working():
        before = house.ledger()["calls"]["total"]
        for _, ask in REFUSED:
            ask(second.producer, own)
        until(lambda: len(route.look_at_all()) >= len(REFUSED), "a refusal of each")
        second.producer.send(cargo.card(), platform="main", reply_to=theirs.name)
        until(lambda: len(letters(house)) >= len(REFUSED), "the dead letters")
        house.until_all_is_done()
        assert house.ledger()["calls"]["total"] == before
        assert theirs.look() == 0, "nobody else's route is told"
        told = {each["failure"]["param"]: each["failure"]["code"] for each in route.look_at_all()}
        assert told == {line: "not_granted" for line, _ in REFUSED}
        second.producer.send(cargo.card(), platform="main", reply_to=own, attach=CustomerCreate(email="a@example.com"))
        until(lambda: any(each["type"] == "attach" for each in route.look_at_all()), "what is granted")
    assert calls(house) == 1


@on_each_kind
def test_a_producer_orders_nothing_unless_granted_and_a_redrive_after_the_grant_works(
    house: House, second: Second
) -> None:
    second.let_in("--role", "seal")
    route = house.route()
    with house.working(processes=2):
        (made,) = house.send([Order(cargo.card(), platform="main", reply_to=route.name)])
        token = route.gather(1)[0]
        assert isinstance(token, TokenResult)
        customer = house.make("/v1/customers")
        for target in (CustomerSource(customer=customer), charge(99_900)):
            second.producer.attach(token, target, reply_to=route.name)
            house.until_all_is_done()
        route.gather(3)
        refused = [each.failure for each in route.results.values() if isinstance(each, AttachResult)]
        assert [(each.code, each.param) for each in refused if each] == [("not_granted", "roles.order")] * 2
        assert house.ledger()["uses"]["total"] == 0
        assert run(house, signers, "grant", second.name, "--role", "order")[0] == 0
        time.sleep(2.0)
        first = next(each for each in letters(house) if each["code"] == "not_granted")
        assert run(house, dead_letters, "redrive", "--id", first["id"])[0] == 0
        route.gather(4)
    assert house.ledger()["uses"] == {**house.ledger()["uses"], "total": 1, "max_per_token": 1}
    assert made == token.request_id


@embedded
def test_a_removed_signer_is_refused_by_every_process_within_seconds(house: House, second: Second) -> None:
    second.let_in("--role", "seal")
    route = house.route()
    with house.working(processes=2):
        list(second.producer.send_many(Order(cargo.card(), platform="main", reply_to=route.name) for _ in range(20)))
        route.gather(20)
        second.file.unlink()
        time.sleep(TAKES_WITHIN)
        before = calls(house)
        list(second.producer.send_many(Order(cargo.card(), platform="main", reply_to=route.name) for _ in range(40)))
        house.until_all_is_done()
        assert (calls(house), route.look()) == (before, 20)
        (served,) = house.send([Order(cargo.card(), platform="main", reply_to=route.name)])
        route.gather(21)
    assert served


@embedded
def test_a_revoked_signer_is_refused_by_every_process_within_seconds(house: House, second: Second) -> None:
    second.let_in("--role", "seal")
    route = house.route()
    with house.working(processes=2):
        list(second.producer.send_many(Order(cargo.card(), platform="main", reply_to=route.name) for _ in range(20)))
        route.gather(20)
        assert run(house, signers, "revoke", second.name)[0] == 0
        time.sleep(TAKES_WITHIN)
        before = calls(house)
        list(second.producer.send_many(Order(cargo.card(), platform="main", reply_to=route.name) for _ in range(40)))
        route.gather(60)
    assert calls(house) == before


@embedded
def test_an_unreadable_policy_leaves_the_last_good_one_and_health_says_so(house: House) -> None:
    route, policy = house.route(), house.folder / "keys" / "policy.toml"
    good = policy.read_text()
    with house.working() as worker:
        try:
            policy.write_text("signers = [")
            until(lambda: "is not TOML" in run(house, health)[1], "health that says so", 10.0)
            assert run(house, health)[0] == 1
            house.send([Order(cargo.card(), platform="main", reply_to=route.name)])
            assert route.gather(1)[0].ok
        finally:
            policy.write_text(good)
        until(lambda: run(house, health)[0] == 0, "health", 10.0)
    assert "the policy of before stays in force" in worker.said()


@embedded
def test_without_the_fleets_policy_a_worker_lets_nothing_in_until_it_is_there(house: House) -> None:
    route, policy = house.route(), house.folder / "keys" / "policy.toml"
    with house.working():  # the store has seen one
        house.send([Order(cargo.card(), platform="main", reply_to=route.name)])
        route.gather(1)
        time.sleep(1.5)
    away = shutil.move(policy, house.folder / "policy.away")
    try:
        with house.working():
            house.send([Order(cargo.card(), platform="main", reply_to=route.name)])
            until(lambda: "tokenferry keys generate --out DIR" in run(house, health)[1], "health that says so", 10.0)
            assert (route.look(), calls(house)) == (1, 1)
            shutil.move(away, policy)
            assert route.gather(2)[1].ok
    finally:
        if not policy.exists():
            shutil.move(away, policy)
