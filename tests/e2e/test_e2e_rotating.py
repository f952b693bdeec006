"""Keys that are made while workers run work at once: no request ends because a worker is older than its key."""

from __future__ import annotations

import shutil

import pytest
from click.testing import CliRunner
from e2e.house import House

from tokenferry import CardRequest, Order, Producer, TokenResult
from tokenferry_worker.commands.keys import keys
from tokenferry_worker.commands.signers import signers

pytestmark = pytest.mark.any_broker

CARD = CardRequest(number="4242424242424242", exp_month="12", exp_year="2034")


def generate(*arguments: str) -> None:
    CliRunner().invoke(keys, ["generate", *arguments], catch_exceptions=False)


def test_a_recipient_and_a_producer_made_beside_running_workers_are_served_at_once(house: House) -> None:
    route = house.route()
    (house.folder / "newcomer").mkdir(exist_ok=True)
    with house.working() as worker:
        generate("--out", str(house.folder / "keys"))
        generate("--out", str(house.folder / "newcomer" / "keys"))
        (signer,) = (house.folder / "newcomer" / "keys" / "signers").glob("producer-*.pem")
        let_in = ["add", str(signer), "--name", "newcomer", "--role", "seal", "--config"]
        assert CliRunner().invoke(signers, [*let_in, str(house.folder / "tokenferry.toml")]).exit_code == 0
        recipient = house.folder / "keys" / "recipient.pem"
        shutil.copy(recipient, house.folder / "newcomer" / "keys")
        toml = house.configure("newcomer/tokenferry.toml", broker=house.broker.url)
        toml.write_text(toml.read_text().replace('data = "data"', f'data = "{house.folder / "data"}"'))
        orders = [Order(CARD, platform="main", reply_to=route.name) for _ in range(3)]
        sent = house.send(orders)  # sealed to the recipient of before
        for each in (house.folder / "tokenferry.toml", toml):
            with Producer(each) as producer:
                sent += producer.send_many(orders)
        results = route.gather(len(sent))
    assert {result.request_id for result in results} == set(sent)
    assert [result for result in results if not (isinstance(result, TokenResult) and result.ok)] == []
    assert "keys: read " in worker.said()
