"""What goes wrong, one function each: it hurts the scene once, chooses by the dice it is given, and leaves it whole.

Whole means: what it stopped it lets go on, what it filled it empties. What died stays dead until somebody replaces it.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Final

import redis
from e2e.brokers import RabbitMQ
from e2e.house import Worker, is_alive, until
from e2e.own_rabbitmq import OwnRabbitMQ
from faults.line import Line
from faults.scene import Lines, Scene
from faults.steps import step_traps

from tokenferry.broker.embedded import EmbeddedServerError

Trouble = Callable[[Scene, random.Random], None]

LEASE: Final = 2.0
"""Seconds, as configured in `scene.CONFIGURATION`."""
STORM: Final = MappingProxyType(
    {
        "reset_before": 0.01,
        "reset_after": 0.02,
        "reset_mid_body": 0.01,
        "error_502_html": 0.005,
        "error_502_html_after": 0.01,
        "error_503": 0.01,
        "error_500_before": 0.004,
        "error_500": 0.003,
        "truncated_json": 0.005,
        "empty_200": 0.005,
        "not_a_token_200": 0.005,
        "hang_after": 0.001,
        "slow_drip": 0.002,
    }
)
"""What the endpoint does to calls all the time, by probability. Refusals for the rate come in bursts instead: each
stops the whole fleet for a quarter of a second."""
AFTER_THE_EFFECT: Final = MappingProxyType(
    {"reset_after": 0.06, "reset_mid_body": 0.03, "error_502_html_after": 0.03, "empty_200": 0.01, "hang_after": 0.002}
)
"""An endpoint that does what it is asked and does not say so."""


def kill_somebody(scene: Scene, dice: random.Random) -> None:
    """SIGKILL one worker process; where it has a supervisor, that one starts the next."""
    worker = dice.choice(scene.crew)
    victims = worker.children() or [worker.pid]
    with suppress(ProcessLookupError):
        os.kill(victims[0], signal.SIGKILL)
        scene.note(f"killed worker process {victims[0]}")


def kill_everybody(scene: Scene, dice: random.Random) -> None:
    """SIGKILL every worker with its supervisor, as when the machine dies; others take over."""
    for worker in scene.crew:
        if worker.process.poll() is None:
            worker.kill()
    scene.note(f"killed all {len(scene.crew)} worker groups")
    scene.staff(len(scene.crew))


def freeze(scene: Scene, dice: random.Random) -> None:
    """SIGSTOP a worker for longer than its lease; then it goes on as if nothing had been: a zombie with old news."""
    worker = dice.choice(scene.crew)
    victims = worker.children() or [worker.pid]
    with suppress(ProcessLookupError):
        os.kill(victims[0], signal.SIGSTOP)
    time.sleep(0.3)
    if isinstance(scene.house.broker, RabbitMQ) and dice.random() < 0.7:
        scene.house.broker.cut()  # else it would wait for its heartbeat
    time.sleep(LEASE * dice.uniform(1.2, 2.0))
    with suppress(ProcessLookupError):
        os.kill(victims[0], signal.SIGCONT)
    scene.note(f"froze worker process {victims[0]} for longer than its lease")


def cut_connections(scene: Scene, dice: random.Random) -> None:
    """Every connection to broker and store ends at once."""
    if isinstance(scene.house.broker, RabbitMQ):
        scene.house.broker.cut()
    _kill_clients(scene.valkey)
    scene.note("cut every connection")


def restart_broker(scene: Scene, dice: random.Random) -> None:
    """SIGTERM to the scene's own server, its Valkey or its RabbitMQ, and up again a moment later."""
    _restart_broker(scene, dice, signal.SIGTERM)


def kill_broker(scene: Scene, dice: random.Random) -> None:
    """The same by SIGKILL."""
    _restart_broker(scene, dice, signal.SIGKILL)


def restart_store(scene: Scene, dice: random.Random) -> None:
    """SIGTERM or SIGKILL to the Valkey that is the store alone, beside RabbitMQ."""
    _restart_valkey(scene, dice, dice.choice([signal.SIGTERM, signal.SIGKILL]))


def _restart_broker(scene: Scene, dice: random.Random, number: signal.Signals) -> None:
    broker = scene.house.broker
    if not isinstance(broker, OwnRabbitMQ):
        return _restart_valkey(scene, dice, number)
    broker.stop(number)
    time.sleep(dice.uniform(0.0, 1.5))
    broker.start()
    scene.note(f"restarted RabbitMQ with {number.name}")


def _restart_valkey(scene: Scene, dice: random.Random, number: signal.Signals) -> None:
    if number == signal.SIGKILL:
        # Else it may lose what it has confirmed: docs/brokers.md.
        scene.valkey.config_set("appendfsync", "no")
    pid = int((scene.house.folder / "data" / "valkey.pid").read_text())
    with suppress(OSError):
        os.kill(pid, number)
    until(lambda: not is_alive(pid), "the end of a server")  # one that is about to end still answers
    time.sleep(dice.uniform(0.0, 1.5))
    until(lambda: _answers(scene), "a server that answers again", 30.0)
    scene.note(f"restarted Valkey with {number.name}")


def wipe_store(scene: Scene, dice: random.Random) -> None:
    """The store forgets everything; only where the broker is another server."""
    assert isinstance(scene.house.broker, RabbitMQ)
    scene.valkey.flushall()
    scene.note("wiped the store")


def fill_store(scene: Scene, dice: random.Random) -> None:
    """The private Valkey is out of memory for a while, and refuses what would take more of it."""
    scene.valkey.config_set("maxmemory", 1)
    time.sleep(LEASE * dice.uniform(0.5, 1.5))
    until(lambda: _emptied(scene), "memory given back")
    scene.note("had no memory left for a while")


def refuse_for_the_rate(scene: Scene, dice: random.Random) -> None:
    """A burst of 429s of every kind, lock time-outs among them."""
    kinds = ("rate_429_global", "rate_429_endpoint", "rate_429_concurrency", "lock_timeout")
    paths = ("/v1/tokens", "/v1/customers")
    script = [{"kind": kind, "times": dice.randint(1, 4), "path": dice.choice(paths)} for kind in kinds]
    scene.house.http.post("/_faults", json={"script": script})
    scene.note("answered some calls with 429")


def black_hole(scene: Scene, dice: random.Random) -> None:
    """Everything one worker says disappears, and nothing reaches it, for longer than its lease; then the line works."""
    _behind_lines(scene, Line.swallow, LEASE * dice.uniform(1.2, 2.5), "in a black hole", dice)


def slow_lines(scene: Scene, dice: random.Random) -> None:
    """One worker's lines let a few kilobytes a second pass."""
    rate = dice.uniform(4_000, 40_000)
    _behind_lines(scene, lambda line: line.throttle(rate), LEASE * dice.uniform(1.0, 2.0), "behind slow lines", dice)


def _behind_lines(scene: Scene, hurt: Callable[[Line], None], seconds: float, how: str, dice: random.Random) -> None:
    lines = Lines(scene)
    worker = scene.hire(lines=lines, name="behind-lines")
    try:
        scene.until_ready(worker)
        time.sleep(dice.uniform(0.0, 0.5))
        chosen = [line for line in lines.each() if dice.random() < 0.7] or list(lines.each())
        for line in chosen:
            hurt(line)
        time.sleep(seconds)
        for line in chosen:
            line.release()
        time.sleep(dice.uniform(0.5, 1.5))
        scene.note(f"had a worker {how} for {seconds:.1f} s")
    finally:
        if worker.process.poll() is None:
            worker.kill()
        lines.close()


TROUBLES: Final[Mapping[str, Trouble]] = MappingProxyType(
    {
        "kill-one": kill_somebody,
        "kill-all": kill_everybody,
        "freeze": freeze,
        "cut": cut_connections,
        "restart": restart_broker,
        "crash": kill_broker,
        "restart-store": restart_store,
        "black-hole": black_hole,
        "slow": slow_lines,
        "wipe-store": wipe_store,
        "full": fill_store,
        "rate": refuse_for_the_rate,
    }
)
"""By the name that `--only` takes."""
LATE: Final = frozenset({"freeze", "black-hole", "slow"})
"""Those that may make an attempt fail of which the endpoint sees nothing wrong, or nothing at all."""


class StepVictim(threading.Thread):
    """A worker that is stopped between two steps of a delivery, and then killed there, or frozen there for a while."""

    def __init__(self, scene: Scene, step: str, nth: int, *, freeze: bool) -> None:
        """*nth*: at which sight of the step. *freeze*: let it go on after its lease instead of killing it."""
        super().__init__(name=f"faults-step-{step}", daemon=True)
        self.step, self.sprung = step, False
        self._scene, self._freeze = scene, freeze
        self._lines = Lines(scene)
        line, self._trap = step_traps(scene, self._lines)[step]
        self._trap.nth = nth
        line.set_trap(self._trap)
        self._worker: Worker = scene.hire(lines=self._lines, name="step")
        self._given_up = threading.Event()

    def run(self) -> None:
        """Wait until it gets there."""
        while not (self._trap.sprung.wait(0.1) or self._given_up.is_set() or self._worker.process.poll() is not None):
            pass
        self.sprung = self._trap.sprung.is_set()
        if self.sprung and self._freeze:
            with suppress(ProcessLookupError):
                os.kill(self._worker.pid, signal.SIGSTOP)
                time.sleep(LEASE * 1.3)
                for line in self._lines.each():
                    line.release()
                os.kill(self._worker.pid, signal.SIGCONT)
                time.sleep(2.0)
        if self._worker.process.poll() is None:
            self._worker.kill()
        self._lines.close()
        if self.sprung:
            self._scene.note(f"{'froze' if self._freeze else 'killed'} a worker at: {self.step} ({self._trap.nth})")

    def give_up(self) -> None:
        """No more messages will come: it need not wait any longer."""
        self._given_up.set()


def _answers(scene: Scene) -> bool:
    try:
        return bool(scene.server and scene.valkey.ping())
    except (redis.RedisError, EmbeddedServerError):
        return False


def _emptied(scene: Scene) -> bool:
    try:
        return bool(scene.valkey.config_set("maxmemory", 0))
    except redis.RedisError:
        return False


def _kill_clients(client: redis.Redis) -> None:
    with suppress(redis.RedisError):
        for one in client.client_list():
            if one["id"] != str(client.client_id()):
                client.client_kill_filter(_id=one["id"])
