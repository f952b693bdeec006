"""The producer: validate, seal, hand over. It holds a public key and a signature of its own, nothing that opens.

To hand over is to publish, or to commit to an outbox where one is configured and the message may rest on a disk.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from tokenferry.broker.errors import StillQueued
from tokenferry.broker.publishing import BrokerFull, Outgoing, Publisher, PublishError, PublishTimeout, wait, wait_async
from tokenferry.configuration import Configuration, load
from tokenferry.contract.names import Lane
from tokenferry.contract.onboarding import Onboarding
from tokenferry.contract.requests import TokenRequest
from tokenferry.contract.results import TokenResult
from tokenferry.contract.targets import AttachTarget
from tokenferry.ordering import Order, Sealer
from tokenferry.outbox import Outbox, OutboxFailed, OutboxFull, Sender

__all__ = ["AsyncProducer", "Order", "Producer", "Sealer"]

WINDOW = 500
"""Requests sealed and not yet accepted in `send_many`: bounds memory, keeps batches full."""
FULL: Final = (BrokerFull, OutboxFull)
"""Errors that time cures: `send_many` waits."""
FULL_PAUSE: Final = 1.0
"""Seconds before a full queue or outbox is tried again."""
PATIENCE: Final = 3600.0
"""Seconds for which `send_many` waits for room, for each request."""

log = logging.getLogger(__name__)


@dataclass
class _PendingSend:
    """One message on its way to whoever accepts it."""

    id: str
    future: Future[None]
    again: Callable[[], Future[None]]
    """Hand it over once more, after it was refused for want of room."""
    timeout: float
    outbox: Outbox | None
    """What accepts it, where it is not the broker."""

    def accepted(self, *, patience: float = 0.0) -> str:
        """Wait; its id. Where there is no room, for *patience* seconds more."""
        until = time.monotonic() + patience
        while True:
            try:
                wait(self.future, self.timeout)
                return self.id
            except PublishError as error:
                pause = self._pause(error, until)
            time.sleep(pause)
            self.future = self.again()

    async def accepted_async(self, *, patience: float = 0.0) -> str:
        """The same for asyncio."""
        until = time.monotonic() + patience
        while True:
            try:
                await wait_async(self.future, self.timeout)
                return self.id
            except PublishError as error:
                pause = self._pause(error, until)
            await asyncio.sleep(pause)
            self.future = self.again()

    def _pause(self, error: PublishError, until: float) -> float:
        """Seconds until it is handed over again. Raises *error* unless it is one that time cures, and there is time."""
        if self.outbox is not None and isinstance(error, PublishTimeout):
            reason = "another process holds it for too long, or its disk is slow"
            error = OutboxFailed(
                f"{self.outbox.path}: the outbox did not answer in time: {reason}", maybe_sent=error.maybe_sent
            )
        error.request_id = self.id
        if time.monotonic() < until:
            if isinstance(error, FULL):
                log.warning("sending waits for room: %s", error)
                return FULL_PAUSE
            if isinstance(error, StillQueued):  # a slow broker was busy with those before it, and is no longer
                return 0.0
        raise error from None

    def taken_back(self) -> bool:
        """Take it back if it is not on its way yet; whether it is certain that nobody has accepted it."""
        if self.future.cancel():
            return True
        error = self.future.exception() if self.future.done() else None
        return isinstance(error, PublishError) and not error.maybe_sent


@contextmanager
def _under_way() -> Iterator[deque[_PendingSend]]:
    """What a stream has begun, and nobody has been told of. Where it ends early that is taken back, or named."""
    window: deque[_PendingSend] = deque()
    try:
        yield window
    except BaseException as end:
        left = tuple(handed.id for handed in window if not handed.taken_back())
        if isinstance(end, PublishError):
            end.others = left
        raise


class _ProducerBase:
    """What both producers open, share and close: a sealer, a publisher, perhaps an outbox and its sender."""

    def __init__(
        self,
        configuration: Configuration | Path | None = None,
        *,
        outbox: Outbox | Literal[False] | None = None,
    ) -> None:
        """*configuration*: a loaded one, or the path of a `tokenferry.toml` (default: the one in this folder).

        *outbox*: where accepted requests are kept; default: the configured one, False: none. A thread of this producer
        sends what it holds, whoever put it there, unless another process does already.

        Raises `InvalidConfiguration`, `UnusableKey`, `UnusableOutbox`, `EmbeddedServerError`.
        """
        if not isinstance(configuration, Configuration):
            configuration = load(configuration)
        self.configuration = configuration
        self.sealer = Sealer(configuration)
        self._own_outbox = Outbox.of(configuration) if outbox is None else None
        self.outbox = outbox or self._own_outbox
        self.publisher = Publisher.to(configuration)
        self.everything_sent = True
        """Once it is closed: whether nothing of what it accepted was left in the outbox for want of a broker."""
        self._sender: Sender | None = None
        if self.outbox is not None:
            self._sender = Sender(self.outbox.path, self.publisher, configuration, news=self.outbox.accepted)
            self._sender.start()

    def submit(self, order: Order) -> tuple[str, Future[None]]:
        """Seal *order* and start handing it over: its request id, and a future that ends when it is accepted."""
        handed = self._begin(*self.sealer.message(order))
        return handed.id, handed.future

    def _begin(self, id_: str, message: Outgoing, *, timeout: float | None = None) -> _PendingSend:
        seconds = self.configuration.broker.publish_timeout if timeout is None else timeout
        outbox = self.outbox if message.expires_at is not None else None

        def hand_over() -> Future[None]:
            return outbox.submit(message) if outbox else self.publisher.submit(message, timeout=seconds)

        return _PendingSend(id_, hand_over(), hand_over, seconds, outbox)

    def _window(self, orders: Iterable[Order], window: deque[_PendingSend]) -> Iterator[_PendingSend]:
        """What to wait for next. No more than `WINDOW` are on their way at a time.

        Raises what is wrong with an order in its turn, when all before it have been waited for.
        """
        refused: ValueError | None = None
        for order in orders:
            try:
                window.append(self._begin(*self.sealer.message(order)))
            except ValueError as error:
                refused = error
                break
            while len(window) >= WINDOW or (window and window[0].future.done()):
                yield window.popleft()
        while window:
            yield window.popleft()
        if refused is not None:
            raise refused

    def _close(self) -> None:
        if self._own_outbox is not None:
            self._own_outbox.close()
        # What is accepted stays accepted; but while the broker is there, nothing need wait for another process.
        if self._sender is not None:
            self.everything_sent = self._sender.close(flush=self.configuration.broker.publish_timeout)
        self.publisher.close() if self.everything_sent else self.publisher.close(timeout=1.0)


class Producer(_ProducerBase):
    """Sends requests, waiting each time until they are accepted: by the broker, or by the outbox where there is one.

    >>> with Producer() as producer:                                                    # doctest: +SKIP
    ...     producer.send(PiiRequest(id_number="000000000"), reply_to="onboarding")
    'req-...'
    """

    def send(self, request: TokenRequest, *, timeout: float | None = None, **options: Any) -> str:
        """Seal *request* and hand it over; its request id once it is accepted.

        Options, all of `Order`: `platform` (default: the only one configured), `connected_account`, `lane` (default:
        realtime where a CVC is carried, else bulk), `reply_to` (result route; default: nobody is told), `attach` (what
        to spend the token on), `request_id` (to repeat a send whose outcome is unknown: same id, one token),
        `keep_seconds` (how long it may wait before it expires; above 0). *timeout*: seconds.

        Raises `InvalidRequest` and `InvalidTarget` (field and reason, never a value), `InvalidConfiguration`, and
        `BrokerUnavailable`, `BrokerFull` or `PublishTimeout` within the timeout; their `request_id` is the id to repeat
        it with. With an outbox `OutboxFull` or `OutboxFailed` instead, except that a request with a CVC never rests on
        a disk: it goes to the broker at once, as without an outbox.
        """
        return self._begin(*self.sealer.message(Order(request, **options)), timeout=timeout).accepted()

    def send_many(self, orders: Iterable[Order], *, patience: float = PATIENCE) -> Iterator[str]:
        """Send a stream of any length in bounded memory; yields each request id, in order, once it is accepted.

        A full queue or outbox is waited for: *patience* seconds per request. Raises what `send` raises, at the order
        that caused it; the ids yielded before it are accepted. Of those after it nothing more is sent, and the error's
        `others` are the ids of those that were on their way: `WINDOW` at most.
        """
        with _under_way() as window:
            for handed in self._window(orders, window):
                yield handed.accepted(patience=patience)

    def attach(
        self,
        result: TokenResult,
        target: AttachTarget,
        *,
        lane: Lane = "bulk",
        reply_to: str | None = None,
        attach_id: str | None = None,
        timeout: float | None = None,
    ) -> str:
        """Order the token of *result* to be spent on *target*; the attach id once the broker has confirmed it.

        *lane*: `realtime` where a person waits for it; it goes before every order of `bulk`.

        Raises as `send`, `InvalidRequest` also where *result* holds no token or what is none; a `PublishError`'s
        `request_id` is the attach id to repeat it with. Never through the outbox: it is not sealed, and a token does
        not live long enough to wait there.
        """
        message = self.sealer.attach_message(result, target, lane=lane, reply_to=reply_to, attach_id=attach_id)
        return self._begin(*message, timeout=timeout).accepted()

    def onboard(self, document: Onboarding, *, timeout: float | None = None, **options: Any) -> str:
        """Seal a whole connected account and hand it over; its onboarding id once it is accepted.

        Options: `onboarding_id` (default: the document's `reference`, else a new one), `platform`, `reply_to`,
        `keep_seconds`, `progress` (each step is told too, see `Results`). Sent again under the same id, corrected or
        not, only what is not done yet is done.

        Raises as `send`; the error's `request_id` is the onboarding id to repeat it with.
        """
        id_, _, message = self.sealer.onboarding_message(document, **options)
        return self._begin(id_, message, timeout=timeout).accepted()

    def close(self) -> None:
        """Finish what was submitted and close the connection. What an outbox still holds stays in it."""
        self._close()

    def __enter__(self) -> Producer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncProducer(_ProducerBase):
    """The same for asyncio: nothing blocks the loop but the sealing itself (about 0.1 ms)."""

    async def send(self, request: TokenRequest, *, timeout: float | None = None, **options: Any) -> str:
        """As `Producer.send`."""
        return await self._begin(*self.sealer.message(Order(request, **options)), timeout=timeout).accepted_async()

    async def send_many(self, orders: Iterable[Order], *, patience: float = PATIENCE) -> AsyncIterator[str]:
        """As `Producer.send_many`."""
        with _under_way() as window:
            for handed in self._window(orders, window):
                yield await handed.accepted_async(patience=patience)

    async def attach(
        self,
        result: TokenResult,
        target: AttachTarget,
        *,
        lane: Lane = "bulk",
        reply_to: str | None = None,
        attach_id: str | None = None,
        timeout: float | None = None,
    ) -> str:
        """As `Producer.attach`."""
        message = self.sealer.attach_message(result, target, lane=lane, reply_to=reply_to, attach_id=attach_id)
        return await self._begin(*message, timeout=timeout).accepted_async()

    async def onboard(self, document: Onboarding, *, timeout: float | None = None, **options: Any) -> str:
        """As `Producer.onboard`."""
        id_, _, message = self.sealer.onboarding_message(document, **options)
        return await self._begin(id_, message, timeout=timeout).accepted_async()

    async def close(self) -> None:
        """As `Producer.close`."""
        await asyncio.to_thread(self._close)

    async def __aenter__(self) -> AsyncProducer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
