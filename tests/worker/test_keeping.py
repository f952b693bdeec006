"""Of what is set aside, only what cannot carry a verification code is kept, and never more than a queue can take."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest
from conftest import KeyFolder

from tokenferry import CardRequest, CvcUpdateRequest, Order
from tokenferry.broker.publishing import BrokerUnavailable, Outgoing, Publisher
from tokenferry.configuration import Configuration
from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.codes import Code
from tokenferry.contract.envelope import MAX_ENVELOPE_BYTES
from tokenferry.contract.queues import MAX_MESSAGE_BYTES
from tokenferry.contract.targets import CustomerCreate
from tokenferry.contract.work_messages import Refused
from tokenferry.producer import Sealer
from tokenferry_worker.dead_letters.record import FOREIGN, DeadLetter, argument
from tokenferry_worker.dead_letters.retention import HEAD, redated, retained
from tokenferry_worker.engine.consumer import ASIDE_AGAIN, CarefulConsumer
from tokenferry_worker.engine.engine import Engine, EngineApp
from tokenferry_worker.health.vitals import Vitals
from tokenferry_worker.on_redis.store import ServerClock

from .standins import NOW, FlakyPublisher

NUMBER: Final = "4242424242424242"
REQUESTS: Final = {
    "cvc": CardRequest(number=NUMBER, exp_month=12, exp_year=2044, cvc="987"),
    "lane": CardRequest(number=NUMBER, exp_month=12, exp_year=2044),
    "cvc_update": CvcUpdateRequest(cvc="987"),
}
Seal = Callable[..., str]


@pytest.fixture
def seal(key_folder: KeyFolder) -> Seal:
    keys = {"recipient": key_folder.recipient, "producer_signing_key": key_folder.producer}
    sealer = Sealer(Configuration.model_validate({"keys": keys, "platforms": {"main": {}}}))

    def sealed(request: Any = REQUESTS["lane"], lane: Any = "bulk") -> str:
        order = Order(request, platform="main", request_id="req-1", lane=lane)
        return str(json.loads(sealer.message(order)[1].body)[0][0])

    return sealed


def an_order(sealed: str) -> str:
    """An order to attach, as somebody writes it who does not care for our models."""
    order: dict[str, Any] = {
        "attach_id": "req-1",
        "request_id": "req-1",
        "token": "tok_1",
        "kind": "card",
        "platform": "main",
        "target": CustomerCreate(email="ada@example.com").model_dump(),
        "token_created_at": 1,
        "attach_before": 2,
        "signer_id": "worker-1",
        "sealed": sealed,
    }
    return json.dumps({"request": order, "signature": "c2lnbmVk"})


def with_another_header(sealed: str) -> str:
    """Two headers, of which a parser shows the second: one of a bulk request."""
    header = json.loads(sealed)["header"] | {"lane": "bulk", "kind": "card"}
    return f'{sealed[:-1]}, "header": {json.dumps(header)}}}'


WRAPPINGS: Final[dict[str, Callable[[str], str | bytes]]] = {
    "plain": str,
    "task": lambda sealed: json.dumps([[sealed], {}, {}]),
    "bytes": str.encode,
    "broken bytes": lambda sealed: sealed.encode() + b"\xff",
    "more fields": lambda sealed: json.dumps({**json.loads(sealed), "extra": 1}),
    "trailing byte": lambda sealed: sealed + "}",
    "truncated": lambda sealed: sealed[:-2],
    "two arguments": lambda sealed: json.dumps([[sealed, "x"], {}, {}]),
    "keyword": lambda sealed: json.dumps([[], {"body": sealed}, {}]),
    "beside a harmless one": lambda sealed: json.dumps([["{}"], {"body": sealed}, {}]),
    "JSON in JSON": lambda sealed: json.dumps(json.dumps(sealed)),
    "list": lambda sealed: f"[{sealed}]",
    "byte order mark": lambda sealed: "\ufeff" + sealed,
    "nested": lambda sealed: json.dumps({"body": {"body": sealed}}),
    "upper case": lambda sealed: sealed.replace('"realtime"', '"REALTIME"'),
    "second header": lambda sealed: f'{sealed[:-1]}, "header": {{"lane": "bulk"}}}}',
    "second whole header": with_another_header,
    "order": an_order,
    "order in a task": lambda sealed: json.dumps([[an_order(sealed)], {}, {}]),
}


@pytest.mark.parametrize("wrapped", WRAPPINGS)
@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("realtime", [True, False], ids=["realtime", "another queue"])
def test_what_may_carry_a_verification_code_is_not_kept_however_it_is_wrapped(
    seal: Seal, wrapped: str, request_: str, realtime: bool
) -> None:
    sealed = seal(REQUESTS[request_], "realtime")
    body = WRAPPINGS[wrapped](sealed)
    kept = retained(body, "not ours", at=NOW, realtime=realtime)
    ciphertext = json.loads(sealed)["ciphertext"]
    assert not any(ciphertext[at : at + 12] in kept for at in range(0, len(ciphertext) - 12, 12))
    raw = body if isinstance(body, bytes) else body.encode()
    said = json.loads(kept)
    assert (said["reason"], said["at"], said["message"]) == ("not ours", int(NOW * 1000), "")
    assert (said["bytes"], said["sha256"]) == (len(raw), hashlib.sha256(raw).hexdigest())


@pytest.mark.parametrize("wrapped", ["plain", "task", "bytes", "more fields"])
def test_its_header_is_kept_where_it_is_one_so_that_it_can_be_told_which_request_it_was(
    seal: Seal, wrapped: str
) -> None:
    letter = DeadLetter.read(retained(WRAPPINGS[wrapped](seal(REQUESTS["cvc"], "realtime")), "not ours", at=NOW))
    assert (letter.id, letter.lane, letter.message) == ("req-1", "realtime", "")


@pytest.mark.parametrize("wrapped", ["plain", "task", "bytes", "more fields", "order", "order in a task"])
def test_what_can_carry_none_is_kept_as_it_came_wherever_it_came_from(seal: Seal, wrapped: str) -> None:
    sealed = seal()
    letter = DeadLetter.read(retained(WRAPPINGS[wrapped](sealed), "not ours", at=NOW))
    assert json.loads(sealed)["ciphertext"] in letter.message
    assert (letter.id is None) == (wrapped == "more fields")


def test_of_a_task_only_its_argument_is_kept(seal: Seal) -> None:
    body = json.dumps([[seal()], {"body": seal(REQUESTS["cvc"], "realtime")}, {}])
    assert DeadLetter.read(retained(body, "not ours", at=NOW)).message == json.loads(body)[0][0]


def test_a_text_of_no_shape_is_kept_where_no_request_with_a_code_can_have_come(seal: Seal) -> None:
    half = seal(REQUESTS["cvc"], "realtime")[-200:]  # nothing in it says what it was
    assert json.loads(retained(half, "not ours", at=NOW, realtime=True))["message"] == ""
    assert json.loads(retained("{", "not ours", at=NOW, realtime=False))["message"] == "{"


def test_an_order_may_not_bring_a_request_that_may_carry_one(seal: Seal) -> None:
    order = json.loads(an_order(seal()))["request"]
    assert AttachRequest.model_validate(order).sealed is not None
    for sealed in (seal(REQUESTS["cvc_update"], "realtime"), seal(REQUESTS["lane"], "realtime")):
        with pytest.raises(ValueError, match=r"sealed\n.*may carry a card verification code") as refused:
            AttachRequest.model_validate({**order, "sealed": sealed})
        assert sealed[:20] not in str(refused.value)


@pytest.mark.parametrize(
    "body", [b"\xff" * (MAX_ENVELOPE_BYTES + 1), "x" * (MAX_ENVELOPE_BYTES + 1)], ids=["bytes", "text"]
)
def test_of_what_is_longer_than_any_message_of_ours_the_beginning_is_kept(body: str | bytes) -> None:
    kept = retained(body, "undecodable message", at=NOW, realtime=False)
    said = json.loads(kept)
    raw = body if isinstance(body, bytes) else body.encode()
    assert len(kept) < 4 * HEAD
    assert (len(said["message"]), said["bytes"], said["sha256"]) == (HEAD, len(raw), hashlib.sha256(raw).hexdigest())


def test_another_date_changes_nothing_else(seal: Seal) -> None:
    history = [{"at": 1, "status": 503, "code": "api_error"}]
    dead = retained(seal(), Code.ATTEMPTS_EXHAUSTED, at=NOW, outcome_id="req-1:token:2", attempts=8, history=history)
    quarantined = retained(seal(REQUESTS["cvc"], "realtime"), "not ours", at=NOW)
    for letter in (dead, quarantined):
        assert json.loads(redated(letter, at=NOW + 60)) == json.loads(letter) | {"at": int((NOW + 60) * 1000)}


def test_what_has_never_been_dated_becomes_a_note(seal: Seal) -> None:
    letter = DeadLetter.read(redated(json.dumps([[seal()], {}, {}]), at=NOW))
    assert (letter.id, letter.reason, letter.at) == ("req-1", FOREIGN, int(NOW * 1000))
    assert DeadLetter.read(redated(seal(REQUESTS["cvc"], "realtime"), at=NOW)).message == ""


def test_a_text_that_would_be_too_long_in_a_note_is_cut(seal: Seal) -> None:
    """A letter that is not ASCII takes six bytes there, and a note must be readable by the rule for every message."""
    kept = retained("\u2603" * 200_000, "not ours", at=NOW, realtime=False)
    assert len(kept) <= MAX_MESSAGE_BYTES
    assert json.loads(kept)["message"] == "\u2603" * HEAD


# -- the argument of a task body


def test_the_argument_of_our_own_message_is_the_envelope() -> None:
    assert argument(Outgoing.task("q", "task", "id-1", '{"a": "é"}').body) == '{"a": "é"}'
    assert argument(Outgoing.task("q", "task", "id-1", "x").body) == "x"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "not json",
        "[]",
        "{}",
        "null",
        "7",
        "[[], {}, {}]",
        '[["a", "b"], {}, {}]',
        "[[7], {}, {}]",
        '[{"a": 1}, {}, {}]',
        '["ab", {}, {}]',
        '[["a"], {}]',
        "[null, {}, {}]",
        "[" * 100_000,
    ],
)
def test_a_message_of_another_shape_is_taken_whole(body: str) -> None:
    assert argument(body) == body


# -- the consumer


class Reception(CarefulConsumer):
    """What a consumer needs to read a message and to set it aside, and the message."""

    def __init__(
        self,
        *refusals: Exception,
        queue: str = "attach.bulk.main",
        body: bytes = b"not ours",
        hand_over: Callable[[Any], None] = lambda _: None,
    ) -> None:
        self.publisher = FlakyPublisher(refusals=list(refusals))
        self.did: list[str] = []
        self.due: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []
        self.handed: list[Any] = []
        self.hand_over = hand_over
        self.message = SimpleNamespace(
            body=body,
            headers={"task": "ours", "id": "req-1", "eta": "2098-01-01", "shadow": "another", "timelimit": 5},
            properties={"reply_to": "results.evil", "priority": 255},
            content_type="application/json",
            content_encoding="utf-8",
            delivery_info={"routing_key": queue},
            ack_log_error=lambda *_: self.did.append("acknowledged"),
            reject_log_error=lambda *_: self.did.append("given back"),
        )
        self.pool = SimpleNamespace(taken=Counter(), turns=0, tasks={"ours"}, is_running=True)
        self.app = EngineApp(
            Engine(
                open_handlers=lambda: nullcontext({}),
                publisher=lambda: cast("Publisher", self),
                now=lambda: NOW,
                vitals=Vitals("all"),
                grace_seconds=0.0,
            )
        )
        self.timer = SimpleNamespace(call_after=lambda *call: self.due.append(call))
        self.connection_errors = (OSError, KeyError)  # as on Redis
        self.strategies = {"ours": self._strategy}
        self.on_task_message: set[Any] = set()
        self.restart_count, self._maximum_prefetch_restored = 0, True

    def _strategy(self, message: Any, *_: Any) -> None:
        self.handed.append(message)
        self.hand_over(message)

    def publish(self, message: Any) -> None:
        self.publisher.submit(message).result()

    def receive(self) -> None:
        """As Celery's loop does it."""
        self.create_task_handler()(self.message)

    @property
    def kept(self) -> list[dict[str, Any]]:
        return [json.loads(message.body) for message in self.publisher.published]


OURS: Final = b'[["an envelope"], {}, {"callbacks": [{"task": "another"}], "chord": 5}]'


def test_celery_sees_what_was_read_and_no_header_of_the_publisher() -> None:
    reception = Reception(body=OURS)
    reception.receive()
    (handed,) = reception.handed
    assert handed.headers == {"task": "ours", "id": "req-1", "ignore_result": True}
    assert (handed.body, handed.payload) == ("an envelope", (["an envelope"], {}, {}))
    assert (handed.properties, handed.delivery_info) == ({}, {"exchange": "", "routing_key": "attach.bulk.main"})
    assert (reception.kept, reception.did) == ([], [])
    assert (reception.message.body, reception.message.headers) == (b"", {}), "held no longer than it is needed"


def test_what_cannot_be_handed_over_is_set_aside_with_its_content(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Any) -> None:
        raise KeyError(NUMBER)

    reception = Reception(body=OURS, hand_over=fail)
    reception.receive()
    (kept,) = reception.kept
    assert (kept["reason"], kept["message"]) == ("invalid task message", "an envelope")
    assert reception.did == ["acknowledged"]
    assert "KeyError" in caplog.text
    assert NUMBER not in caplog.text


@pytest.mark.parametrize("error", [OSError("the connection is lost"), RuntimeError("the loop is closed")])
def test_what_is_no_fault_of_a_message_ends_the_loop_and_loses_no_message(error: Exception) -> None:
    def fail(_: Any) -> None:
        reception.pool.is_running = not isinstance(error, RuntimeError)
        raise error

    reception = Reception(body=OURS, hand_over=fail)
    with pytest.raises(type(error)):
        reception.receive()
    assert (reception.kept, reception.did) == ([], [])


def test_what_the_consumer_sets_aside_is_dated_by_the_store_and_said_once_it_is_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reception = Reception()
    reception.receive()
    (kept,) = reception.kept
    assert (kept["message"], kept["at"]) == ("not ours", int(NOW * 1000))
    assert (reception.did, reception.due) == (["acknowledged"], [])
    assert "moved to quarantine" in caplog.text


def test_of_what_the_transport_has_refused_a_note_is_kept() -> None:
    reception = Reception()
    reception.message.refused, reception.message.length = Refused("longer than any message of ours"), 60_000_000
    reception.receive()
    (kept,) = reception.kept
    assert kept == {
        "reason": "longer than any message of ours",
        "at": int(NOW * 1000),
        "message": "",
        "bytes": 60_000_000,
    }
    assert DeadLetter.read(json.dumps(kept)).reason == "longer than any message of ours"


@pytest.mark.parametrize("queue", ["tokenize.realtime.main", ""])
def test_nothing_unreadable_of_the_realtime_lane_is_kept(queue: str) -> None:
    reception = Reception(queue=queue)
    reception.receive()
    assert reception.kept[0]["message"] == ""


def test_a_broker_that_refuses_it_gets_a_pause_and_the_log_does_not_say_that_it_was_moved(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    reception = Reception(BrokerUnavailable("away", maybe_sent=False))
    reception.receive()
    assert reception.did == [], "it is held, for a while"
    assert "; moved to" not in caplog.text
    ((seconds, give_back, arguments),) = reception.due
    give_back(*arguments)
    assert (seconds, reception.did, reception.kept) == (ASIDE_AGAIN, ["given back"], [])


def test_the_clock_is_asked_once_a_minute_and_goes_on_between() -> None:
    answers = iter([NOW, NOW + 1000.0])
    clock = ServerClock(lambda: next(answers))
    assert NOW <= clock() <= clock() < NOW + 500.0
