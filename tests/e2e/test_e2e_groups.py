"""The same ids in two groups are different requests, and the same id with other content is refused."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from e2e import cargo
from e2e.house import House, Route, until

from tokenferry import Order, Producer, TokenRequest, onboarding_from
from tokenferry.cli import main
from tokenferry.contract.targets import CustomerCreate
from tokenferry_worker.commands.keys import keys
from tokenferry_worker.commands.signers import signers

pytestmark = pytest.mark.parametrize(
    "house", ["embedded", pytest.param("rabbitmq", marks=pytest.mark.foreign)], indirect=True
)

PLAN = CustomerCreate(email="a@example.com")
SELLER = {
    "reference": "seller-7",
    "account": {"country": "US", "type": "custom", "capabilities": {"transfers": {"requested": True}}},
    "external_accounts": [{"bank_account": cargo.bank_account().model_dump(exclude_none=True)}],
}


def declined_card() -> TokenRequest:
    """A card of which a token can be made, and no customer."""
    return cargo.card().model_copy(update={"number": cargo.DECLINED_BY_CUSTOMERS})


class Group:
    """A producer of a group of its own, with a route of its own."""

    def __init__(self, house: House, group: str, *, version: int = 2, route: str | None = None) -> None:
        self.house = house
        name = f"{group}-{secrets.token_hex(4)}"
        folder = house.folder / name
        CliRunner().invoke(keys, ["generate", "--out", str(folder)], catch_exceptions=False)
        (key,) = (folder / "signers").glob("producer-*.pem")
        options = ["--name", name, "--group", group, "--role", "seal", "--role", "onboard", "--target", "*"]
        config = ["--config", str(house.folder / "tokenferry.toml"), "--reply-route", "*"]
        done = CliRunner().invoke(signers, ["add", str(key), *options, *config], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        own = f'recipient = "keys/recipient.pem"\nproducer_signing_key = "{name}/producer.pem"\n'
        claims = f'group = "{group}"\n' if version == 2 else ""
        says = f"[producer]\nenvelope = {version}\n{claims}"
        self.producer = Producer(house.configure(f"{name}.toml", keys=own + says))
        self.route = Route(house.broker, route or name)

    def send(self, id_: str, request: TokenRequest, *, generation: int = 1, plan: bool = True) -> None:
        order = Order(request, platform="main", request_id=id_, reply_to=self.route.name, attach=PLAN if plan else None)
        _, message = self.producer.sealer.message(order, generation=generation)
        self.producer.publisher.submit(message).result(30)

    def told(self, count: int) -> list[dict[str, Any]]:
        """Wait for *count* messages."""
        until(lambda: len(self.route.look_at_all()) >= count, f"{count} outcomes for {self.route.name}")
        return self.route.look_at_all()


@pytest.fixture
def shop(house: House) -> Iterator[Group]:
    yield from _closed(Group(house, "shop"))


@pytest.fixture
def mail(house: House) -> Iterator[Group]:
    """Its producer writes version 1, which names no group."""
    yield from _closed(Group(house, "mail", version=1))


@pytest.fixture
def old(house: House) -> Iterator[Group]:
    """The group of everything that was begun before there were groups."""
    yield from _closed(Group(house, "legacy", version=1))


def _closed(group: Group) -> Iterator[Group]:
    yield group
    group.producer.close()


def calls(house: House) -> dict[str, Any]:
    """Every call with a key, by that key."""
    found: dict[str, Any] = house.http.get("/_ledger/pages").json()["calls"]
    return found


def without(told: dict[str, Any], name: str) -> dict[str, Any]:
    return {field: value for field, value in told.items() if field != name}


def shown(house: House, *words: str) -> dict[str, str]:
    """What `tokenferry show` knows: for each group, what the id became."""
    config = ["--config", str(house.folder / "tokenferry.toml")]
    done = CliRunner().invoke(main, ["show", *words, "--json", *config], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return {story["group"]: story["ledger"]["object"] for story in json.loads(done.output)}


def failure(told: dict[str, Any]) -> tuple[str, str | None]:
    return told["failure"]["code"], told["failure"].get("param")


def test_the_same_ids_in_three_groups_share_nothing(house: House, shop: Group, mail: Group, old: Group) -> None:
    groups, ids = (shop, mail, old), sorted(f"{secrets.token_hex(4)}-{n}" for n in range(4))
    with house.working(processes=2):
        for at, group in enumerate(groups):
            for id_ in ids:
                group.send(id_, cargo.card(at))
        told = [group.told(len(ids)) for group in groups]
    for group, each in zip(groups, told, strict=True):
        assert sorted(result["request_id"] for result in each) == ids, group.route.name
        assert all(result["type"] == "attach" and result.get("failure") is None for result in each)
    everything = [result for each in told for result in each]
    assert len({result["outcome_id"] for result in everything}) == len({result["object_id"] for result in everything})
    assert len({result["object_id"] for result in everything}) == 12
    assert all(len(made) == 1 for made in calls(house).values()), "one call under each key"
    made = house.http.get("/_ledger/pages").json()["tokens"]
    assert set(made) == {
        f"tokenferry:{prefix}{id_}{suffix}:0"
        for id_ in ids
        for prefix, suffix in (("shop:", ":1"), ("mail:", ":1"), ("", ""))
    }
    objects = {
        group: next(each["object_id"] for each in answers if each["request_id"] == ids[0])
        for group, answers in zip(("shop", "mail", "legacy"), told, strict=True)
    }
    assert shown(house, ids[0]) == objects
    assert shown(house, f"mail/{ids[0]}") == {"mail": objects["mail"]}
    for group, object_id in objects.items():
        assert shown(house, object_id) == {group: object_id}


def test_another_card_under_a_known_id_is_refused_without_a_call(house: House, shop: Group) -> None:
    id_, plain = secrets.token_hex(6), f"plain-{secrets.token_hex(6)}"
    with house.working():
        shop.send(id_, cargo.card(0))
        shop.send(plain, cargo.card(0), plan=False)
        first = {each["request_id"]: each for each in shop.told(2)}
        before = house.ledger()["calls"]["total"]
        for known in (id_, plain):
            shop.send(known, cargo.card(1), plan=known == id_)
        refused = shop.told(4)[2:]
        shop.send(id_, cargo.card(0))
        shop.send(plain, cargo.card(0), plan=False)
        again = {each["request_id"]: each for each in shop.told(6)[4:]}
    assert [failure(each) for each in refused] == [("request_id_reused", "none")] * 2
    shown = json.dumps(refused)
    assert not any(each[name] in shown for each in first.values() for name in ("token", "object_id") if name in each)
    # The id of Stripe's answer is told by the delivery that got it, and no other.
    assert again == {known: without(told, "endpoint_request_id") for known, told in first.items()}
    assert house.ledger()["calls"]["total"] == before


def test_another_plan_under_a_known_id_of_version_2_is_refused(house: House, shop: Group) -> None:
    id_ = secrets.token_hex(6)
    with house.working():
        shop.send(id_, cargo.card())
        shop.told(1)
        before = house.ledger()["calls"]["total"]
        order = Order(
            cargo.card(),
            platform="main",
            request_id=id_,
            reply_to=shop.route.name,
            attach=CustomerCreate(email="b@example.com"),
        )
        shop.producer.publisher.submit(shop.producer.sealer.message(order)[1]).result(30)
        assert failure(shop.told(2)[1]) == ("request_id_reused", "none")
    assert house.ledger()["calls"]["total"] == before


def test_a_second_generation_corrects_what_was_declined_and_nothing_else(house: House, shop: Group, old: Group) -> None:
    id_ = secrets.token_hex(6)
    with house.working():
        shop.send(id_, declined_card())
        declined = shop.told(1)[0]
        assert (failure(declined)[0], declined["failure"]["source"]) == ("card_declined", "endpoint")
        shop.send(id_, cargo.card())
        assert failure(shop.told(2)[1]) == ("request_id_reused", "generation=2")
        shop.send(id_, cargo.card(), generation=3)
        assert failure(shop.told(3)[2]) == ("request_id_reused", "generation=2")
        shop.send(id_, cargo.card(), generation=2)
        made = shop.told(4)[3]
        assert (made["type"], made.get("failure")) == ("attach", None)
        assert made["outcome_id"] != declined["outcome_id"], "a reader that knows the first one takes this one, too"
        shop.send(id_, cargo.card(1), generation=3)
        assert failure(shop.told(5)[4]) == ("request_id_reused", "none")
        shop.send(id_, declined_card())
        assert failure(shop.told(6)[5]) == ("request_id_reused", "generation=2"), "the recorded one has the outcome"
        shop.send(id_, cargo.card(), generation=2)
        assert shop.told(7)[6] == without(made, "endpoint_request_id")
    assert house.ledger()["objects"]["customer"] == 1


def test_the_same_onboarding_in_two_groups_makes_two_accounts(house: House, shop: Group, old: Group) -> None:
    with house.working():
        for group in (shop, old, shop):
            group.producer.onboard(onboarding_from(SELLER), platform="main", reply_to=group.route.name)
        (one, again), (other,) = shop.told(2), old.told(1)
    assert one["complete"]
    assert other["complete"]
    assert one["account"] == again["account"] != other["account"]
    assert house.ledger()["objects"]["account"] == 2


def test_an_outcome_is_told_on_the_route_of_whoever_asks_with_the_same_content_in_the_same_group(
    house: House, shop: Group, mail: Group
) -> None:
    id_, colleague = secrets.token_hex(6), Group(house, "shop")
    try:
        with house.working():
            shop.send(id_, cargo.card(0), plan=False)
            (first,) = shop.told(1)
            colleague.send(id_, cargo.card(0), plan=False)
            assert colleague.told(1) == [first]
            colleague.send(id_, cargo.card(1), plan=False)
            assert failure(colleague.told(2)[1]) == ("request_id_reused", "none")
            mail.send(id_, cargo.card(0), plan=False)
            assert mail.told(1)[0]["token"] != first["token"]
        assert house.ledger()["tokens_created"] == 2
    finally:
        colleague.producer.close()


def test_a_producer_that_claims_another_group_is_refused_before_anything_is_called(house: House, shop: Group) -> None:
    sealer = shop.producer.sealer
    claims = sealer.configuration.model_copy(
        update={"producer": sealer.configuration.producer.model_copy(update={"group": "mail"})}
    )
    with house.working():
        before = house.ledger()["calls"]["total"]
        with Producer(claims, outbox=False) as liar:
            liar.send(cargo.card(), platform="main", reply_to=shop.route.name, request_id="req-claimed")
        assert failure(shop.told(1)[0]) == ("not_granted", "group")
        assert house.ledger()["calls"]["total"] == before
