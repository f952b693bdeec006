"""The producer: it validates and seals a request, and gives it to the broker or to the outbox.

It holds a public key to seal with and a key to sign with. It holds nothing that opens a sealed request.
"""

from __future__ import annotations

import asyncio
import logging
import time
import warnings
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final, Literal, Protocol, TypeVar, Unpack, overload

from tokenferry.broker.errors import StillQueued
from tokenferry.broker.fork_guard import ForkGuard
from tokenferry.broker.publishing import BrokerFull, Outgoing, Publisher, PublishError, PublishTimeout, wait, wait_async
from tokenferry.configuration import Configuration, load
from tokenferry.contract.names import Lane, new_id
from tokenferry.contract.onboarding import Onboarding
from tokenferry.contract.requests import TokenRequest
from tokenferry.contract.results import AttachResult, TokenResult
from tokenferry.contract.targets import AttachTarget
from tokenferry.errors import StillRunning, UnknownRequest
from tokenferry.ordering import OnboardOptions, Order, Sealer, SendOptions
from tokenferry.outbox import Outbox, OutboxFailed, OutboxFull, Sender
from tokenferry.replies import Answer, Replies

__all__ = ["AsyncProducer", "Order", "Producer", "Sealer"]

ANSWER_SECONDS: Final = 30.0
"""Seconds for which `request` waits: a person in front of a browser waits no longer."""

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
        configuration: Configuration | str | Path | None = None,
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
        self._process = ForkGuard("a Producer")
        self._replies: Replies | None = None
        self._opening = Lock()
        self._sender: Sender | None = None
        if self.outbox is not None:
            self._sender = Sender(self.outbox.path, self.publisher, configuration, news=self.outbox.accepted)
            self._sender.start()

    def submit(self, order: Order) -> tuple[str, Future[None]]:
        """Seal *order* and submit it. Return its request id and a future that ends when it is accepted."""
        pending = self._submit(*self.sealer.message(order))
        return pending.id, pending.future

    def _asked(
        self, request: TokenRequest, attach: AttachTarget | None, options: SendOptions, timeout: float
    ) -> tuple[_PendingSend, Future[Answer]]:
        """Seal *request* and submit it, to be answered on the private route. Return it and its answer."""
        options = {"lane": "realtime", **options, "request_id": options.get("request_id") or new_id()}
        id_, message = self.sealer.message(Order(request, attach=attach, reply_to=self._private().route, **options))
        answer = self._private().ask(id_, None if attach is None else attach.to)
        seconds = min(timeout, self.configuration.broker.publish_timeout)
        # Somebody waits: it is sent now or not at all, so it does not go through an outbox.
        return self._submit(id_, message, timeout=seconds, may_keep=False), answer

    def _private(self) -> Replies:
        """The answers to this process, read from the first request on."""
        self._process.check()
        with self._opening:
            if self._replies is None or not self._replies.is_alive:
                self._replies = Replies(self.configuration)
            return self._replies

    def _answer_to(self, request_id: str) -> Future[Answer]:
        if self._replies is None:
            raise UnknownRequest(request_id)
        return self._replies.answer_to(request_id)

    def _submit(
        self, id_: str, message: Outgoing, *, timeout: float | None = None, may_keep: bool = True
    ) -> _PendingSend:
        """Submit *message*. *may_keep*: False if it goes to the broker even where there is an outbox."""
        seconds = self.configuration.broker.publish_timeout if timeout is None else timeout
        outbox = self.outbox if may_keep and message.expires_at is not None else None

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
        if self._replies is not None:
            self._replies.close()
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
    """Sends requests. Each call waits until the broker, or the outbox if there is one, has accepted them. Thread-safe.

    One producer serves a whole process: make it once, and after a fork in each process of its own.

    >>> with Producer() as producer:                                                    # doctest: +SKIP
    ...     producer.send(PiiRequest(id_number="000000000"), reply_to="onboarding")
    'req-...'
    """

    def send(
        self,
        request: TokenRequest,
        *,
        reply_to: str | None = None,
        attach: AttachTarget | None = None,
        timeout: float | None = None,
        **options: Unpack[SendOptions],
    ) -> str:
        """Seal *request* and send it. Return its request id once the broker, or the outbox, has accepted it.

        *reply_to*: the route of its result, to be read with `Results`; without one no result is sent.
        *attach*: what to use the token for. *timeout*: seconds until it must be accepted (default: `[broker]
        publish_timeout`). More options, each explained in `SendOptions`: `platform`, `connected_account`, `lane`
        (default: realtime for a request with a CVC, else bulk), `request_id`, `keep_seconds`.

        Raises `InvalidInput` (`InvalidRequest`, `InvalidTarget`: field and reason, never a value),
        `InvalidConfiguration`, and within the timeout `BrokerUnavailable`, `BrokerFull` or `PublishTimeout`. If you do
        not know whether it arrived, send it again with the error's `request_id`: one id gets one token. With an outbox
        it raises `OutboxFull` or `OutboxFailed` instead; a request with a CVC, which must not be stored on a disk, goes
        to the broker all the same.
        """
        warn_in_event_loop("send")
        order = Order(request, reply_to=reply_to, attach=attach, **options)
        return self._submit(*self.sealer.message(order), timeout=timeout).accepted()

    @overload
    def request(
        self,
        request: TokenRequest,
        *,
        attach: AttachTarget,
        timeout: float = ...,
        **options: Unpack[SendOptions],
    ) -> AttachResult: ...

    @overload
    def request(
        self,
        request: TokenRequest,
        *,
        attach: None = None,
        timeout: float = ...,
        **options: Unpack[SendOptions],
    ) -> TokenResult: ...

    def request(
        self,
        request: TokenRequest,
        *,
        attach: AttachTarget | None = None,
        timeout: float = ANSWER_SECONDS,
        **options: Unpack[SendOptions],
    ) -> Answer:
        """Send *request*, wait for its own answer, and return it: the token, or with *attach* what it became.

        The answer arrives on a private route that only this process reads, so answers of other processes, and of
        requests that gave up earlier, are never mixed up with it. Look at `ok` first: a declined card is an answer too,
        with `failure.code`. *timeout*: seconds for everything. Options: see `send`; the lane is realtime by default.

        Raises `StillRunning` if there is no answer in time: the request goes on, and `outcome(error.request_id)` has
        the answer later. Raises what `send` raises if it was not sent; it never waits in an outbox. Raises
        `RuntimeError` in an event loop, which it would block: use `AsyncProducer` there.
        """
        refuse_in_event_loop("request")
        end = time.monotonic() + timeout
        pending, answer = self._asked(request, attach, options, timeout)
        pending.accepted()
        return _answer(pending.id, answer, end - time.monotonic(), timeout)

    def outcome(self, request_id: str, *, timeout: float = 0.0) -> Answer:
        """Return the answer to a request of this producer that was `StillRunning`. *timeout*: seconds to wait for it.

        Raises `StillRunning` if there is none yet, and `UnknownRequest` if this producer does not know the request:
        another process asked, or more than 10,000 others were answered since. `tokenferry show ID` knows it then.
        """
        return _answer(request_id, self._answer_to(request_id), timeout, timeout)

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

        *lane*: `realtime` if a person waits for the outcome. It goes before every order of `bulk`. *reply_to*: the
        route of the outcome. *attach_id*: to repeat an order. *timeout*: seconds until the broker must have it.

        Raises what `send` raises, and `InvalidRequest` if *result* has no valid token. Repeat the order with the
        `request_id` of a `PublishError`: it is the attach id. An order never goes through the outbox: it is not
        sealed, and a token does not live long enough to wait there.
        """
        message = self.sealer.attach_message(result, target, lane=lane, reply_to=reply_to, attach_id=attach_id)
        return self._submit(*message, timeout=timeout).accepted()

    def onboard(self, document: Onboarding, *, timeout: float | None = None, **options: Unpack[OnboardOptions]) -> str:
        """Seal a whole connected account and send it. Return its onboarding id once it is accepted.

        Options, each explained in `OnboardOptions`: `onboarding_id`, `platform`, `reply_to`, `keep_seconds`,
        `progress`. If it is sent again under the same id, corrected or not, only the steps that are not done yet are
        done. *timeout*: seconds until it must be accepted.

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
    """Sends requests, for asyncio. Only the sealing blocks the loop (about 0.1 ms for each request).

    One producer serves a whole process: make it once, at the start of the application, in each process.

    >>> async def main(card: CardRequest) -> None:
    ...     async with AsyncProducer() as producer:
    ...         result = await producer.request(card, attach=CustomerCreate(email="ada@example.com"))
    ...         print(result.object_id if result.ok else result.failure)
    """

    async def send(
        self,
        request: TokenRequest,
        *,
        reply_to: str | None = None,
        attach: AttachTarget | None = None,
        timeout: float | None = None,
        **options: Unpack[SendOptions],
    ) -> str:
        """Seal *request* and send it. Return its request id once the broker, or the outbox, has accepted it.

        *reply_to*: the route of its result, to be read with `AsyncResults`; without one no result is sent.
        *attach*: what to use the token for. *timeout*: seconds until it must be accepted (default: `[broker]
        publish_timeout`). More options, each explained in `SendOptions`: `platform`, `connected_account`, `lane`
        (default: realtime for a request with a CVC, else bulk), `request_id`, `keep_seconds`.

        Raises `InvalidInput` (`InvalidRequest`, `InvalidTarget`: field and reason, never a value),
        `InvalidConfiguration`, and within the timeout `BrokerUnavailable`, `BrokerFull` or `PublishTimeout`. If you do
        not know whether it arrived, send it again with the error's `request_id`: one id gets one token. With an outbox
        it raises `OutboxFull` or `OutboxFailed` instead; a request with a CVC, which must not be stored on a disk, goes
        to the broker all the same.
        """
        order = Order(request, reply_to=reply_to, attach=attach, **options)
        return await self._submit(*self.sealer.message(order), timeout=timeout).accepted_async()

    @overload
    async def request(
        self,
        request: TokenRequest,
        *,
        attach: AttachTarget,
        timeout: float = ...,
        **options: Unpack[SendOptions],
    ) -> AttachResult: ...

    @overload
    async def request(
        self,
        request: TokenRequest,
        *,
        attach: None = None,
        timeout: float = ...,
        **options: Unpack[SendOptions],
    ) -> TokenResult: ...

    async def request(
        self,
        request: TokenRequest,
        *,
        attach: AttachTarget | None = None,
        timeout: float = ANSWER_SECONDS,
        **options: Unpack[SendOptions],
    ) -> Answer:
        """Send *request*, wait for its own answer, and return it: the token, or with *attach* what it became.

        The answer arrives on a private route that only this process reads, so answers of other processes, and of
        requests that gave up earlier, are never mixed up with it. Look at `ok` first: a declined card is an answer too,
        with `failure.code`. *timeout*: seconds for everything. Options: see `send`; the lane is realtime by default.

        Raises `StillRunning` if there is no answer in time: the request goes on, and `outcome(error.request_id)` has
        the answer later. Raises what `send` raises if it was not sent; it never waits in an outbox.
        """
        end = time.monotonic() + timeout
        pending, answer = await asyncio.to_thread(self._asked, request, attach, options, timeout)
        await pending.accepted_async()
        return await _answer_async(pending.id, answer, end - time.monotonic(), timeout)

    async def outcome(self, request_id: str, *, timeout: float = 0.0) -> Answer:
        """Return the answer to a request of this producer that was `StillRunning`. *timeout*: seconds to wait for it.

        Raises `StillRunning` if there is none yet, and `UnknownRequest` if this producer does not know the request:
        another process asked, or more than 10,000 others were answered since. `tokenferry show ID` knows it then.
        """
        return await _answer_async(request_id, self._answer_to(request_id), timeout, timeout)

    async def send_many(self, orders: Iterable[Order], *, patience: float = PATIENCE) -> AsyncIterator[str]:
        """Send a stream of any length in bounded memory. Yield each request id, in order, once it is accepted.

        If a queue or the outbox is full, wait *patience* seconds for each request. Raises what `send` raises, at the
        order that caused it. The ids yielded before are accepted. No more requests are sent after an error; its
        `others` are the ids of those that were submitted already and may be accepted: `WINDOW` at most.
        """
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
        """Order that the token of *result* is used for *target*. Return the attach id once the broker has the order.

        *lane*: `realtime` if a person waits for the outcome. It goes before every order of `bulk`. *reply_to*: the
        route of the outcome. *attach_id*: to repeat an order. *timeout*: seconds until the broker must have it.

        Raises what `send` raises, and `InvalidRequest` if *result* has no valid token. Repeat the order with the
        `request_id` of a `PublishError`: it is the attach id. An order never goes through the outbox: it is not
        sealed, and a token does not live long enough to wait there.
        """
        message = self.sealer.attach_message(result, target, lane=lane, reply_to=reply_to, attach_id=attach_id)
        return await self._submit(*message, timeout=timeout).accepted_async()

    async def onboard(
        self, document: Onboarding, *, timeout: float | None = None, **options: Unpack[OnboardOptions]
    ) -> str:
        """Seal a whole connected account and send it. Return its onboarding id once it is accepted.

        Options, each explained in `OnboardOptions`: `onboarding_id`, `platform`, `reply_to`, `keep_seconds`,
        `progress`. If it is sent again under the same id, corrected or not, only the steps that are not done yet are
        done. *timeout*: seconds until it must be accepted.

        Raises what `send` raises. Repeat it with the error's `request_id`: it is the onboarding id.
        """
        id_, _, message = self.sealer.onboarding_message(document, **options)
        return await self._submit(id_, message, timeout=timeout).accepted_async()

    async def close(self) -> None:
        """Wait for what was submitted, and close the connection. What an outbox still holds stays in it."""
        await asyncio.to_thread(self._close)

    async def __aenter__(self) -> AsyncProducer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _answer(request_id: str, answer: Future[Answer], left: float, timeout: float) -> Answer:
    """Wait *left* seconds for *answer*. Raises `StillRunning`, which names the *timeout* that the caller gave."""
    try:
        return answer.result(max(0.0, left))
    except TimeoutError:
        if answer.done():  # it is the reader's own error
            raise
    raise StillRunning(request_id, timeout)


async def _answer_async(request_id: str, answer: Future[Answer], left: float, timeout: float) -> Answer:
    """`_answer` for asyncio. A wait that is cancelled leaves the answer where it is."""
    done, _ = await asyncio.wait([_shielded(answer)], timeout=max(0.0, left))
    if done:
        return answer.result()
    raise StillRunning(request_id, timeout)


def _shielded(answer: Future[Answer]) -> asyncio.Future[None]:
    """A future of this loop that ends with *answer*, and does not end it."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def end() -> None:
        if not ended.done():
            ended.set_result(None)

    def wake(_: Future[Answer]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(end)

    answer.add_done_callback(wake)
    return ended


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def refuse_in_event_loop(name: str) -> None:
    """Raise `RuntimeError` if this thread runs an event loop: it would stand still until the answer is there."""
    if _in_event_loop():
        raise RuntimeError(
            f"Producer.{name} would block the event loop of this thread; write `await producer.{name}(...)` with an "
            f"AsyncProducer, or `await asyncio.to_thread(producer.{name}, ...)`"
        )


def warn_in_event_loop(name: str) -> None:
    """Warn if this thread runs an event loop: it stands still until the broker answers."""
    if _in_event_loop():
        warnings.warn(
            f"Producer.{name} blocks the event loop of this thread until the broker answers; use AsyncProducer",
            RuntimeWarning,
            stacklevel=3,
        )
