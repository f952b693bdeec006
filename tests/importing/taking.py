"""What all stand-ins for workers share: they take messages off queues and answer. They have no key and open nothing."""

from __future__ import annotations

import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Self

from kombu import Consumer
from pydantic import BaseModel
from result_signing import signed

from tokenferry.broker import connecting
from tokenferry.configuration import Configuration
from tokenferry.contract.queues import results_queue


@dataclass
class Taker(ABC):
    """Takes messages in a thread of its own while it is entered."""

    configuration: Configuration
    platform: str
    taken: list[Any] = field(default_factory=list, kw_only=True)
    stopped: threading.Event = field(default_factory=threading.Event, kw_only=True)
    replies: threading.local = field(default_factory=threading.local, kw_only=True)
    """The connection over which each thread answers."""

    @abstractmethod
    def queues(self) -> Iterable[str]: ...

    @abstractmethod
    def answer(self, delivery: Any) -> None: ...

    def __enter__(self) -> Self:
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join(30)

    def work(self) -> None:
        with connecting.connect(self.configuration) as connection:
            queues = [connecting.queue(name, amqp=False) for name in self.queues()]
            with Consumer(connection.channel(), queues, on_message=self.answer, prefetch_count=100, auto_declare=False):
                while not self.stopped.is_set():
                    try:
                        connection.drain_events(timeout=0.1)
                    except TimeoutError:
                        continue

    def argument(self, delivery: Any) -> dict[str, Any]:
        """What a task message carries."""
        (argument,), _, _ = json.loads(delivery.body)
        return json.loads(argument)  # type: ignore[no-any-return]

    def reply(self, route: str, result: BaseModel) -> None:
        path = self.configuration.path(self.configuration.keys.result_signing_key)
        message = signed(results_queue(route), result.model_dump_json(), path)
        if not hasattr(self.replies, "producer"):
            self.replies.producer = connecting.connect(self.configuration).Producer(auto_declare=False)
        self.replies.producer.publish(
            message.body,
            headers=dict(message.headers),
            routing_key=message.queue,
            content_type="application/json",
            content_encoding="utf-8",
        )


def eventually(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.02)
