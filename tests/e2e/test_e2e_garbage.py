"""What is not ours rests in quarantine, silently, and nobody is held up by it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from click.testing import CliRunner
from e2e import cargo
from e2e.brokers import OnRedis
from e2e.house import House, until
from e2e.leaks import found

from tokenferry import Order, load
from tokenferry.broker import connecting
from tokenferry.broker.publishing import Outgoing
from tokenferry.contract.queues import ATTACH_TASK, TOKENIZE_TASK, attach_queue, tokenize_queue
from tokenferry.producer import Sealer
from tokenferry_worker.commands.keys import keys

MARK = "garbage-of-a-test-4000056655665556"
"""In everything that is sent: it must not be in a log."""
QUEUE = tokenize_queue("bulk", "main")
REASONS = {
    "not a task message",
    "unknown task",
    "undecodable message",
    "invalid task message",
    "not an envelope",
    "not an attach request",
    "not signed by a known producer",
    "not signed by a known signer",
    "longer than any message of ours",
}


def an_order() -> Order:
    return Order(cargo.card(), platform="main", reply_to="nobody-reads-this")


def task(body: str, queue: str = QUEUE, name: str = TOKENIZE_TASK) -> Outgoing:
    return Outgoing.task(queue, name, f"req-{MARK}", body)


def task_messages(house: House, folder: Path) -> Iterator[Outgoing]:
    """Celery task messages that carry no envelope of a producer we know."""
    envelope = house.producer.sealer.message(an_order())[1]
    sealed = json.loads(json.loads(envelope.body)[0][0])
    yield task(MARK)
    yield task(json.dumps({"valid": "JSON", "but": MARK}))
    yield task(json.dumps({**sealed, "extra": MARK}))
    yield task(json.dumps({**sealed, "signature": ""}))
    flipped = (
        sealed["ciphertext"][:100] + ("A" if sealed["ciphertext"][100] != "A" else "B") + sealed["ciphertext"][101:]
    )
    yield task(json.dumps({**sealed, "ciphertext": flipped}))
    yield task(json.dumps({**sealed, "header": {**sealed["header"], "reply_to": "somebody-else"}}))
    yield task("x" * 300_000)
    yield task(MARK, queue=attach_queue("bulk", "main"), name=ATTACH_TASK)
    yield task(json.dumps({"request": {"token": MARK}}), queue=attach_queue("bulk", "main"), name=ATTACH_TASK)
    yield replace(task(MARK), body=json.dumps([[], {}, {}]))  # no argument at all
    yield replace(task(MARK), body=json.dumps([[1, MARK], {"and": MARK}, {}]))
    yield task(MARK, name="somebody.elses.task")
    CliRunner().invoke(keys, ["generate", "--out", str(folder / "strangers")], catch_exceptions=False)
    toml = (house.folder / "tokenferry.toml").read_text()
    stranger = folder / "stranger.toml"
    stranger.write_text(
        toml.replace(
            "[keys]",
            f'[keys]\nproducer_signing_key = "{folder}/strangers/producer.pem"\n'
            f'recipient = "{house.folder}/keys/recipient.pem"',
        )
    )
    yield Sealer(load(stranger)).message(an_order())[1]  # well-formed, sealed to us, signed by nobody we know


def publish_raw(house: House) -> int:
    """Messages that are no task, or cannot be decoded; how many."""
    configuration = load(house.folder / "tokenferry.toml")
    url = connecting.broker_url(configuration)
    declared = connecting.queue(QUEUE, amqp=connecting.is_amqp(url))
    bodies = [
        (MARK.encode(), "application/json", "utf-8", {}),
        (b"\xff\xfe" + MARK.encode(), "application/json", "utf-8", {}),
        (b"\xff\xfe" + MARK.encode(), "application/json", "utf-8", {"task": TOKENIZE_TASK, "id": "req-x"}),
        (b"\x80\x04" + MARK.encode(), "application/x-python-serialize", "binary", {"task": TOKENIZE_TASK, "id": "x"}),
        (json.dumps([MARK]).encode(), "application/json", "utf-8", {}),
        (json.dumps({"task": MARK, "id": "x"}).encode(), "application/json", "utf-8", {}),
        (b"", "application/json", "utf-8", {}),
    ]
    with connecting.connect(configuration) as connection:
        producer = connection.Producer(auto_declare=False)
        for body, content_type, encoding, headers in bodies:
            producer.publish(
                body,
                exchange=declared.exchange,
                routing_key=declared.routing_key,
                declare=[declared] if connecting.is_amqp(url) else [],
                content_type=content_type,
                content_encoding=encoding,
                headers=headers,
            )
    beyond = 0
    if isinstance(house.broker, OnRedis):  # anybody who can write may push what no client library would
        for payload in (MARK.encode(), b"\xff\x00" + MARK.encode(), json.dumps({"properties": MARK}).encode(), b"[]"):
            house.broker.client.lpush(QUEUE, payload)
            beyond += 1
    return len(bodies) + beyond


def test_garbage_of_every_sort_ends_in_quarantine_with_a_reason_and_nothing_else_in_the_log(
    house: House, tmp_path: Path
) -> None:
    route = house.route()
    with house.working() as worker:
        sent = publish_raw(house)
        for message in task_messages(house, tmp_path):
            house.producer.publisher.publish(message)
            sent += 1
        request_ids = house.send(cargo.cards(5, route.name))
        route.gather(len(request_ids))
        house.until_all_is_done()
        assert all(result.ok for result in route.of(request_ids).values()), "served in spite of it"
        resting: list[bytes] = []
        until(lambda: resting.extend(house.broker.take("quarantine")) or len(resting) >= sent, "every note")
        assert len(resting) == sent
    reasons = set()
    for body in resting:
        note = json.loads(body)
        reasons.add(note["reason"])
        assert note.keys() - {"bytes", "hmac", "at", "names", "header", "clear"} == {"reason", "message"}
        assert MARK not in str(note)
        assert "4000056655665556" not in str(note)
    assert reasons <= REASONS
    assert {"unknown task", "not a task message", "not an envelope", "not signed by a known producer"} <= reasons
    said = worker.said()
    assert f"clear text arrived in {QUEUE}" in said
    assert "Traceback" not in said
    assert MARK not in said
    assert "4000056655665556" not in said
    assert len(worker.children()) == 0
    assert " ended with " not in said, "no process died of it"
    assert house.ledger()["tokens_created"] == len(request_ids)
    assert house.broker.take("results.somebody-else") == []


CVC = "987"
CANARIES = (MARK, cargo.CARDS[0], f"cvc={CVC}", f'cvc": "{CVC}', f'cvc":"{CVC}', f"cvc]={CVC}", f"cvc': '{CVC}")


def plaintext_mistakes(house: House) -> int:
    """What people send by mistake: a form, keywords, another queue, a raw text. How many messages these are."""
    number = cargo.CARDS[0]
    form = f"card[number]={number}&card[cvc]={CVC}"
    fields = {"number": number, "cvc": CVC}
    messages = [
        task(json.dumps({"kind": "card", **fields})),
        task(form),
        task(form, queue=attach_queue("bulk", "main"), name=ATTACH_TASK),
        replace(task("x"), body=json.dumps([[], fields, {}])),
        replace(task("x", name="tokenize_card"), body=json.dumps([[], fields, {"callbacks": None}])),
        task(json.dumps({"header": {"lane": "bulk"}, **fields})),
    ]
    for message in messages:
        house.producer.publisher.publish(message)
    if isinstance(house.broker, OnRedis):
        house.broker.client.lpush(QUEUE, form)
    return len(messages) + isinstance(house.broker, OnRedis)


def test_nothing_readable_rests_of_a_plaintext_mistake_and_it_is_an_alarm(house: House) -> None:
    with house.working() as worker:
        sent = plaintext_mistakes(house)
        resting: list[bytes] = []
        until(lambda: resting.extend(house.broker.take("quarantine")) or len(resting) >= sent, "every note")
        house.until_all_is_done()
        until(lambda: f"clear text arrived in {attach_queue('bulk', 'main')}" in worker.said(), "the alarm")
    assert found(CANARIES, [*resting, worker.said().encode()]) == set()
    assert house.ledger()["tokens_created"] == 0
    assert sum(json.loads(body).get("clear", False) for body in resting) >= 5


def test_an_envelope_whose_ciphertext_was_changed_by_a_known_producer_does_not_open(house: House) -> None:
    route = house.route()
    sealer = house.producer.sealer
    request_id, message = sealer.message(Order(cargo.card(), platform="main", reply_to=route.name))
    sealed = json.loads(json.loads(message.body)[0][0])
    _, other = sealer.message(Order(cargo.card(1), platform="main", reply_to=route.name))
    sealed["ciphertext"] = json.loads(json.loads(other.body)[0][0])["ciphertext"]
    moved = resigned(house, sealed)
    with house.working() as worker:
        house.producer.publisher.publish(task(moved))
        (result,) = route.gather(1)
        house.until_all_is_done()
    assert result.request_id == request_id
    assert result.failure is not None
    assert result.failure.code == "unopenable"
    assert len(house.broker.take("dead-letters")) == 1, "kept, sealed: a key may have been retired by mistake"
    assert "does not open" in worker.said()
    assert house.ledger()["tokens_created"] == 0


def resigned(house: House, sealed: dict[str, object]) -> str:
    """The envelope with a right signature under its changed content."""
    from tokenferry.contract.envelope import Envelope, signed_bytes

    envelope = Envelope.model_validate(sealed)
    signer = house.producer.sealer.signer
    signature = signer.sign(signed_bytes(envelope.header.canonical(), envelope.ciphertext))
    return Envelope.model_construct(
        header=envelope.header, ciphertext=envelope.ciphertext, signature=signature
    ).model_dump_json()
