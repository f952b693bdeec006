"""What the store's password alone is good for: delaying work, and no more."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import redis
from click.testing import CliRunner
from e2e import cargo
from e2e.house import House, until

from tokenferry import AttachResult, load, onboarding_from
from tokenferry.broker import connecting
from tokenferry.contract.targets import CustomerCreate
from tokenferry_worker.commands.health import health
from tokenferry_worker.keys.state_keys import StateKeys

pytestmark = pytest.mark.parametrize("house", ["embedded"], indirect=True)

BANK = {
    "bank_account[country]": "US",
    "bank_account[currency]": "usd",
    "bank_account[account_number]": "000123456789",
    "bank_account[routing_number]": "110000000",
}
DOCUMENT = {"reference": "seller-9", "account": {"country": "US", "type": "custom"}}


class Thief:
    """Holds the store's password: writes what it likes, signs nothing, and publishes nothing."""

    def __init__(self, house: House) -> None:
        configuration = load(house.folder / "tokenferry.toml")
        self.store = redis.Redis.from_url(connecting.store_url(configuration), decode_responses=True)
        self.prefix = configuration.store.prefix
        self.token = house.make("/v1/tokens", **BANK)
        name, keys = f"{self.prefix}:state-since", StateKeys.load(configuration)
        # The version before is long gone. Nobody without the key could write this.
        self.store.set(name, f"1000 {keys.tag('since', name, '1000')}")

    def plants_a_token(self, request_id: str) -> None:
        outcome = {
            "type": "token",
            "outcome_id": f"{request_id}:token",
            "request_id": request_id,
            "kind": "bank_account",
            "platform": "main",
            "settled_at": int(time.time() * 1000),
            "token": self.token,
            "livemode": False,
        }
        self.store.hset(f"{self.prefix}:journal:request:{request_id}", "outcome", json.dumps(outcome))
        facts = {"platform": "main", "mode": "test", "account": "", "kind": "bank_account", "made": "1"}
        self.store.hset(f"{self.prefix}:token:{self.token}", mapping={"state": "available", **facts})

    def plants_an_account(self, reference: str) -> None:
        step: dict[str, Any] = {"status": "done", "round": 0, "message": "x", "at": 1, "object_id": "acct_thief"}
        self.store.hset(f"{self.prefix}:onboarding:main:test:{reference}", "account", json.dumps(step))

    def is_unspent(self, house: House) -> bool:
        return not house.http.get(f"/_ledger/tokens/{self.token}").json()["spent"]


def refused_health(house: House) -> str:
    state = CliRunner().invoke(health, ["--config", str(house.folder / "tokenferry.toml")])
    return state.output if state.exit_code == 1 else ""


def test_neither_a_token_nor_an_account_that_was_put_into_the_store_is_ever_used(house: House) -> None:
    thief, route, accounts = Thief(house), house.route(), house.route()
    thief.plants_a_token("req-payout")
    thief.plants_an_account("seller-9")

    def payout() -> None:
        plan = CustomerCreate(email="a@example.com")
        house.producer.send(
            cargo.bank_account(), platform="main", reply_to=route.name, request_id="req-payout", attach=plan
        )

    with house.working() as worker:
        payout()
        (result,) = route.gather(1)
        assert isinstance(result, AttachResult)
        assert result.ok
        assert result.token == house.tokens_of("req-payout")[0] != thief.token
        # The outcome is changed afterwards, and the same request comes once more.
        thief.plants_a_token("req-payout")
        payout()
        until(lambda: len(route.look_at_all()) >= 2, "the outcome once more")
        assert {each["token"] for each in route.look_at_all()} == {result.token}
        house.producer.onboard(onboarding_from(DOCUMENT), platform="main", reply_to=accounts.name)
        (told,) = until(accounts.look_at_all, "the outcome of the onboarding")
        assert (told.get("account"), told["failure"]["code"]) == (None, "outcome_unknown")
        house.until_all_is_done()
        until(lambda: "the store holds what no worker wrote" in refused_health(house), "the alarm")
        said = worker.said()
    assert thief.is_unspent(house)
    book = house.ledger()
    assert book["objects"].get("account", 0) == 0
    assert book["uses"]["total"] == book["objects"]["customer"] == 1
    for entry in ("journal:request:req-payout", "onboarding:main:test:seller-9 (account)"):
        assert f"ERROR tokenferry_worker.keys.state_tags: state: the entry {thief.prefix}:{entry} was not" in said
