"""Producers that check and seal like the real ones, send nothing, and answer at once. No server, no keys, no files."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from threading import Lock
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519, x25519

from tokenferry.broker.errors import PublishError
from tokenferry.broker.fork_guard import ForkGuard
from tokenferry.broker.outgoing import Outgoing
from tokenferry.configuration import Configuration, Platform
from tokenferry.contract.names import Lane
from tokenferry.contract.onboarding import Onboarding
from tokenferry.contract.requests import CardRequest
from tokenferry.contract.results import AttachResult, Display, Failure, TokenResult
from tokenferry.contract.targets import AttachTarget
from tokenferry.errors import UnknownRequest
from tokenferry.ordering import Order, Sealer
from tokenferry.producer import AsyncProducer, Producer, _ProducerBase
from tokenferry.replies import Answer
from tokenferry.sealing import Recipient, Signer, key_id
from tokenferry.testing.data import DECLINES

Answers = Callable[[Order], Answer]
"""Returns the answer to an order, or raises what `request` should raise: `StillRunning` for instance."""


def usual_answer(order: Order, number: int = 1) -> Answer:
    """Return what Stripe would say: success, but for cards of `DECLINES` whose token is used."""
    request_id = order.request_id or f"req-fake-{number}"
    common: dict[str, Any] = {
        "request_id": request_id,
        "kind": order.request.kind,
        "platform": order.platform or "main",
        "connected_account": order.connected_account,
        "settled_at": int(time.time() * 1000),
        "token": f"tok_fake_{number}",
    }
    if order.attach is None:
        return TokenResult(outcome_id=f"{request_id}:token", display=_display(order), livemode=False, **common)
    common |= {"outcome_id": f"{request_id}:attach", "attach_id": request_id, "to": order.attach.to}
    if (decline := _decline_of(order)) is not None:
        failure = Failure(code="card_declined", source="endpoint", decline_code=decline, status=402, attempts=1)
        return AttachResult(failure=failure, **common)
    kind = order.attach.to.removesuffix("_create").removesuffix("_update")
    return AttachResult(object_id=f"{_PREFIXES.get(kind, kind)}_fake_{number}", object_type=kind, **common)


_PREFIXES = {
    "account": "acct",
    "charge": "ch",
    "customer": "cus",
    "customer_source": "card",
    "external_account": "ba",
    "payment_intent": "pi",
    "payment_intent_confirm": "pi",
    "payment_method": "pm",
    "source": "src",
    "topup": "tu",
}


class _Fake(_ProducerBase):
    """What both fakes record."""

    def __init__(self, answers: Answers | None = None, *, configuration: Configuration | None = None) -> None:
        """*answers*: makes the answer to each order, or raises an error for it. Default: `usual_answer`.

        *configuration*: default: one platform, `main`, in test mode.
        """
        self.configuration = configuration or Configuration(platforms={"main": Platform()})
        self.sent: list[Order] = []
        """Every order of `send`, `send_many` and `request`, oldest first, with its request id."""
        self.attached: list[tuple[TokenResult, AttachTarget]] = []
        """Every order of `attach`."""
        self.onboarded: list[Onboarding] = []
        """Every document of `onboard`."""
        self.fails_with: PublishError | None = None
        """If set, nothing is accepted: every call raises it."""
        self.sealer = _RecordingSealer(self.configuration, self)
        self.outbox = self._own_outbox = self._sender = None
        self.publisher = _NoBroker(self)  # type: ignore[assignment]
        self.everything_sent = True
        self._full_pause = 0.0
        self._process = ForkGuard("a FakeProducer")
        self._opening = Lock()
        self._replies = _Answers(self, answers)  # type: ignore[assignment]


class FakeProducer(_Fake, Producer):
    """A `Producer` for unit tests: it checks and seals, records what would be sent, and answers `request` at once.

    >>> from tokenferry.testing import card, declined_card
    >>> from tokenferry import CustomerCreate
    >>> producer = FakeProducer()
    >>> producer.request(card(), attach=CustomerCreate()).object_id
    'cus_fake_1'
    >>> producer.request(declined_card("lost_card"), attach=CustomerCreate()).failure.decline_code
    'lost_card'
    """


class FakeAsyncProducer(_Fake, AsyncProducer):
    """An `AsyncProducer` for unit tests; see `FakeProducer`: it has the same `sent`, `fails_with` and answers."""


class _RecordingSealer(Sealer):
    def __init__(self, configuration: Configuration, fake: _Fake) -> None:
        recipient = x25519.X25519PrivateKey.generate().public_key()
        signing = ed25519.Ed25519PrivateKey.generate()
        super().__init__(
            configuration,
            recipient=Recipient(key_id(recipient.public_bytes_raw()), "x25519-hkdf-sha256-aes256gcm", recipient),
            signer=Signer(key_id(signing.public_key().public_bytes_raw()), signing.sign),
        )
        self._fake = fake

    def message(self, order: Order, *, generation: int = 1) -> tuple[str, Outgoing]:
        request_id, message = super().message(order, generation=generation)
        if self._fake.fails_with is None:
            self._fake.sent.append(replace(order, request_id=request_id))
        return request_id, message

    def attach_message(
        self,
        result: TokenResult,
        target: AttachTarget,
        *,
        lane: Lane = "bulk",
        reply_to: str | None,
        attach_id: str | None,
        **more: Any,
    ) -> tuple[str, Outgoing]:
        message = super().attach_message(result, target, lane=lane, reply_to=reply_to, attach_id=attach_id, **more)
        if self._fake.fails_with is None:
            self._fake.attached.append((result, target))
        return message

    def onboarding_message(self, document: Onboarding, **options: Any) -> tuple[str, str, Outgoing]:
        message = super().onboarding_message(document, **options)
        if self._fake.fails_with is None:
            self._fake.onboarded.append(document)
        return message


class _NoBroker:
    """Confirms everything at once, or fails with what the test wants."""

    def __init__(self, fake: _Fake) -> None:
        self._fake = fake

    def submit(self, _: Outgoing, *, timeout: float | None = None) -> Future[None]:
        confirmed: Future[None] = Future()
        if self._fake.fails_with is None:
            confirmed.set_result(None)
        else:
            confirmed.set_exception(self._fake.fails_with)
        return confirmed

    def close(self, *, timeout: float = 0.0) -> None:
        """There is nothing to close."""


class _Answers:
    """The answers to the requests of a fake."""

    route = "private-fake"
    is_alive = True

    def __init__(self, fake: _Fake, answers: Answers | None) -> None:
        self._fake = fake
        self._answers = answers
        self._given: dict[str, Future[Answer]] = {}

    def ask(self, request_id: str, _: str | None) -> Future[Answer]:
        answer = self._given.setdefault(request_id, Future())
        order = next((order for order in reversed(self._fake.sent) if order.request_id == request_id), None)
        if order is not None and not answer.done():
            try:
                answer.set_result(self._answers(order) if self._answers else usual_answer(order, len(self._fake.sent)))
            except Exception as error:
                answer.set_exception(error)
        return answer

    def answer_to(self, request_id: str) -> Future[Answer]:
        if request_id not in self._given:
            raise UnknownRequest(request_id)
        return self._given[request_id]

    def close(self) -> None:
        """There is nothing to close."""


def _decline_of(order: Order) -> str | None:
    number = order.request.number if isinstance(order.request, CardRequest) else None
    return next((code for code, declined in DECLINES.items() if declined == number), None)


def _display(order: Order) -> Display | None:
    request = order.request
    if not isinstance(request, CardRequest) or request.number is None:
        return None
    brands = {"3": "American Express", "4": "Visa", "5": "MasterCard", "6": "Discover"}
    return Display(brand=brands.get(request.number[0]), last4=request.number[-4:])
