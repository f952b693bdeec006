"""The broker goes away and comes back; workers find it again by themselves."""

from __future__ import annotations

import contextlib
import socket
import threading
from contextlib import closing

import faults.line
import pytest
from e2e import cargo
from e2e.brokers import RabbitMQ
from e2e.house import House, until
from e2e.test_e2e_shutdown import go_on, in_hand, limits

from tokenferry.contract.queues import tokenize_queue

REQUESTS = 150


class Line:
    """A port in front of a service: refuses at first, passes everything on once it is `open`."""

    def __init__(self, to: tuple[str, int]) -> None:
        self._to = to
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])

    def open(self) -> None:
        self._socket.listen(100)
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._socket.accept()
                far = socket.create_connection(self._to)
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=_pass_on, args=(one, other), daemon=True).start()


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError), one, other:
        while data := one.recv(65_536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)


def test_a_broker_that_drops_every_connection_under_load_is_found_again_and_nothing_is_lost(house: House) -> None:
    route = house.route()
    with house.working(processes=2) as worker:
        request_ids = house.send(cargo.cards(REQUESTS, route.name))
        for tokens in (30, 70):
            until(lambda tokens=tokens: house.ledger()["tokens_created"] >= tokens, f"{tokens} tokens")
            assert house.broker.cut() >= 1
        route.gather(REQUESTS, seconds=40.0)
        house.until_all_is_done()
        last = house.send(cargo.cards(1, route.name))  # the line is up again for good
        route.gather(REQUESTS + 1, seconds=60.0)
        house.until_all_is_done()
        assert "Traceback" not in worker.said()
        assert "cancels all currently executed tasks" not in worker.said()  # Celery's advice, at every reconnect
    route.look()
    outcomes = route.of(request_ids + last)
    assert all(result.ok for result in outcomes.values())
    for request_id in request_ids:
        assert house.tokens_of(request_id) == [outcomes[request_id].token]
    assert house.ledger()["tokens_created"] == REQUESTS + 1
    assert house.broker.take("dead-letters") == []


@pytest.mark.parametrize("house", ["redis", "rabbitmq"], indirect=True)
def test_a_connection_that_is_lost_while_requests_wait_is_no_sign_of_poison(house: House) -> None:
    address = house.broker.address
    assert address is not None
    line = faults.line.Line(address)
    there, here = f"{address[0]}:{address[1]}", f"127.0.0.1:{line.port}"
    path = house.configure("lossy.toml", broker=house.broker.url.replace(there, here))
    path.write_text(path.read_text().replace("[worker]\n", "[worker]\ndeliveries = 1\n"))
    limits(house, "pause", "paced:endpoint:tokens", "--why", "a test")
    try:
        with closing(line), house.working(config="lossy.toml") as worker:
            route = house.route()
            request_ids = house.send(cargo.cards(4, route.name, platform="paced"))
            until(lambda: in_hand(house, worker) == 4, "every request in hand, once")
            # A short cut is mended over Redis without anybody noticing; a silent server is given up after a while.
            line.swallow() if "redis" in house.broker.url else line.cut()
            until(lambda: "onnection to broker lost" in worker.said(), "the loss", seconds=60.0)
            line.release()
            until(lambda: in_hand(house, worker) == 4, "every request in hand, once")
            go_on(house)
            route.gather(4, seconds=60.0)
            house.until_all_is_done()
            outcomes = route.of(request_ids)
            assert all(result.ok for result in outcomes.values())
            assert house.ledger()["tokens_created"] == 4
            assert house.broker.take("dead-letters") == []
    finally:
        go_on(house)


@pytest.mark.parametrize("house", ["redis", "rabbitmq"], indirect=True)  # the embedded one is started by the worker
def test_a_worker_that_starts_before_its_broker_says_so_and_begins_when_it_comes(house: House) -> None:
    address = house.broker.address
    assert address is not None
    line = Line(address)
    there, here = f"{address[0]}:{address[1]}", f"127.0.0.1:{line.port}"
    house.configure(
        "early.toml", broker=house.broker.url.replace(there, here), store=house.broker.store.replace(there, here)
    )
    route = house.route()
    request_ids = house.send(cargo.cards(20, route.name))
    worker = house.worker(config="early.toml", ready=False)
    try:
        until(lambda: "rying again" in worker.said() or "onnection refused" in worker.said(), "a word about the broker")
        assert worker.process.poll() is None
        assert not worker.is_ready(1)
        line.open()
        route.gather(len(request_ids), seconds=30.0)
        house.until_all_is_done()
        assert "Traceback" not in worker.said()
        assert "guest:guest" not in worker.said()
        assert worker.stop() == 0
    finally:
        line.close()
    assert all(result.ok for result in route.of(request_ids).values())


@pytest.mark.parametrize("house", ["rabbitmq"], indirect=True)
def test_a_queue_of_rabbitmq_that_answers_nobody_when_a_worker_starts_holds_it_up_and_does_not_end_it(
    house: House,
) -> None:
    assert isinstance(house.broker, RabbitMQ)
    route = house.route()
    request_ids = house.send(cargo.cards(3, route.name))
    queue = tokenize_queue("bulk", "main")
    house.broker.stop_queue(queue)  # 541 to whoever consumes
    with house.working(ready=False) as worker:
        until(lambda: "INTERNAL_ERROR" in worker.said(), "the worker meeting it")
        house.broker.start_queue(queue)
        route.gather(3, seconds=60.0)
        house.until_all_is_done()
        assert "Traceback" not in worker.said()
    route.look()
    assert all(result.ok for result in route.of(request_ids).values())
