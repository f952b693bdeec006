"""The producer: it validates and seals a request, and gives it to the broker or to the outbox.

It holds a public key to seal with and a key to sign with. It holds nothing that opens a sealed request.
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
from typing import Any, Final, Literal, Protocol, TypeVar

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

WINDOW: Final = 500
"""Submissions without an answer at the same time: it bounds the memory and keeps batches full."""
FULL: Final = (BrokerFull, OutboxFull)
"""Errors that end by themselves. `send_many` waits for that."""
FULL_PAUSE: Final = 1.0
"""Seconds before a full queue or outbox is tried again."""
PATIENCE: Final = 3600.0
"""Seconds for which `send_many` waits for room, for each request."""

log = logging.getLogger(__name__)


class Submitted(Protocol):
    """Something that was submitted, and is accepted once its future ends without an error."""

    @property
    def future(self) -> Future[None]: ...


Submission = TypeVar("Submission", bound=Submitted)


def in_order(submissions: Iterable[Submission], under_way: deque[Submission] | None = None) -> Iterator[Submission]:
    """Yield each submission when it is its turn: it has an answer, or `WINDOW` others come after it.

    *submissions* submits one each time it is asked for the next. *under_way*: holds those that are not yielded yet.
    """
    window: deque[Submission] = deque() if under_way is None else under_way
    for submission in submissions:
        window.append(submission)
        while len(window) >= WINDOW or (window and window[0].future.done()):
            yield window.popleft()
    while window:
        yield window.popleft()


@dataclass
class _PendingSend:
    """One message that was submitted to the broker or to the outbox."""

    id: str
    future: Future[None]
    submit_again: Callable[[], Future[None]]
    """Submits it once more, after there was no room for it."""
    timeout: float
    full_pause: float
    outbox: Outbox | None
    """None if it goes to the broker."""

    def accepted(self, *, patience: float = 0.0) -> str:
        """Wait until it is accepted and return its id. If there is no room, wait for *patience* seconds more."""
        until = time.monotonic() + patience
        while True:
            try:
                wait(self.future, self.timeout)
                return self.id
            except PublishError as error:
                pause = self._pause(error, until)
            time.sleep(pause)
            self.future = self.submit_again()

    async def accepted_async(self, *, patience: float = 0.0) -> str:
        """`accepted` for asyncio."""
        until = time.monotonic() + patience
        while True:
            try:
                await wait_async(self.future, self.timeout)
                return self.id
            except PublishError as error:
                pause = self._pause(error, until)
            await asyncio.sleep(pause)
            self.future = self.submit_again()

    def _pause(self, error: PublishError, until: float) -> float:
        """Return the seconds until it is submitted again. Raises *error* if there is no sense in waiting."""
        if self.outbox is not None and isinstance(error, PublishTimeout):
            reason = "another process holds it for too long, or its disk is slow"
            error = OutboxFailed(
                f"{self.outbox.path}: the outbox did not answer in time: {reason}", maybe_sent=error.maybe_sent
            )
        error.request_id = self.id
        if time.monotonic() < until:
            if isinstance(error, FULL):
                log.warning("sending waits for room: %s", error)
                return self.full_pause
            if isinstance(error, StillQueued):  # others were before it at a slow broker, and are not any more
                return 0.0
        raise error from None

    def taken_back(self) -> bool:
        """Cancel it if it is not on its way yet. Return True if it is certain that it was not accepted."""
        if self.future.cancel():
            return True
        error = self.future.exception() if self.future.done() else None
        return isinstance(error, PublishError) and not error.maybe_sent


@contextmanager
def _under_way() -> Iterator[deque[_PendingSend]]:
    """Messages of a stream without an answer. If the stream ends early, cancel them or name them in the error."""
    window: deque[_PendingSend] = deque()
    try:
        yield window
    except BaseException as end:
        maybe_accepted = tuple(pending.id for pending in window if not pending.taken_back())
        if isinstance(end, PublishError):
            end.others = maybe_accepted
        raise


class _ProducerBase:
    """What both producers open, share and close: a sealer, a publisher, and the outbox with its sender, if any."""

    def __init__(
        self,
        configuration: Configuration | Path | None = None,
        *,
        outbox: Outbox | Literal[False] | None = None,
        full_pause: float = FULL_PAUSE,
    ) -> None:
        """*configuration*: a loaded one, or the path of a `tokenferry.toml` (default: the one in this folder).

        *outbox*: where accepted requests are kept. Default: the configured one, if any. False: no outbox. A thread of
        this producer sends what the outbox holds, also requests of others, unless another process does so already.
        *full_pause*: seconds before `send_many` tries a full queue or outbox again.

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
        """After `close`: True if the broker has everything that was accepted, False if the outbox still holds some."""
        self._full_pause = full_pause
        self._sender: Sender | None = None
        if self.outbox is not None:
            self._sender = Sender(self.outbox.path, self.publisher, configuration, news=self.outbox.accepted)
            self._sender.start()

    def submit(self, order: Order) -> tuple[str, Future[None]]:
        """Seal *order* and submit it. Return its request id and a future that ends when it is accepted."""
        pending = self._submit(*self.sealer.message(order))
        return pending.id, pending.future

    def _submit(self, id_: str, message: Outgoing, *, timeout: float | None = None) -> _PendingSend:
        seconds = self.configuration.broker.publish_timeout if timeout is None else timeout
        outbox = self.outbox if message.expires_at is not None else None

        def submit() -> Future[None]:
            return outbox.submit(message) if outbox else self.publisher.submit(message, timeout=seconds)

        return _PendingSend(id_, submit(), submit, seconds, self._full_pause, outbox)

    def _submitted(self, orders: Iterable[Order], under_way: deque[_PendingSend]) -> Iterator[_PendingSend]:
        """Submit *orders* and yield what to wait for next.

        If an order is invalid, raise its error when it is its turn: after all orders before it.
        """
        invalid: ValueError | None = None

        def submissions() -> Iterator[_PendingSend]:
            nonlocal invalid
            for order in orders:
                try:
                    yield self._submit(*self.sealer.message(order))
                except ValueError as error:
                    invalid = error
                    return

        yield from in_order(submissions(), under_way)
        if invalid is not None:
            raise invalid

    def _close(self) -> None:
        if self._own_outbox is not None:
            self._own_outbox.close()
        # What is accepted stays accepted. But while the broker is there, no other process should have to send it.
        if self._sender is not None:
            self.everything_sent = self._sender.close(flush=self.configuration.broker.publish_timeout)
        if self.everything_sent:
            self.publisher.close()
        else:
            self.publisher.close(timeout=1.0)


class Producer(_ProducerBase):
    """Sends requests. Each call waits until the broker, or the outbox if there is one, has accepted them.

    >>> with Producer() as producer:                                                    # doctest: +SKIP
    ...     producer.send(PiiRequest(id_number="000000000"), reply_to="onboarding")
    'req-...'
    """

    def send(self, request: TokenRequest, *, timeout: float | None = None, **options: Any) -> str:
        """Seal *request* and send it. Return its request id once it is accepted.

        Options, all of `Order`: `platform` (default: the only one configured), `connected_account`, `lane` (default:
        realtime for a request with a CVC, else bulk), `reply_to` (result route; default: no result is sent), `attach`
        (what to use the token for), `request_id` (to repeat a send whose outcome is unknown: same id, one token),
        `keep_seconds` (how long it may wait before it expires; above 0). *timeout*: seconds.

        Raises `InvalidRequest` and `InvalidTarget` (field and reason, never a value), `InvalidConfiguration`, and
        within the timeout `BrokerUnavailable`, `BrokerFull` or `PublishTimeout`; repeat the send with their
        `request_id`. With an outbox it raises `OutboxFull` or `OutboxFailed` instead. But a request with a CVC must
        not be stored on a disk: it goes to the broker at once, as without an outbox.
        """
        return self._submit(*self.sealer.message(Order(request, **options)), timeout=timeout).accepted()

    def send_many(self, orders: Iterable[Order], *, patience: float = PATIENCE) -> Iterator[str]:
        """Send a stream of any length in bounded memory. Yield each request id, in order, once it is accepted.

        If a queue or the outbox is full, wait *patience* seconds for each request. Raises what `send` raises, at the
        order that caused it. The ids yielded before are accepted. No more requests are sent after an error; its
        `others` are the ids of those that were submitted already and may be accepted: `WINDOW` at most.
        """
        with _under_way() as under_way:
            for pending in self._submitted(orders, under_way):
                yield pending.accepted(patience=patience)

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
        """Order that the token of *result* is used for *target*. Return the attach id once the broker has the order.

        *lane*: `realtime` if a person waits for the outcome. It goes before every order of `bulk`.

        Raises what `send` raises, and `InvalidRequest` if *result* has no valid token. Repeat the order with the
        `request_id` of a `PublishError`: it is the attach id. An order never goes through the outbox: it is not
        sealed, and a token does not live long enough to wait there.
        """
        message = self.sealer.attach_message(result, target, lane=lane, reply_to=reply_to, attach_id=attach_id)
        return self._submit(*message, timeout=timeout).accepted()

    def onboard(self, document: Onboarding, *, timeout: float | None = None, **options: Any) -> str:
        """Seal a whole connected account and send it. Return its onboarding id once it is accepted.

        Options: `onboarding_id` (default: the document's `reference`, else a new one), `platform`, `reply_to`,
        `keep_seconds`, `progress` (send a message for each step too, see `Results`). If it is sent again under the
        same id, corrected or not, only the steps that are not done yet are done.

        Raises what `send` raises. Repeat it with the error's `request_id`: it is the onboarding id.
        """
        id_, _, message = self.sealer.onboarding_message(document, **options)
        return self._submit(id_, message, timeout=timeout).accepted()

    def close(self) -> None:
        """Wait for what was submitted, and close the connection. What an outbox still holds stays in it."""
        self._close()

    def __enter__(self) -> Producer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncProducer(_ProducerBase):
    """The producer for asyncio. Only the sealing blocks the loop (about 0.1 ms for each request)."""

    async def send(self, request: TokenRequest, *, timeout: float | None = None, **options: Any) -> str:
        """Send one request; see `Producer.send`."""
        return await self._submit(*self.sealer.message(Order(request, **options)), timeout=timeout).accepted_async()

    async def send_many(self, orders: Iterable[Order], *, patience: float = PATIENCE) -> AsyncIterator[str]:
        """Send a stream of requests; see `Producer.send_many`."""
        with _under_way() as under_way:
            for pending in self._submitted(orders, under_way):
                yield await pending.accepted_async(patience=patience)

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
        """Order that a token is used; see `Producer.attach`."""
        message = self.sealer.attach_message(result, target, lane=lane, reply_to=reply_to, attach_id=attach_id)
        return await self._submit(*message, timeout=timeout).accepted_async()

    async def onboard(self, document: Onboarding, *, timeout: float | None = None, **options: Any) -> str:
        """Send a whole connected account; see `Producer.onboard`."""
        id_, _, message = self.sealer.onboarding_message(document, **options)
        return await self._submit(id_, message, timeout=timeout).accepted_async()

    async def close(self) -> None:
        """Wait for what was submitted, and close the connection."""
        await asyncio.to_thread(self._close)

    async def __aenter__(self) -> AsyncProducer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
