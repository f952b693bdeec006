"""Broker and store at an IPv6 address, which is written in brackets."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from broker.places import Server

from tokenferry.broker import connecting
from tokenferry.broker.errors import PublishError
from tokenferry.broker.publishing import Outgoing, Publisher
from tokenferry.configuration import Configuration, load

Configure = Callable[[str], Configuration]


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    def with_(url: str) -> Configuration:
        path = tmp_path / "tokenferry.toml"
        store = url if url.startswith("redis") else "embedded"
        path.write_text(f'[broker]\nurl = "{url}"\npublish_timeout = 1\n[store]\nurl = "{store}"\n[platforms.main]\n')
        return load(path)

    return with_


def free_port() -> int:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listening:
        return int(listening.getsockname()[1])


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A Valkey that listens on ::1 alone."""
    port = free_port()
    server = Server(tmp_path / "s", f"port {port}", "bind ::1")
    yield port
    server.kill()


def test_a_message_reaches_a_broker_and_a_store_is_read(configure: Configure, port: int) -> None:
    configuration = configure(f"redis://[::1]:{port}/0")
    with Publisher.to(configuration) as publisher:
        publisher.publish(Outgoing("quarantine", "at an IPv6 address"))
    with redis.Redis.from_url(connecting.store_url(configuration)) as client:
        assert client.llen("quarantine") == 1


def test_an_amqp_address_leads_to_the_ipv6_host(configure: Configure) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listening:
        configuration = configure(f"amqp://guest:guest@[::1]:{listening.getsockname()[1]}//")
        with Publisher.to(configuration) as publisher:
            sent = publisher.submit(Outgoing("quarantine", "at an IPv6 address"))
            connection, _ = listening.accept()
            with connection:
                assert connection.recv(4) == b"AMQP"
            with pytest.raises(PublishError):
                sent.result(60)
