"""Redis as others run it: users with few rights, and Sentinel, each with servers of its own. TLS: `test_tls.py`."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import amqp
import pytest
import redis
from broker.authority import HERE, Authority
from broker.hands import Configured, Consume
from broker.places import OneRedis, Server, redis_program
from click.testing import CliRunner
from e2e import cargo
from e2e.brokers import RABBITMQ, RabbitMQ, needs
from e2e.house import CONFIGURATION, House, until
from e2e.test_e2e_onboarding import document
from faults.line import Line
from pydantic import ValidationError

from tokenferry import OnboardingResult, Producer, PublishError, Results, onboarding_from
from tokenferry.broker.publishing import Outgoing
from tokenferry.cli import main
from tokenferry.configuration import Configuration, load
from tokenferry.contract.queues import full_name
from tokenferry.contract.targets import CustomerCreate
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

    def __init__(self, folder: Path, broker: Flavour, ca_file: Path | None = None, prefix: str | None = None) -> None:
        self._given = broker
        trusted = "" if ca_file is None else f'\nca_file = "{ca_file}"'
        gaps = ('url = "{broker}"', 'url = "{store}"')
        configuration = reduce(lambda text, gap: text.replace(gap, gap + trusted), gaps, CONFIGURATION)
        super().__init__(folder, "redis", configuration=prefixed(configuration, prefix))

    def _broker(self) -> Flavour:
        return self._given


def prefixed(configuration: str, prefix: str | None) -> str:
    """A configuration with `[broker] prefix`."""
    return configuration if prefix is None else configuration.replace("[broker]\n", f'[broker]\nprefix = "{prefix}"\n')


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


def rights(user: str, prefix: str | None = None) -> list[str]:
    """The words of the `ACL SETUSER` lines that the documentation gives for *user*, with *prefix* as it says."""
    found = re.findall(rf"^ACL SETUSER {user} (.+)$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    text = " ".join(found).replace("PASSWORD", "pw")
    return (text if prefix is None else re.sub(r"~(?!tokenferry:)", f"~{prefix}:", text)).split()


# -- users with few rights


USERS = ("tokenizer", "attacher", "onboarder", "producer", "reader", "operator")
HOUSEKEEPING = {b"unacked", b"unacked.parked", b"dead-letters", b"quarantine"}
"""What attachers and onboarders may not touch, and ask about once."""


class Guarded(Flavour):
    """A server whose default user is its administrator, and whose other users have what the documentation gives."""

    def __init__(self, server: Server, prefix: str | None = None) -> None:
        url = self.url_of(server, "default")
        super().__init__(url, redis.Redis.from_url(url))
        for user in USERS:
            self.client.execute_command("ACL", "SETUSER", user, *rights(user, prefix))
            with contextlib.suppress(redis.ResponseError):  # older than Redis 7.2
                self.client.execute_command("ACL", "SETUSER", user, "+client|setinfo")
        self.users = {user: self.url_of(server, user) for user in USERS}

    @staticmethod
    def url_of(server: Server, user: str) -> str:
        return f"unix://{user}:pw@{server.socket}?db=0"

    def refusals(self) -> list[str]:
        """Whatever any user was refused, in the server's words, but for what is left to tokenizers."""
        log: Any = self.client.execute_command("ACL", "LOG")
        return [
            f"{entry[b'username']} {entry[b'reason']} {entry[b'object']}"
            for entry in map(as_dict, log)
            if entry[b"username"] not in (b"attacher", b"onboarder")
            or entry[b"object"].removeprefix(b"shop:") not in HOUSEKEEPING
        ]


def as_dict(entry: Any) -> dict[bytes, bytes]:
    return entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True))


@pytest.fixture(params=["valkey", "redis"])
def guarded(request: pytest.FixtureRequest, serve: Callable[..., Server]) -> Guarded:
    program = redis_program() if request.param == "redis" else None
    return Guarded(serve("guarded", "requirepass pw", program=program))


@contextlib.contextmanager
def at_work(house: House, users: Mapping[str, str], store: str | None = None) -> Iterator[None]:
    """One worker for each role, as its own user."""
    with contextlib.ExitStack() as workers:
        for role, user in (("tokenize", "tokenizer"), ("attach", "attacher"), ("onboard", "onboarder")):
            config = f"{user}.toml"
            house.configure(config, broker=users[user], store=store or users[user])
            workers.enter_context(house.working(role=role, processes=1, config=config))
        yield


def whole_round(house: House, users: Mapping[str, str]) -> None:
    """Tokens made, spent and told, and a whole account, sent by the producer and read by the reader."""
    with (
        Producer(house.configure("producer.toml", broker=users["producer"])) as producer,
        Results("shop", load(house.configure("reader.toml", broker=users["reader"]))) as results,
    ):
        sent = list(producer.send_many(cargo.cards(SENT, "shop", attach=CustomerCreate(email="x@example.com"))))
        sent.append(producer.onboard(onboarding_from(document("seller")), platform="main", reply_to="shop"))
        found = [result for _ in sent if (result := results.take(SLOW)) is not None]
    ids = {result.onboarding_id if isinstance(result, OnboardingResult) else result.request_id for result in found}
    assert ids == set(sent)
    assert [result for result in found if result.failure is not None] == []


def told_by(house: House, *command: str, config: str = "operator.toml") -> str:
    """What a command of an operator prints."""
    answer = CliRunner().invoke(main, [*command, "--config", str(house.folder / config)], env=dict(house.environment))
    assert answer.exception is None or isinstance(answer.exception, SystemExit), answer.exception
    return answer.output


def test_the_documented_rights_are_enough_for_every_role(guarded: Guarded, tmp_path: Path) -> None:
    (home := tmp_path / "house").mkdir()
    house = HouseOn(home, guarded)
    try:
        with at_work(house, guarded.users):
            guarded.client.lpush("tokenize.bulk.main", "no message")  # set aside by the worker
            guarded.client.lpush("results.shop", "no message")  # set aside by the reader
            whole_round(house, guarded.users)
        assert guarded.client.llen("quarantine") == 2
        house.configure("operator.toml", broker=guarded.users["operator"], store=guarded.users["operator"])
        assert "not allow" not in told_by(house, "doctor")
        assert "2" in told_by(house, "dead-letters", "list", "--quarantine")
        told_by(house, "dead-letters", "redrive", "--all")
        told_by(house, "dead-letters", "purge", "--quarantine", "--all", "--yes")
        assert "main" in told_by(house, "limits", "show")
        told_by(house, "circuits", "list")
        assert guarded.client.llen("quarantine") == 0
    finally:
        house.close()
    assert guarded.refusals() == []


def test_with_a_prefix_before_each_pattern_they_are_enough_and_reach_no_other_fleet(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    guarded = Guarded(serve("guarded", "requirepass pw"), "shop")
    (home := tmp_path / "house").mkdir()
    house = HouseOn(home, guarded, prefix="shop")
    try:
        with at_work(house, guarded.users):
            whole_round(house, guarded.users)
        house.configure("operator.toml", broker=guarded.users["operator"], store=guarded.users["operator"])
        assert "not allow" not in told_by(house, "doctor")
    finally:
        house.close()
    assert guarded.refusals() == []
    with redis.Redis.from_url(guarded.users["tokenizer"]) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.lrange("tokenize.bulk.main", 0, -1)


WORK = ("tokenize.bulk.main", "onboard.main", "attach.bulk.main")
REFUSED = {
    "producer": [
        *(("LRANGE", queue, 0, -1) for queue in WORK),
        ("RPOP", "tokenize.bulk.main"),
        ("HGETALL", "unacked.tokenize"),
        ("LPUSH", "results.somebody", "forged"),
        ("LPUSH", "dead-letters", "forged"),
        ("GET", "tokenferry:anything"),
        ("KEYS", "*"),
        ("CONFIG", "GET", "requirepass"),
    ],
    "reader": [
        ("LRANGE", "results.payroll", 0, -1),
        ("LRANGE", "results.shop-2", 0, -1),
        ("LPUSH", "results.payroll", "forged"),
        ("DEL", "results.payroll"),
        *(
            (command, *words)
            for key in ("unacked", "unacked.tokenize", "unacked.results.payroll")
            for command, words in (("HGET", (key, "t")), ("DEL", (key,)), ("HSET", (key, "t", "x")))
        ),
        ("ZADD", "unacked_index.attach", 1, "t"),
        ("LRANGE", "quarantine", 0, -1),
        ("LRANGE", "tokenize.bulk.main", 0, -1),
        ("LPUSH", "tokenize.bulk.main", "x"),
        ("HGET", "tokenferry:changes", "x"),
        ("EVALSHA", "TAKE", 1, "unacked"),
        ("SCAN", 0),
        ("FLUSHALL",),
    ],
    "attacher": [
        *(
            ("LRANGE", key, 0, -1)
            for key in ("tokenize.bulk.main", "onboard.main", "dead-letters", "parked.main.bcff8e96")
        ),
        ("RPOP", "tokenize.realtime.main"),
        ("LPUSH", "onboard.main", "x"),
        ("HGETALL", "unacked.tokenize"),
        ("HGETALL", "unacked"),
        ("LRANGE", "results.shop", 0, -1),
        ("LRANGE", "quarantine", 0, -1),
        ("GET", "somebody"),
        ("ACL", "LIST"),
        ("FLUSHALL",),
    ],
    "onboarder": [
        *(("LRANGE", key, 0, -1) for key in ("tokenize.bulk.main", "attach.bulk.main", "dead-letters")),
        ("LPUSH", "attach.bulk.main", "x"),
        ("HGETALL", "unacked.tokenize"),
        ("LRANGE", "results.shop", 0, -1),
    ],
    "tokenizer": [
        *(("LRANGE", key, 0, -1) for key in ("attach.bulk.main", "onboard.main", "results.shop")),
        ("HGETALL", "unacked.attach"),
        ("HGETALL", "unacked.results.shop"),
        ("GET", "somebody"),
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("ACL", "LIST"),
        ("SHUTDOWN",),
        ("KEYS", "*"),
    ],
    "operator": [
        *(("LRANGE", key, 0, -1) for key in WORK),
        ("HGETALL", "unacked.tokenize"),
        ("LPUSH", "results.shop", "forged"),
        ("FLUSHALL",),
    ],
}


@pytest.mark.parametrize("user", sorted(REFUSED))
def test_no_role_may_do_the_business_of_another(guarded: Guarded, user: str) -> None:
    for queue in (*WORK, "results.shop", "results.payroll", "dead-letters", "quarantine"):
        guarded.client.lpush(queue, "sealed")
    known = guarded.client.script_load("return redis.call('HGETALL', KEYS[1])")
    with redis.Redis.from_url(guarded.users[user]) as client:
        for command in REFUSED[user]:
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*(known if word == "TAKE" else word for word in command))


def test_each_worker_may_send_on_what_its_role_sends_on(guarded: Guarded) -> None:
    """Orders of a new token; requests whose token got too old; what waits for a circuit; what is given up."""
    common = ("parked.main.bcff8e96", "results.shop", "dead-letters", "quarantine")
    for user, queue in (("tokenizer", "attach.bulk.main"), ("attacher", "tokenize.bulk.main"), ("onboarder", "")):
        with redis.Redis.from_url(guarded.users[user]) as client:
            for name in filter(None, (queue, *common)):
                assert client.lpush(name, "x")


def test_a_worker_that_may_not_give_back_what_its_role_had_in_hand_is_not_healthy(
    guarded: Guarded, tmp_path: Path
) -> None:
    (home := tmp_path / "house").mkdir()
    house = HouseOn(home, guarded)
    try:
        with at_work(house, guarded.users):
            until(lambda: CliRunner().invoke(main, ["health", *at(house)]).exit_code == 0, "three that work")
            guarded.client.hset("unacked.tokenize", "a@1:1:1/tokenize", "[ 5")
            guarded.client.zadd("unacked_index.tokenize", {"a@1:1:1/tokenize": 1.0})
            guarded.client.execute_command("ACL", "SETUSER", "tokenizer", "-hexists")
            until(lambda: "refuses to give back" in CliRunner().invoke(main, ["health", *at(house)]).output, "trouble")
            assert CliRunner().invoke(main, ["health", *at(house)]).exit_code == 1
            guarded.client.execute_command("ACL", "SETUSER", "tokenizer", "+hexists")
            until(lambda: CliRunner().invoke(main, ["health", *at(house)]).exit_code == 0, "the end of it")
        assert "giving back the deliveries of lost consumers" in house.everything_said()
        assert guarded.client.llen("quarantine") == 1
    finally:
        house.close()


def at(house: House) -> list[str]:
    return ["--config", str(house.folder / "tokenizer.toml")]


# -- the same on RabbitMQ


def permissions(user: str, verb: str, prefix: str | None = None) -> list[str]:
    """The regular expressions of a `rabbitmqctl` line of the documentation, with *prefix* as it says."""
    text = DOCS.read_text(encoding="utf-8").replace("\\\n", "")
    (line,) = re.findall(rf"^rabbitmqctl {verb} {user} (.+)$", text, re.MULTILINE)
    found = re.findall(r'"([^"]*)"', line)
    return found if prefix is None else [re.sub(r"^\^(?!\$)", f"^{prefix}:", one) for one in found]


@pytest.fixture
def guarded_rabbitmq(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[House, dict[str, str]]]:
    """A house on RabbitMQ, and the URL of each user. Its parameter is `[broker] prefix`."""
    needs(RABBITMQ, "RabbitMQ")
    prefix: str | None = getattr(request, "param", None)
    (home := tmp_path / "house").mkdir()
    house = House(home, "rabbitmq", configuration=prefixed(CONFIGURATION, prefix))
    assert isinstance(house.broker, RabbitMQ)
    node, vhost = house.broker.node, house.broker.vhost
    names = {user: f"{user}-{vhost}" for user in USERS}
    for user, name in names.items():
        verbs = ("set_permissions", "set_topic_permissions")
        common, topics = (permissions(user, verb, prefix) for verb in verbs)
        node.add_user(name, vhost, common, topics, exchange=full_name(prefix, "tokenferry"))
    address = f"{RABBITMQ[0]}:{RABBITMQ[1]}/{vhost}"
    try:
        yield house, {user: f"amqp://{name}:pw@{address}" for user, name in names.items()}
    finally:
        house.close()
        for name in names.values():
            node.delete_user(name)


@pytest.mark.foreign
def test_the_documented_permissions_are_enough_for_every_role_and_for_no_more(
    guarded_rabbitmq: tuple[House, dict[str, str]],
) -> None:
    house, users = guarded_rabbitmq
    assert isinstance(house.broker, RabbitMQ)
    with at_work(house, users, store="embedded"):
        with house.broker.channel() as channel:
            channel.basic_publish_confirm(amqp.Message("no message"), "tokenferry", "tokenize.bulk.main")
        whole_round(house, users)
        until(lambda: house.broker.queues().get("quarantine") == 1, "the note")
        house.configure("operator.toml", broker=users["operator"])
        assert "not a" in told_by(house, "dead-letters", "list", "--quarantine", "--json")
        assert "may not" not in told_by(house, "doctor")
    for user, queues in {
        "producer": ("tokenize.bulk.main", "attach.bulk.main", "results.shop", "dead-letters"),
        "reader": ("tokenize.bulk.main", "results.payroll", "dead-letters", "quarantine"),
        "attacher": ("tokenize.bulk.main", "onboard.main", "dead-letters", "results.shop"),
        "onboarder": ("tokenize.bulk.main", "attach.bulk.main", "dead-letters", "results.shop"),
        "tokenizer": ("attach.bulk.main", "onboard.main", "results.shop"),
        "operator": ("results.shop", "parked.main.bcff8e96"),
    }.items():
        for queue in queues:
            assert_refused(users[user], lambda channel, queue=queue: channel.basic_get(queue))
    for queue in ("tokenize.bulk.main", "results.payroll", "attach.bulk.main"):
        for verb in ("queue_delete", "queue_purge"):
            assert_refused(users["reader"], lambda channel, verb=verb, queue=queue: getattr(channel, verb)(queue))
            assert_refused(users["producer"], lambda channel, verb=verb, queue=queue: getattr(channel, verb)(queue))
    for user, key in (("producer", "results.shop"), ("reader", "results.payroll"), ("reader", "tokenize.bulk.main")):
        assert_refused(
            users[user], lambda channel, key=key: channel.basic_publish_confirm(amqp.Message("x"), "tokenferry", key)
        )
        assert_refused(users[user], lambda channel, key=key: channel.basic_publish_confirm(amqp.Message("x"), "", key))
    for key in ("#", "results.payroll", "tokenize.#"):  # a copy of what is for others
        assert_refused(users["reader"], lambda channel, key=key: channel.queue_bind("results.shop", "tokenferry", key))


@pytest.mark.foreign
@pytest.mark.parametrize("guarded_rabbitmq", ["shop"], indirect=True)
def test_with_a_prefix_in_each_expression_they_are_enough_and_reach_no_other_fleet(
    guarded_rabbitmq: tuple[House, dict[str, str]],
) -> None:
    house, users = guarded_rabbitmq
    with at_work(house, users, store="embedded"):
        whole_round(house, users)
    for user in ("tokenizer", "reader"):
        assert_refused(users[user], lambda channel: channel.queue_declare("tokenize.bulk.main", durable=True))


def assert_refused(url: str, act: Callable[[Any], Any]) -> None:
    parts = urlsplit(url)
    address, vhost = f"{parts.hostname}:{parts.port}", parts.path[1:]
    connection = amqp.Connection(address, userid=parts.username, password="pw", virtual_host=vhost)
    with connection, pytest.raises(amqp.AccessRefused):
        act(connection.channel())


# -- what is told of a right that lacks


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
