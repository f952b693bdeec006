"""One house per broker, kept for the session: what takes time is starting it, not using it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e.house import BrokerKind, House


@pytest.fixture(scope="session")
def house_on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[BrokerKind], House]]:
    """The house on a broker, built when it is first asked for."""
    houses: dict[BrokerKind, House] = {}

    def on(kind: BrokerKind) -> House:
        if kind not in houses:
            folder: Path = tmp_path_factory.mktemp(f"house-{kind}")
            folder.chmod(0o700)
            houses[kind] = House(folder, kind)
        return houses[kind]

    yield on
    for house in houses.values():
        house.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """On which brokers a test runs that names none: on every one.

    `again` is what `make test-all` alone runs: Redis, whose transport is that of the embedded server, and RabbitMQ too
    where a test proves nothing about the broker.
    """
    chosen = any("house" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "house" not in metafunc.fixturenames or chosen:
        return
    any_broker = metafunc.definition.get_closest_marker("any_broker") is not None
    rabbitmq = pytest.param("rabbitmq", marks=[pytest.mark.again] if any_broker else [])
    redis = pytest.param("redis", marks=pytest.mark.again)
    metafunc.parametrize("house", ("embedded", rabbitmq, redis), indirect=True)


@pytest.fixture
def house(request: pytest.FixtureRequest, house_on: Callable[[BrokerKind], House]) -> Iterator[House]:
    """A house whose endpoint has no memory and whose queues are empty."""
    house = house_on(request.param)
    house.fresh()
    yield house
    house.put_out()
