"""Over TLS the server must be the one that was meant: right authority, right name."""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from broker.authority import HERE, Authority
from cryptography import x509
from e2e.brokers import RABBITMQ, RabbitMQ

from tokenferry.broker import connecting, queue_browser
from tokenferry.broker.embedded import Embedded
from tokenferry.broker.publishing import BrokerUnavailable, Outgoing, Publisher
from tokenferry.configuration import Configuration, InvalidConfiguration, load
from tokenferry_worker.engine import app
from tokenferry_worker.on_redis.journal import RedisJournal
from tokenferry_worker.on_redis.store import Store

DATABASE = 8
Connect = Callable[[], socket.socket]


@contextmanager
def front(context: ssl.SSLContext, connect: Connect) -> Iterator[int]:
    """A TLS front before a server without TLS; its port on this machine."""
    loop = asyncio.new_event_loop()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection(sock=connect())
        await asyncio.gather(pump(reader, behind_writer), pump(behind_reader, writer))

    async def start() -> asyncio.Server:
        return await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)

    server = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.01))
        server.close()
        loop.close()


class Behind:
    """A real server without TLS, and how to speak of it in a URL with TLS."""

    def __init__(self, connect: Connect, url: Callable[[str, int], str], store: Callable[[str, int], str]) -> None:
        self.connect = connect
        self.url = url
        self.store = store


@pytest.fixture(params=["valkey", "rabbitmq"])
def behind(request: pytest.FixtureRequest, valkey: Embedded, tmp_path: Path) -> Iterator[Behind]:
    password = valkey.redis_url.partition("://:")[2].partition("@")[0]

    def to_valkey() -> socket.socket:
        line = socket.socket(socket.AF_UNIX)
        line.connect(str(valkey.socket))
        return line

    def valkey_url(host: str, port: int) -> str:
        return f"rediss://:{password}@{host}:{port}/{DATABASE}"

    if request.param == "valkey":
        yield Behind(to_valkey, valkey_url, valkey_url)
        return
    rabbit = RabbitMQ(tmp_path / "data")
    yield Behind(
        lambda: socket.create_connection(RABBITMQ),
        lambda host, port: f"amqps://guest:guest@{host}:{port}/{rabbit.vhost}",
        lambda *_: valkey.redis_url,
    )
    rabbit.close()


def configured(folder: Path, url: str, ca_file: Path | None, store: str | None = None) -> Configuration:
    ca = "" if ca_file is None else f'ca_file = "{ca_file}"\n'
    store = store or ("embedded" if url.startswith("amqp") else url)
    of_store = ca if store.startswith("rediss") else ""
    (folder / "tokenferry.toml").write_text(
        f'[broker]\nurl = "{url}"\npublish_timeout = 5.0\n{ca}[store]\nurl = "{store}"\nprefix = "test-tls"\n{of_store}'
    )
    return load(folder / "tokenferry.toml")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_a_server_of_the_authority_that_was_named_is_used(behind: Behind, authority: Authority, tmp_path: Path) -> None:
    with ExitStack() as stack:
        port = stack.enter_context(front(authority.context(*HERE), behind.connect))
        configuration = configured(
            tmp_path, behind.url("localhost", port), authority.file, behind.store("localhost", port)
        )
        publisher = stack.enter_context(Publisher.to(configuration))
        publisher.publish(Outgoing("quarantine", "over TLS"))
        with queue_browser.open_browser(configuration, "quarantine") as shelf:
            assert [item.body for item in shelf if shelf.remove(item)] == ["over TLS"]
        with app.build(configuration, "tokenize").connection_for_read() as connection:  # as Celery connects
            connection.ensure_connection(max_retries=1, reraise_as_library_errors=False)
            assert connection.default_channel is not None
        assert asyncio.run(begun(configuration)) == 1


async def begun(configuration: Configuration) -> int:
    store = Store.at(connecting.store_url(configuration), configuration.store.prefix)
    try:
        async with asyncio.timeout(30):
            return (await RedisJournal(store, "request", days=0.001).begin(secrets.token_hex(8))).deliveries
    finally:
        await store.aclose()


@pytest.mark.parametrize("wrong", ["authority", "name", "nobody is named"])
def test_another_server_gets_nothing(behind: Behind, authority: Authority, tmp_path: Path, wrong: str) -> None:
    context = authority.context(x509.DNSName("another.example" if wrong == "name" else "localhost"))
    trusted = {"authority": Authority(tmp_path).file, "name": authority.file, "nobody is named": None}[wrong]
    with front(context, behind.connect) as port:
        configuration = configured(tmp_path, behind.url("localhost", port), trusted)
        with Publisher.to(configuration) as publisher, pytest.raises(BrokerUnavailable) as caught:
            publisher.publish(Outgoing("quarantine", "to nobody"), timeout=2.0)
        assert not caught.value.maybe_sent


@pytest.mark.parametrize("section", ["broker", "store"])
def test_an_authority_that_cannot_be_meant_is_said_before_anything_is_sent(tmp_path: Path, section: str) -> None:
    ask = {"broker": connecting.broker_url, "store": connecting.store_url}[section]
    for url, words in (("redis://localhost", "is for rediss://"), ("rediss://localhost", "is not there")):
        (tmp_path / "tokenferry.toml").write_text(f'[{section}]\nurl = "{url}"\nca_file = "nowhere.pem"\n')
        with pytest.raises(InvalidConfiguration, match=words):
            ask(load(tmp_path / "tokenferry.toml"))
