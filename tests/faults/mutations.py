"""What would happen if a promise were broken: one wrong line at a time, put into a worker from outside.

`scene.MUTATED` calls `apply` before it runs the worker's own command. What is replaced must be looked up when it is
used: the modules may be loaded already, where the worker is a fork.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final
from urllib.parse import unquote, urlsplit


def early_ack() -> None:
    """Deliveries are acknowledged when they are received, as Celery does unless told otherwise."""
    from celery import Celery

    from tokenferry_worker.engine import app

    build: Any = app.build

    def careless(*args: Any) -> Celery:
        built = build(*args)
        built.conf.task_acks_late = False
        for task in built.tasks.values():
            task.acks_late = False
        return built

    _replace(app, "build", careless)


def random_key() -> None:
    """Each call for a token has a key of its own, instead of one derived from the request."""
    from tokenferry_worker.tokens import creating

    _replace(creating, "idempotency_key", lambda request_id, _: f"tokenferry:{request_id}:{secrets.randbits(30)}")


def random_attach_key() -> None:
    """Each call that spends a token has a key of its own."""
    from tokenferry_worker.tokens import orders

    _replace(orders, "idempotency_key", lambda *_: f"tokenferry:attach:{secrets.token_hex(20)}:spend")


def no_fence() -> None:
    """The ledger ignores the number of a lease: the word of an earlier one counts as much as that of the last."""
    from tokenferry_worker.on_redis.store import Script

    read: Any = Script.__init__

    def careless(self: Script, name: str, **options: Any) -> None:
        read(self, name, **options)
        if name in ("close", "renew"):
            ignored = self.source.replace("held[2] ~= ARGV[2]", "false").replace("held[2] == ARGV[2]", "true")
            assert ignored != self.source
            self.source = ignored

    _replace(Script, "__init__", careless)


def no_renewal() -> None:
    """Nobody renews a lease: whatever takes longer is handed to the next worker while the first still has it."""
    from tokenferry.broker.redis_transport import Channel

    _replace(Channel, "renew", lambda self: None)


def told_unconfirmed() -> None:
    """A delivery is acknowledged without waiting until the broker has confirmed its result."""
    from tokenferry_worker.deliveries.settling import Settler

    async def publish(self: Any, message: Any) -> None:
        ignored: Future[None] = self.publisher.submit(message)
        ignored.add_done_callback(lambda future: future.cancelled() or future.exception())

    _replace(Settler, "_publish", publish)


def stock_transport() -> None:
    """kombu's own Redis transport, told to look for lost deliveries as often as it can be."""
    from tokenferry.broker import connecting, redis_transport

    def kombu_url(url: str) -> str:
        parts = urlsplit(url)
        return f"redis+socket://{parts.netloc}{unquote(parts.path)}?virtual_host=0" if parts.scheme == "unix" else url

    options: Any = connecting.transport_options

    def impatient(url: str, configuration: Any) -> dict[str, Any]:
        ours = dict(options(url, configuration))
        for name in ("lease_seconds", "socket_keepalive"):
            ours.pop(name, None)
        return ours | {"visibility_timeout": 5, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}

    _replace(redis_transport, "kombu_url", kombu_url)
    _replace(connecting, "transport_options", impatient)


def calls_noted() -> None:
    """Nothing is wrong. Each call to the endpoint is noted in the file `calls`: no endpoint can count refused ones."""
    from tokenferry_worker.provider.over_http11 import Http11Exchange

    call: Any = Http11Exchange.send
    book = os.open("calls", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def noted(self: Http11Exchange, *call_of: Any) -> Any:
        os.write(book, f"{time.time():.3f}\n".encode())
        return await call(self, *call_of)

    _replace(Http11Exchange, "send", noted)


MUTATIONS: Final[dict[str, Callable[[], None]]] = {
    "early-ack": early_ack,
    "random-key": random_key,
    "random-attach-key": random_attach_key,
    "no-fence": no_fence,
    "no-renewal": no_renewal,
    "told-unconfirmed": told_unconfirmed,
    "stock-transport": stock_transport,
    "calls-noted": calls_noted,
}
"""By name. `calls-noted` is the one that changes nothing: outages are counted with it (`outages.py`)."""


def apply(name: str) -> None:
    """Put the mutation in force, and say so."""
    MUTATIONS[name]()
    print(f"mutation {name} in force", file=sys.stderr, flush=True)


def _replace(owner: Any, name: str, by: Any) -> None:
    """Replace what is there; a name that has moved away is an error, not a mutation without effect."""
    getattr(owner, name)
    setattr(owner, name, by)
