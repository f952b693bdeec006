"""RabbitMQ closes the channel of whoever holds a message too long: an hour of waiting must not end a worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import amqp
import pytest
from e2e import cargo
from e2e.brokers import Broker, RabbitMQ
from e2e.house import House, until
from e2e.own_rabbitmq import OwnRabbitMQ
from e2e.test_e2e_shutdown import go_on, in_hand, limits

WAITING = 4


class Impatient(House):
    """A house whose RabbitMQ takes five seconds for too long, and looks every second."""

    def _broker(self) -> Broker:
        return OwnRabbitMQ(self.folder / "data", "consumer_timeout = 5000", erlang="-rabbit channel_tick_interval 1000")


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder: Path = tmp_path_factory.mktemp("impatient")
    folder.chmod(0o700)
    house = Impatient(folder, "own-rabbitmq")
    yield house
    go_on(house)
    house.close()


def hold_one_until_the_broker_has_had_enough(broker: Broker) -> None:
    """What befalls a consumer that holds a message as long."""
    assert isinstance(broker, RabbitMQ)
    with broker.channel() as channel:
        queue = channel.queue_declare(exclusive=True).queue
        channel.basic_publish(amqp.Message("x"), routing_key=queue)
        channel.basic_consume(queue, callback=lambda _: None)
        with pytest.raises(amqp.PreconditionFailed, match="timed out"):
            listen(channel)


def listen(channel: amqp.Channel) -> None:
    while True:
        channel.connection.drain_events(timeout=30)


@pytest.mark.parametrize("hold", [1.0, 1200.0], ids=["given back in time", "held too long"])
def test_requests_that_wait_longer_than_rabbitmq_allows_are_done_in_the_end_by_the_same_worker(
    impatient: House, hold: float
) -> None:
    house = impatient
    house.fresh()
    path = house.configure("patient.toml")
    text = path.read_text().replace("[worker]\n", "[worker]\ndeliveries = 1\n")
    path.write_text(text.replace("[broker]\n", f"[broker]\nhold_seconds = {hold}\n"))
    limits(house, "pause", "paced:endpoint:tokens", "--why", "a test")
    with house.working(config="patient.toml") as worker:
        before = worker.children()
        route = house.route()
        request_ids = house.send(cargo.cards(WAITING, route.name, platform="paced"))
        until(lambda: in_hand(house, worker) == WAITING, "every request in hand, once")
        hold_one_until_the_broker_has_had_enough(house.broker)
        if hold > 5.0:
            until(lambda: "onnection to broker lost" in worker.said(), "a channel closed by the broker")
        until(lambda: in_hand(house, worker) == WAITING, "every request in hand again")
        go_on(house)
        route.gather(WAITING)
        house.until_all_is_done()
        assert worker.children() == before
        assert ("onnection to broker lost" in worker.said()) == (hold > 5.0)
        assert "Traceback" not in worker.said()
    outcomes = route.of(request_ids)
    assert all(result.ok for result in outcomes.values())
    assert house.ledger()["tokens_created"] == WAITING
    assert house.broker.take("dead-letters") == []
