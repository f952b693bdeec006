"""Results that real workers sign, a reader beside forgers, and an upgrade in the middle."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e import cargo
from e2e.house import House, until
from result_signing import write_result_key

from tokenferry import AttachResult, Producer, Results, TokenResult
from tokenferry.broker.publishing import Outgoing
from tokenferry.contract.queues import QUARANTINE, results_queue
from tokenferry.contract.results import AnyResult
from tokenferry.contract.targets import CustomerCreate
from tokenferry.outbox.outbox import now_ms
from tokenferry.outbox.store import OutboxStore

pytestmark = pytest.mark.any_broker


def configured(house: House, name: str, more: str = "", *, keys: str = "") -> Path:
    path = house.configure(name, keys=keys)
    path.write_text(path.read_text() + more)
    return path


def in_outbox(path: Path) -> int:
    book = OutboxStore(path, durable=False)
    try:
        found = book.status(now=now_ms())
        return int(found["waiting"]) + int(found["confirmed"])
    finally:
        book.close()


def take(results: Results, count: int) -> list[AnyResult]:
    found: list[AnyResult] = []

    def enough() -> bool:
        if (result := results.take(0.2)) is not None:
            found.append(result)
        return len(found) == count

    until(enough, f"{count} results")
    assert results.take(0.5) is None
    return found


def test_a_forged_result_is_not_believed_and_the_genuine_one_of_the_worker_is(house: House) -> None:
    """With no worker at all: the outbox keeps its only copy. Then a worker spends the token, and that is told."""
    config = configured(house, "signed.toml", '[outbox]\npath = "signed.db"\n')
    route = house.route().name
    with Producer(config) as producer, Results(route, config) as results:
        request_id = producer.send(cargo.card(), platform="main", reply_to=route, attach=CustomerCreate())
        until(lambda: producer.everything_sent, "the delivery")
        about = {"request_id": request_id, "kind": "card", "platform": "main", "settled_at": 1}
        forged = (
            TokenResult(outcome_id=f"{request_id}:token", token="tok_attacker", **about),
            AttachResult(
                outcome_id=f"{request_id}:attach",
                attach_id=request_id,
                to="customer_create",
                object_id="cus_attacker",
                **about,
            ),
        )
        for result in forged:
            house.producer.publisher.publish(Outgoing(results_queue(route), result.model_dump_json()))
        assert results.take(1.5) is None
        assert results.refused == {"unverified result": 2}
        assert in_outbox(house.folder / "signed.db") == 1
        with house.working(role="tokenize"), house.working(role="attach", config="attach.toml"):
            (attached,) = take(results, 1)
        assert isinstance(attached, AttachResult)
        assert attached.object_id == house.look(f"/v1/customers/{attached.object_id}")["id"]
        assert in_outbox(house.folder / "signed.db") == 0
    notes = [body for body in house.broker.take(QUARANTINE) if b"unverified result" in body]
    assert len(notes) == 2
    assert b"attacker" not in b"".join(notes)


def test_an_old_worker_and_two_keys_are_read_together_during_an_upgrade(house: House) -> None:
    next_key = write_result_key(house.folder, "next")
    signers = house.folder / "both" / "result-signers"
    signers.mkdir(parents=True, exist_ok=True)
    for folder in (house.folder / "keys" / "result-signers", house.folder / "result-signers"):
        for path in folder.iterdir():
            (signers / path.name).write_bytes(path.read_bytes())
    both = f'result_signers = "{signers}"'
    reading = configured(house, "reading.toml", "[producer]\nenvelope = 1\n", keys=both)
    strict = configured(house, "strict.toml", keys=both)
    workers = {
        "old": configured(house, "old.toml", keys='result_signing_key = "nowhere.pem"'),
        "new": house.folder / "tokenferry.toml",
        "newest": configured(house, "newest.toml", keys=f'result_signing_key = "{next_key}"'),
    }
    route = house.route().name
    for name, config in workers.items():
        house.send(cargo.cards(3, route))
        with house.working(config=config.name) as worker:
            house.until_all_is_done()
            assert worker.said().count("is missing, so results are not signed") == (name == "old")
    with Results(route, reading) as results:
        assert len(take(results, 9)) == 9
        assert not results.refused
    house.send(cargo.cards(3, route))
    with house.working(config="old.toml"):
        house.until_all_is_done()
    with Results(route, strict) as results:
        assert results.take(2.0) is None
        assert results.refused == {"unverified result": 3}
