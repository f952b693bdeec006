"""From `send` to the result: every kind, every broker, through real processes."""

from __future__ import annotations

from e2e import cargo
from e2e.brokers import RabbitMQ
from e2e.house import House

from tokenferry import AttachResult, Order, Results, TokenResult
from tokenferry.contract.targets import (
    AccountCreate,
    Charge,
    CustomerCreate,
    CustomerSource,
    ExternalAccount,
    PaymentIntentConfirm,
    PaymentMethod,
    PersonCreate,
    PersonUpdate,
)


def test_every_kind_becomes_a_token_and_is_spent_on_its_target_once(house: House) -> None:
    customer, account = house.make("/v1/customers"), house.make("/v1/accounts", type="custom")
    person = house.make(f"/v1/accounts/{account}/persons", first_name="J")
    saved = house.make("/v1/payment_methods", type="card", **{"card[token]": "tok_visa"})
    intent = house.make("/v1/payment_intents", amount="100", currency="usd", payment_method=saved)
    spending = [
        (cargo.card(), CustomerCreate()),
        (cargo.card(1), PaymentMethod(customer=customer)),
        (cargo.card(2), Charge(amount=100, currency="usd")),
        (cargo.bank_account(), CustomerSource(customer=customer)),
        (cargo.bank_account(), ExternalAccount(account=account)),
        (cargo.account(), AccountCreate(type="custom")),
        (cargo.person(), PersonCreate(account=account)),
        (cargo.pii(), PersonUpdate(account=account, person=person, role="id_number")),
        (cargo.cvc_update(), PaymentIntentConfirm(payment_intent=intent, payment_method=saved)),
    ]
    tokens, attached = house.route(), house.route()
    token_ids = house.send(Order(r, platform="main", reply_to=tokens.name) for r in cargo.one_of_every_kind())
    attach_ids = house.send(Order(r, platform="main", reply_to=attached.name, attach=to) for r, to in spending)
    # The worker that spends has the endpoint's key and public keys only: it can open nothing.
    with house.working(role="tokenize"), house.working(role="attach", config="attach.toml"):
        tokens.gather(len(token_ids))
        attached.gather(len(attach_ids))
        house.until_all_is_done()
    for result in tokens.of(token_ids).values():
        assert isinstance(result, TokenResult)
        assert result.ok, result
        assert house.tokens_of(result.request_id) == [result.token]
    outcomes = attached.of(attach_ids)
    for request_id, (request, target) in zip(attach_ids, spending, strict=True):
        result = outcomes[request_id]
        assert isinstance(result, AttachResult)
        assert result.ok, result
        assert (result.kind, result.to) == (request.kind, target.to)
        assert house.tokens_of(request_id) == [result.token]
    book = house.ledger()
    assert book["uses"]["tokens_used_more_than_once"] == []
    assert book["uses"]["total"] == len(spending)
    assert book["unused_tokens"] == len(token_ids)
    assert book["tokens_by_idempotency_key"]["max"] == 1
    assert book["per_object_concurrent_writes_peak"] == 1
    if isinstance(house.broker, RabbitMQ):
        assert [queue for queue in house.broker.queues() if queue.startswith("celery")] == [], "none but our own"


def test_a_request_delivered_many_times_is_one_token_one_use_and_one_outcome(house: House) -> None:
    tokens, attached = house.route(), house.route()
    plain = house.producer.sealer.message(Order(cargo.card(), platform="main", reply_to=tokens.name))
    spent = house.producer.sealer.message(
        Order(cargo.card(), platform="main", reply_to=attached.name, attach=CustomerCreate())
    )
    for _ in range(4):
        for _, message in (plain, spent):
            house.producer.publisher.publish(message)
    with house.working(processes=2):
        tokens.gather(1)
        attached.gather(1)
        house.producer.publisher.publish(plain[1])  # once more, after the outcome is known
        house.producer.publisher.publish(spent[1])
        house.until_all_is_done()
        with Results(attached.name, house.folder / "tokenferry.toml") as results:
            while (told := results.take(timeout=1.0)) is not None:
                assert told == attached.results[told.outcome_id], "a reader is told the same, however often"
    tokens.look()
    assert len(tokens.bodies) == 5, "every delivery is answered"
    tokens.of([plain[0]])
    attached.of([spent[0]])
    book = house.ledger()
    assert book["tokens_created"] == 2
    assert book["uses"]["total"] == 1
    assert book["objects"].get("customer", 1) == 1
