"""Redis as others run it: users with few rights, and Sentinel, each with servers of its own. TLS: `test_tls.py`."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import redis
from broker.authority import HERE, Authority
from broker.hands import Configured, Consume
from broker.places import OneRedis, Server, redis_program
from click.testing import CliRunner
from e2e import cargo
from e2e.house import CONFIGURATION, House, until
from faults.line import Line
from pydantic import ValidationError

from tokenferry import Producer, PublishError, Results
from tokenferry.broker.publishing import Outgoing
from tokenferry.configuration import Configuration, load
from tokenferry_worker.commands.doctor import doctor

DOCS = Path(__file__).parents[2] / "docs" / "brokers.md"
SENT = 20
SLOW = 90.0
"""Seconds that the start of a worker, and all it has to do here, may take on a busy machine."""


class Flavour(OneRedis):
    """A server of the test's own, as its administrator sees it."""

    address = None

    def __init__(self, url: str, client: redis.Redis) -> None:
        self.url = self.store = url
        self.client = client

    def cut(self) -> int:
        raise NotImplementedError

    def close(self) -> None:
        self.client.close()


class HouseOn(House):
    """A house whose broker and store are given."""

    def __init__(self, folder: Path, broker: Flavour, ca_file: Path | None = None) -> None:
        self._given = broker
        trusted = "" if ca_file is None else f'\nca_file = "{ca_file}"'
        gaps = ('url = "{broker}"', 'url = "{store}"')
        configuration = reduce(lambda text, gap: text.replace(gap, gap + trusted), gaps, CONFIGURATION)
        super().__init__(folder, "redis", configuration=configuration)

    def _broker(self) -> Flavour:
        return self._given


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers that end with the test."""
    servers: list[Server] = []

    def start(name: str, *settings: str, **how: Any) -> Server:
        servers.append(Server(tmp_path / name, *settings, **how))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


def rights(user: str) -> list[str]:
    """The words of the `ACL SETUSER` lines that the documentation gives for *user*."""
    found = re.findall(rf"^ACL SETUSER {user} (.+)$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    return " ".join(found).replace("PASSWORD", "pw").split()


# -- users with few rights


class Guarded(Flavour):
    """A server whose default user is its administrator, and whose other users have what the documentation gives."""

    def __init__(self, server: Server) -> None:
        url = self.url_of(server, "default")
        super().__init__(url, redis.Redis.from_url(url))
        for user in ("worker", "producer", "reader"):
            self.client.execute_command("ACL", "SETUSER", user, *rights(user))
            with contextlib.suppress(redis.ResponseError):  # older than Redis 7.2
                self.client.execute_command("ACL", "SETUSER", user, "+client|setinfo")
        self.users = {user: self.url_of(server, user) for user in ("worker", "producer", "reader")}

    @staticmethod
    def url_of(server: Server, user: str) -> str:
        return f"unix://{user}:pw@{server.socket}?db=0"

    def refusals(self) -> list[str]:
        """Whatever any user was refused, in the server's words."""
        log: Any = self.client.execute_command("ACL", "LOG")
        return [f"{entry[b'username']} {entry[b'reason']} {entry[b'object']}" for entry in map(as_dict, log)]


def as_dict(entry: Any) -> dict[bytes, bytes]:
    return entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True))


@pytest.fixture(params=["valkey", "redis"])
def guarded(request: pytest.FixtureRequest, serve: Callable[..., Server]) -> Guarded:
    program = redis_program() if request.param == "redis" else None
    return Guarded(serve("guarded", "requirepass pw", program=program))


def test_the_documented_rights_are_enough_for_worker_producer_and_reader(guarded: Guarded, tmp_path: Path) -> None:
    (home := tmp_path / "house").mkdir()
    house = HouseOn(home, guarded)
    try:
        house.configure("worker.toml", broker=guarded.users["worker"], store=guarded.users["worker"])
        route = house.route()
        with (
            Producer(house.configure("producer.toml", broker=guarded.users["producer"])) as producer,
            Results(route.name, load(house.configure("reader.toml", broker=guarded.users["reader"]))) as results,
            house.working(processes=1, config="worker.toml", ready=False),
        ):
            sent = list(producer.send_many(cargo.cards(SENT, route.name)))
            guarded.client.lpush("tokenize.bulk.main", "no message")  # set aside by the worker
            found = [results.take(SLOW) for _ in range(SENT)]
        assert {result.request_id for result in found if result} == set(sent)
        assert guarded.client.llen("quarantine") == 1
    finally:
        house.close()
    assert guarded.refusals() == []


def test_a_producer_may_neither_read_what_others_sent_nor_touch_the_store(guarded: Guarded) -> None:
    guarded.client.lpush("tokenize.bulk.main", "sealed")
    with redis.Redis.from_url(guarded.users["producer"]) as producer:
        for command in (
            ("LRANGE", "tokenize.bulk.main", 0, -1),
            ("RPOP", "tokenize.bulk.main"),
            ("HGETALL", "unacked"),
            ("LPUSH", "results.somebody", "forged"),
            ("GET", "tokenferry:anything"),
            ("KEYS", "*"),
            ("CONFIG", "GET", "requirepass"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                producer.execute_command(*command)


def test_a_worker_may_neither_administer_the_server_nor_touch_what_is_not_ours(guarded: Guarded) -> None:
    with redis.Redis.from_url(guarded.users["worker"]) as worker:
        for command in (("FLUSHALL",), ("CONFIG", "GET", "*"), ("GET", "somebody"), ("ACL", "LIST"), ("SHUTDOWN",)):
            with pytest.raises(redis.exceptions.NoPermissionError):
                worker.execute_command(*command)


def test_a_producer_without_the_right_to_send_is_told_so_in_time(guarded: Guarded) -> None:
    site = Configured(guarded.users["reader"], lease=1.0, publish_timeout=1.0)
    with (
        site.publisher() as publisher,
        pytest.raises(PublishError, match=r"does not allow this user to run LPUSH|use a key that is needed"),
    ):
        publisher.publish(Outgoing("tokenize.bulk.main", "x"))
    assert guarded.client.llen("tokenize.bulk.main") == 0


def test_the_doctor_says_which_right_a_worker_lacks(guarded: Guarded, tmp_path: Path) -> None:
    url = guarded.users["producer"]
    (tmp_path / "tokenferry.toml").write_text(f'[broker]\nurl = "{url}"\n[store]\nurl = "{url}"\n[platforms.main]\n')
    answer = CliRunner().invoke(doctor, ["--config", str(tmp_path / "tokenferry.toml"), "--json"])
    said = {check["name"]: check["says"] for check in json.loads(answer.output)["checks"] if check["state"] == "failed"}
    assert said["broker notifications"] == "does not allow this user to run CLIENT TRACKING (NOPERM)"
    assert said["store connection"] == "does not allow this user to run TIME (NOPERM)"
    assert "pw" not in answer.output.replace("***", "")


# -- Sentinel


@pytest.fixture(params=["plain", "TLS"])
def replicated(request: pytest.FixtureRequest, serve: Callable[..., Server], tmp_path: Path) -> Replicated:
    return Replicated(serve, Authority(tmp_path) if request.param == "TLS" else None)


over_tls = pytest.mark.parametrize("replicated", ["TLS"], indirect=True)


class Replicated:
    """A primary and its replica on free ports, and one Sentinel that watches them."""

    def __init__(self, serve: Callable[..., Server], authority: Authority | None) -> None:
        """*authority*: of the certificates of all three; None: no TLS."""
        program = redis_program()
        self.authority = authority
        common = ["bind 127.0.0.1", *self._secured()]
        guarded = [*common, "requirepass pw", "masterauth pw"]
        port = "tls-port" if authority else "port"
        self.primary = serve("one", f"{port} {(one := free_port())}", *guarded, program=program)
        self.replica = serve(
            "two", f"{port} {(two := free_port())}", f"replicaof 127.0.0.1 {one}", *guarded, program=program
        )
        self.one, self.two = (self._client(number, password="pw") for number in (one, two))
        watching = (
            f"sentinel monitor house 127.0.0.1 {one} 1",
            "sentinel auth-pass house pw",
            "sentinel down-after-milliseconds house 60000",  # a machine that stands still is no failover
            "sentinel failover-timeout house 3000",
        )
        until(lambda: self.two.info("replication")["master_link_status"] == "up", "a replica")
        self.port = free_port()
        self.sentinel = serve("sentinel", f"{port} {self.port}", *common, *watching, program=program, sentinel=True)
        asked = self._client(self.port, decode_responses=True)
        until(lambda: asked.sentinel_master("house")["num-slaves"] == 1, "a Sentinel that knows the replica")
        self._asked = asked
        scheme = "sentinels" if authority else "sentinel"
        self.url = f"{scheme}://:pw@127.0.0.1:{free_port()},127.0.0.1:{self.port}/0?master=house"
        """The first of the Sentinels is not there."""

    def _secured(self) -> list[str]:
        if self.authority is None:
            return []
        file = self.authority.certificate(*HERE)
        files = (f"tls-cert-file {file}", f"tls-key-file {file}", f"tls-ca-cert-file {self.authority.file}")
        return [*files, "tls-auth-clients no", "tls-replication yes"]

    def _client(self, port: int, **options: Any) -> redis.Redis:
        secured = {"ssl": True, "ssl_ca_certs": str(self.authority.file)} if self.authority else {}
        return redis.Redis("127.0.0.1", port, **options, **secured)

    @property
    def ca_file(self) -> Path | None:
        return self.authority.file if self.authority else None

    def until_replicated(self) -> None:
        """Until the replica has everything that the primary has."""
        assert self.one.execute_command("WAIT", 1, 10_000) == 1

    def fail_over(self) -> None:
        """Kill the primary, have the Sentinel fail over, and wait for the new one."""
        self.primary.kill()

        def is_done() -> bool:
            with contextlib.suppress(redis.ResponseError):  # it is under way
                self._asked.execute_command("SENTINEL FAILOVER", "house")
            return self.two.info("replication")["role"] == "master"

        until(is_done, "a new primary")


def test_a_failover_loses_nothing_that_was_replicated_and_consumer_and_publisher_go_on(replicated: Replicated) -> None:
    site = Configured(replicated.url, lease=2.0, publish_timeout=20.0, ca_file=replicated.ca_file)
    consume = Consume(site, "work", prefetch=5, ack=False)
    with site.publisher() as publisher:
        for number in range(10):
            publisher.publish(Outgoing("work", str(number)))
        consume.drain(5)
        replicated.until_replicated()
        replicated.fail_over()
        publisher.publish(Outgoing("work", "10"))
    done: set[int] = set()
    deadline = time.monotonic() + SLOW
    while done != set(range(11)):
        assert time.monotonic() < deadline, done
        try:
            while consume.messages:
                message = consume.messages.pop(0)
                message.ack()
                done.add(message.payload)
            consume.stay(0.2)
        except consume.lost():
            consume.come_back()
    consume.connection.release()
    assert replicated.two.llen("work") == replicated.two.hlen("unacked") == 0


@over_tls
def test_sentinels_and_servers_of_another_authority_get_nothing(replicated: Replicated, tmp_path: Path) -> None:
    site = Configured(replicated.url, lease=2.0, publish_timeout=2.0, ca_file=Authority(tmp_path).file)
    with site.publisher() as publisher, pytest.raises(PublishError):
        publisher.publish(Outgoing("work", "to nobody"))
    assert replicated.one.llen("work") == 0


@over_tls
def test_a_whole_house_works_on_through_a_failover(replicated: Replicated, tmp_path: Path) -> None:
    (home := tmp_path / "house").mkdir()
    house = HouseOn(home, Flavour(replicated.url, replicated.two), replicated.ca_file)
    try:
        route = house.route()
        with house.working(processes=1, ready=False):
            sent = house.send(cargo.cards(SENT, route.name))
            until(lambda: replicated.one.llen(f"results.{route.name}"), "the first outcome", SLOW)
            replicated.until_replicated()
            replicated.fail_over()
            sent += house.send(cargo.cards(SENT, route.name))
            route.gather(2 * SENT, SLOW)
        route.of(sent)
    finally:
        house.close()


@pytest.mark.foreign
def test_where_one_name_leads_to_another_server_the_demoted_one_is_left(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    """As behind a managed Redis, a proxy or a virtual address: the old primary lives on, and so do its connections."""
    common = ("bind 127.0.0.1", "requirepass pw", "masterauth pw")
    ports = [free_port() for _ in range(2)]
    for name, port in zip(("one", "two"), ports, strict=True):
        serve(name, f"port {port}", *common, program=redis_program())
    one, two = (redis.Redis("127.0.0.1", port, password="pw") for port in ports)
    two.replicaof("127.0.0.1", ports[0])
    until(lambda: two.info("replication")["master_link_status"] == "up", "a replica")
    line = Line(("127.0.0.1", ports[0]))
    (home := tmp_path / "house").mkdir()
    house = HouseOn(home, Flavour(f"redis://:pw@127.0.0.1:{line.port}/0", two))
    try:
        route = house.route()
        with house.working(processes=1, ready=False):
            sent = house.send(cargo.cards(SENT, route.name))
            until(lambda: one.llen(f"results.{route.name}") == SENT, "every outcome", SLOW)
            assert one.execute_command("WAIT", 1, 10_000) == 1
            two.replicaof("no", "one")
            line.lead(("127.0.0.1", ports[1]))
            one.replicaof("127.0.0.1", ports[1])
            sent += house.send(cargo.cards(SENT, route.name))
            route.gather(2 * SENT, SLOW)
        route.of(sent)
    finally:
        house.close()
        line.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sentinel://one:26379/0", "master=NAME"),
        ("sentinel://one:x/0?master=m", "host:port"),
        ("sentinel://one/zero?master=m", "number of a database"),
        ("sentinel://one/0?master=m&socket_timeout=1", "takes master, sentinel_username, sentinel_password"),
        ("sentinel://one/0?master=m&ssl_ca_certs=ca.pem", "takes master, sentinel_username, sentinel_password"),
        ("sentinels://one/0?master=m&ssl_cert_reqs=none", "takes master, sentinel_username, sentinel_password"),
    ],
)
def test_an_address_of_sentinels_that_lacks_something_says_what(url: str, says: str) -> None:
    for section in ("broker", "store"):
        with pytest.raises(ValidationError, match=says):
            Configuration(**{section: {"url": url}})


def test_a_password_that_ends_an_address_early_is_not_repeated() -> None:
    with pytest.raises(ValidationError, match="before its @") as caught:
        Configuration(broker={"url": "sentinel://user:pa?ss-word@one/0?master=m&master=n"})
    assert "ss-word" not in str(caught.value)
