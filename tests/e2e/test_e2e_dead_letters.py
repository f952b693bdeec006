"""Given up on, looked into, mended, and sent on its way again: one token, one use, and every outcome heard."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from click.testing import CliRunner
from e2e import cargo
from e2e.house import House, Route
from e2e.leaks import found

from tokenferry import CardRequest, Order, Producer, Results
from tokenferry.broker.publishing import Outgoing
from tokenferry.contract.queues import TOKENIZE_TASK
from tokenferry.contract.targets import CustomerCreate
from tokenferry_worker.commands.dead_letters import dead_letters as command
from tokenferry_worker.commands.keys import keys

ATTEMPTS = 2


def impatient(house: House) -> str:
    """A configuration that gives up after two attempts."""
    path = house.configure("impatient.toml")
    path.write_text(path.read_text().replace("attempts = 5", f"attempts = {ATTEMPTS}"))
    return path.name


def fail(house: House, kind: str, path: str, times: int = ATTEMPTS) -> None:
    house.http.post("/_faults", json={"script": [{"kind": kind, "times": times, "path": path}]})


def dead_letters(house: House, *arguments: str) -> tuple[int, str]:
    """Run the command as a person would: exit code and what it says."""
    done = CliRunner().invoke(command, [*arguments, "--config", str(house.folder / "tokenferry.toml")])
    return done.exit_code, done.output


def test_what_was_given_up_on_is_redriven_after_the_cure_and_its_reader_hears_both_outcomes(house: House) -> None:
    route = house.route()
    with (
        house.working(config=impatient(house)),
        Results(route.name, house.folder / "tokenferry.toml") as r,
    ):
        fail(house, "error_500", "/v1/tokens")  # stored under the key: the same key would hear it for ever
        (request_id,) = house.send([Order(cargo.card(), platform="main", reply_to=route.name)])
        first = r.take(timeout=60.0)
        assert first is not None
        assert first.failure is not None
        assert (first.request_id, first.failure.code, first.failure.status) == (request_id, "attempts_exhausted", 500)
        code, said = dead_letters(house, "list", "--json")
        assert code == 0
        assert [json.loads(line)["id"] for line in said.splitlines()] == [request_id]
        code, said = dead_letters(house, "show", request_id)
        assert code == 0
        assert said.count("  500  ") == ATTEMPTS
        code, said = dead_letters(house, "redrive", "--id", request_id)
        assert (code, said) == (0, "1 redriven\n")
        second = r.take(timeout=60.0)
        assert second is not None
        assert second.ok
        assert (second.request_id, second.outcome_id) == (request_id, f"{request_id}:token:2")
        assert house.tokens_of(request_id, epoch=1) == [second.token]
    assert dead_letters(house, "list")[1] == "no dead letters\n"


def test_an_order_whose_outcome_nobody_knows_is_redriven_with_its_own_key_and_spends_once(house: House) -> None:
    route = house.route()
    with house.working(config=impatient(house)):
        fail(house, "reset_after", "/v1/customers", times=1)  # the customer is made, and nobody hears of it
        fail(house, "reset_before", "/v1/customers", times=ATTEMPTS - 1)
        (request_id,) = house.send(
            [Order(cargo.card(), platform="main", reply_to=route.name, attach=CustomerCreate(email="ada@example.com"))]
        )
        (first,) = route.gather(1, seconds=60.0)
        if first.ok:  # found out without us
            assert house.ledger()["objects"]["customer"] == 1
            return
        assert first.failure is not None
        assert first.failure.code == "outcome_unknown"
        house.until_all_is_done(60.0)
        code, said = dead_letters(house, "redrive", "--code", "outcome_unknown", "--json")
        assert (code, json.loads(said)["redriven"]) == (0, 1)
        _, second = route.gather(2, seconds=60.0)
        house.until_all_is_done(60.0)
    assert second.ok, second
    assert second.request_id == request_id
    book = house.ledger()
    assert book["objects"]["customer"] == 1
    assert book["uses"]["total"] == 1
    assert house.broker.take("dead-letters") == []


def test_a_letter_redriven_twice_makes_one_token(house: House) -> None:
    route = house.route()
    with house.working(config=impatient(house)):
        fail(house, "error_503", "/v1/tokens")
        (request_id,) = house.send(cargo.cards(1, route.name))
        route.gather(1, seconds=60.0)
        house.until_all_is_done(60.0)
        (letter,) = house.broker.take("dead-letters")
        for _ in range(2):  # as when the first redrive died before it could remove the letter
            house.producer.publisher.publish(Outgoing("dead-letters", letter.decode()))
        code, said = dead_letters(house, "redrive", "--all")
        assert (code, house.broker.take("dead-letters")) == (0, []), said
        route.gather(2, seconds=60.0)
        house.until_all_is_done(60.0)
        route.look()
    assert len(route.results) == 2, "one failure, one token"
    assert len(house.tokens_of(request_id)) == 1
    assert house.ledger()["tokens_created"] == 1


def send_codes(house: House, route: Route) -> tuple[list[str], set[str]]:
    """Requests with verification codes, and what their envelopes can be recognised by."""
    sealed, request_ids = set(), []
    for request in (CardRequest(number=cargo.CARDS[0], exp_month=12, exp_year=2044, cvc="987"), cargo.cvc_update()):
        request_id, message = house.producer.sealer.message(Order(request, platform="main", reply_to=route.name))
        envelope = json.loads(json.loads(message.body)[0][0])
        unsigned = json.dumps({**envelope, "signature": "A" * 86})  # a producer that the workers do not know yet
        for body in (json.dumps(envelope), unsigned):
            house.producer.publisher.publish(Outgoing.task(message.queue, TOKENIZE_TASK, request_id, body))
        sealed.add(envelope["ciphertext"][40:100])
        request_ids.append(request_id)
    return request_ids, sealed


def test_of_a_verification_code_nothing_is_kept_whatever_becomes_of_its_request(house: House) -> None:
    route = house.route()
    fail(house, "error_503", "/v1/tokens", times=2 * ATTEMPTS)
    request_ids, sealed = send_codes(house, route)
    assert found(sealed, house.broker.contents()) == sealed, "the search works: it is there while it waits"
    with house.working(config=impatient(house)):
        route.gather(len(request_ids), seconds=60.0)
        house.until_all_is_done(60.0)
    outcomes = route.of(request_ids).values()
    assert [result.failure.code for result in outcomes if result.failure] == ["attempts_exhausted"] * len(request_ids)
    assert found(sealed, house.broker.contents()) == set()
    code, said = dead_letters(house, "list", "--quarantine", "--json")
    lines = [json.loads(line) for line in said.splitlines()]
    assert (code, sorted(line["id"] for line in lines)) == (0, sorted(request_ids)), "the header says what it was"
    assert dead_letters(house, "redrive", "--quarantine", "--all")[0] == 1
    assert house.broker.take("dead-letters") == []


def rotate(house: House, folder: Path) -> tuple[str, str, str]:
    """Keys of two days; configurations of a producer of yesterday, of workers of today, and of whoever has both."""

    def generate() -> None:
        CliRunner().invoke(keys, ["generate", "--out", str(folder)], catch_exceptions=False)

    generate()
    (folder / "recipient.pem").rename(folder / "yesterday.pem")
    (old,) = (folder / "identities").iterdir()
    generate()
    (folder / "today").mkdir(mode=0o700)
    for identity in (folder / "identities").iterdir():
        if identity != old:
            (folder / "today" / identity.name).symlink_to(identity)
    known = {"producer_signing_key": "producer.pem", "worker_signing_key": "worker.pem", "signers": "signers"}
    known["policy"] = "policy.toml"
    names = []
    for name, recipient, ring in (
        ("yesterday.toml", "yesterday.pem", "nobody"),
        ("today.toml", "recipient.pem", "today"),
        ("both.toml", "recipient.pem", "identities"),
    ):
        paths = {"recipient": recipient, "identities": ring, **known}
        lines = (f'{key} = "{folder / path}"' for key, path in paths.items())
        names.append(house.configure(name, keys="\n".join(lines)).name)
    return names[0], names[1], names[2]


def test_after_a_rotation_dead_letters_are_sealed_anew_and_the_old_private_key_is_needed_no_more(
    house: House, tmp_path: Path
) -> None:
    yesterday, today, both = rotate(house, tmp_path / "keys")
    route = house.route()
    orders = [
        Order(cargo.card(), platform="main", reply_to=route.name),
        Order(cargo.card(1), platform="main", reply_to=route.name, attach=CustomerCreate(email="ada@example.com")),
    ]
    with Producer(house.folder / yesterday) as producer:
        request_ids = list(producer.send_many(orders))
    seen: list[bytes] = []
    with house.working(config=today):
        firsts = route.gather(2, seconds=60.0)
        assert [first.failure.code for first in firsts if first.failure] == ["unopenable"] * 2
        house.until_all_is_done(60.0)
        arguments = ["dead-letters", "redrive", "--all", "--reseal", "--config", str(house.folder / both)]
        program = house.start([sys.executable, "-m", "tokenferry.cli", *arguments], "redrive")
        assert program.process.wait(30) == 0, program.said()
        assert program.said() == "2 redriven, 2 of them sealed again\n"
        seen += house.broker.contents()
        route.gather(4, seconds=60.0)
        house.until_all_is_done(60.0)
        seen += house.broker.contents()
    outcomes = {result.outcome_id for result in route.results.values() if result.ok}
    assert outcomes == {f"{request_ids[0]}:token:2", f"{request_ids[1]}:attach"}
    assert [len(house.tokens_of(request_id)) for request_id in request_ids] == [1, 1], "made under the first key"
    assert house.ledger()["objects"]["customer"] == house.ledger()["uses"]["total"] == 1
    assert house.broker.take("dead-letters") == []
    seen += [*route.bodies, *house.written()]
    assert found(cargo.CARDS, seen) == set()
    assert found([route.name], seen), "the search works"
