"""The producer: validate, seal, publish. It holds a public key and a signature of its own, nothing that opens."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tokenferry.broker.publishing import Outgoing, Publisher, PublishError, wait, wait_async
from tokenferry.checks import check
from tokenferry.configuration import Configuration, InvalidConfiguration, load
from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.envelope import Header
from tokenferry.contract.names import Lane, new_id
from tokenferry.contract.queues import ATTACH_TASK, TOKENIZE_TASK, attach_queue, tokenize_queue
from tokenferry.contract.requests import InvalidRequest, Problem, TokenRequest
from tokenferry.contract.results import TokenResult
from tokenferry.contract.targets import AttachTarget, digest
from tokenferry.sealing import Recipient, Signer, seal, sign_attach

KEPT_WITH_CVC = 120.0
"""Seconds a request with a card verification code may wait: PCI DSS 3.3.1 forbids keeping one, even encrypted."""
KEPT: dict[Lane, float] = {"realtime": 900.0, "bulk": 3 * 86_400.0}
"""Seconds a request may wait by default: a person gives up after minutes, an import runs for days."""
WINDOW = 500
"""Requests sealed and not yet confirmed by the broker in `send_many`: bounds memory, keeps batches full."""


@dataclass(frozen=True)
class Order:
    """One request with everything `send` takes beside it, for `send_many`."""

    request: TokenRequest
    platform: str | None = None
    connected_account: str | None = None
    lane: Lane | None = None
    reply_to: str | None = None
    attach: AttachTarget | None = None
    request_id: str | None = None
    keep_seconds: float | None = None


class Sealer:
    """Turns an order into a message ready to be published. No input, no output: what both producers share."""

    def __init__(self, configuration: Configuration) -> None:
        """Raises `UnusableKey` when a key file is missing, readable by others or not the key it should be."""
        self.configuration = configuration
        keys = configuration.keys
        self.recipient = Recipient.load(configuration.path(keys.recipient))
        self.signer = Signer.load(configuration.path(keys.producer_signing_key))

    def platform(self, name: str | None) -> str:
        """The name of the platform meant: the only one there is, where none is named.

        Raises `InvalidConfiguration`.
        """
        if name is None:
            if len(self.configuration.platforms) != 1:
                known = ", ".join(sorted(self.configuration.platforms)) or "none"
                raise InvalidConfiguration(f"name the platform; configured: {known}")
            (name,) = self.configuration.platforms
        self.configuration.platform(name)
        return name

    def message(self, order: Order) -> tuple[str, Outgoing]:
        """Check and seal one order: its request id and the message.

        Raises `InvalidRequest` (field and reason, never the value) and `InvalidConfiguration`.
        """
        request = order.request
        name = self.platform(order.platform)
        lane: Lane = order.lane or ("realtime" if request.carries_cvc else "bulk")
        live = self.configuration.platform(name).live
        problems = list(check(request, today=datetime.now(UTC).date(), live=live))
        if request.carries_cvc and lane != "realtime":
            problems.append(
                Problem(f"{request.kind}.cvc", "a card verification code may only travel in the realtime lane")
            )
        if request.needs_connected_account and order.connected_account is None:
            problems.append(
                Problem(f"{request.kind}.customer", "copying a saved card or bank account needs a connected account")
            )
        if problems:
            raise InvalidRequest(tuple(problems))
        if order.attach is not None:
            order.attach.check(request.kind)
        keep = order.keep_seconds or (KEPT_WITH_CVC if request.carries_cvc else KEPT[lane])
        if request.carries_cvc:
            keep = min(keep, KEPT_WITH_CVC)
        issued = time.time()
        header = Header(
            suite=self.recipient.suite,
            key_id=self.recipient.key_id,
            request_id=order.request_id or new_id(),
            kind=request.kind,
            platform=name,
            connected_account=order.connected_account,
            lane=lane,
            reply_to=order.reply_to,
            attach_digest=digest(order.attach) if order.attach else None,
            issued_at=int(issued * 1000),
            expires_at=int((issued + keep) * 1000),
            producer_id=self.signer.signer_id,
        )
        envelope = seal(request, header, to=self.recipient, signer=self.signer, attach=order.attach)
        body = envelope.model_dump_json()
        queue = tokenize_queue(lane, name)
        kept = keep if request.carries_cvc else None
        return header.request_id, Outgoing.task(queue, TOKENIZE_TASK, header.request_id, body, keep_seconds=kept)

    def attach_message(
        self, result: TokenResult, target: AttachTarget, *, reply_to: str | None, attach_id: str | None
    ) -> tuple[str, Outgoing]:
        """Sign an order to spend the token of *result* on *target*: its attach id and the message.

        Raises `ValueError` when *result* holds no token, `InvalidTarget` when its kind cannot be spent there.
        """
        if result.token is None:
            raise ValueError(f"request {result.request_id} has no token to attach")
        target.check(result.kind)
        made_at = (result.created or int(time.time())) * 1000
        request = AttachRequest(
            attach_id=attach_id or new_id(),
            request_id=result.request_id,
            token=result.token,
            kind=result.kind,
            platform=result.platform,
            connected_account=result.connected_account,
            target=target,
            reply_to=reply_to,
            token_created_at=made_at,
            attach_before=made_at + int(self.configuration.worker.token_lifetime * 1000),
            signer_id=self.signer.signer_id,
            display=result.display,
        )
        body = sign_attach(request, self.signer).model_dump_json()
        return request.attach_id, Outgoing.task(attach_queue(request.platform), ATTACH_TASK, request.attach_id, body)


class _Opened:
    """What both producers open and close: a sealer and a publisher."""

    def __init__(self, configuration: Configuration | Path | None = None) -> None:
        """*configuration*: a loaded one, or the path of a `tokenferry.toml` (default: the one in this folder).

        Raises `InvalidConfiguration`, `UnusableKey`, `EmbeddedServerError`.
        """
        if not isinstance(configuration, Configuration):
            configuration = load(configuration)
        self.configuration = configuration
        self.sealer = Sealer(configuration)
        self.publisher = Publisher.to(configuration)

    def submit(self, order: Order) -> tuple[str, Future[None]]:
        """Seal *order* and start publishing it: its request id, and a future that ends when the broker has it."""
        request_id, message = self.sealer.message(order)
        return request_id, self.publisher.submit(message)


class Producer(_Opened):
    """Sends requests, waiting for the broker's word each time.

    >>> with Producer() as producer:                                                    # doctest: +SKIP
    ...     producer.send(PiiRequest(id_number="000000000"), reply_to="onboarding")
    'req-...'
    """

    def send(self, request: TokenRequest, *, timeout: float | None = None, **options: Any) -> str:
        """Seal *request* and publish it; its request id once the broker has confirmed it.

        Options, all of `Order`: `platform` (default: the only one configured), `connected_account`, `lane` (default:
        realtime where a CVC is carried, else bulk), `reply_to` (result route; default: nobody is told), `attach` (what
        to spend the token on), `request_id` (to repeat a send whose outcome is unknown: same id, one token),
        `keep_seconds` (how long it may wait before it expires). *timeout*: seconds.

        Raises `InvalidRequest`, `InvalidTarget`, and `BrokerUnavailable`, `BrokerFull` or `PublishTimeout` within the
        timeout; their `request_id` is the id to repeat it with.
        """
        request_id, message = self.sealer.message(Order(request, **options))
        timeout = timeout or self.configuration.broker.publish_timeout
        return _confirmed(request_id, self.publisher.submit(message, timeout=timeout), timeout)

    def send_many(self, orders: Iterable[Order]) -> Iterator[str]:
        """Send a stream of any length in bounded memory; yields each request id, in order, once it is confirmed.

        Raises what `send` raises, at the order that caused it; the ids yielded before it are with the broker.
        """
        window: deque[tuple[str, Future[None]]] = deque()
        timeout = self.configuration.broker.publish_timeout
        refused: ValueError | None = None
        for order in orders:
            try:
                window.append(self.submit(order))
            except ValueError as error:
                refused = error  # raised in its turn: what was sent before it is confirmed first
                break
            while len(window) >= WINDOW or (window and window[0][1].done()):
                yield _confirmed(*window.popleft(), timeout)
        while window:
            yield _confirmed(*window.popleft(), timeout)
        if refused is not None:
            raise refused

    def attach(
        self,
        result: TokenResult,
        target: AttachTarget,
        *,
        reply_to: str | None = None,
        attach_id: str | None = None,
        timeout: float | None = None,
    ) -> str:
        """Order the token of *result* to be spent on *target*; the attach id once the broker has confirmed it.

        An error's `request_id` is the attach id to repeat it with.
        """
        attach_id, message = self.sealer.attach_message(result, target, reply_to=reply_to, attach_id=attach_id)
        timeout = timeout or self.configuration.broker.publish_timeout
        return _confirmed(attach_id, self.publisher.submit(message, timeout=timeout), timeout)

    def close(self) -> None:
        """Finish what was submitted and close the connection."""
        self.publisher.close()

    def __enter__(self) -> Producer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncProducer(_Opened):
    """The same for asyncio: nothing blocks the loop but the sealing itself (about 0.1 ms)."""

    async def send(self, request: TokenRequest, *, timeout: float | None = None, **options: Any) -> str:
        """As `Producer.send`."""
        request_id, message = self.sealer.message(Order(request, **options))
        timeout = timeout or self.configuration.broker.publish_timeout
        return await _confirmed_async(request_id, self.publisher.submit(message, timeout=timeout), timeout)

    async def send_many(self, orders: Iterable[Order]) -> AsyncIterator[str]:
        """As `Producer.send_many`."""
        window: deque[tuple[str, Future[None]]] = deque()
        timeout = self.configuration.broker.publish_timeout
        refused: ValueError | None = None
        for order in orders:
            try:
                window.append(self.submit(order))
            except ValueError as error:
                refused = error
                break
            while len(window) >= WINDOW or (window and window[0][1].done()):
                yield await _confirmed_async(*window.popleft(), timeout)
        while window:
            yield await _confirmed_async(*window.popleft(), timeout)
        if refused is not None:
            raise refused

    async def attach(
        self,
        result: TokenResult,
        target: AttachTarget,
        *,
        reply_to: str | None = None,
        attach_id: str | None = None,
        timeout: float | None = None,
    ) -> str:
        """As `Producer.attach`."""
        attach_id, message = self.sealer.attach_message(result, target, reply_to=reply_to, attach_id=attach_id)
        timeout = timeout or self.configuration.broker.publish_timeout
        return await _confirmed_async(attach_id, self.publisher.submit(message, timeout=timeout), timeout)

    async def close(self) -> None:
        """Finish what was submitted and close the connection."""
        await asyncio.to_thread(self.publisher.close)

    async def __aenter__(self) -> AsyncProducer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _confirmed(request_id: str, future: Future[None], timeout: float) -> str:
    try:
        wait(future, timeout)
    except PublishError as error:
        error.request_id = request_id
        raise
    return request_id


async def _confirmed_async(request_id: str, future: Future[None], timeout: float) -> str:
    try:
        await wait_async(future, timeout)
    except PublishError as error:
        error.request_id = request_id
        raise
    return request_id
