"""A share of the load as a careful customer has it: a producer with an outbox, and the reader that users have.

Both are programs of their own, killed and started again while the rest of the round goes wrong around them.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Final

from e2e.house import Program, until
from faults.facts import Wish
from faults.scene import Scene
from faults.workload import Mixture, sending_program

from tokenferry import AttachResult, TokenResult
from tokenferry.contract.results import parse_result
from tokenferry.outbox.outbox import now_ms
from tokenferry.outbox.store import OutboxStore

COUNT: Final = 200
OUTBOX: Final = '[outbox]\npath = "{path}"\nresend_after = 10.0\n'


class Outboxed(threading.Thread):
    """Sends `COUNT` requests through an outbox and reads their results with `tokenferry results`."""

    def __init__(self, scene: Scene, route: str, seed: int) -> None:
        super().__init__(name="faults-outboxed", daemon=True)
        self._scene, self._route, self._seed = scene, route, seed
        self._outbox = scene.house.folder / f"outbox-{seed}.db"
        config = scene.house.configure(f"outboxed-{seed}.toml")
        config.write_text(config.read_text() + OUTBOX.format(path=self._outbox))
        self._config = config
        self.accepted: dict[str, Wish] = {
            errand.id: errand.wish for errand in Mixture().errands(COUNT, route, random.Random(seed))
        }
        """All of them: who is killed starts over, until everything is in the outbox."""
        self.trouble: BaseException | None = None
        self._sent, self._over = threading.Event(), threading.Event()
        self._taken = scene.house.folder / f"outboxed-{seed}.jsonl"
        self._reading = ("results", self._route, "--follow", "--out", str(self._taken))
        self._readers = [self._command(*self._reading)]
        self._senders: list[Program] = []

    def run(self) -> None:
        """Kill the producer twice and the reader once, each in the middle of its work; keep reader and sender up."""
        try:
            dice = random.Random(self._seed)
            for share in (dice.uniform(0.1, 0.5), dice.uniform(0.5, 0.9)):
                producer, book = sending_program(self._scene, self._config, self._route, self._seed, COUNT)
                until(lambda book=book, share=share: book.read_text().count("\n") > share * COUNT, "accepted requests")
                producer.stop(signal.SIGKILL)
                self._scene.note("killed a producer with an outbox")
            producer, _ = sending_program(self._scene, self._config, self._route, self._seed, COUNT)
            self._senders.append(self._command("outbox", "send"))
            until(lambda: self._keep_up() or self.told(), "results", 120.0)
            self._readers[-1].stop(signal.SIGKILL)
            self._scene.note("killed a reader of results")
            until(lambda: self._keep_up() or producer.process.poll() is not None, "everything sent", 300.0)
            assert producer.process.poll() == 0, producer.said()
            self._sent.set()
            while not self._over.wait(0.1):
                self._keep_up()
        except BaseException as error:
            self.trouble = error
            raise
        finally:
            self._sent.set()

    def told(self) -> Sequence[TokenResult | AttachResult]:
        """What the readers have taken into their file so far. A line that one of them died in is no result."""
        lines = self._taken.read_text().splitlines(keepends=True) if self._taken.exists() else []
        return [parse_result(line) for line in lines if line.endswith("}\n")]

    def held(self) -> int:
        """Requests that the outbox still waits for an outcome of."""
        book = OutboxStore(self._outbox, durable=False)
        try:
            status = book.status(now=now_ms())
        finally:
            book.close()
        return status["waiting"] + status["confirmed"]

    def end(self, seconds: float) -> None:
        """Wait until the outbox has nothing left, and stop everything in good order."""
        self._sent.wait()
        deadline = time.monotonic() + seconds
        while self.trouble is None and self.held() and time.monotonic() < deadline:
            time.sleep(0.1)
        self._over.set()
        self.join()
        assert self.trouble is None, f"the outbox's producer did not end well: {self.trouble!r}"
        for program in (self._senders[-1], self._readers[-1]):
            assert program.stop() == 0, program.said()

    def _keep_up(self) -> None:
        """As a supervisor does: what was killed, or has found no broker when it started, is started again."""
        for programs, command in (
            (self._readers, self._reading),
            (self._senders, ("outbox", "send")),
        ):
            if programs and programs[-1].process.poll() is not None:
                programs.append(self._command(*command))

    def _command(self, *arguments: str) -> Program:
        command = [sys.executable, "-m", "tokenferry.cli", *arguments, "--config", str(self._config)]
        return self._scene.house.start(command, arguments[0])
