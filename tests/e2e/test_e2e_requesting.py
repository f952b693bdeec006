"""A program that asks gets its own answer, whatever happens to workers, and whatever lies on the broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import forking
import pytest
from e2e import cargo
from e2e.brokers import RabbitMQ
from e2e.house import House, until

from tokenferry import AttachResult, CustomerCreate, Producer, StillRunning, TokenResult, UnknownRequest
from tokenferry.broker import connecting
from tokenferry.contract.queues import PRIVATE, PRIVATE_SECONDS, results_queue

EACH = 100
"""Requests of one process."""

MANY = f"""
import asyncio, json, sys
from tokenferry import AsyncProducer, CardRequest, CustomerCreate

async def ask(producer, email):
    card = CardRequest(number="4242424242424242", exp_month=12, exp_year=2040)
    result = await producer.request(card, platform="main", attach=CustomerCreate(email=email), timeout=90)
    return [email, result.object_id, result.request_id]

async def main():
    async with AsyncProducer(sys.argv[1]) as producer:
        emails = [f"{{sys.argv[2]}}-{{at}}@example.com" for at in range({EACH})]
        print(json.dumps(await asyncio.gather(*(ask(producer, email) for email in emails))))

asyncio.run(main())
"""
GIVES_UP = """
import os, sys
from tokenferry import CardRequest, Producer, StillRunning

producer = Producer(sys.argv[1])
try:
    card = CardRequest(number="5555555555554444", exp_month=12, exp_year=2040)
    producer.request(card, platform="main", timeout=0.5)
except StillRunning as running:
    print(running.request_id, flush=True)
    os._exit(0)
"""


def program(house: House, code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, str(house.folder / "tokenferry.toml"), *arguments]
    return forking.start(
        command, cwd=house.folder, env=house.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def private_queues(house: House) -> list[str]:
    beginning = results_queue(PRIVATE)
    if isinstance(house.broker, RabbitMQ):
        return [name for name, waiting in house.broker.queues().items() if name.startswith(beginning) and waiting]
    return [name.decode() for name in house.broker.client.keys(f"{beginning}*")]  # type: ignore[union-attr]


def test_two_processes_ask_at_once_and_each_request_gets_its_own_answer(house: House) -> None:
    """Also when workers are killed, and when answers to the dead lie on the broker."""
    left_behind = ended(program(house, GIVES_UP)).split()
    askers = [program(house, MANY, name) for name in ("ada", "bob")]
    worker = house.worker(processes=2)
    until(lambda: house.ledger()["tokens_created"] >= 30, "30 tokens")
    worker.kill()
    worker = house.worker(processes=2)
    until(lambda: house.ledger()["tokens_created"] >= 80, "80 tokens")
    os.kill(worker.children()[0], signal.SIGKILL)

    answers = [answer for asker in askers for answer in json.loads(ended(asker))]

    assert len({request_id for _, _, request_id in answers} - set(left_behind)) == 2 * EACH
    with ThreadPoolExecutor(8) as pool:
        customers = list(pool.map(lambda answer: house.look(f"/v1/customers/{answer[1]}"), answers))
    assert [customer["email"] for customer in customers] == [email for email, _, _ in answers]
    assert house.ledger()["uses"]["tokens_used_more_than_once"] == []
    worker.stop()


class TestOneProducer:
    def test_gets_the_token_or_what_it_became(self, house: House) -> None:
        with house.working(), Producer(house.folder / "tokenferry.toml") as producer:
            made = producer.request(cargo.card(), platform="main", timeout=60)
            used = producer.request(cargo.card(), platform="main", attach=CustomerCreate(), timeout=60)
            assert made == producer.outcome(made.request_id)
        assert isinstance(made, TokenResult)
        assert isinstance(used, AttachResult)
        assert house.tokens_of(made.request_id) == [made.token]
        assert house.look(f"/v1/customers/{used.object_id}")["id"] == used.object_id
        assert private_queues(house) == []

    def test_is_told_of_a_token_that_could_not_be_made_in_the_form_it_asked_for(self, house: House) -> None:
        bank = cargo.bank_account().model_copy(update={"account_number": cargo.UNKNOWN_ACCOUNT})
        with house.working(), Producer(house.folder / "tokenferry.toml") as producer:
            answer = producer.request(bank, platform="main", attach=CustomerCreate(), timeout=60)
        assert isinstance(answer, AttachResult)
        assert (answer.ok, answer.token, answer.object_id, answer.to) == (False, None, None, "customer_create")
        assert answer.failure is not None

    def test_asks_again_for_what_was_not_answered_in_time(self, house: House) -> None:
        with Producer(house.folder / "tokenferry.toml") as producer:
            with pytest.raises(StillRunning, match=r"outcome\('req-\w+'\), or run `tokenferry show") as running:
                producer.request(cargo.card(), platform="main", timeout=0.3)
            request_id = running.value.request_id
            with pytest.raises(StillRunning):
                producer.outcome(request_id)
            with house.working():
                answer = producer.outcome(request_id, timeout=60)
            assert answer.request_id == request_id
            with pytest.raises(UnknownRequest, match="tokenferry show req-of-others"):
                producer.outcome("req-of-others")


def test_the_answer_to_a_process_that_died_does_not_stay_for_ever(house: House) -> None:
    """The broker drops it an hour later. Redis: PEXPIRE; RabbitMQ: x-expires."""
    ended(program(house, GIVES_UP))
    with house.working():
        (queue,) = until(lambda: private_queues(house), "the answer to a process that is gone")
    if isinstance(house.broker, RabbitMQ):
        assert connecting.quorum_arguments(queue)["x-expires"] == PRIVATE_SECONDS * 1000
        with house.broker.channel() as channel:
            arguments = connecting.quorum_arguments(queue)
            # Declared with other arguments, it would be refused.
            assert channel.queue_declare(queue, durable=True, auto_delete=False, arguments=arguments).message_count == 1
    else:
        client = house.broker.client  # type: ignore[union-attr]
        assert 0 < client.pttl(queue) <= PRIVATE_SECONDS * 1000
