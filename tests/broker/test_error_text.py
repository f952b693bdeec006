"""Every failure of a connection, made by a real server on a real port: what happened, and what to do."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import pytest
import redis
from broker.authority import HERE, Authority
from click.testing import CliRunner
from conftest import KeyFolder
from cryptography import x509
from e2e.brokers import RabbitMQ

from tokenferry import PublishError
from tokenferry.broker import connecting, error_text
from tokenferry.broker.embedded import Embedded
from tokenferry.broker.error_text import STORE, explain, stripe
from tokenferry.broker.publishing import Outgoing, Publisher
from tokenferry.broker.reachability import reach
from tokenferry.cli import main
from tokenferry.configuration import Configuration, InvalidConfiguration, Platform, load
from tokenferry_worker.commands.asking import ask_store
from tokenferry_worker.errors import Unavailable
from tokenferry_worker.provider.client import ApiKeys, StripeClient
from tokenferry_worker.provider.exchanges import exchange_with

CANARY: Final = "hunter2-canary"
SECONDS: Final = 5.0
"""Time-out of the broker: two silent TLS handshakes fit."""

Serve = Callable[..., int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server on a port of this machine: `serve(context, answer)`. Without an answer it stays silent."""
    with contextlib.ExitStack() as stack:

        def start(context: ssl.SSLContext | None = None, answer: bytes | None = None, *, closes: bool = True) -> int:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            open_: list[socket.socket] = []

            def one(connection: socket.socket) -> None:
                with contextlib.suppress(OSError):
                    if context is not None:
                        connection = context.wrap_socket(connection, server_side=True)
                    open_.append(connection)
                    while connection.recv(4096) and answer is not None:
                        connection.sendall(answer)
                        if closes:
                            break
                    if answer is not None or context is not None:
                        connection.close()

            def run() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        connection, _ = listening.accept()
                        threading.Thread(target=one, args=(connection,), daemon=True).start()

            threading.Thread(target=run, daemon=True).start()
            return int(listening.getsockname()[1])

        yield start


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def configured(folder: Path, *, broker: str = "embedded", store: str = "embedded", ca_file: Path | None = None) -> Path:
    """The file of a configuration. *ca_file*: the authority of whichever speaks TLS."""
    lines = []
    for section, url in (("broker", broker), ("store", store)):
        lines += [f"[{section}]", f'url = "{url}"']
        if ca_file is not None and url.startswith(("rediss", "amqps")):
            lines.append(f'ca_file = "{ca_file}"')
        if section == "broker":
            lines.append(f"publish_timeout = {SECONDS}")
    path = folder / "tokenferry.toml"
    path.write_text("\n".join([*lines, "[platforms.main]", ""]))
    return path


def at_broker(folder: Path, url: str, ca_file: Path | None = None) -> str:
    """What a program says whose broker is *url*."""
    with pytest.raises(PublishError) as caught:
        reach(load(configured(folder, broker=url, ca_file=ca_file)))
    assert not caught.value.maybe_sent
    return str(caught.value)


def at_store(folder: Path, url: str, ca_file: Path | None = None) -> str:
    """What a command says whose store is *url*."""
    client = redis.Redis.from_url(
        connecting.store_url(load(configured(folder, store=url, ca_file=ca_file))),
        socket_timeout=1.0,
        socket_connect_timeout=1.0,
    )
    with client, pytest.raises((redis.RedisError, OSError)) as caught:
        client.ping()
    return explain(caught.value, STORE).of(STORE)


def at_stripe(url: str, http: Literal["own", "httpx"] = "own") -> str:
    """What is said of a base_url where no Stripe answers."""

    async def greet() -> None:
        platform = Platform(base_url=url)
        keys = ApiKeys(secret=f"sk_test_{CANARY}", publishable=None)
        client = StripeClient(
            platform, keys, exchange_with(url, http=http, connections=1, read_timeout=1.0, connect_timeout=1.0)
        )
        try:
            await client.greet()
        finally:
            await client.aclose()

    with pytest.raises(Unavailable) as caught:
        asyncio.run(greet())
    return explain(caught.value, stripe("main")).of(stripe("main"))


def wants_a_certificate(authority: Authority) -> ssl.SSLContext:
    context = authority.context(*HERE)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.file)
    return context


CERTIFICATES: Final = {
    "unknown": (
        lambda authority: authority.context(*HERE),
        "of an authority which this machine does not trust",
        "ca_file",
    ),
    "self-signed": (
        lambda authority: authority.self_signed(*HERE),
        "that is self-signed which this machine does not trust",
        "ca_file",
    ),
    "expired": (
        lambda authority: authority.context(*HERE, days=(-2, -1)),
        "shows a certificate that has expired",
        "renew the certificate there",
    ),
    "not yet valid": (
        lambda authority: authority.context(*HERE, days=(1, 2)),
        "shows a certificate that is not valid yet",
        "check the clocks",
    ),
    "another name": (
        lambda authority: authority.context(x509.DNSName("another.example")),
        "shows a certificate for another name",
        "write a name of its certificate into",
    ),
}


@pytest.mark.parametrize("scheme", ["rediss", "amqps", "store"])
@pytest.mark.parametrize("case", CERTIFICATES)
def test_a_certificate_that_is_refused_is_named_with_the_cure(
    serve: Serve, authority: Authority, tmp_path: Path, case: str, scheme: str
) -> None:
    make, says, do = CERTIFICATES[case]
    port = serve(make(authority), b"")
    trusted = None if case in ("unknown", "self-signed") else authority.file
    if scheme == "store":
        said = at_store(tmp_path, f"rediss://:{CANARY}@localhost:{port}/0", trusted)
    else:
        said = at_broker(tmp_path, f"{scheme}://u:{CANARY}@localhost:{port}/0", trusted)
    place = "store" if scheme == "store" else "broker"
    assert said.startswith(f"the {place} ")
    assert says in said
    assert do in said
    assert CANARY not in said
    assert f"[{place}]" in said or "there" in said or "clocks" in said


@pytest.mark.parametrize("scheme", ["rediss", "amqps"])
def test_a_server_that_wants_a_certificate_from_us_is_understood(
    serve: Serve, authority: Authority, tmp_path: Path, scheme: str
) -> None:
    port = serve(wants_a_certificate(authority), b"")
    said = at_broker(tmp_path, f"{scheme}://u:{CANARY}@localhost:{port}/0", authority.file)
    assert "certificate from us" in said
    assert "ssl_certfile" in said
    assert "Exec format" not in said


def test_a_certificate_of_ours_is_shown_where_one_is_wanted(serve: Serve, authority: Authority, tmp_path: Path) -> None:
    mine = authority.certificate(*HERE)
    port = serve(wants_a_certificate(authority), b"+PONG\r\n", closes=False)
    url = f"rediss://localhost:{port}/0?ssl_certfile={mine}&ssl_keyfile={mine}"
    client = redis.Redis.from_url(
        connecting.store_url(load(configured(tmp_path, store=url, ca_file=authority.file))), protocol=2
    )
    with client:
        assert client.ping()


@pytest.mark.parametrize(
    ("scheme", "answer"),
    [
        ("rediss", b"-ERR unknown command\r\n"),
        ("rediss", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        ("amqps", b"AMQP\0\0\x09\x01"),
        ("amqps", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    ],
)
def test_tls_to_a_port_without_it_is_understood(serve: Serve, tmp_path: Path, scheme: str, answer: bytes) -> None:
    said = at_broker(tmp_path, f"{scheme}://u:{CANARY}@localhost:{serve(None, answer)}/0")
    assert "the broker speaks no TLS on this port; write its TLS port into [broker] url, or redis://" in said


@pytest.mark.parametrize("scheme", ["rediss", "amqps"])
def test_tls_to_a_port_that_says_nothing_is_understood(serve: Serve, tmp_path: Path, scheme: str) -> None:
    said = at_broker(tmp_path, f"{scheme}://u:{CANARY}@localhost:{serve()}/0")
    assert "did not answer the TLS handshake; if it speaks no TLS: write its TLS port" in said


def test_tls_to_the_embedded_server_kept_waiting_was_not_sent(serve: Serve, tmp_path: Path) -> None:
    configuration = load(configured(tmp_path, broker=f"rediss://localhost:{serve()}/0"))
    with Publisher.to(configuration) as publisher, pytest.raises(PublishError) as caught:
        publisher.publish(Outgoing("tokenize.bulk.main", "x"))
    assert not caught.value.maybe_sent


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_no_tls_to_a_port_with_it_is_understood(
    serve: Serve, authority: Authority, tmp_path: Path, scheme: str
) -> None:
    said = at_broker(tmp_path, f"{scheme}://u:{CANARY}@localhost:{serve(authority.context(*HERE), b'')}/0")
    assert "if it speaks TLS: write rediss:// or amqps:// into [broker] url" in said


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_port_of_something_else_is_understood(serve: Serve, tmp_path: Path, scheme: str) -> None:
    answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
    said = at_broker(tmp_path, f"{scheme}://u:{CANARY}@localhost:{serve(None, answer)}/0")
    assert "does not speak the protocol of Redis" in said or "it closed the connection" in said


@pytest.mark.parametrize("scheme", ["redis", "amqp", "rediss", "amqps"])
def test_a_host_that_nobody_knows_and_a_port_where_nobody_listens(tmp_path: Path, scheme: str) -> None:
    said = at_broker(tmp_path, f"{scheme}://u:{CANARY}@no-such-host.invalid/0")
    assert "the broker could not be reached: " in said
    assert "host name is not known" in said or "name server does not answer" in said
    said = at_broker(tmp_path, f"{scheme}://u:{CANARY}@127.0.0.1:1/0")
    assert said == (
        "the broker could not be reached (Connection refused); start it, or correct host and port in [broker] url"
    )


@pytest.mark.parametrize("http", ["own", "httpx"])
def test_stripe_out_of_reach_is_said_in_the_same_words(serve: Serve, http: Literal["own", "httpx"]) -> None:
    refused = "Stripe could not be reached (Connection refused); start it, or correct host and port in "
    assert at_stripe("http://127.0.0.1:1", http) == refused + "[platforms.main] base_url"
    said = at_stripe("https://no-such-host.invalid", http)
    assert "host name is not known" in said or "name server does not answer" in said
    assert at_stripe(f"https://127.0.0.1:{serve(None, b'HTTP/1.1 400 Bad Request')}", http).startswith(
        "Stripe speaks no TLS on this port; correct the port in [platforms.main] base_url"
    )


def test_a_socket_that_is_not_there(tmp_path: Path) -> None:
    said = at_broker(tmp_path, f"unix://:{CANARY}@{tmp_path}/absent.sock")
    assert "could not be reached (No such file or directory); start it, or correct the path" in said


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n", "does not know the command HELLO"),
        (b"-NOPROTO unsupported protocol version\r\n", "does not know a command that is needed: it is too old"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "is still loading its data"),
        (b"-ERR max number of clients reached\r\n", "has no connection left (maxclients)"),
        (b"-NOAUTH HELLO must be called with the client already authenticated\r\n", "wants a user name or a password"),
        (b"-WRONGPASS invalid username-password pair or user is disabled.\r\n", "refuses the user name or password"),
        (b"-MASTERDOWN Link with MASTER is down\r\n", "is a replica, which takes no writes"),
        (b"-MISCONF Redis is configured to save RDB snapshots\r\n", "it cannot write to its disk (MISCONF)"),
        (b"-ERR DB index is out of range\r\n", "has no database of this number"),
        (b"-ERR SELECT is not allowed in cluster mode\r\n", "is a node of a cluster"),
    ],
)
def test_what_a_redis_answers_to_the_first_question_is_understood(
    serve: Serve, tmp_path: Path, answer: bytes, says: str
) -> None:
    port = serve(None, answer, closes=False)
    assert says in at_broker(tmp_path, f"redis://u:{CANARY}@127.0.0.1:{port}/3")


# -- a real Valkey


@pytest.fixture
def user(valkey: Embedded) -> Iterator[Callable[..., str]]:
    """Make a user with these rights; returns a URL with its name."""
    name = f"user{secrets.token_hex(4)}"
    with redis.Redis.from_url(valkey.redis_url) as client:

        def make(*rights: str) -> str:
            client.execute_command("ACL", "SETUSER", name, "on", f">{CANARY}", "~*", "&*", "+@all", *rights)
            return valkey.redis_url.replace(f":{valkey.password}", f"{name}:{CANARY}")

        yield make
        client.execute_command("ACL", "DELUSER", name)


def test_a_valkey_refuses_password_database_and_right(
    valkey: Embedded, user: Callable[..., str], tmp_path: Path
) -> None:
    wrong = valkey.redis_url.replace(valkey.password, CANARY)
    assert at_broker(tmp_path, wrong) == (
        "the broker refuses the user name or password; correct them in [broker] url, or there"
    )
    absent = valkey.database(999).redis_url
    assert "has no database of this number" in at_broker(tmp_path, absent)
    assert "does not allow this user to run PING (NOPERM)" in at_broker(tmp_path, user("-ping"))


def test_a_server_without_client_tracking_is_named_by_worker_doctor_and_results(
    user: Callable[..., str], valkey: Embedded, tmp_path: Path, key_folder: KeyFolder
) -> None:
    config = configured(tmp_path, broker=user("-client|tracking"), store=valkey.redis_url)
    with config.open("a") as file:
        file.write(f'[keys]\nresult_signers = "{key_folder.result_signers}"\n')
    refusal = "does not allow this user to run CLIENT TRACKING (NOPERM)"
    with pytest.raises(InvalidConfiguration, match=r"\[broker\] url: the broker does not allow .* CLIENT TRACKING"):
        connecting.check(load(config), ["tokenize.bulk.main"])
    found = CliRunner().invoke(main, ["doctor", "--role", "attach", "--config", str(config)])
    assert found.exit_code == 1
    assert refusal in " ".join(found.output.split())
    taken = CliRunner().invoke(main, ["results", "r", "--out", str(tmp_path / "out"), "--config", str(config)])
    assert (taken.exit_code, taken.stdout) == (1, "")
    assert taken.stderr.startswith(f"tokenferry: the broker {refusal}; ")
    assert taken.stderr.count("\n") == 1


def test_a_server_that_is_a_replica_says_so_to_whoever_writes(valkey: Embedded, tmp_path: Path) -> None:
    said = explain(redis.ReadOnlyError("You can't write against a read only replica."), STORE).of(STORE)
    assert said.startswith("the store is a replica, which takes no writes (READONLY); name the primary in [store] url")


def test_a_store_in_trouble_is_said_by_a_command_in_the_same_words(valkey: Embedded, tmp_path: Path) -> None:
    async def question(store: object) -> None:
        await store.now()  # type: ignore[attr-defined]

    wrong = valkey.redis_url.replace(valkey.password, CANARY)
    with pytest.raises(Exception, match=r"^the store refuses the user name or password; correct them in \[store\] url"):
        ask_store(load(configured(tmp_path, store=wrong)), question)


# -- a real RabbitMQ


@pytest.fixture
def rabbit(tmp_path: Path) -> Iterator[RabbitMQ]:
    broker = RabbitMQ(tmp_path / "data")
    yield broker
    broker.close()


@pytest.mark.foreign
def test_a_rabbitmq_refuses_password_host_and_right(rabbit: RabbitMQ, tmp_path: Path) -> None:
    said = at_broker(tmp_path, rabbit.url.replace("guest:guest", f"guest:{CANARY}"))
    assert said.startswith("the broker refuses the user name or password; correct them in [broker] url")
    said = at_broker(tmp_path, rabbit.url.replace(rabbit.vhost, "not-there"))
    assert said.startswith("the broker has no such virtual host; correct the virtual host behind the host")
    rabbit.control("clear_permissions", "-p", rabbit.vhost, "guest")
    assert "does not let this user into the virtual host; `rabbitmqctl set_permissions`" in at_broker(
        tmp_path, rabbit.url
    )
    rabbit.control("set_permissions", "-p", rabbit.vhost, "guest", "^$", "^$", "^$")
    with (
        Publisher.to(load(configured(tmp_path, broker=rabbit.url))) as publisher,
        pytest.raises(PublishError, match=r"does not allow this user to use the (exchange|queue) "),
    ):
        publisher.publish(Outgoing("tokenize.bulk.main", "x"))
    assert "speaks no TLS on this port" in at_broker(tmp_path, rabbit.url.replace("amqp://", "amqps://"))


# -- everywhere


def test_a_certificate_that_is_not_checked_is_a_warning_wherever_it_is_configured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"rediss://:{CANARY}@127.0.0.1:1/0?ssl_cert_reqs=none"
    config = configured(tmp_path, broker=url, store=url)
    for address_of in (connecting.broker_url, connecting.store_url) * 2:
        address_of(load(config))
    warnings = [message for message in caplog.messages if connecting.UNVERIFIED in message]
    assert [message.partition(" ")[0] for message in warnings] == ["[broker]", "[store]"], "once each"
    said = CliRunner().invoke(main, ["config", "check", "--config", str(config)])
    assert said.exit_code == 0
    assert said.stderr.count(connecting.UNVERIFIED) == 2
    assert CANARY not in said.output + caplog.text


def test_no_text_of_a_client_library_is_repeated() -> None:
    for kind in (redis.ConnectionError, redis.AuthenticationError, redis.ResponseError, OSError, ValueError):
        for server in (error_text.BROKER, STORE, stripe("main")):
            assert CANARY not in explain(kind(f"redis://:{CANARY}@host"), server).of(server)


def test_a_failure_that_nobody_knows_is_named_by_its_type() -> None:
    assert explain(RuntimeError(CANARY), STORE).of(STORE) == "the store cannot be used (RuntimeError); see [store] url"


def test_a_configuration_with_a_password_is_not_shown_by_an_error() -> None:
    with pytest.raises(ValueError) as caught:
        Configuration(broker={"url": f"redis://:{CANARY}#@host"})  # type: ignore[arg-type]
    assert CANARY not in str(caught.value)
