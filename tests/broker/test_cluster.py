"""Valkey in cluster mode: two nodes, everything of broker and store in one slot each, and slots that move."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import redis
from broker.places import Server
from broker.test_redis_flavours import Flavour, free_port
from click.testing import CliRunner
from e2e import cargo
from e2e.house import CONFIGURATION, House, until

from tokenferry import Producer, PublishError, Results
from tokenferry.broker.error_text import in_one_slot
from tokenferry.cli import main
from tokenferry.configuration import load

BROKER, STORE = "{ferry-broker}", "{ferry-store}"
PLAIN: Final = CONFIGURATION
ON_A_CLUSTER: Final = PLAIN.replace("[broker]\n", f'[broker]\nprefix = "{{{BROKER}}}"\n').replace(
    "[store]\n", f'[store]\nprefix = "{{{STORE}}}"\n'
)
SLOTS, BETWEEN = 16384, 6000
"""The slot of the store is below the middle one, that of the broker above: each begins on a node of its own."""
TOGETHER: Final = 10
SENT: Final = 300
MOVES: Final = 3


@dataclass
class Node:
    """One node, as its administrator sees it."""

    server: Server
    port: int
    bus: int
    client: redis.Redis

    @classmethod
    def start(cls, folder: Path) -> Node:
        port, bus = free_port(), free_port()
        server = Server(folder, f"port {port}", f"cluster-port {bus}", "bind 127.0.0.1", "cluster-enabled yes")
        return cls(server, port, bus, redis.Redis("127.0.0.1", port, decode_responses=True))

    def ask(self, *command: object) -> Any:
        return self.client.execute_command(*command)

    @property
    def id(self) -> str:
        return str(self.ask("CLUSTER MYID"))

    def turned_away(self) -> int:
        """How many commands it has refused because the slot was on its way."""
        errors = self.client.info("errorstats")
        return sum(errors.get(f"errorstat_{kind}", {}).get("count", 0) for kind in ("ASK", "TRYAGAIN"))

    def says(self) -> tuple[str, int]:
        """Whether the cluster is well, and how many nodes serve it, as this one knows."""
        return self.ask("CLUSTER INFO")["cluster_state"], len(self.ask("CLUSTER SLOTS"))


class Cluster(Flavour):
    """Two nodes. The address of broker and store names the first."""

    def __init__(self, folder: Path) -> None:
        self.one, self.two = self.nodes = [Node.start(folder / name) for name in ("one", "two")]
        self.one.ask("CLUSTER ADDSLOTSRANGE", 0, BETWEEN - 1)
        self.two.ask("CLUSTER ADDSLOTSRANGE", BETWEEN, SLOTS - 1)
        self.one.ask("CLUSTER MEET", "127.0.0.1", self.two.port, self.two.bus)
        until(lambda: all(node.says() == ("ok", 2) for node in self.nodes), "a cluster")
        self._owners = {BROKER: self.two, STORE: self.one}
        super().__init__(f"redis://127.0.0.1:{self.one.port}/0", self.one.client)

    def move(self, prefix: str) -> None:
        """Move the slot of *prefix* to the other node, as an operator does: a few keys at a time.

        It begins when somebody has met it: no test of a moving slot is one in which nobody needed it meanwhile.
        """
        slot = self.one.ask("CLUSTER KEYSLOT", f"{prefix}:x")
        source = self._owners[prefix]
        target = self.two if source is self.one else self.one
        target.ask("CLUSTER SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER SETSLOT", slot, "MIGRATING", target.id)
        before = source.turned_away()
        until(lambda: source.turned_away() > before, "somebody who met a slot on its way")
        while keys := source.ask("CLUSTER GETKEYSINSLOT", slot, TOGETHER):
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for node in (target, source):
            node.ask("CLUSTER SETSLOT", slot, "NODE", target.id)
        self._owners[prefix] = target

    def all_keys(self) -> list[str]:
        return [key for node in self.nodes for key in node.client.scan_iter("*")]

    def close(self) -> None:
        for node in self.nodes:
            node.client.close()
            node.server.kill()


class HouseInSlots(House):
    """A house whose broker and store are a cluster."""

    def __init__(self, folder: Path, cluster: Cluster, configuration: str) -> None:
        self._given = cluster
        super().__init__(folder, "redis", configuration=configuration)

    def _broker(self) -> Cluster:
        return self._given


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def open_house(tmp_path: Path, cluster: Cluster, configuration: str) -> Iterator[House]:
    (home := tmp_path / "house").mkdir(mode=0o700)
    house = HouseInSlots(home, cluster, configuration)
    yield house
    house.close()


@pytest.fixture
def house(tmp_path: Path, cluster: Cluster) -> Iterator[House]:
    yield from open_house(tmp_path, cluster, ON_A_CLUSTER)


@pytest.fixture
def unprepared(tmp_path: Path, cluster: Cluster) -> Iterator[House]:
    """A house on a cluster without prefixes in braces."""
    yield from open_house(tmp_path, cluster, PLAIN)


def checks_of(house: House) -> dict[str, tuple[str, str]]:
    """State and cure of each check of the doctor."""
    options = ["--config", str(house.folder / "tokenferry.toml"), "--json"]
    answer = CliRunner().invoke(main, ["doctor", *options], env=dict(house.environment))
    return {check["name"]: (check["state"], check["do"]) for check in json.loads(answer.output)["checks"]}


@pytest.mark.campaign
def test_while_both_slots_move_three_times_under_load_nothing_is_lost_and_nothing_doubled(
    house: House, cluster: Cluster
) -> None:
    config = house.folder / "tokenferry.toml"
    sent: list[str] = []
    found: Counter[str] = Counter()

    def send() -> None:
        with Producer(config) as producer:
            for _ in range(SENT // TOGETHER):
                sent.extend(producer.send_many(cargo.cards(TOGETHER, "shop")))

    with house.working(), Results("shop", config) as results:
        sending = threading.Thread(target=send)
        sending.start()
        moves = 0
        for result in results:
            found[result.outcome_id] += 1
            assert result.failure is None
            if moves < MOVES and len(found) >= (moves + 1) * SENT // (MOVES + 1):
                moves += 1
                cluster.move(BROKER)
                cluster.move(STORE)
            if len(found) == SENT:
                results.stop()
        sending.join()
    assert moves == MOVES
    assert found.keys() == {f"{request_id}:token" for request_id in sent}
    assert set(found.values()) == {1}
    made = [house.tokens_of(request_id) for request_id in sent]
    assert len({token for tokens in made for token in tokens}) == SENT
    assert max(map(len, made)) == 1
    assert [key for key in cluster.all_keys() if not key.startswith((BROKER, STORE))] == []


def test_the_doctor_is_content_with_prefixes_in_braces(house: House) -> None:
    states = {name: state for name, (state, _) in checks_of(house).items() if name.startswith(("broker", "store"))}
    assert {"broker version", "store version", "store script"} <= states.keys()
    assert "failed" not in states.values()


def test_without_braces_doctor_worker_and_producer_say_what_to_write(unprepared: House) -> None:
    found = checks_of(unprepared)
    assert found["broker version"] == ("failed", in_one_slot("broker"))
    assert found["store version"] == ("failed", in_one_slot("store"))
    worker = unprepared.worker(ready=False)
    assert worker.process.wait(60) == 2
    assert in_one_slot("broker") in worker.said()
    config = load(unprepared.folder / "tokenferry.toml")
    short = config.model_copy(update={"broker": config.broker.model_copy(update={"publish_timeout": 1.0})})
    with Producer(short) as producer, pytest.raises(PublishError, match="is a node of a cluster") as caught:
        producer.send(cargo.card(), platform="main", reply_to="shop")
    assert in_one_slot("broker") in str(caught.value)
