"""What a round sends: a seeded mixture of requests, and a sender that lets no broker fault stop it."""

from __future__ import annotations

import os
import random
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e import cargo
from e2e.house import Program, until
from faults.facts import OBJECT, TOKEN, Wish
from faults.scene import TESTS, Scene

from tokenferry import BankAccountRequest, CardRequest, Order, Producer
from tokenferry.broker.publishing import PublishError
from tokenferry.contract.targets import CustomerCreate

BATCH = 100
"""Requests under way to the broker at the same time."""


@dataclass(frozen=True)
class Errand:
    """One order, what it must end with, and how often it is delivered at least."""

    order: Order
    wish: Wish
    copies: int = 1

    @property
    def id(self) -> str:
        """The request id."""
        assert self.order.request_id is not None
        return self.order.request_id


@dataclass(frozen=True)
class Mixture:
    """Shares of a workload, each from 0 to 1."""

    spent: float = 0.4
    """Requests whose token is to be spent on a customer."""
    refused: float = 0.04
    """Requests the endpoint must refuse, when tokenized or when spent."""
    twice: float = 0.1
    """Messages that are published twice."""

    def errands(self, count: int, route: str, dice: random.Random) -> Iterator[Errand]:
        """So many, always the same for the same dice."""
        for at in range(count):
            id_ = f"req-{dice.getrandbits(64):016x}"
            spent, refused = dice.random() < self.spent, dice.random() < self.refused
            copies = 2 if dice.random() < self.twice else 1
            request: CardRequest | BankAccountRequest = cargo.card(at)
            wish = OBJECT if spent else TOKEN
            if refused and spent:
                request = CardRequest(number=cargo.DECLINED_BY_CUSTOMERS, exp_month="12", exp_year="2044")
                wish = "card_declined"
            elif refused:
                request = cargo.bank_account().model_copy(update={"account_number": cargo.UNKNOWN_ACCOUNT})
                wish = "account_number_invalid"
            order = Order(
                request,
                platform="main",
                reply_to=route,
                attach=CustomerCreate() if spent else None,
                request_id=id_,
            )
            yield Errand(order, wish, copies)


class Sender(threading.Thread):
    """Sends every errand until the broker has confirmed it, repeating under the same id what it did not confirm."""

    def __init__(self, producer: Producer, errands: Sequence[Errand], *, per_second: float | None = None) -> None:
        """*per_second*: requests, where the sender is not to be as fast as it can."""
        super().__init__(name="faults-sender", daemon=True)
        self._producer = producer
        self._errands = errands
        self._per_second = per_second
        self.accepted: dict[str, Wish] = {}
        self.refusals = 0
        """Sends the broker did not confirm in time, each repeated."""
        self.trouble: BaseException | None = None

    def run(self) -> None:
        """Until everything is accepted."""
        try:
            for start in range(0, len(self._errands), BATCH):
                began = time.monotonic()
                waiting = list(self._errands[start : start + BATCH])
                while waiting:
                    waiting = self._send(waiting)
                if self._per_second is not None:
                    time.sleep(max(0.0, BATCH / self._per_second - (time.monotonic() - began)))
        except BaseException as error:
            self.trouble = error
            raise

    def _send(self, errands: list[Errand]) -> list[Errand]:
        """One try; those that were not confirmed."""
        futures = [
            (errand, [self._producer.submit(errand.order)[1] for _ in range(errand.copies)]) for errand in errands
        ]
        again = []
        for errand, copies in futures:
            try:
                for copy in copies:
                    copy.result(60.0)
                self.accepted[errand.id] = errand.wish
            except PublishError:
                self.refusals += 1
                again.append(errand)
        return again


def killed_producer(scene: Scene, route: str, dice: random.Random) -> tuple[dict[str, Wish], dict[str, Wish]]:
    """Let a process of its own send, and SIGKILL it: what it had confirmed, and what nobody can say of the rest."""
    seed, count = dice.getrandbits(48), 400
    process, book = sending_program(scene, scene.house.folder / "tokenferry.toml", route, seed, count)
    until(lambda: book.stat().st_size > 0 or process.process.poll() is not None, "a producer that sends")
    time.sleep(dice.uniform(0.0, 0.4))
    process.stop(signal.SIGKILL)
    scene.note("killed a producer")
    planned = {errand.id: errand.wish for errand in Mixture().errands(count, route, random.Random(seed))}
    confirmed = [line for line in book.read_text().split("\n")[:-1] if line]
    return {id_: planned.pop(id_) for id_ in confirmed}, planned


def sending_program(scene: Scene, config: Path, route: str, seed: int, count: int) -> tuple[Program, Path]:
    """Start `main` below in a process of its own; the file in which it notes what was accepted, an id on each line."""
    book = scene.house.folder / f"accepted-{secrets.token_hex(6)}"
    book.touch()
    command = [sys.executable, "-m", "faults.workload", str(config), route, str(seed), str(count), str(book)]
    environment = {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    return scene.house.start(command, "producer", environment=environment), book


def main(config: str, route: str, seed: str, count: str, book: str) -> None:
    """Send, and note what broker or outbox has confirmed: the program that is killed."""
    out = os.open(book, os.O_WRONLY | os.O_APPEND)
    orders = (errand.order for errand in Mixture().errands(int(count), route, random.Random(int(seed))))
    with Producer(Path(config)) as producer:
        for request_id in producer.send_many(orders):
            os.write(out, f"{request_id}\n".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
